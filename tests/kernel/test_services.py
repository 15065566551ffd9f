"""Services keep working: cluster addresses and node ports, both traffic policies, and who a backend sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from ground.agents import Deployment, Nodes
from ground.namespaces import Namespace
from ground.net import Cluster, Node
from ground.probes import echo_server, who_am_i
from ground.service import Service

pytestmark = pytest.mark.kernel

LOCAL_PORT = 30081
"""Node port of the service with externalTrafficPolicy Local."""

OUTSIDE = {4: "192.0.2.1", 6: "2001:db8::1"}


@contextmanager
def services(cluster: Cluster) -> Iterator[tuple[Service, Service]]:
    """One service of each traffic policy on every node, their backends on the second and third."""
    backends = [cluster[1].pods[0], cluster[2].pods[0]]
    anywhere = Service(backends)
    here = Service(
        backends,
        "10.96.0.11",
        "fd00:96::11",
        node_port=LOCAL_PORT,
        external_traffic_policy="Local",
    )
    for service in (anywhere, here):
        service.install(cluster)
    with ExitStack() as stack:
        for pod in backends:
            for address in filter(None, (pod.address4, pod.address6)):
                stack.enter_context(echo_server(pod, address))
        yield anywhere, here


def seen(client: Namespace, address: str, port: int, times: int = 4) -> set[str]:
    """Whom the backends see in some connections, each to a backend at random."""
    return {who_am_i(client, address, port) for _ in range(times)}


def address(node: Node, family: int) -> str:
    return str(node.address4 if family == 4 else node.address6)


def masqueraded(node: Node, family: int, scope: str) -> str:
    """Whom a backend elsewhere sees for a connection that a node masquerades into a tunnel."""
    if scope == "transparent":
        return address(node, family)
    return f"10.244.{node.index}.0" if family == 4 else f"fd00:244:{node.index}::"


@pytest.mark.parametrize(("scope", "cni"), [("transparent", "vxlan"), ("transparent", "host-gw"), ("overlay", "none")])
def test_services_work_and_backends_see_whom_they_should(nodes: Nodes, scope: str, cni: str) -> None:
    cluster = nodes(3, families=("4", "6"), cni=cni, outside=True)
    a, b, c = cluster
    with Deployment(cluster, scope=scope) as linkseal, services(cluster) as (anywhere, _):
        linkseal.start()
        linkseal.wait_sealed()
        assert cluster.outside is not None
        with cluster.capture() as wire:
            for family, service in ((4, anywhere.address4), (6, anywhere.address6)):
                by_a = {masqueraded(a, family, scope)}
                assert seen(a.pods[0], service, 80) == by_a, "a cluster address, from a pod"
                assert seen(a, service, 80) == by_a, "a cluster address, from a host"
                assert seen(cluster.outside, address(a, family), 30080) == by_a, "a node port, from outside"
                assert seen(cluster.outside, address(b, family), LOCAL_PORT) == {OUTSIDE[family]}, "a local one"
                with pytest.raises(OSError, match="timed out"):
                    who_am_i(cluster.outside, address(a, family), LOCAL_PORT, timeout=0.5)  # no backend there
        leaks = [text for text in wire.plaintext() if not any(outside in text.split() for outside in OUTSIDE.values())]
        assert leaks == []
        assert wire.count("wireguard") > 100

        with cluster.capture() as wire:
            for family in (4, 6):
                assert seen(c, address(a, family), 30080) == {masqueraded(a, family, scope)}, "from another node"
                assert seen(c, address(b, family), LOCAL_PORT) == {address(c, family)}, "which a local one sees"
        if scope == "transparent":  # an overlay carries no host's traffic to another host
            assert wire.plaintext() == []

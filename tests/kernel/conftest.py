"""Fixtures of the kernel tests; what they build is in tests/ground (namespaces, net, wire, probes, service).

A kernel test is an ordinary test with a marker:

    pytestmark = pytest.mark.kernel

    def test_pods_talk_encrypted(nodes):
        cluster = nodes(3, families=("4", "6"))
        a, b, _ = cluster
        ...                                                    # node.run("ip …"), node.fork(callable, …)
        with cluster.capture() as wire, loss_probe(a.pods[0], b.pods[0], b.pods[0].address4) as loss:
            ...                                                # what must not lose a packet
        assert not loss.lost, loss
        assert wire.plaintext() == []
        assert wire.count("wireguard") >= loss.sent
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ground import kernel
from ground.net import Cluster

REQUIRED = "LINKSEAL_KERNEL_REQUIRED"
"""Set by tests/ground/run.py: a kernel without WireGuard then fails the tests instead of skipping them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs WireGuard where there is none, and say what to do."""
    wanting = [item for item in items if item.get_closest_marker("kernel")]
    if not wanting:
        return
    missing = ["root"] if os.geteuid() != 0 else kernel.missing_features()
    if not missing:
        return
    reason = f"this kernel or user lacks {', '.join(missing)}: run `make test-kernel`"
    if os.environ.get(REQUIRED):
        raise pytest.UsageError(reason)
    for item in wanting:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def nodes() -> Iterator[Callable[..., Cluster]]:
    """`nodes(3, families=("4", "6"), cni="vxlan", …)` builds a `Cluster`; it is gone after the test, failed or not."""
    built: list[Cluster] = []

    def build(count: int, **options: Any) -> Cluster:
        built.append(Cluster(count, **options))
        return built[-1]

    yield build
    for cluster in built:
        cluster.remove()

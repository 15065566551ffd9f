"""Hosts where something is missing or taken: what does not need it works, a finding tells, nothing is torn down."""

from __future__ import annotations

import socket
import time

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node
from ground.probes import loss_probe
from linkseal.tunnels import codes
from linkseal.tunnels.agent import worker
from linkseal.tunnels.host.nft import Nft

pytestmark = pytest.mark.kernel


def findings(linkseal: Deployment, node: Node) -> dict[str, str]:
    return {found.code: found.message for found in linkseal.status(node).findings}


def test_a_port_in_use_is_told_tried_again_and_takes_nothing_down(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port of the next generation's slots is taken: the present one goes on until the next can come up."""
    monkeypatch.setattr(worker, "LAST_RETRY", 2.0)  # 60 in the product
    cluster = nodes(2)
    a, b = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=200) as loss:
            with a.entered():  # after the probe's processes were forked: they would hold it too
                squatter = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            squatter.bind(("0.0.0.0", 51821))  # noqa: S104 - lsl01: a's second generation, b's first
            assert linkseal.rotate(a) == 2
            linkseal.until(lambda: codes.PORT_IN_USE in findings(linkseal, a), "told")
            message = findings(linkseal, a)[codes.PORT_IN_USE]
            assert "lsl01: UDP port 51821 is in use" in message
            assert "ss -lunp" in message
            time.sleep(3)
            assert linkseal.status(a).links.sealed == linkseal.status(b).links.sealed == 1
            assert linkseal.log(a).count(codes.PORT_IN_USE) == 1, "told once, however often it is tried"
            squatter.close()
            linkseal.until(linkseal.settled, "the new generation alone")
        assert [entry.number for entry in linkseal.status(a).generations] == [2]
        assert codes.PORT_IN_USE not in findings(linkseal, a)
        assert not loss.lost, loss


@pytest.mark.parametrize("scope", ["overlay", "transparent"])
def test_without_a_door_routes_go_to_the_slots_and_generations_change_all_the_same(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, scope: str
) -> None:
    monkeypatch.setattr(Nft, "has_door", lambda _: False)  # as before kernel 5.16; agents are forked from here
    cluster = nodes(2, families=("4", "6"))
    a, b = cluster
    with Deployment(cluster, scope=scope) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        assert codes.NO_DOOR in findings(linkseal, a)
        assert not linkseal.status(a).door
        assert "lsl0:" not in a.run("ip -o link")
        assert f"{b.pod_cidr4} dev lsl11" in a.run("ip route show table 51820")
        with (
            cluster.capture() as wire,
            loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=200) as four,
            loss_probe(b.pods[0], a.pods[0], str(a.pods[0].address6), pps=200) as six,
        ):
            linkseal.rotate(a)
            linkseal.until(linkseal.settled, "the new generation alone")
        assert f"{b.pod_cidr4} dev lsl01" in a.run("ip route show table 51820")
        assert [str(loss) for loss in (four, six) if loss.lost] == []
        assert wire.plaintext() == []

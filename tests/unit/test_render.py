"""What `linkseal plan` prints, against tests/golden/plan. LINKSEAL_UPDATE_GOLDEN=1 writes the goldens anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.diff import diff
from linkseal.tunnels.model import (
    AddInterface,
    Interface,
    Kind,
    RemoveAddress,
    RemoveRule,
    Rule,
    Scope,
    SetInterface,
    SetRpFilter,
    Stage,
)
from linkseal.tunnels.model import Address as Cidr
from linkseal.tunnels.plan import plan
from linkseal.tunnels.render import render, render_steps
from linkseal.tunnels.world import Layout, Me, Peer, PeerLinks, Underlay, World
from linkseal.wireguard.model import ReprovokePeer
from property.fake_host import FakeHost
from property.worlds import as_me, keys, make_peer

GOLDEN = Path(__file__).parents[1] / "golden" / "plan"

DUAL = (4, 6)


def world(
    me: Me, *peers: Peer, links: PeerLinks | None = None, layout: Layout | None = None, door: bool = True
) -> World:
    """Endpoints are to be set, as when peers are made; `links` for n2, the others by their oldest pair."""
    chosen = {
        peer.name: PeerLinks((me.generations[0].number, peer.generations[0].number), every(me, peer)) for peer in peers
    }
    if links is not None:
        chosen["n2"] = replace(links, set_endpoint=every(me, peers[0]))
    underlay = Underlay("eth0", 1500, frozenset({4}))
    return World(me, layout or Layout(), underlay, {peer.name: peer for peer in peers}, chosen, door)


def every(me: Me, peer: Peer) -> frozenset[tuple[int, int]]:
    return frozenset((own.number, remote.number) for own in me.generations for remote in peer.generations)


def generations(peer: Peer, *numbers: int) -> Peer:
    return replace(peer, generations=keys(peer.name, *numbers))


ME, N2, N3 = as_me(make_peer(1, 1)), make_peer(2, 1), make_peer(3, 2)
DUAL_ME, DUAL_N2 = as_me(make_peer(1, 1, families=DUAL)), make_peer(2, 1, families=DUAL)
ROTATING = replace(ME, generations=keys("n1", 1, 2))
STEADY = world(ME, N2, N3)


def fresh(after: World, rp_filter: int = 0) -> tuple[str, ...]:
    return render(plan(after), FakeHost(after.me.addresses, rp_filter).observe())


def change(before: World, after: World) -> tuple[str, ...]:
    host = FakeHost(before.me.addresses)
    host.apply(diff(plan(before), host.observe()))
    return render(plan(after), host.observe())


CASES: dict[str, Callable[[], tuple[str, ...]]] = {
    "overlay of three nodes, fresh start": lambda: fresh(STEADY),
    "transparent and dual stack, strict NIC, narrow path, fresh start": lambda: fresh(
        replace(
            world(DUAL_ME, DUAL_N2, links=PeerLinks((1, 1), path_mtu=1400), layout=Layout(scope=Scope.TRANSPARENT)),
            underlay=Underlay("eth0", 1500, frozenset({4}), rp_filter=1),
        ),
        rp_filter=1,
    ),
    "rotation: slots of the new generation": lambda: change(
        STEADY, world(ROTATING, N2, N3, links=PeerLinks((1, 1), every(ROTATING, N2)))
    ),
    "rotation: a peer moves to the new link": lambda: change(
        world(ROTATING, N2, links=PeerLinks((1, 1))), world(ROTATING, N2, links=PeerLinks((2, 1)))
    ),
    "rotation: the old generation is retired": lambda: change(
        world(ROTATING, N2, links=PeerLinks((2, 1))), world(replace(ME, generations=keys("n1", 2)), N2)
    ),
    "rotation of a peer: its new key comes": lambda: change(
        world(ME, N2), world(ME, generations(N2, 1, 2), links=PeerLinks((1, 1)))
    ),
    "rotation of a peer: its old key goes": lambda: change(
        world(ME, generations(N2, 1, 2), links=PeerLinks((1, 2))), world(ME, generations(N2, 2))
    ),
    "a peer leaves": lambda: change(STEADY, world(ME, N2)),
    "a peer gets one prefix and loses another": lambda: change(
        STEADY, world(ME, replace(N2, prefixes=(Prefix("10.244.20.0/24"),)), N3)
    ),
    "stage prepare, fresh start": lambda: fresh(world(ME, N2, layout=Layout(stage=Stage.PREPARE))),
    "from prepare to prefer": lambda: change(world(ME, N2, layout=Layout(stage=Stage.PREPARE)), world(ME, N2)),
    "from prefer to off": lambda: change(world(ME, N2), world(ME, N2, layout=Layout(stage=Stage.OFF))),
    "no door, fresh start": lambda: fresh(world(ME, N2, door=False)),
    "no door: a peer moves": lambda: change(
        world(ROTATING, N2, links=PeerLinks((1, 1)), door=False),
        world(ROTATING, N2, links=PeerLinks((2, 1)), door=False),
    ),
    "repairs": lambda: render_steps(
        (
            SetInterface("lsl11", Kind.SLOT, 1440, up=True, rp_filter=2),
            SetInterface("lslp", Kind.PROBE, accept_local=True),
            AddInterface(Interface("lslp", Kind.PROBE, 1440, accept_local=True)),
            RemoveAddress(Cidr("lsl11", "192.0.2.200/32")),
            RemoveRule(Rule(6, 5000, 51820, (7, 255))),
            SetRpFilter("eth0.100", 2, was=1),
            ReprovokePeer("lsl11", plan(STEADY).devices["lsl11"].peers[N2.generations[0].public_key]),
        )
    ),
}


def file_of(case: str) -> Path:
    return GOLDEN / (case.replace(":", "").replace(",", "").replace(" ", "-") + ".txt")


@pytest.mark.parametrize("case", CASES)
def test_lines_are_those_of_the_golden(case: str) -> None:
    text = f"# {case}\n" + "".join(f"{line}\n" for line in CASES[case]())
    file = file_of(case)
    if os.environ.get("LINKSEAL_UPDATE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text()


def test_every_golden_has_a_case() -> None:
    assert {file.name for file in GOLDEN.iterdir()} == {file_of(case).name for case in CASES}


def test_where_nothing_differs_nothing_is_printed() -> None:
    assert change(STEADY, STEADY) == ()


def test_no_line_holds_a_private_key() -> None:
    lines = [line for case in CASES.values() for line in case() if "private-key" in line]
    assert lines
    assert all("private-key <hidden>" in line for line in lines)


def test_the_probe_ranges_configured_are_the_ones_printed() -> None:
    lines = fresh(replace(STEADY, layout=Layout(probe=ProbeRange(v4=IPv4Network("10.64.0.0/15")))))
    assert any("10.64.0.0/15" in line for line in lines)
    assert not any("198.18." in line for line in lines)

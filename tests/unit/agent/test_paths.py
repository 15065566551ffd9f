"""Path MTUs: reported when they change, kept when nothing is known, measured anew for a peer that comes back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from linkseal.tunnels.agent import paths
from linkseal.tunnels.agent.paths import PathMeter
from linkseal.tunnels.world import Layout, Underlay, World
from property.worlds import as_me, make_peer

FULL, NARROW = 1500, 1400
PEERS = {peer.name: peer for peer in (make_peer(2, 1), make_peer(3, 1))}
WORLD = World(as_me(make_peer(1, 1)), Layout(), Underlay("eth0", FULL, frozenset({4})), PEERS)


class Way:
    """The network: `mtu` to every peer, None: no way. `asked` counts measurements."""

    def __init__(self) -> None:
        self.mtu: int | None = NARROW
        self.asked = 0

    async def path_mtu(self, *_: object, **__: object) -> int | None:
        self.asked += 1
        return self.mtu


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    made = Way()
    monkeypatch.setattr(paths, "path_mtu", made.path_mtu)
    monkeypatch.setattr(paths, "PACE", 0.0)
    return made


async def rounds(meter: PathMeter, world: World) -> None:
    """Let the meter see a world and measure what is new in it."""
    meter.set_world(world)
    task = asyncio.ensure_future(meter.run())
    await asyncio.sleep(0.02)
    task.cancel()


async def test_a_peer_that_left_and_came_back_is_told_its_path_again(way: Way) -> None:
    found: list[tuple[str, int]] = []
    meter = PathMeter(lambda *what: found.append(what))
    await rounds(meter, WORLD)
    await rounds(meter, replace(WORLD, peers={"n3": PEERS["n3"]}))
    assert found == [("n2", NARROW), ("n3", NARROW)]
    assert set(meter._known) == {"n3"}
    await rounds(meter, WORLD)
    assert found[2:] == [("n2", NARROW)]


async def test_no_way_is_not_a_full_path(way: Way) -> None:
    found: list[tuple[str, int]] = []
    meter = PathMeter(lambda *what: found.append(what))
    await rounds(meter, WORLD)
    way.mtu = None
    await rounds(meter, WORLD)
    assert len(found) == 2
    way.mtu = FULL
    await rounds(meter, WORLD)
    assert found[2:] == [("n2", FULL), ("n3", FULL)]


async def test_peers_without_a_way_are_asked_again_after_a_pause_and_not_in_a_loop(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    way.mtu = None
    meter = PathMeter(lambda *_: pytest.fail("nothing is known"))
    meter.set_world(WORLD)
    monkeypatch.setattr(paths, "RETRY", 0.1)
    began = asyncio.get_running_loop().time()
    task = asyncio.ensure_future(meter.run())
    while way.asked < 4:
        meter.set_world(WORLD)
        await asyncio.sleep(0.01)
    task.cancel()
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert way.asked <= 4

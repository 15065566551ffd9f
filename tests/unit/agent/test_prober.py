"""The agent's probes: which addresses are a peer's, one engine for one set of settings, a port that is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.agent import prober as prober_module
from linkseal.tunnels.agent.prober import Picture, Prober, latest, origins
from linkseal.tunnels.model import LinkKey, Scope
from linkseal.tunnels.probe.engine import ProbeSettings
from linkseal.tunnels.probe.outcomes import Diagnosis, Lost, Outcome, Proof
from linkseal.tunnels.world import Layout, Me, Peer, Underlay, World

ME = Me("n1", 1, ("192.0.2.1",), ("10.244.1.0/24",), ())  # type: ignore[arg-type]
PEER = Peer("n2", 2, ("192.0.2.2",), ("10.244.2.0/24", "fd00:2::/64"))  # type: ignore[arg-type]
WORLD = World(ME, Layout(scope=Scope.OVERLAY), Underlay("eth0", 1500, frozenset({4})), {"n2": PEER})
PICTURE = Picture(WORLD, {"n2": (3, 4)})


class Engine:
    """Notes what is done to it; refuses to start while `taken`."""

    made: list[Engine] = []  # noqa: RUF012 - emptied by the fixture
    taken = False

    def __init__(self, settings: ProbeSettings, _: object, *ask: Callable[[str], Any]) -> None:
        self.settings, self.ask = settings, ask
        self.closed = False
        self.poked: list[LinkKey] = []

    def start(self) -> None:
        if Engine.taken:
            raise HostError("UDP port 51829 is taken")
        Engine.made.append(self)

    def close(self) -> None:
        self.closed = True

    def set_own_sources(self, sources: Mapping[int, object]) -> None:
        self.sources = sources

    def set_targets(self, targets: Mapping[LinkKey, object]) -> None:
        self.targets = targets

    def poke(self, key: LinkKey) -> None:
        self.poked.append(key)


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    monkeypatch.setattr(prober_module, "ProbeEngine", Engine)
    monkeypatch.setattr(Engine, "taken", False)
    Engine.made.clear()
    yield Engine.made
    Engine.made.clear()


def prober() -> Prober:
    return Prober(lambda _: None, lambda: 100.0)


def test_one_engine_serves_as_long_as_its_settings_stay(engines: list[Engine]) -> None:
    made = prober()
    made.show(PICTURE)
    made.show(replace(PICTURE, world=replace(WORLD, peers={})))
    assert len(engines) == 1
    for changed in (
        replace(PICTURE, interval=5.0),
        replace(PICTURE, world=replace(WORLD, me=replace(ME, index=9))),
        replace(PICTURE, world=replace(WORLD, layout=replace(WORLD.layout, probe_port=51000))),
    ):
        made.show(changed)
        assert engines[-2].closed
        assert not engines[-1].closed
    assert [e.settings.interval for e in engines] == [60, 5, 60, 60]
    assert [e.settings.index for e in engines] == [1, 1, 9, 1]


def test_a_port_that_is_taken_is_an_error_each_time_until_it_is_free(engines: list[Engine]) -> None:
    made = prober()
    Engine.taken = True
    for _ in range(2):
        with pytest.raises(HostError, match="taken"):
            made.show(PICTURE)
    Engine.taken = False
    made.show(PICTURE)
    assert len(engines) == 1


def test_links_are_poked_once_a_second_at_most(engines: list[Engine]) -> None:
    made, key = prober(), LinkKey("n2", 3, 4)
    for _ in range(3):
        made.show(replace(PICTURE, poke=(key,)))
    assert engines[0].poked == [key]


def test_peers_are_answered_from_the_last_picture(engines: list[Engine]) -> None:
    made = prober()
    made.show(PICTURE)
    uses, index, owner = engines[0].ask
    assert (uses("n2"), index("n2"), uses("n3"), index("n3"), owner("n3")) == ((3, 4), 2, None, None, frozenset())
    assert "10.244.2.1" in owner("n2")
    moved = replace(PEER, prefixes=("10.244.7.0/24",))  # type: ignore[arg-type]
    made.show(replace(PICTURE, world=replace(WORLD, peers={"n2": moved})))
    assert "10.244.7.1" in owner("n2")
    assert "10.244.2.1" not in owner("n2")
    made.show(replace(PICTURE, world=replace(WORLD, peers={})))
    assert (owner("n2"), made._origins) == (frozenset(), {})


def test_a_pods_address_is_no_origin_of_its_nodes_probes() -> None:
    found = origins(WORLD, PEER)
    assert found == {"10.244.2.0", "10.244.2.1", "fd00:2::", "fd00:2::1", "192.0.2.2"}


def test_a_loss_is_kept_whatever_is_found_later() -> None:
    key, other = LinkKey("n2", 1, 1), LinkKey("n3", 1, 1)
    wrong = [Diagnosis(key, "LS2001", str(number)) for number in range(3)]
    lost, proof = Lost(key, wrong[0]), Proof(key, 1.0, {4: 1420}, 0.1, None)
    other_proof = Proof(other, 1.0, {4: 1420}, 0.1, None)
    found: list[Outcome] = [proof, wrong[0], lost, wrong[1], other_proof, wrong[2]]
    assert latest(found) == [proof, lost, other_proof, wrong[2]]

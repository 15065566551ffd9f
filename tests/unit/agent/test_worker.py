"""Passes that go wrong: no plaintext, no lost way, and no status that says more than is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.keys import policydoc
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.agent import worker as worker_module
from linkseal.tunnels.agent.worker import Result
from linkseal.tunnels.model import AddRule, Desired, LinkKey, LinkState, NftTransaction, Stage
from linkseal.tunnels.plan import plan
from linkseal.tunnels.register import NodeDocuments
from linkseal.tunnels.world import World
from linkseal.wireguard.model import Endpoint
from unit.agent.pair import CA, NOW, MemoryHost, Node, T, sealed_pair, view


def raised(a: Node, b: Node, at: float) -> None:
    """`a` has raised generation 2, and `b` knows of it; both ends have sessions on it."""
    a.worker.speaker.request_rotation(at)
    a.run(at)
    a.run(at)
    a.published()
    for _ in range(2):
        b.run(at, view=view(a, b))
        a.run(at, view=view(a, b))
    for node in (a, b):
        node.handshakes(at)


def test_a_pair_is_sealed(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    assert (a.way(b), b.way(a)) == ("lsl11", "lsl11")
    assert a.status(T).links.sealed == 1
    assert a.worker.carried == {"n2"}


def test_a_move_that_the_kernel_refuses_is_no_move_and_retires_nothing(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    raised(a, b, T + 1)
    a.host.refuse = lambda step: isinstance(step, NftTransaction)
    for second in range(2, 8):
        a.prove("n2", 2, 1, T + second, uses=(1, 2))
        assert a.worker.book.current == {"n2": (1, 1)}, "what it tells the peer"
        assert a.way(b) == "lsl11"
    assert a.keyring.generations is not None
    assert a.keyring.generations.numbers == (1, 2)
    assert a.status(T + 8).links.sealed == 0
    a.host.refuse = lambda _step: False
    for second in range(8, 12):
        a.prove("n2", 2, 1, T + second, uses=(1, 2))
    a.run(T + 12)
    assert (a.way(b), a.keyring.generations.numbers) == ("lsl01", (2,))


def test_a_rule_that_is_refused_seals_nothing(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    a.host.kernel.rules.clear()
    a.host.refuse = lambda step: isinstance(step, AddRule)
    a.run(T + 1)
    report = a.status(T + 1)
    assert (report.links.sealed, report.unsealed[0].state) == (0, LinkState.STALE)
    assert [finding.code for finding in report.findings if finding.code == "LS3010"]
    assert b.status(T + 1).links.sealed == 1


def test_a_peer_with_a_new_endpoint_is_looked_at_and_sent_to_every_second_for_a_while(tmp_path: Path) -> None:
    """A packet under way from the old endpoint brings it back, at any time between two polls."""
    a, b = sealed_pair(tmp_path)
    assert a.run(T + 1).wake_in == a.worker.settings.poll
    a.worker.book.remember_endpoint(b.name, Endpoint("192.0.2.77", 51820), T + 1)
    results = [a.run(T + 1 + second) for second in (1, 5, 20)]
    assert [(result.wake_in, result.poke) for result in results] == [
        (1.0, (LinkKey(b.name, 1, 1),)),
        (1.0, (LinkKey(b.name, 1, 1),)),
        (a.worker.settings.poll, ()),
    ]


def test_a_reboot_in_mid_rotation_retires_nothing_by_itself(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    raised(a, b, T + 1)
    booted = Node(tmp_path / "a", 1)
    for _ in range(3):
        booted.run(T + 60, speak=False)  # agent restore
    for second in range(5):
        booted.run(T + 61 + second)
    assert booted.keyring.generations is not None
    assert booted.keyring.generations.numbers == (1, 2)
    assert booted.way(b) == "lsl11", "what carried the traffic last"


def test_restore_before_the_address_is_there_plans_from_what_was_seen_last(tmp_path: Path) -> None:
    _, b = sealed_pair(tmp_path)
    booted = Node(tmp_path / "a", 1, host=MemoryHost([]))
    for _ in range(2):
        booted.run(T + 60, speak=False)
    assert booted.way(b) == "lsl11"


def test_a_peer_that_rotated_while_this_node_was_down_gets_no_plaintext(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    del a
    b.worker.speaker.request_rotation(T + 1)
    b.run(T + 1)
    b.run(T + 1)
    assert b.keyring.generations is not None
    b.keyring.announced()
    b.keyring.retire()
    b.run(T + 2)
    booted = Node(tmp_path / "a", 1)
    booted.run(T + 700, view=view(booted, b))
    booted.run(T + 700)
    assert booted.routed(b)
    assert booted.status(T + 700).links.sealed == 0


def test_a_peer_whose_announcement_falls_away_gets_no_plaintext(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    again = Node(tmp_path / "again", 2)  # made anew under the same name: another UID, no announcement yet
    again.keyring.uid = "uid-anew"
    again.grant = again.granted(serial=100)
    renewed = view(a, b)
    nodes = {**renewed.snapshot.nodes, "n2": NodeDocuments(None, again.grant)}
    a.run(T + 1, view=replace(renewed, snapshot=replace(renewed.snapshot, nodes=nodes)))
    a.run(T + 1)
    assert a.routed(b)
    assert a.way(b) is None, "dropped in the door"


def test_a_node_that_is_opted_out_takes_its_tunnels_down(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    a.grant = a.granted(serial=2, opted_out=True)
    for node in (a, b, a, b):
        node.run(T + 1, view=view(a, b))
    assert not a.routed(b)
    assert not b.routed(a)


def test_stage_prepare_proves_and_seals_nothing(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    for _ in range(2):
        a.run(T + 1, view=view(a, b, stage="prepare"))
    assert not a.routed(b)
    assert a.status(T + 1).links.proven == 1
    assert a.worker.carried == frozenset(), "what it sends to a proven peer passes no tunnel by"


def test_a_proof_that_was_never_renewed_seals_nothing(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    a.handshakes(T + 3000)
    a.run(T + 3000)
    assert a.status(T + 3000).links.sealed == 0


def test_a_wall_clock_that_jumps_makes_nobody_dead_and_nothing_fresh(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    raised(a, b, T + 1)
    a.run(T + 1)
    a.run(T + 5000, steady=T + 2)
    assert a.keyring.generations is not None
    assert a.keyring.generations.numbers == (1, 2), "nobody was silent for ten minutes"
    assert a.way(b) == "lsl11"
    assert a.status(T + 5000).links.sealed == 1


def test_a_clock_that_steps_back_raises_a_generation_once(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    for second in range(1, 4):
        a.run(T + 700_000 + second, steady=T + second, view=view(a, b))  # set forward long ago
    assert a.keyring.generations is not None
    assert a.keyring.generations.numbers == (1,)
    for second in range(4, 8):
        a.run(T + 696_000 + second, steady=T + second)
    assert a.keyring.generations.numbers == (1, 2)
    assert [finding.code for finding in a.status(T + 696_008).findings if finding.code == "LS3016"]


def test_a_slot_deleted_in_mid_rotation_takes_no_generation_back(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    raised(a, b, T + 1)
    serial = a.keyring.last_parsed.serial if a.keyring.last_parsed else 0
    a.host.kernel.drop_interface("lsl01")
    for second in range(2, 5):
        a.run(T + second)
    assert a.keyring.last_parsed is not None
    assert [g.number for g in a.keyring.last_parsed.generations] == [1, 2]
    assert a.keyring.last_parsed.serial == serial, "nothing new was said"


def test_a_key_that_a_crash_left_behind_does_not_stop_the_next_rotation(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    folder = tmp_path / "a" / "keys"
    (folder / "gen-2.key").write_bytes((folder / "gen-1.key").read_bytes())
    (folder / "gen-2.key").chmod(0o600)
    assert a.worker.speaker.request_rotation(T + 1) == 2
    a.run(T + 1)
    assert len({entry.public_key for entry in a.keyring.own_keys()}) == 2


def test_what_is_counted_in_the_pass_that_moves_a_peer_went_before_the_move(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    a.run(T + 1, view=view(a, b, stage="prepare"))
    again = policydoc.sign(CA, PolicyDocument("cluster", 9, NOW, {"scope": "transparent", "stage": "prefer"}))
    seen: list[frozenset[str]] = []
    a.worker.guard.look = lambda _world, _guard, carried, _now: seen.append(carried)  # type: ignore[method-assign]
    a.run(T + 2, view=replace(view(a, b), policy=again))
    assert (seen[0], a.worker.carried) == (frozenset(), {"n2"})


def test_a_pass_that_something_waits_for_ends_where_all_is_as_it_should_be(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    a.run(T + 1)
    a.handshakes(T + 2)
    assert a.run(T + 2, yields=lambda: True) == Result(yielded=True)
    again = a.run(T + 2, view=view(a, b), yields=lambda: True)
    assert not again.yielded, "what the directory has is what was waited for"
    a.host.kernel.rules.clear()
    healed = a.run(T + 3, yields=lambda: True)
    assert not healed.yielded
    assert a.host.kernel.rules, "what is amiss does not wait for the directory"


def test_what_is_as_it_was_is_not_planned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sealed_pair(tmp_path)
    planned: list[World] = []

    def counted(world: World) -> Desired:
        planned.append(world)
        return plan(world)

    monkeypatch.setattr(worker_module, "plan", counted)
    a.run(T + 1)
    a.handshakes(T + 2)
    a.run(T + 2)
    assert planned == []
    a.run(T + 3, view=view(a, b, stage="prepare"))
    assert [world.layout.stage for world in planned] == [Stage.PREPARE]
    assert a.worker.desired.guard is not None

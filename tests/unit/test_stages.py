"""When a stage is entered, held, left and taken back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from linkseal.tunnels.controller.outlook import outlook
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.rehearsal import rehearse
from linkseal.tunnels.stages import (
    CONDITIONS,
    LIVE,
    Advance,
    Arrived,
    Done,
    Evidence,
    Hold,
    Position,
    RollBack,
    Walk,
    arrived,
    back,
    following,
    judge,
    progress,
    stepped,
)
from linkseal.tunnels.status import STILL, LinkCounts, Metadata, NodeEncryption, NodeStatus, PairStatus, RequestStatus
from linkseal.tunnels.statusparts import AppliedStatus, BootStatus, GuardStatus, PlaintextFlow
from linkseal.tunnels.world import STAGES

NOW = 1_000_000.0
NAMES = ("n1", "n2", "n3")
OFF, PREPARE, PREFER, ENFORCE = STAGES
COUNTING = GuardStatus(mode="count", redirects="none")


def pair(peer: str, state: LinkState) -> PairStatus:
    return PairStatus(peer, 1, 1, "lsl11", state, NOW - 100, last_handshake=NOW - 10, carries=True)


def report(
    name: str,
    *,
    serial: int = 7,
    applied: bool = True,
    at: float = NOW,
    state: LinkState = LinkState.SEALED,
    **more: Any,
) -> NodeEncryption:
    pairs = tuple(pair(peer, state) for peer in NAMES if peer != name)
    door = True
    status = NodeStatus(
        at, PREFER, Scope.OVERLAY, "wireguard", "kernel", door, "1", "6", 1420, 1, 1, (), LinkCounts(2), (), pairs
    )
    status = replace(status, policy=AppliedStatus(serial, applied), guard=COUNTING, **more)
    return NodeEncryption(Metadata(name), status=status)


def evidence(*, out: tuple[str, ...] = (), **changed: NodeEncryption | None) -> Evidence:
    return Evidence(7, {name: changed.get(name, report(name)) for name in NAMES}, out)


def walk(target: Stage = ENFORCE, *, up: bool = True, **more: Any) -> Walk:
    return Walk(target, up, "test", NOW, NOW, **more)


def reasons(verdict: object) -> str:
    assert isinstance(verdict, Hold), verdict
    return "; ".join(verdict.reasons)


def test_every_step_there_is_has_its_conditions() -> None:
    pairs = set(pairwise(STAGES))
    assert set(CONDITIONS) == pairs | {(b, a) for a, b in pairs}


def test_a_walk_goes_up_and_down_step_by_step() -> None:
    seen = [position := Position()]
    while (new := following(position, walk())) is not None:
        seen.append(position := new)
    assert [one.stage for one in seen] == list(STAGES)
    while (new := following(position, walk(OFF, up=False))) is not None:
        seen.append(position := new)
    assert [one.stage for one in seen] == [*STAGES, PREFER, PREPARE, OFF]
    assert following(Position(PREFER), walk(PREPARE)) is None, "raising never lowers"


def test_a_step_is_waited_for_everywhere() -> None:
    going = stepped(Position(PREPARE), walk(), NOW)
    position = Position(PREFER)
    assert "not reached n2" in reasons(judge(position, going, evidence(n2=report("n2", serial=6)), NOW + 1))
    assert "not applied on n3" in reasons(judge(position, going, evidence(n3=report("n3", applied=False)), NOW + 1))
    assert judge(position, going, evidence(), NOW + 1) == Arrived()
    assert arrived(going, NOW + 5).before is None


def test_a_step_that_is_not_applied_in_time_is_taken_back() -> None:
    going = stepped(Position(PREPARE), walk(attached=False), NOW)
    verdict = judge(Position(PREFER), going, evidence(n2=report("n2", applied=False)), NOW + 121)
    assert isinstance(verdict, RollBack)
    assert verdict.to == Position(PREPARE)
    assert "n2" in verdict.why


@pytest.mark.parametrize("gone", [None, report("n3", serial=1, at=NOW - LIVE - 1)])
def test_a_node_of_which_nothing_is_heard_holds_nothing(gone: NodeEncryption | None) -> None:
    def without_pair(name: str) -> NodeEncryption:
        found = report(name)
        assert found.status is not None
        pairs = tuple(replace(p, last_handshake=None) if p.peer == "n3" else p for p in found.status.pairs)
        return replace(found, status=replace(found.status, pairs=pairs))

    going = stepped(Position(OFF), walk(), NOW)
    silent = evidence(n1=without_pair("n1"), n2=without_pair("n2"), n3=gone)
    assert judge(Position(PREPARE), going, silent, NOW + 1) == Arrived()
    assert "n3" in reasons(judge(Position(PREPARE), going, evidence(n3=gone), NOW + 1)), "its tunnels are alive"


@pytest.mark.parametrize("at", [NOW, NOW - 100 * LIVE])
def test_a_node_whose_agent_has_removed_everything_holds_the_way_up_until_that_is_restarted(at: float) -> None:
    """It waits for its end: silent for ten minutes it would be walked past, and left without encryption."""
    done = {"remove-1": RequestStatus("remove", "done")}
    last = report("n3", at=at, requests=done)
    assert last.status is not None
    found = evidence(n3=replace(last, status=replace(last.status, announced_serial=0, pairs=())))
    going = stepped(Position(OFF), walk(), NOW)
    assert "(delete their pods), on n3" in reasons(judge(Position(PREPARE), going, found, NOW + 1))
    assert "(delete their pods), on n3" in "".join(outlook(Position(), walk(), found, NOW + 1)["blockers"])
    down = stepped(Position(PREPARE), walk(OFF, up=False), NOW)
    assert judge(Position(OFF), down, found, NOW + 1) == Arrived()
    again = evidence(n3=report("n3", requests=done, boot=BootStatus("absent")))
    assert judge(Position(PREPARE), going, again, NOW + 1) == Arrived()


def test_traffic_moves_only_to_links_that_are_proven() -> None:
    pending = evidence(n2=report("n2", state=LinkState.PENDING))
    assert "n2 → n1 (pending)" in reasons(judge(Position(PREPARE), walk(), pending, NOW))
    proven = Evidence(7, {name: report(name, state=LinkState.PROVEN) for name in NAMES})
    assert judge(Position(PREPARE), walk(), proven, NOW) == Advance(Position(PREFER))
    assert judge(Position(PREFER), walk(PREFER), proven, NOW) == Done()


def test_nobody_enforces_before_all_is_sealed_guarded_and_still() -> None:
    later = NOW + STILL + 1
    assert judge(Position(PREFER), walk(), evidence(), later) == Advance(Position(ENFORCE))
    assert "looking on for 30 s" in reasons(judge(Position(PREFER), walk(), evidence(), NOW + 5))
    for changed, words in (
        (report("n2", state=LinkState.PROVEN), "n2 → n1 (proven)"),
        (with_guard(mode="none"), "does not run on n2"),
        (with_guard(whole=False), "not whole on n2"),
        (with_guard(redirects="open"), "LS5007) on n2"),
        (with_guard(broken_glass="test"), "break-glass is in force on n2"),
        (with_guard(last_plaintext=NOW - STILL + 1), "seen lately on n2"),
    ):
        assert words in reasons(judge(Position(PREFER), walk(), evidence(n2=changed), later))
    long_ago = evidence(n2=with_guard(last_plaintext=NOW - STILL))
    assert judge(Position(PREFER), walk(), long_ago, later) == Advance(Position(ENFORCE))
    assert "no node reports" in reasons(judge(Position(PREFER), walk(), Evidence(7, {"n1": None}), later))
    unprotected = replace(evidence(), misfits=("Nodes have no podCIDRs (n3)",))
    assert "no podCIDRs (n3)" in reasons(judge(Position(PREFER), walk(), unprotected, later))
    assert judge(Position(PREPARE), walk(), unprotected, later) == Advance(Position(PREFER)), "nothing is dropped there"
    unbounded = replace(evidence(), unbounded=("it is not said where nodes may be",))
    assert "where nodes may be" in reasons(judge(Position(PREFER), walk(), unbounded, later))
    assert judge(Position(PREPARE), walk(), unbounded, later) == Advance(Position(PREFER))


@pytest.mark.parametrize(
    ("state", "held"), [("installed", False), ("notAsked", False), ("absent", True), ("failed", True)]
)
def test_a_node_that_was_asked_for_a_boot_unit_goes_to_enforce_with_one(state: Any, held: bool) -> None:  # noqa: FBT001
    found = report("n2", boot=BootStatus(state, "read-only"))
    verdict = judge(Position(PREFER), walk(), evidence(n2=found), NOW + STILL + 1)
    assert isinstance(verdict, Hold if held else Advance)
    if held:
        assert reasons(verdict) == "the boot unit (LS3023) is missing on n2"
    onward = judge(Position(PREPARE), walk(), evidence(n2=found), NOW + 1)
    assert isinstance(onward, Advance), "other stages need none"


def with_guard(**fields: Any) -> NodeEncryption:
    return report("n2") if not fields else _guarded(replace(COUNTING, **fields))


def _guarded(guard: GuardStatus) -> NodeEncryption:
    found = report("n2")
    assert found.status is not None
    return replace(found, status=replace(found.status, guard=guard))


def test_what_is_in_the_way_ends_a_walk_that_somebody_looks_at_and_no_other() -> None:
    pending = evidence(n2=report("n2", state=LinkState.PENDING))
    verdict = judge(Position(PREPARE), walk(), pending, NOW + 121)
    assert isinstance(verdict, RollBack)
    assert verdict.to == Position(PREPARE)
    assert isinstance(judge(Position(PREPARE), walk(attached=False), pending, NOW + 500), Hold)
    silent = judge(Position(PREPARE), walk(attached=False), evidence(), NOW + LIVE + 1)
    assert "no node has reported" in reasons(silent), "not the same as a cluster in which none ever did"


def test_breaking_off_leads_to_the_stage_before_the_step_under_way() -> None:
    assert back(Position(PREFER), stepped(Position(PREPARE), walk(), NOW)) == Position(PREPARE)
    assert back(Position(PREFER), arrived(stepped(Position(PREPARE), walk(), NOW), NOW)) == Position(PREFER)


def test_an_empty_cluster_goes_up_to_prefer_at_once() -> None:
    nobody = Evidence(7, dict.fromkeys(NAMES))
    assert judge(Position(), walk(), nobody, NOW) == Advance(Position(PREPARE))
    assert judge(Position(PREPARE), walk(), nobody, NOW) == Advance(Position(PREFER))


def test_a_pool_goes_first_and_the_others_follow() -> None:
    first = frozenset({"n1", "n2"})
    going = walk(PREFER, nodes=first)
    one = following(Position(), going)
    assert one == Position(OFF, Pool(PREPARE, first))
    two = following(one, going)
    assert two == Position(OFF, Pool(PREFER, first))
    assert following(two, going) is None
    assert (two.between("n1", "n2"), two.between("n1", "n3")) == (PREFER, OFF)
    pending = evidence(n3=report("n3", state=LinkState.PENDING))
    assert judge(one, going, pending, NOW) == Advance(two), "what concerns the others does not hold the pool"
    assert "n1 → n2" in reasons(judge(one, going, evidence(n1=report("n1", state=LinkState.PENDING)), NOW))
    everybody = walk(PREFER)
    assert following(two, everybody) == Position(PREPARE, Pool(PREFER, first))
    assert following(Position(PREPARE, Pool(PREFER, first)), everybody) == Position(PREFER)
    assert following(two, walk(OFF, up=False)) == Position(OFF, Pool(PREPARE, first))
    assert following(Position(OFF, Pool(PREPARE, first)), walk(OFF, up=False)) == Position()


def test_a_rehearsal_names_flows_connections_and_what_is_not_covered() -> None:
    flow = PlaintextFlow("n1", "in", "tcp", 9100, 12, 700)
    guard = replace(COUNTING, flows=(flow,), masqueraded=3, uncovered=("eth1 is no underlay",))
    lines = list(rehearse(evidence(out=("n4",), n2=_guarded(guard), n3=None), NOW).lines())
    assert lines[:2] == [
        "would be dropped: n1 → n2 tcp port 9100 (12 packets in the last ten minutes)",
        "would reset when traffic moves: 3 masqueraded connections of n2",
    ]
    text = "\n".join(lines)
    for words in ("counted on n1", "n3: no agent", "n4: opted out", "n2: eth1 is no underlay", "VRRP", "Windows"):
        assert words in text


def test_progress_counts_pairs_sealed_at_both_ends() -> None:
    shown = progress(Position(PREFER), walk(), evidence(n2=report("n2", state=LinkState.PROVEN)), ("x",), NOW)
    assert str(shown) == "stage prefer, 1/3 pairs sealed at both ends; waiting: x"

"""What the ClusterEncryption's status says: counts, conditions and since when."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from linkseal.tunnels.clusterobject import CaStatus, ClusterStatus, status_object
from linkseal.tunnels.controller.clusterstatus import Standing, build
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.stages import Evidence, Position
from linkseal.tunnels.status import LinkCounts, Metadata, NodeEncryption
from unit.test_status import T, pair, status

AT_PREFER = Standing(
    Position(Stage.PREFER), Position(Stage.PREFER), walking=False, reasons=(), serial=7, generation=3, problem=None
)

UNSEALED = NodeEncryption(Metadata("n2"), status=status())
TO_ENFORCE = replace(AT_PREFER, goal=Position(Stage.ENFORCE))
POOL = Pool(Stage.ENFORCE, frozenset({"n1"}))


def sealed(name: str, other: str) -> NodeEncryption:
    report = status(links=LinkCounts(total=1, sealed=1), unsealed=(), pairs=(pair(other, carries=True),))
    return NodeEncryption(Metadata(name), status=report)


ALL_SEALED = Evidence(7, {"n1": sealed("n1", "n2"), "n2": sealed("n2", "n1")})


def told(found: ClusterStatus) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status, one.reason) for one in found.conditions}


def test_a_cluster_that_is_where_it_is_to_be() -> None:
    found = build(AT_PREFER, ALL_SEALED, "{}", T)
    assert told(found) == {
        "Accepted": ("True", "Valid"), "Reached": ("True", "AtTarget"),
        "Granted": ("True", "AllGranted"), "Bounded": ("True", "Named"), "Sealed": ("True", "AllSealed"),
        "CASteady": ("True", "Steady"),
    }  # fmt: skip
    assert (found.nodes, found.links.total, found.links.sealed) == (2, 2, 2)
    assert (found.observed_generation, found.policy_serial, found.stage, found.blockers) == (3, 7, Stage.PREFER, ())
    assert {one.observed_generation for one in found.conditions} == {3}


@pytest.mark.parametrize(
    ("standing", "reached"),
    [
        (replace(TO_ENFORCE, walking=True), ("False", "Walking")),
        (replace(TO_ENFORCE, walking=True, reasons=("not sealed: n1 → n2",)), ("False", "Waiting")),
        (TO_ENFORCE, ("False", "NotAsked")),
        (replace(TO_ENFORCE, taken_back="it took too long"), ("False", "TakenBack")),
        (replace(AT_PREFER, position=Position(Stage.PREFER, POOL)), ("False", "NotAsked")),
    ],
)
def test_what_keeps_it_from_its_stage(standing: Standing, reached: tuple[str, str]) -> None:
    found = build(standing, ALL_SEALED, "{}", T)
    assert told(found)["Reached"] == reached
    assert found.blockers == standing.reasons
    assert ("on the way to enforce" in found.position) is standing.walking


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(7, {"n1": sealed("n1", "n2"), "n2": None}), ("Unknown", "NoReport")),
        (
            Evidence(7, {"n1": sealed("n1", "n2"), "n2": NodeEncryption(Metadata("n2"), status=status())}),
            ("False", "NotSealed"),
        ),
        (Evidence(7, {"n1": sealed("n1", "n2")}), ("Unknown", "NoLinks")),
        (replace(ALL_SEALED, out=("n9",)), ("True", "AllSealed")),
    ],
)
def test_unknown_is_never_sealed(evidence: Evidence, verdict: tuple[str, str]) -> None:
    assert told(build(AT_PREFER, evidence, "{}", T))["Sealed"] == verdict
    late = build(AT_PREFER, evidence, "{}", T + 3600)
    assert told(late)["Sealed"][0] != "True", "reports of an hour ago say nothing"


def test_at_prepare_nothing_is_called_sealed() -> None:
    standing = replace(AT_PREFER, position=Position(Stage.PREPARE), goal=Position(Stage.PREPARE))
    assert told(build(standing, ALL_SEALED, "{}", T))["Sealed"] == ("False", "NotEncrypting")


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    first = status_object(build(AT_PREFER, ALL_SEALED, "{}", T))
    later = build(replace(AT_PREFER, problem="spec.mtu: too small"), ALL_SEALED, json.dumps(first), T + 60)
    times = {one.type: one.last_transition_time for one in later.conditions}
    assert times == {"Accepted": T + 60, "Reached": T, "Granted": T, "Bounded": T, "Sealed": T, "CASteady": T}
    assert build(AT_PREFER, ALL_SEALED, '{"conditions": [{"type": "Sealed", "status": "True"}]}', T).conditions


def test_what_is_said_fits_and_is_printable() -> None:
    reasons = tuple("\n" + "x" * 5000 for _ in range(80))
    found = build(replace(AT_PREFER, goal=Position(Stage.ENFORCE), walking=True, reasons=reasons), ALL_SEALED, "", T)
    assert len(found.blockers) == 50
    assert all("\n" not in text for text in (*found.blockers, *(one.message for one in found.conditions)))
    assert status_object(found)["blockers"]


def test_what_is_not_granted_is_told() -> None:
    found = build(replace(AT_PREFER, ungranted=("n1 claims it", "n2 claims it")), ALL_SEALED, "{}", T)
    assert told(found)["Granted"] == ("False", "NotAll")
    assert "n1 claims it, n2 claims it" in {one.message for one in found.conditions}


def test_a_ca_that_does_not_sign_is_told_beside_what_else_is_wrong_with_it() -> None:
    ca = CaStatus(problem="it ends soon", unsigned="the SSH agent is gone")
    found = build(replace(AT_PREFER, ca=ca), ALL_SEALED, "{}", T)
    assert told(found)["CASteady"] == ("False", "NotSigning")
    assert "the SSH agent is gone; it ends soon" in {one.message for one in found.conditions}


def test_what_waits_for_a_signature_is_neither_refused_nor_reached() -> None:
    waits = replace(AT_PREFER, goal=Position(Stage.ENFORCE), unsigned="the SSH agent is gone")
    for standing in (waits, replace(waits, walking=True)):
        found = told(build(standing, ALL_SEALED, "{}", T))
        assert (found["Accepted"], found["Reached"]) == (("False", "NotSigned"), ("False", "NotSigned"))
    found = told(build(replace(AT_PREFER, unsigned="the SSH agent is gone"), ALL_SEALED, "{}", T))
    assert (found["Accepted"], found["Reached"]) == (("False", "NotSigned"), ("True", "AtTarget"))
    wrong = replace(waits, problem="spec.mtu: too small")
    assert told(build(wrong, ALL_SEALED, "{}", T))["Accepted"] == ("False", "Refused"), "no key would help"


def test_where_nodes_may_claim_anything_it_is_told_and_still_sealed() -> None:
    """What keeps it from stage enforce is no reason to say that less is encrypted."""
    found = told(build(AT_PREFER, replace(ALL_SEALED, unbounded=("say where nodes are",)), "{}", T))
    assert (found["Bounded"], found["Sealed"]) == (("False", "Anywhere"), ("True", "AllSealed"))

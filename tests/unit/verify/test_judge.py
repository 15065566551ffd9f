"""Fabricated evidence: what each piece of it, missing or bad, does to the result. Never proven on less than all."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from linkseal.tunnels.verify.frames import Place
from linkseal.tunnels.verify.judge import Evidence, Way, enough, judge
from linkseal.tunnels.verify.packet import End, Seen

WAYS = (Way(Place.SLOT, "10.244.1.1 to 10.244.2.1"), Way(Place.PROBE, "10.244.1.1 to 198.18.0.22"))
OWN = End(1, 0, 3, 6, (Seen(), Seen()))
FAR = End(2, 0, 2, 5, (Seen(slot=3), Seen(slot=3, forwarded=3)))
GOOD = Evidence("n1", "n2", WAYS, OWN, FAR)
LEAK = (Seen(clear=1), Seen())

CASES = [
    ("all there", GOOD, "proven", ""),
    ("leak here", replace(GOOD, own=OWN._replace(canaries=LEAK)), "leaked", "10.244.2.1, 1 at n1"),
    ("leak there", replace(GOOD, far=FAR._replace(canaries=LEAK)), "leaked", "1 at n2"),
    ("leak, no answer", replace(GOOD, own=OWN._replace(canaries=LEAK), far=None), "leaked", "n1"),
    ("leak, no capture here", replace(GOOD, own=None, far=FAR._replace(canaries=LEAK)), "leaked", "n2"),
    ("leak, blind", replace(GOOD, own=OWN._replace(canaries=LEAK, control=0, lost=9)), "leaked", "n1"),
    ("no capture here", replace(GOOD, own=None, trouble="EPERM"), "blind", "n1 has no capture: EPERM"),
    ("no control here", replace(GOOD, own=OWN._replace(control=0)), "blind", "capture at n1"),
    ("no control there", replace(GOOD, far=FAR._replace(control=0)), "blind", "capture at n2"),
    ("lost here", replace(GOOD, own=OWN._replace(lost=1)), "blind", "n1 lost 1 frames"),
    ("lost there", replace(GOOD, far=FAR._replace(lost=1)), "blind", "n2 lost 1 frames"),
    ("nothing watched here", replace(GOOD, own=OWN._replace(watched=0)), "blind", "n1 watches no"),
    ("nothing watched there", replace(GOOD, far=FAR._replace(watched=0)), "blind", "n2 watches no"),
    ("blind here, no answer", replace(GOOD, own=OWN._replace(control=0), far=None), "blind", "n1"),
    ("no ciphertext here", replace(GOOD, own=OWN._replace(ciphertext=0)), "blind", "n1 saw no tunnel packet"),
    ("no ciphertext there", replace(GOOD, far=FAR._replace(ciphertext=0)), "blind", "n2 saw no tunnel packet"),
    ("no answer", replace(GOOD, far=None), "unreachable", "n2 did not answer"),
    ("no answer, known why", replace(GOOD, far=None, trouble="no link"), "unreachable", "no link"),
    ("unable", replace(GOOD, far=None, trouble="no socket", unable=True), "blind", "n2 has no capture: no socket"),
    ("one lost", replace(GOOD, far=FAR._replace(canaries=(Seen(), FAR.canaries[1]))), "unreachable", "10.244.2.1"),
    ("not forwarded", replace(GOOD, far=FAR._replace(canaries=(FAR.canaries[0], Seen(slot=3)))), "unreachable", "198."),
    ("at lslq only", replace(GOOD, far=FAR._replace(canaries=(Seen(forwarded=3), FAR.canaries[1]))), "unreachable", ""),
    ("fewer reported", replace(GOOD, far=FAR._replace(canaries=FAR.canaries[:1])), "blind", "does not report"),
    ("more reported", replace(GOOD, far=FAR._replace(canaries=(*FAR.canaries, Seen()))), "blind", "does not report"),
    ("nothing sent", replace(GOOD, ways=(), far=FAR._replace(canaries=())), "blind", "0 canaries"),
    ("leak of one not sent", replace(GOOD, ways=(), far=FAR._replace(canaries=LEAK)), "leaked", "canary 0"),
]  # fmt: skip


@pytest.mark.parametrize(("_name", "evidence", "result", "message"), CASES, ids=[case[0] for case in CASES])
def test_the_result_of_each_kind_of_evidence(_name: str, evidence: Evidence, result: str, message: str) -> None:
    verdict = judge(evidence)
    assert (verdict.result, message in verdict.message) == (result, True), verdict


def test_only_all_of_it_is_a_proof() -> None:
    """Over every combination of what each end saw: proven exactly if nothing is missing or bad anywhere."""
    ends = [End(*parts) for parts in product((0, 1), (0, 1), (0, 1), (0, 1), [(Seen(),) * 2, LEAK, FAR.canaries])]
    for own, far in product([None, *ends], [None, *ends]):
        whole = own is not None and far is not None
        whole = whole and own.watched and not own.lost and own.control and own.ciphertext and own.canaries != LEAK  # type: ignore[union-attr]
        whole = whole and far.watched and not far.lost and far.control and far.ciphertext  # type: ignore[union-attr]
        expected = bool(whole) and far.canaries == FAR.canaries  # type: ignore[union-attr]
        verdict = judge(replace(GOOD, own=own, far=far))
        assert (verdict.result == "proven") == expected, (own, far)
        leaked = any(end is not None and end.canaries == LEAK for end in (own, far))
        assert (verdict.result == "leaked") == leaked


def test_the_lesser_count_of_ciphertext_is_told() -> None:
    assert judge(GOOD).ciphertext == 5


def test_many_leaks_are_counted_and_some_named() -> None:
    own = OWN._replace(canaries=tuple(Seen(clear=1) for _ in range(5)))
    assert judge(replace(GOOD, own=own)).message.endswith("and 2 more")


def test_enough_is_when_another_round_could_add_nothing() -> None:
    assert enough(WAYS, OWN, FAR)
    assert not enough(WAYS, OWN._replace(control=0), FAR)
    assert not enough(WAYS, OWN, FAR._replace(ciphertext=0))
    assert not enough(WAYS, OWN, FAR._replace(canaries=(Seen(), Seen())))

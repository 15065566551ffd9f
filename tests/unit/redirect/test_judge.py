"""Whether packets can be redirected past the guard, by what was seen; and which findings say so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from linkseal.tunnels import codes
from linkseal.tunnels.agent.observations import observations
from linkseal.tunnels.model import Observed, Stage
from linkseal.tunnels.redirect.detect import socket_count
from linkseal.tunnels.redirect.judge import judge, redirects
from linkseal.tunnels.redirect.model import Foreign, Hook, RedirectState
from linkseal.tunnels.redirect.reasons import Drops, counts_of
from linkseal.tunnels.statusparts import PlaintextCount
from unit.redirect.test_plan import WORLD

NIC = frozenset({"eth0"})
OURS = frozenset({Hook("eth0", "out"), Hook("eth0", "in")})
XDP, AF_XDP = Foreign("veth7", "xdp", name="program 9"), Foreign("", "af_xdp", name="2 sockets")
POD = Foreign("veth7", "clsact", "in", "cil_from_container")
BEHIND, BEFORE = (
    Foreign("eth0", "tcx", "out", "cil_to_netdev", first=False),
    Foreign("eth0", "tcx", "out", "cil_to_netdev"),
)


def state(*foreign: Foreign, standing: frozenset[Hook] = OURS) -> RedirectState:
    return RedirectState({}, standing, frozenset(), foreign)


CASES = [
    (NIC, state(), "covered", ""),
    (NIC, state(POD, BEHIND), "covered", ""),
    (NIC, state(BEFORE), "open", "tcx cil_to_netdev on eth0 egress"),
    (NIC, state(XDP), "open", "XDP program 9 on veth7"),
    (NIC, state(AF_XDP), "open", "AF_XDP 2 sockets in this network namespace"),
    (NIC, state(standing=frozenset({Hook("eth0", "out")})), "none", ""),
    (NIC, state(POD, standing=frozenset({Hook("eth0", "out")})), "open", "our program is not in place on eth0"),
    (frozenset(), state(standing=frozenset()), "none", ""),
    (frozenset(), state(POD, standing=frozenset()), "covered", ""),
    (frozenset(), state(XDP, standing=frozenset()), "open", "XDP program 9 on veth7"),
    (NIC, None, "unknown", "the programs of this host's interfaces could not be read"),
]


@pytest.mark.parametrize(("devices", "seen", "word", "message"), CASES)
def test_the_judgement(devices: frozenset[str], seen: RedirectState | None, word: str, message: str) -> None:
    assert judge(devices, seen, able=True) == (word, message)


def test_a_kernel_without_program_covers_nobody() -> None:
    assert judge(frozenset(), state(POD, standing=frozenset()), able=False).redirects == "open"
    assert judge(frozenset(), state(standing=frozenset()), able=False).redirects == "none"


def test_a_world_that_does_not_enforce_is_judged_as_if_it_did() -> None:
    calm = replace(WORLD, layout=replace(WORLD.layout, stage=Stage.PREFER))
    seen = state(POD, BEFORE, standing=frozenset())
    assert redirects(calm, seen).redirects == "covered"
    assert redirects(WORLD, seen).redirects == "open"


def said(world: object = WORLD, seen: RedirectState | None = None) -> dict[tuple[str, str], str]:
    found = observations(world, Observed(redirect=seen), {}, {}, [])  # type: ignore[arg-type]
    return {key: text for key, text in found.items() if key[0].startswith("LS500")}


def test_findings() -> None:
    assert said(seen=state()) == {}
    assert said(seen=state(XDP)) == {(codes.REDIRECT_OPEN, ""): "XDP program 9 on veth7"}
    assert said()[codes.REDIRECT_OPEN, ""].startswith("the programs of this host's interfaces could not be read")
    unable = replace(WORLD, redirect=False, no_redirect="cannot load the eBPF program: Operation not permitted")
    assert said(unable, state()) == {
        (codes.REDIRECT_UNGUARDED, ""): "cannot load the eBPF program: Operation not permitted"
    }
    assert said(replace(WORLD, layout=replace(WORLD.layout, stage=Stage.PREFER)), state(XDP)) == {}


def test_counters_as_a_report_has_them() -> None:
    counters = {
        ("out", 0): Drops(1, 40), ("out", 1): Drops(2, 80), ("out", 3): Drops(0, 0), ("in", 2): Drops(5, 500),
        ("in", 4): Drops(9, 9),
    }  # fmt: skip
    assert counts_of(counters) == (  # type: ignore[arg-type]
        PlaintextCount("in", "unproven", "dropped", 5, 500),
        PlaintextCount("out", "unknown", "dropped", 3, 120),
    )


@pytest.mark.parametrize(("text", "count"), [("", 0), ("XDP  1088  2  -1  NI 0 no\n", 2), ("TCP  2048  9 0 no\n", 0)])
def test_af_xdp_sockets_are_counted_by_the_kernels_table(text: str, count: int) -> None:
    assert socket_count("protocol  size sockets  memory press maxhdr\n" + text) == count

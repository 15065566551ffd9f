"""The program on a NIC of this kernel, by tcx where there is and by clsact; needs no WireGuard.

tests/kernel/test_redirect.py runs the same in the lab kernel, which has no tcx.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ground.hosts import sh
from ground.redirects import (
    EVERYTHING,
    FRAMES,
    POD,
    REMOTE_POD,
    crossing,
    ebpf_pass,
    ebpf_redirect,
    frame,
    host_with_pod,
    reconcile,
    redirector,
    settled,
)  # fmt: skip
from ground.redirecttests import HOOKS, NIC, SCENARIOS, Make, Scenario, _index
from linkseal.tunnels.redirect import bpf, tc
from linkseal.tunnels.redirect.judge import judge
from linkseal.tunnels.redirect.kernel import Redirector
from linkseal.tunnels.redirect.model import AttachRedirect, Hook
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket


def _lacks() -> str:
    if os.geteuid() != 0:
        return "needs root"
    with redirector() as one:
        return str(one.unable() or "")


def _has_tcx() -> bool:
    return not _lacks() and bpf.tcx_chain(_index("lo"), bpf.TCX["in"]) is not None


pytestmark = pytest.mark.skipif(bool(_lacks()), reason=_lacks())
needs_tcx = pytest.mark.skipif(not _has_tcx(), reason="this kernel has no tcx (Linux 6.6)")


def by_clsact() -> Make:
    def limit(one: Redirector) -> None:
        one._hooks._tcx = False

    return lambda: redirector(limit)


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with host_with_pod():
        yield


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: str(one.__name__))
def test_by_clsact(scenario: Scenario) -> None:
    scenario(by_clsact())


@needs_tcx
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: str(one.__name__))
def test_by_tcx(scenario: Scenario) -> None:
    scenario(redirector)


@needs_tcx
def test_a_tcx_program_of_a_cni_that_came_first_is_put_behind_ours() -> None:
    theirs = ebpf_pass()
    for way in ("in", "out"):
        bpf.tcx_attach_first(_index("nic"), bpf.TCX[way], theirs)
    with redirector() as ours:
        assert judge(NIC, ours.observe(), able=True).redirects == "open"
        state = settled(ours)
        assert state.standing == HOOKS
        assert not any(one.first for one in state.foreign)
        assert judge(NIC, state, able=True).redirects == "covered"
        assert crossing(frame(POD, REMOTE_POD), "nic", "wire") == 0
    os.close(theirs)


@needs_tcx
def test_a_cni_that_puts_itself_before_ours_is_told_and_put_behind_again() -> None:
    with redirector() as ours:
        settled(ours)
        theirs = ebpf_redirect("pod")
        bpf.tcx_attach_first(_index("nic"), bpf.TCX["in"], theirs)
        inbound = frame(REMOTE_POD, POD)
        assert crossing(inbound, "wire", "podp") == FRAMES, "control: it takes them before ours is asked"
        state = ours.observe()
        assert judge(NIC, state, able=True).redirects == "open"
        assert state.strays == {Hook("nic", "in")}
        assert reconcile(ours) == (AttachRedirect(Hook("nic", "in")),)
        assert settled(ours).strays == frozenset()
        os.close(theirs)
        sh("ip link set podp down; ip link set podp up")
        with NetlinkSocket(NETLINK_ROUTE) as sock:
            assert tc.qdisc_kind(sock, _index("nic")) == ""


def test_a_filter_of_the_same_preference_that_came_first_is_put_behind_ours() -> None:
    theirs = ebpf_pass()
    with NetlinkSocket(NETLINK_ROUTE) as sock, by_clsact()() as ours:
        settled(ours)
        tc.add_filter(sock, _index("nic"), "out", 1, 7, "cni_pass", theirs)
        assert judge(NIC, ours.observe(), able=True).redirects == "open"
        assert crossing(frame(POD, REMOTE_POD), "nic", "wire") == FRAMES, "control"
        assert reconcile(ours) == (AttachRedirect(Hook("nic", "out")),)
        assert settled(ours).standing == HOOKS
        assert crossing(frame(POD, REMOTE_POD), "nic", "wire") == 0
    os.close(theirs)


def test_a_preference_that_another_kind_of_filter_has_is_told_as_open() -> None:
    sh(f"tc qdisc add dev nic clsact; tc filter add dev nic egress pref 1 protocol ip {EVERYTHING}")
    with by_clsact()() as ours:
        reconcile(ours)
        state = ours.observe()
        assert state.standing == {Hook("nic", "in")}
        assert state.behind == {Hook("nic", "out")}
        found = judge(NIC, state, able=True)
        assert (found.redirects, found.message) == ("open", "tc filter bpf on nic egress")
        writes = ours.writes
        assert reconcile(ours) == ()
        assert ours.writes == writes, "what cannot be had is not tried in every pass"
        sh("tc filter del dev nic egress pref 1")
        assert reconcile(ours) == (), "ours is the first now, whatever its preference"
        assert settled(ours).standing == HOOKS


def test_a_process_that_may_not_open_programs_puts_new_ones_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAP_SYS_ADMIN nothing is found again: a restart makes maps and programs anew, and leaves no old one."""

    def refused(number: int) -> int:
        raise bpf.HostError(f"no program {number}", errno=1)

    with by_clsact()() as first:
        settled(first)
    monkeypatch.setattr(bpf, "program_by_id", refused)
    monkeypatch.setattr(bpf, "map_by_id", refused)
    with redirector() as second:
        assert second.observe().strays == HOOKS
        assert settled(second).standing == HOOKS
        assert crossing(frame(POD, REMOTE_POD), "nic", "wire") == 0
        with NetlinkSocket(NETLINK_ROUTE) as sock:
            assert len(tc.filters(sock, _index("nic"), "out")) == 1

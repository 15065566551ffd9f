"""What the program on the NIC must do in every kernel: by tests/unit/redirect here, by tests/kernel in the lab's.

Each is a function of `make`, which gives a `Redirector`, in the namespace of `host_with_pod`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

from ground.hosts import sh
from ground.redirects import (
    ELSEWHERE,
    FRAMES,
    MARK,
    OWN,
    OWN6,
    PEER,
    POD,
    POD6,
    PORT,
    REMOTE_POD,
    REMOTE_POD6,
    SPEC,
    crossing,
    ebpf_redirect,
    frame,
    mirred,
    neighbour,
    reconcile,
    settled,
    xdp_pass,
)  # fmt: skip
from linkseal.tunnels.redirect import tc
from linkseal.tunnels.redirect.judge import judge
from linkseal.tunnels.redirect.kernel import Redirector
from linkseal.tunnels.redirect.model import AttachRedirect, DetachRedirect, Foreign, Hook, SetRedirect
from linkseal.tunnels.redirect.program import WAYS
from linkseal.tunnels.redirect.reasons import counts_of
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket

Make = Callable[[], AbstractContextManager[Redirector]]
Scenario = Callable[[Make], None]

NIC = frozenset({"nic"})
HOOKS = frozenset(Hook("nic", way) for way in WAYS)
NFT = (
    "add table netdev guard; "
    "add chain netdev guard out { type filter hook egress device nic priority 0; }; add rule netdev guard out drop; "
    "add chain netdev guard in { type filter hook ingress device nic priority 0; }; add rule netdev guard in drop"
)


def nft_drops_everything() -> None:
    """Netdev hooks that drop all they see of IPv4 (the frames that end a test are of another kind)."""
    rules = NFT.replace("drop", "meta protocol ip drop")
    for one in rules.split("; add "):
        sh(f"nft 'add {one.removeprefix('add ')}'")


def tc_redirect_out(make: Make) -> None:
    mirred("pod", "nic")
    one, free = frame(POD, REMOTE_POD), frame(POD, ELSEWHERE)
    nft_drops_everything()
    assert crossing(one, "podp", "wire") == FRAMES, "control: a redirect passes a netdev hook that drops everything"
    assert crossing(one, "nic", "wire") == 0, "control: the hook does drop"
    sh("nft delete table netdev guard")
    with make() as ours:
        settled(ours)
        assert crossing(one, "podp", "wire") == 0
        assert crossing(frame(POD6, REMOTE_POD6), "podp", "wire") == 0
        assert crossing(free, "podp", "wire") == FRAMES, "what is not protected goes on"
        found = {(count.direction, count.reason): count.packets for count in counts_of(ours.counters())}
        assert found == {("out", "bypass"): FRAMES, ("out", "unproven"): FRAMES}


def ebpf_redirect_out(make: Make) -> None:
    fd = ebpf_redirect("nic")
    with NetlinkSocket(NETLINK_ROUTE) as sock:
        index = _index("pod")
        tc.add_clsact(sock, index)
        tc.add_filter(sock, index, "in", 10, 1, "cni", fd)
    os.close(fd)
    one = frame(POD, REMOTE_POD)
    nft_drops_everything()
    assert crossing(one, "podp", "wire") == FRAMES, "control"
    with make() as ours:
        settled(ours)
        assert crossing(one, "podp", "wire") == 0
        assert judge(NIC, ours.observe(), able=True).redirects == "covered"


def tc_redirect_in(make: Make) -> None:
    mirred("nic", "pod")
    one, free = frame(REMOTE_POD, POD), frame(ELSEWHERE, POD)
    nft_drops_everything()
    assert crossing(one, "wire", "podp") == FRAMES, "control: inbound redirects pass a netdev hook too"
    with make() as ours:
        settled(ours)
        assert crossing(one, "wire", "podp") == 0
        assert crossing(frame(REMOTE_POD6, POD6), "wire", "podp") == 0
        assert crossing(free, "wire", "podp") == FRAMES


def what_passes(make: Make) -> None:
    with make() as ours:
        settled(ours)
        tunnel = frame(OWN, PEER, ports=(PORT, PORT))
        assert crossing(tunnel, "nic", "wire", MARK) == FRAMES
        assert crossing(tunnel, "nic", "wire") == 0, "without the mark"
        assert crossing(frame(POD, PEER), "nic", "wire", MARK) == 0, "the mark, and not our address"
        later = frame(OWN, PEER, fragment=0x00B9)
        assert crossing(later, "nic", "wire", MARK) == FRAMES, "a later fragment of ours"
        assert crossing(frame(PEER, OWN, ports=(PORT, PORT + 3)), "wire", "nic") == FRAMES
        assert crossing(frame(PEER, OWN, fragment=0x00B9), "wire", "nic") == FRAMES
        assert crossing(neighbour(OWN6, REMOTE_POD6), "nic", "wire") == FRAMES
        assert crossing(neighbour(REMOTE_POD6, OWN6, 136), "wire", "nic") == FRAMES
        assert crossing(frame(OWN, PEER, 6, (9, 6443)), "nic", "wire") == FRAMES, "exempt"
        assert crossing(frame(OWN, PEER, 6, (6443, 9)), "nic", "wire") == 0, "not by its source port"


def outlives(make: Make) -> None:
    mirred("pod", "nic")
    with make() as first:
        before = settled(first)
    assert crossing(frame(POD, REMOTE_POD), "podp", "wire") == 0, "nobody holds a descriptor now"
    with make() as second:
        assert second.observe() == before
        assert reconcile(second) == ()
        assert second.writes == 0
        assert sum(count.packets for count in counts_of(second.counters())) == 0, "since this process began"
        assert crossing(frame(POD, REMOTE_POD), "podp", "wire") == 0
        assert [(c.reason, c.packets) for c in counts_of(second.counters())] == [("bypass", FRAMES)]


def healed(make: Make) -> None:
    with make() as ours, make() as vandal:
        settled(ours)
        vandal.observe()
        vandal.apply(DetachRedirect(Hook("nic", "out")))
        assert reconcile(ours) == (AttachRedirect(Hook("nic", "out")),)
        assert settled(ours).standing == HOOKS
        sh("ip link del nic; ip link add nic type veth peer name wire; ip link set nic up; ip link set wire up")
        steps = reconcile(ours)
        assert set(steps) == {AttachRedirect(hook) for hook in HOOKS}, "entries are kept by who runs"
        assert settled(ours).standing == HOOKS


def an_entry_that_somebody_took_is_put_back(make: Make) -> None:
    with make() as ours, make() as vandal:
        settled(ours)
        state = vandal.observe()
        entries = state.entries()
        first = next(entry for entry in entries if entry.table == "out")
        vandal.apply(SetRedirect(((first, 0),)))
        assert reconcile(ours) == (SetRedirect(((first, entries[first]),)),)
        assert settled(ours).entries() == SPEC.entries()


def removed(make: Make) -> None:
    with make() as ours:
        settled(ours)
        with NetlinkSocket(NETLINK_ROUTE) as sock:
            qdisc = tc.qdisc_kind(sock, _index("nic"))
        assert set(reconcile(ours, None)) == {DetachRedirect(hook) for hook in HOOKS}
        state = ours.observe()
        assert not state.standing
        assert not state.strays
        with NetlinkSocket(NETLINK_ROUTE) as sock:
            assert tc.qdisc_kind(sock, _index("nic")) == qdisc, "what is sent while it is taken away would be lost"
        assert crossing(frame(POD, REMOTE_POD), "nic", "wire") == FRAMES


def xdp_is_told(make: Make) -> None:
    with make() as ours:
        assert judge(NIC, settled(ours), able=True).redirects == "covered"
        xdp_pass("pod")
        state = ours.observe()
        assert [(one.kind, one.device) for one in state.foreign] == [("xdp", "pod")]
        found = judge(NIC, state, able=True)
        assert found.redirects == "open"
        assert "XDP" in found.message


def nothing_foreign(make: Make) -> None:
    with make() as ours:
        assert ours.observe().foreign == ()
        mirred("pod", "nic")
        assert {one._replace(name="") for one in ours.observe().foreign} == {Foreign("pod", "clsact", "in")}


SCENARIOS: tuple[Scenario, ...] = (
    tc_redirect_out,
    ebpf_redirect_out,
    tc_redirect_in,
    what_passes,
    outlives,
    healed,
    an_entry_that_somebody_took_is_put_back,
    removed,
    xdp_is_told,
    nothing_foreign,
)


def _index(name: str) -> int:
    return socket.if_nametoindex(name)

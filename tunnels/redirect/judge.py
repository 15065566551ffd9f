"""Whether packets can be redirected past the guard, as far as this node can see. Pure.

XDP programs, AF_XDP sockets        stand before every program of ours, on whatever interface they are
a tc or tcx program on the NIC      is harmless behind ours; before it, it can redirect or let pass what ours drops
programs on other interfaces        redirect to the NIC, where ours is asked: harmless
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from linkseal.tunnels.redirect.model import Foreign, Hook, RedirectState
from linkseal.tunnels.redirect.plan import enforces
from linkseal.tunnels.redirect.program import WAYS
from linkseal.tunnels.statusparts import Redirects
from linkseal.tunnels.world import World

_NAMED: Final = 3
_WAYS: Final = {"out": " egress", "in": " ingress", None: ""}
_KINDS: Final = {"xdp": "XDP", "af_xdp": "AF_XDP", "tcx": "tcx", "clsact": "tc filter"}


class Judgement(NamedTuple):
    """What `redirects` of a node's report says, and for `open` and `unknown` why."""

    redirects: Redirects
    message: str = ""


def redirects(world: World, observed: RedirectState | None) -> Judgement:
    """Judge what was observed, in this world.

    Where no program of ours is wanted (nothing is dropped) the answer is what it would be with one.
    """
    wanted = world.redirect and enforces(world)
    nics = frozenset((world.underlay.interface, *world.nics)) if wanted else frozenset[str]()
    return judge(nics, observed, able=world.redirect)


def judge(devices: frozenset[str], observed: RedirectState | None, *, able: bool) -> Judgement:
    """Judge what was observed. `devices`: where programs of ours should be; `able`: this kernel can have them."""
    if observed is None:
        return Judgement("unknown", "the programs of this host's interfaces could not be read")
    before = [one for one in observed.foreign if one.kind in ("xdp", "af_xdp")]
    behind = [one for one in observed.foreign if one.kind not in ("xdp", "af_xdp")]
    missing = {Hook(device, way) for device in devices for way in WAYS} - observed.standing
    before += [one for one in behind if one.first and one.device in devices]
    if before:
        return Judgement("open", _text(before))
    if not devices and behind and not able:
        return Judgement("open", _text(behind))
    if not devices:
        return Judgement("covered" if behind else "none")
    if missing and behind:
        names = ", ".join(sorted({hook.device for hook in missing}))
        return Judgement("open", f"our program is not in place on {names}")
    return Judgement("none" if missing else "covered")


def _text(found: Iterable[Foreign]) -> str:
    words = [_word(one) for one in found]
    more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def _word(one: Foreign) -> str:
    where = f" on {one.device}{_WAYS[one.way]}" if one.device else " in this network namespace"
    return f"{_KINDS[one.kind]} {one.name}{where}"

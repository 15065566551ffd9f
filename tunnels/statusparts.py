"""Parts of a node's report: what the guard does and counted, what `verify` saw, what `plan` found. No I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from linkseal.tunnels.findings import printable
from linkseal.tunnels.statustypes import (
    EDGE,
    MAX_LINE,
    Bytes,
    Count,
    Line,
    Message,
    Name,
    Number,
    Short,
    Time,
)
from pydantic import Field, with_config

MAX_FLOWS: Final = 50

NO_NODE: Final = "unknown"
"""`peer` of a flow with an address that no node is known to have: older readers take only names there."""

MAX_COUNTS: Final = 40
MAX_VERIFIED: Final = 200
MAX_UNGUARDED: Final = 1_000_000
"""Seconds; eleven days and more are as good as never."""

MAX_PLAN: Final = 256 * 1024
"""Bytes of a plan's lines as JSON: some 300 nodes at stage enforce. The API server's store takes 1.5 MB an object."""
MAX_PLAN_LINES: Final = 5000

GuardMode = Literal["none", "count", "drop"]
"""There is none; it counts plaintext; it drops what concerns peers in stage enforce and protected networks, and counts
the rest."""

Direction = Literal["out", "in"]

Reason = Literal["unknown", "unproven", "bypass", "exempt", "optedOut"]
"""Why a packet was plaintext: its peer has no agent, is refused or not known; has no proven link; is sealed (and the
packet passed the tunnel by); an exemption let it through; its peer is opted out."""

Verdict = Literal["counted", "dropped"]

Redirects = Literal["none", "covered", "open", "unknown"]
"""Packets that eBPF or tc send past nftables: nobody does; our program stops them; they can pass; not known."""

VerifyResult = Literal["proven", "leaked", "blind", "unreachable"]

WORST_RESULT: Final[tuple[VerifyResult, ...]] = ("leaked", "blind", "unreachable", "proven")
"""Results of `verify`, the worst first."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class PlaintextCount:
    """Packets and bytes since the agent started, of one direction, reason and verdict."""

    direction: Direction
    reason: Reason
    verdict: Verdict
    packets: Bytes
    bytes: Bytes


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class FormerStatus:
    """The cluster from which a node comes, or to which it belongs while its directory is another's; its index there."""

    cluster: Short
    index: Number
    over: bool
    """The node belongs to the cluster of its directory now."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class PlaintextFlow:
    """A flow outside the tunnels that the guard saw in the last ten minutes. `port` is the destination's, 0: none."""

    peer: Name
    direction: Direction
    protocol: Short
    port: Annotated[int, Field(ge=0, le=65535)]
    packets: Bytes
    bytes: Bytes
    address: Short | None = None
    """The other end where no node is known to have it, though its network is protected; `peer` is `unknown` then."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class GuardStatus:
    """The guard as this node found it in the kernel in its last look."""

    mode: GuardMode = "none"
    whole: bool = True
    """Everything of it was there as planned."""
    redirects: Redirects = "unknown"
    broken_glass: Message | None = None
    """Why break-glass is in force; None: it is not."""
    counts: Annotated[tuple[PlaintextCount, ...], Field(max_length=MAX_COUNTS)] = ()
    last_plaintext: Time | None = None
    """When a packet was last seen outside the tunnels that no exemption lets through."""
    flows: Annotated[tuple[PlaintextFlow, ...], Field(max_length=MAX_FLOWS)] = ()
    masqueraded: Count | None = None
    """Connections of this node that are masqueraded towards protected addresses and would be reset when their traffic
    moves to the door or back; None: not counted."""
    uncovered: Annotated[tuple[Message, ...], Field(max_length=20)] = ()
    """What of this host is not covered at all: further NICs, other networks of pods, multicast."""
    first_loaded_at: Time | None = None
    """When this node's guard was loaded for the first time ever; None: not yet, or before that was recorded."""
    unguarded: Count | None = None
    """Seconds from the node's registration to its first guard, of a node that joined a cluster at stage enforce: what
    it sent meanwhile was plaintext. None: it did not, or that is not known."""


def quiet(guard: GuardStatus) -> GuardStatus:
    """Return it without what grows with every packet: which sorts there are stays, and which flows."""
    return replace(
        guard,
        counts=tuple(replace(one, packets=0, bytes=0) for one in guard.counts),
        flows=tuple(sorted((replace(one, packets=0, bytes=0) for one in guard.flows), key=repr)),
        last_plaintext=None,
    )


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class AppliedStatus:
    """How far this node has applied the cluster's policy."""

    serial: Number = 0
    """Of the policy it acts by."""
    applied: bool = False
    """The kernel was found to be as that policy wants it, with nothing left to do."""


BootState = Literal["installed", "absent", "failed", "notAsked"]
"""The units are on the host; they are not (yet); they cannot be; the agent is not asked for them."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class BootStatus:
    """What brings this node's guard and tunnels back at boot, without agent and API server."""

    state: BootState = "notAsked"
    reason: Message = ""
    """Why it is not installed."""
    root: Short = ""
    """Name of the folder that the units run in; it changes with version and settings."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class Verification:
    """The last verification of the traffic from this node to `peer`."""

    peer: Name
    result: VerifyResult
    at: Time
    message: Message = ""
    ciphertext: Count = 0
    """Tunnel packets seen on the underlay while the canary crossed."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class PlanStatus:
    """What the agent would do, as `ip`, `wg` and `nft` lines; of too many the first, and steps rather than the rest.

    No line holds a secret.
    """

    request: Short
    """The request that it answers."""
    at: Time
    steps: Annotated[tuple[Line, ...], Field(max_length=MAX_PLAN_LINES)] = ()
    """What leads from what is to what should be; none: all is as it should be."""
    desired: Annotated[tuple[Line, ...], Field(max_length=MAX_PLAN_LINES)] = ()
    """What should be on this host."""
    steps_omitted: Count = 0
    desired_omitted: Count = 0
    """Lines that are not here."""


def plan_status(request: str, at: float, steps: Sequence[str], desired: Sequence[str]) -> PlanStatus:
    """Return a plan, cut to MAX_PLAN bytes."""
    kept_steps, room = _fit(steps, MAX_PLAN)
    kept, _ = _fit(desired, room)
    return PlanStatus(request, at, kept_steps, kept, len(steps) - len(kept_steps), len(desired) - len(kept))


def _fit(lines: Sequence[str], room: int) -> tuple[tuple[str, ...], int]:
    """Return the first lines that have room, whole, and what is left of it: none once a line had too little."""
    found: list[str] = []
    for line in lines[:MAX_PLAN_LINES]:
        if len(line) > MAX_LINE:
            return tuple(found), 0
        clean = printable(line, MAX_LINE)
        size = len(json.dumps(clean, ensure_ascii=False).encode()) + 1
        if size > room:
            return tuple(found), 0
        found.append(clean)
        room -= size
    return tuple(found), room

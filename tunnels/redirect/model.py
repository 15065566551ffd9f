"""What the programs on the NICs should do and what is there, as plain values. No I/O.

The programs decide by entries of maps. An `Entry` names map and key as text, so that entries compare, sort and print:

    ("out", "10.1.0.0/16")            drop what leaves for this prefix         value: its counter, 0: let through
    ("in", "10.1.0.0/16")             drop what comes from it                  likewise
    ("own", "192.0.2.1")              an address of this node                  1
    ("exempt", "6 443 192.0.2.9/32")  protocol, port (0 0: any) and server     1
    ("number", "mark")                the tunnels' mark                        value, and mask << 32
    ("number", "ports")               ports of the slots                       first, and last << 32
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from linkseal.keys.values import Prefix
from linkseal.tunnels.redirect.program import WAYS, Way

Table = Literal["out", "in", "own", "exempt", "number"]

LET_THROUGH: Final = 0
"""Verdict of a prefix inside of one that is dropped."""


class Entry(NamedTuple):
    """Map and key of one entry."""

    table: Table
    key: str


class Hook(NamedTuple):
    """Where one of our programs stands."""

    device: str
    way: Way


class Exemption(NamedTuple):
    """A server that is reached in plaintext: IP protocol and port by number (0, 0: all of it), and its addresses."""

    prefix: Prefix
    protocol: int = 0
    port: int = 0


class Mark(NamedTuple):
    """The tunnels' socket mark. A mask of 0 lets nothing through."""

    value: int
    mask: int = 0xFFFFFFFF


class Ports(NamedTuple):
    """UDP ports of the slots, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RedirectSpec:
    """What our programs should drop on which NICs, and what they let through."""

    devices: frozenset[str]
    verdicts: Mapping[Prefix, int]
    """Protected prefix → counter of the reason why it is plaintext (1 to 7), or LET_THROUGH; for both directions."""
    own: frozenset[str]
    """This node's own addresses."""
    mark: Mark
    ports: Ports
    exemptions: frozenset[Exemption] = frozenset()

    def hooks(self) -> frozenset[Hook]:
        """Return where programs should stand."""
        return frozenset(Hook(device, way) for device in self.devices for way in WAYS)

    def entries(self) -> dict[Entry, int]:
        """Return what the maps should hold."""
        found = {Entry(table, prefix): one for prefix, one in self.verdicts.items() for table in WAYS}
        found |= {Entry("own", address): 1 for address in self.own}
        found |= {Entry("exempt", f"{one.protocol} {one.port} {one.prefix}"): 1 for one in self.exemptions}
        found[Entry("number", "mark")] = self.mark.value & self.mark.mask | self.mark.mask << 32
        found[Entry("number", "ports")] = self.ports.first | self.ports.last << 32
        return found


class Foreign(NamedTuple):
    """A program or filter of somebody else's that can redirect packets."""

    device: str
    kind: Literal["xdp", "af_xdp", "tcx", "clsact"]
    way: Way | None = None
    name: str = ""
    first: bool = True
    """It is asked before any program of ours."""


@dataclass(frozen=True, slots=True)
class RedirectState:
    """What is there of ours, and of others what can redirect."""

    entries: Mapping[Entry, int] = field(default_factory=dict)
    standing: frozenset[Hook] = frozenset()
    """Where our program, of this version and with the maps of `entries`, is asked first."""
    strays: frozenset[Hook] = frozenset()
    """Where there are others of ours: of another version or other maps, behind somebody else's, or twice."""
    foreign: tuple[Foreign, ...] = ()


# --- steps -----------------------------------------------------------------------------------------------------------


class SetRedirect(NamedTuple):
    """Set entries, each at once for every packet; makes the maps where there are none yet."""

    entries: tuple[tuple[Entry, int], ...]


class ForgetRedirect(NamedTuple):
    """Remove entries."""

    entries: tuple[Entry, ...]


class AttachRedirect(NamedTuple):
    """Have our program asked first at a hook, then take out every other of ours there."""

    hook: Hook


class DetachRedirect(NamedTuple):
    """Take every program of ours out of a hook."""

    hook: Hook


RedirectStep = SetRedirect | ForgetRedirect | AttachRedirect | DetachRedirect

"""What the programs on the NICs should do and what is there, as plain values. No I/O.

The programs decide by entries of maps. An `Entry` names map and key as text, so that entries compare, sort and print:

    ("out", "10.1.0.0/16")            drop what leaves for this prefix         value: its counter, 0: let through
    ("in", "10.1.0.0/16")             drop what comes from it                  likewise
    ("own", "192.0.2.1")              an address of this node                  1
    ("exempt", "6 443 192.0.2.9/32")  protocol, port (0 0: any) and server     1
    ("exempt", "17 later …")          its fragments, which have no ports       1
    ("exempt", "served 6 443 …")      the same of a server at this node        1
    ("number", "mark")                the tunnels' mark                        value, and mask << 32
    ("number", "ports")               ports of the slots                       first, and last << 32
    ("number", "control")             ports of what `verify` sends in clear    likewise
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, cast

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
    """A server that is reached in plaintext: IP protocol and port by number (0, 0: all of it), and its addresses.

    `served`: what goes to it comes in and what comes from it leaves; else it is at the other end.
    """

    prefix: Prefix
    protocol: int = 0
    port: int = 0
    served: bool = False

    def entry_keys(self) -> tuple[str, ...]:
        """Return the keys of its entries."""
        front = f"served {self.protocol}" if self.served else f"{self.protocol}"
        whole = f"{front} {self.port} {self.prefix}"
        return (whole, f"{front} later {self.prefix}") if self.protocol else (whole,)


class Mark(NamedTuple):
    """The tunnels' socket mark. A mask of 0 lets nothing through."""

    value: int
    mask: int = 0xFFFFFFFF


class Ports(NamedTuple):
    """UDP ports, both included."""

    first: int
    last: int


NO_PORTS: Final = Ports(0, 0)


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
    control: Ports = NO_PORTS
    """Where `verify` sends what it sends in clear: dropped like the rest, and counted apart."""

    def hooks(self) -> frozenset[Hook]:
        """Return where programs should stand."""
        return frozenset(Hook(device, way) for device in self.devices for way in WAYS)

    def tables(self) -> dict[Table, Mapping[str, int]]:
        """Return what the maps should hold: table → key → value."""
        mark, ports, control = self.mark, self.ports, self.control
        verdicts = cast("Mapping[str, int]", self.verdicts)
        return {
            "number": {
                "mark": mark.value & mark.mask | mark.mask << 32,
                "ports": ports.first | ports.last << 32,
                "control": control.first | control.last << 32,
            },
            "own": dict.fromkeys(self.own, 1),
            "exempt": {key: 1 for one in self.exemptions for key in one.entry_keys()},
            "in": verdicts,
            "out": verdicts,
        }

    def entries(self) -> dict[Entry, int]:
        """Return the same, entry by entry."""
        return {Entry(table, key): value for table, held in self.tables().items() for key, value in held.items()}


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

    tables: Mapping[Table, Mapping[str, int]] = field(default_factory=dict)
    """What the maps hold: table → key → value; thousands of nodes, so compared as a whole."""
    standing: frozenset[Hook] = frozenset()
    """Where our program, of this version and with the maps of `tables`, is asked first."""
    strays: frozenset[Hook] = frozenset()
    """Where there are others of ours: of another version or other maps, behind somebody else's, or twice."""
    foreign: tuple[Foreign, ...] = ()
    behind: frozenset[Hook] = frozenset()
    """Where ours stands behind another's which it cannot precede: tried, and not tried again before that changes."""

    def entries(self) -> dict[Entry, int]:
        """Return what the maps hold, entry by entry."""
        return {Entry(table, key): value for table, held in self.tables.items() for key, value in held.items()}


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

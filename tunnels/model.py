"""What this host should be and what it is, as plain values: the arguments and results of `plan` and `diff`.

This file does no I/O and holds no secret. Prefixes and addresses are canonical text (see `linkseal.wireguard.model`).
What is numerous (routes, map elements, peers) is a NamedTuple, so that 5,000 nodes compare in C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, NamedTuple

from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels.guard.model import Guard, GuardTransaction
from linkseal.tunnels.redirect.model import RedirectSpec, RedirectState, RedirectStep
from linkseal.wireguard.model import DeviceSpec, DeviceState, WireguardStep

Family = Literal[4, 6]
V4: Final[Family] = 4
V6: Final[Family] = 6


def family_of(prefix: str) -> Family:
    """4 or 6, by the text of an address or prefix."""
    return 6 if ":" in prefix else 4


class Scope(Enum):
    """What the tunnels carry."""

    OVERLAY = "overlay"
    TRANSPARENT = "transparent"


class Stage(Enum):
    """How far the cluster has gone with encryption (DESIGN section 6)."""

    OFF = "off"
    PREPARE = "prepare"
    PREFER = "prefer"
    ENFORCE = "enforce"


class Kind(Enum):
    """What an interface of ours is for; the driver decides which kernel kind serves it."""

    DOOR = "door"
    SLOT = "slot"
    PROBE = "probe"
    """The veth pair `lslp`/`lslq`; always made and removed as a pair under the name of its first end."""


class Interface(NamedTuple):
    """An interface of ours as it should be: always up."""

    name: str
    kind: Kind
    mtu: int
    rp_filter: int = 2
    """Loose: strict drops what arrives by a slot other than the one we send by; needs an IPv4 address too."""
    accept_local: bool = False
    """The probe pair injects packets with this node's own addresses."""


class InterfaceState(NamedTuple):
    """An interface as it is. `rp_filter` is the interface's own value, not the maximum with `all`."""

    name: str
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody calls
    kind: Kind | None
    """None: not one of ours (an underlay NIC), or of a kind that cannot serve."""
    mtu: int
    up: bool
    rp_filter: int
    accept_local: bool = False
    arp: bool = True
    replaceable: bool = False
    """With a name of ours and a kind that we make, though not for this name and driver: made by the other driver."""
    kernel_kind: str = ""
    """As the kernel names it: `bridge`, `macvlan` …; empty for a physical one."""


class Address(NamedTuple):
    """An address on an interface of ours; `cidr` is address/length, scope `host` keeps it out of source selection."""

    interface: str
    cidr: str
    scope: Literal["global", "host"] = "global"


class Route(NamedTuple):
    """A unicast route by an interface. (table, prefix) is its identity; the rest is replaced in place.

    Without an interface: an `unreachable` route, which needs none and so outlives every one (a floor of the guard).
    """

    table: int
    prefix: Prefix
    interface: str
    source: str | None = None
    mtu: int | None = None


class Rule(NamedTuple):
    """A policy routing rule. `fwmark` is (value, mask), `protocol` an IP protocol number, ports are those of it."""

    family: Family
    priority: int
    table: int
    fwmark: tuple[int, int] | None = None
    destination: Prefix | None = None
    source: Prefix | None = None
    protocol: int | None = None
    destination_port: int | None = None
    source_port: int | None = None
    inverted: bool = False
    """It takes what does not match."""


class ForeignRule(NamedTuple):
    """A rule that is not one of ours as `Rule` could say it, whoever made it."""

    family: Family
    priority: int
    table: int | None
    """None: it looks nothing up (goto, blackhole, unreachable, prohibit, l3mdev)."""
    fwmark: tuple[int, int] | None = None
    limited: bool = False
    """It takes only some packets: by source, interface, port, user, or by what it does not match."""
    longer_than: int = -1
    """Routes of this length or shorter do not count in it (suppress_prefixlength)."""


class Chain(NamedTuple):
    """A base chain of ours with its rules, each rule the canonical JSON text of its `expr` list."""

    family: Literal["inet", "netdev"]
    name: str
    hook: str
    priority: int
    device: str | None
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Our nftables: chains by (family, name), and the door's maps, prefix → slot interface.

    All live in tables called `linkseal` (one `inet`, one `netdev`); the maps `slot4` and `slot6` are in the netdev one.
    """

    chains: Mapping[tuple[str, str], Chain] = field(default_factory=dict)
    slots: Mapping[Prefix, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything of ours that should be on this host. Mappings are keyed by the identity of what they hold."""

    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    addresses: frozenset[Address] = frozenset()
    devices: Mapping[str, DeviceSpec] = field(default_factory=dict)
    routes: Mapping[tuple[int, Prefix], Route] = field(default_factory=dict)
    rules: frozenset[Rule] = frozenset()
    nft: Ruleset | None = None
    """None: this stage or this kernel has no door and no nftables of ours."""
    underlay_rp_filter: Mapping[str, int] = field(default_factory=dict)
    """Foreign interfaces whose reverse path filter must be loose; what they had is put back by cleanup."""
    guard: Guard | None = None
    redirect: RedirectSpec | None = None
    """What programs on the NICs drop of packets that pass nftables by; None: no program of ours."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there of ours on this host, and of the underlay what we must know.

    `routes` holds our tables only; `rules` those that name our table or our priorities; `nft` None: no table of ours.
    """

    interfaces: Mapping[str, InterfaceState] = field(default_factory=dict)
    """Every interface of the host, ours and foreign, by name."""
    addresses: frozenset[Address] = frozenset()
    """Of our interfaces only (kernel-made IPv6 link-local addresses left out)."""
    host_addresses: Mapping[str, str] = field(default_factory=dict)
    """Every address of the host (without length) → name of its interface."""
    rp_filter_all: int = 0
    forwards: frozenset[Family] = frozenset({4, 6})
    """Families in which this host forwards packets."""
    devices: Mapping[str, DeviceState] = field(default_factory=dict)
    routes: Mapping[tuple[int, Prefix], Route] = field(default_factory=dict)
    rules: frozenset[Rule] = frozenset()
    nft: Ruleset | None = None
    guard: Guard | None = None
    redirect: RedirectState | None = None
    """None: could not be looked at."""
    main_routes: frozenset[tuple[Prefix, str]] = frozenset()
    """Everybody's IPv4 routes in the main table: prefix and interface."""
    foreign_rules: frozenset[ForeignRule] = frozenset()
    foreign_routes: frozenset[tuple[int, Prefix]] = frozenset()
    """(table, prefix) of what is not ours in our table, in those that rules before ours look up, and of addresses in
    the table `local`."""


# --- steps ---------------------------------------------------------------------------------------------------------


class AddInterface(NamedTuple):
    """Create it (down), set MTU and filters, bring it up: one step, since a slot half made is of no use."""

    interface: Interface


class SetInterface(NamedTuple):
    """Change what differs; None leaves it alone."""

    name: str
    kind: Kind
    mtu: int | None = None
    up: bool = False
    """True: bring it up."""
    rp_filter: int | None = None
    accept_local: bool | None = None


class RemoveInterface(NamedTuple):
    """Delete an interface of ours (the probe pair by its first end)."""

    name: str
    kind: Kind


class AddAddress(NamedTuple):
    """Add an address."""

    address: Address


class RemoveAddress(NamedTuple):
    """Remove an address."""

    address: Address


class SetRoute(NamedTuple):
    """Add a route or replace the one of the same identity, atomically."""

    route: Route


class RemoveRoute(NamedTuple):
    """Remove a route."""

    route: Route


class AddRule(NamedTuple):
    """Add a policy rule."""

    rule: Rule


class RemoveRule(NamedTuple):
    """Remove a policy rule."""

    rule: Rule


class MoveSlot(NamedTuple):
    """One element of the door's map: from `old` (None: not there) to `new` (None: take it out)."""

    prefix: Prefix
    old: str | None
    new: str | None


class LookAgain(NamedTuple):
    """Make IPv6 sockets look up their routes again, by adding and removing `rule`, which changes no decision.

    A new route of our table does not touch what connected IPv6 sockets have cached from another table (kernel
    `fib6_add`: only the changed tree gets a new serial number), so they would go on in plaintext for ever; a change of
    the rules does (`fib6_rule_flush_cache`). IPv4 drops its caches at every change.
    """

    rule: Rule


class NftTransaction(NamedTuple):
    """One atomic nft transaction. `create` makes the tables and maps first (adding what exists is no change)."""

    create: bool = False
    set_chains: tuple[Chain, ...] = ()
    moves: tuple[MoveSlot, ...] = ()
    remove_chains: tuple[Chain, ...] = ()
    drop_tables: bool = False


class SetRpFilter(NamedTuple):
    """Loosen the reverse path filter of a foreign interface."""

    interface: str
    value: int
    was: int


Step = (
    AddInterface
    | SetInterface
    | RemoveInterface
    | AddAddress
    | RemoveAddress
    | SetRoute
    | RemoveRoute
    | AddRule
    | RemoveRule
    | LookAgain
    | NftTransaction
    | GuardTransaction
    | SetRpFilter
    | RedirectStep
    | WireguardStep
)


class LinkKey(NamedTuple):
    """A directed link from this node to `peer`: our generation and the peer's."""

    peer: str
    own: int
    remote: int


class LinkState(Enum):
    """State of a link (DESIGN section 1)."""

    ABSENT = "absent"
    PENDING = "pending"
    PROVEN = "proven"
    SEALED = "sealed"
    STALE = "stale"
    REFUSED = "refused"


class KeyOfGeneration(NamedTuple):
    """One live WireGuard generation of a node."""

    number: int
    public_key: PublicKey

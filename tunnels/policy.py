"""What the cluster decides for all nodes: `spec` of the ClusterEncryption object (file directory: of cluster.json).

A file of values; no I/O. `PolicySpec` is the edge, `Policy` what is used inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Final, Literal

from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.guard.exemption import Exemption
from linkseal.tunnels.guard.policy import MAX_EXEMPTIONS, ExemptionSpec, GuardPolicy, GuardSpec, guard_collisions
from linkseal.tunnels.model import Scope, Stage
from linkseal.tunnels.validation import Edge, parse_network, refuse, validate
from pydantic import AfterValidator, Field, field_validator

SLOT_PORTS: Final = 4
"""Consecutive UDP ports, one for each pair of parities (`linkseal.tunnels.addressing`)."""

RESERVED_TABLES: Final = {253: "default", 254: "main", 255: "local"}
"""include/uapi/linux/rtnetlink.h, rt_class_t."""

MAIN_RULE: Final = 32766
"""Priority of the kernel's rule for the main table: ours come before it."""

FOREIGN_MARKS: Final = 0xC000
"""kube-proxy masquerades every packet that carries bit 0x4000, and kubelet dropped those with 0x8000."""

LONGEST_PROBE4: Final = 15
LONGEST_PROBE6: Final = 111
"""Eight addresses for each of 16,384 nodes: 17 bits."""


@dataclass(frozen=True, slots=True)
class WireguardPolicy:
    """First UDP port of four; MTU of the slots (None: from the underlay); keepalive in seconds (0: none)."""

    port: int = 51820
    mtu: int | None = None
    keepalive: int = 25


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """Where our routes are and which packets pass them by.

    `rule_priority` is the rule that sends marked packets to the main table, the next one sends the rest to `table`, and
    the one after that what finds no route there to the floors, in the table after it.
    """

    table: int = 51820
    rule_priority: int = 100
    fwmark: int = 0x4C530C00
    """`LS`, and in the low half only what Cilium gives packets of the host itself (0x0c00); see FOREIGN_MARKS."""
    fwmark_mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ProbePolicy:
    """Addresses and UDP port of the probes inside the tunnels; seconds between two proofs of a proven link."""

    range: ProbeRange = field(default_factory=ProbeRange)
    port: int = 51829
    interval: int = 60


@dataclass(frozen=True, slots=True)
class Policy:
    """What the cluster decides for all nodes."""

    protocol: Literal["wireguard"] = "wireguard"
    scope: Scope = Scope.OVERLAY
    stage: Stage = Stage.OFF
    wireguard: WireguardPolicy = field(default_factory=WireguardPolicy)
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    probe: ProbePolicy = field(default_factory=ProbePolicy)
    guard: GuardPolicy = field(default_factory=GuardPolicy)
    exemptions: tuple[Exemption, ...] = ()


def parse_policy(spec: Mapping[str, Any], source: str = "cluster policy") -> Policy:
    """Return the policy that `spec` says, defaults filled in.

    Raises ConfigError with every problem on a line of its own; `source` begins each (a file name, an object's name).
    """
    policy = validate(PolicySpec, spec, source).policy()
    problems = list(_collisions(policy))
    if problems:
        refuse(source, problems)
    return policy


# --- the edge ------------------------------------------------------------------------------------------------------


def _mark(value: int | str) -> int | str:
    if not 0 < mark_value(value) < 1 << 32:
        raise ValueError('must be a 32-bit mark other than 0, such as "0x4c530c00"')
    return value


def mark_value(value: int | str) -> int:
    """Return a mark as a number; YAML reads an unquoted 0x… as a number already. Raises ValueError."""
    if isinstance(value, int):
        return value
    try:
        return int(value, 0)
    except ValueError:
        raise ValueError('must be a number, such as "0x4c530c00"') from None


Mark = Annotated[int | str, AfterValidator(_mark)]


class WireguardSpec(Edge):
    """`spec.wireguard`."""

    port: int = Field(default=51820, ge=1, le=65536 - SLOT_PORTS)
    mtu: int | None = Field(default=None, ge=1280, le=65455)  # IPv6's minimum; 65535 less WireGuard's 80 bytes
    keepalive: int = Field(default=25, ge=0, le=65535)


class RoutingSpec(Edge):
    """`spec.routing`."""

    table: int = Field(default=51820, ge=1, le=(1 << 32) - 2)
    rule_priority: int = Field(default=100, ge=1, le=MAIN_RULE - 4)
    fwmark: Mark = "0x4c530c00"
    fwmark_mask: Mark = "0xffffffff"


class ProbeSpec(Edge):
    """`spec.probe`."""

    prefix4: str = "198.18.0.0/15"
    prefix6: str = "fd6c:736c:7072:6f62::/64"
    port: int = Field(default=51829, ge=1, le=65535)
    interval: int = Field(default=60, ge=1, le=3600)

    @field_validator("prefix4")
    @classmethod
    def _prefix4(cls, text: str) -> str:
        return _probe_prefix(text, 4, LONGEST_PROBE4)

    @field_validator("prefix6")
    @classmethod
    def _prefix6(cls, text: str) -> str:
        return _probe_prefix(text, 6, LONGEST_PROBE6)


def _probe_prefix(text: str, family: int, longest: int) -> str:
    network = parse_network(text)
    if network.version != family:
        raise ValueError(f"must be an IPv{family} network")
    if network.prefixlen > longest:
        raise ValueError(f"is too small: at most /{longest}, for eight addresses for each of 16,384 nodes")
    if network.is_multicast or network.is_loopback or network.is_link_local or network.is_unspecified:
        raise ValueError("must be unicast addresses that can be routed")
    return str(network)


class PolicySpec(Edge):
    """`spec` of a ClusterEncryption object."""

    protocol: Literal["wireguard", "ipsec"] = "wireguard"
    scope: Literal["overlay", "transparent"] = "overlay"
    stage: Literal["off", "prepare", "prefer", "enforce"] = "off"
    wireguard: WireguardSpec = Field(default_factory=WireguardSpec)
    routing: RoutingSpec = Field(default_factory=RoutingSpec)
    probe: ProbeSpec = Field(default_factory=ProbeSpec)
    guard: GuardSpec = Field(default_factory=GuardSpec)
    exemptions: list[ExemptionSpec] = Field(default_factory=list, max_length=MAX_EXEMPTIONS)

    @field_validator("protocol")
    @classmethod
    def _has_protocol(cls, value: str) -> str:
        if value == "ipsec":
            raise ValueError("IPsec is not in this version (it comes with the milestone 'IPsec'); use wireguard")
        return value

    def policy(self) -> Policy:
        """Return it as the value used inside."""
        probe_range = ProbeRange(IPv4Network(self.probe.prefix4), IPv6Network(self.probe.prefix6))
        return Policy(
            protocol="wireguard",
            scope=Scope(self.scope),
            stage=Stage(self.stage),
            wireguard=WireguardPolicy(self.wireguard.port, self.wireguard.mtu, self.wireguard.keepalive),
            routing=RoutingPolicy(
                self.routing.table,
                self.routing.rule_priority,
                mark_value(self.routing.fwmark),
                mark_value(self.routing.fwmark_mask),
            ),
            probe=ProbePolicy(probe_range, self.probe.port, self.probe.interval),
            guard=self.guard.policy(),
            exemptions=tuple(one.exemption() for one in self.exemptions),
        )


def _collisions(policy: Policy) -> Iterator[str]:
    """Yield what is right by itself and wrong together."""
    first, probe, routing = policy.wireguard.port, policy.probe.port, policy.routing
    if first <= probe < first + SLOT_PORTS:
        last = first + SLOT_PORTS - 1
        yield f"probe.port: {probe} is one of the tunnels' ports {first}-{last} (wireguard.port); choose another"
    yield from guard_collisions(policy.guard, policy.exemptions, transparent=policy.scope is Scope.TRANSPARENT)
    if (name := RESERVED_TABLES.get(routing.table + 1)) and routing.table not in RESERVED_TABLES:
        yield f"routing.table: the next one holds our floors, and it is the kernel's table `{name}`; choose another"
    if name := RESERVED_TABLES.get(routing.table):
        yield f"routing.table: {routing.table} is the kernel's table `{name}`; choose another, such as 51820"
    if routing.fwmark & ~routing.fwmark_mask:
        yield f"routing.fwmark: {routing.fwmark:#x} has bits outside fwmarkMask {routing.fwmark_mask:#x}"
    if routing.fwmark & FOREIGN_MARKS:
        yield (
            f"routing.fwmark: {routing.fwmark:#x} has bit 0x4000 or 0x8000, by which Kubernetes masquerades or drops "
            "packets; choose a mark without them"
        )

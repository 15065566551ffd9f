"""What the cluster decides for all nodes: `spec` of the ClusterEncryption object (file directory: of cluster.json).

A file of values; no I/O. `PolicySpec` is the edge, `Policy` what is used inside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Final, Literal

from linkseal.keys.values import UID_PATTERN, Prefix
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.guard.exemption import Exemption
from linkseal.tunnels.guard.policy import (
    MAX_EXEMPTIONS,
    MAX_PROTECTED,
    ExemptionSpec,
    GuardPolicy,
    GuardSpec,
    ProtectedCidr,
    guard_collisions,
    parse_moment,
)
from linkseal.tunnels.model import Scope, Stage
from linkseal.tunnels.policyspec import (
    SLOT_PORTS,
    PoolSpec,
    ProbeSpec,
    RotationSpec,
    RoutingSpec,
    StageName,
    VerifySpec,
    WireguardSpec,
    mark_value,
)
from linkseal.tunnels.validation import Edge, duration, refuse, validate
from linkseal.tunnels.world import STAGES
from pydantic import Field, ValidationError, field_validator

RESERVED_TABLES: Final = {253: "default", 254: "main", 255: "local"}
"""include/uapi/linux/rtnetlink.h, rt_class_t."""

FOREIGN_MARKS: Final = 0xC000
"""kube-proxy masquerades every packet that carries bit 0x4000, and kubelet dropped those with 0x8000."""


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
class Pool:
    """Nodes that go before the others, and how far they have gone (never less far)."""

    stage: Stage
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class VerifyPolicy:
    """Seconds between two verifications of each node (0: never by itself), and how many peers each takes."""

    interval: int = 6 * 3600
    sample: int = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """What the cluster decides for all nodes."""

    protocol: Literal["wireguard"] = "wireguard"
    scope: Scope = Scope.OVERLAY
    stage: Stage = Stage.OFF
    """Where nodes outside the pool are."""
    pool: Pool | None = None
    wireguard: WireguardPolicy = field(default_factory=WireguardPolicy)
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    probe: ProbePolicy = field(default_factory=ProbePolicy)
    guard: GuardPolicy = field(default_factory=GuardPolicy)
    protected_cidrs: tuple[Prefix, ...] = ()
    """What the guard protects whoever has its addresses; sorted."""
    exemptions: tuple[Exemption, ...] = ()
    verify: VerifyPolicy = field(default_factory=VerifyPolicy)
    rotation: int = 0
    """Seconds after which each node makes itself a new key (0: never by itself)."""
    restored_at: datetime | None = None
    """When the operator said that the directory is right as it is, though it lost something."""
    former_clusters: tuple[str, ...] = ()
    """UIDs of the clusters that this one goes on from, whose directories were lost."""

    def stage_of(self, node: str) -> Stage:
        """Return how far a node has gone; traffic between two goes by the lesser of theirs."""
        return self.pool.stage if self.pool is not None and node in self.pool.nodes else self.stage


def standing(policy: Policy) -> dict[str, str | int]:
    """Return what nodes stand on once they are not at stage off, by the path of its field in the spec.

    All of it is the same on every node, and in the kernel: it changes only while nothing of ours is there.
    """
    routing, probe = policy.routing, policy.probe
    return {
        "scope": policy.scope.value,
        "protocol": policy.protocol,
        "wireguard.port": policy.wireguard.port,
        "routing.table": routing.table,
        "routing.rulePriority": routing.rule_priority,
        "routing.fwmark": f"0x{routing.fwmark:08x}",
        "routing.fwmarkMask": f"0x{routing.fwmark_mask:08x}",
        "probe.prefix4": str(probe.range.v4),
        "probe.prefix6": str(probe.range.v6),
        "probe.port": probe.port,
        "guard.table": policy.guard.table,
    }


def changes(old: Mapping[str, str | int], new: Mapping[str, str | int]) -> str:
    """Return in words what differs of what nodes stand on: `wireguard.port (51820 → 51900), …`."""
    return ", ".join(f"{path} ({value} → {new[path]})" for path, value in old.items() if new[path] != value)


def with_standing(spec: Mapping[str, Any], kept: Mapping[str, str | int]) -> dict[str, Any]:
    """Return the spec with these fields as they are kept, by their paths (`standing`)."""
    found: dict[str, Any] = {name: dict(part) if isinstance(part, Mapping) else part for name, part in spec.items()}
    for path, value in kept.items():
        part, _, name = path.rpartition(".")
        (found.setdefault(part, {}) if part else found)[name] = value
    return found


def parse_policy(spec: Mapping[str, Any], source: str = "cluster policy") -> Policy:
    """Return the policy that `spec` says, defaults filled in.

    Raises ConfigError with every problem on a line of its own; `source` begins each (a file name, an object's name).
    """
    policy = validate(PolicySpec, spec, source).policy()
    problems = list(_collisions(policy))
    if problems:
        refuse(source, problems)
    return policy


def read_signed(spec: Mapping[str, Any], source: str = "cluster policy") -> tuple[Policy, tuple[str, ...]]:
    """Return what a signed policy says to this version, and the fields of it that only a newer one knows.

    Whoever signed it has checked it (`parse_policy`), so a field that is not known here is passed over, and a node
    does all else: the stage must reach it. An exemption with such a field is passed over whole, as it may exempt less
    than it seems to. What no older version may pass over needs a new format of the document
    (`linkseal.keys.documents`). Raises ConfigError as `parse_policy` does.
    """
    known: dict[str, Any] = json.loads(json.dumps(dict(spec)))
    strange = _strange(known)
    for where in reversed(strange):  # the last of a list first
        *way, last = where
        place: Any = known
        for part in way:
            place = place[part]
        del place[last]
    names = tuple(".".join(str(part) for part in where) for where in strange)
    return parse_policy(known, source), names


def _strange(spec: Mapping[str, Any]) -> list[tuple[int | str, ...]]:
    """Return where there is what this version does not know, in order; of an entry of a list, where the entry is."""
    try:
        PolicySpec.model_validate(spec)
    except ValidationError as error:
        found = {_entry(one["loc"]) for one in error.errors(include_url=False) if one["type"] == "extra_forbidden"}
        return sorted(found, key=lambda where: [(isinstance(part, str), part) for part in where])
    return []


def _entry(where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return next((where[: at + 1] for at, part in enumerate(where) if isinstance(part, int)), where)


# --- the edge ------------------------------------------------------------------------------------------------------


class PolicySpec(Edge):
    """`spec` of a ClusterEncryption object."""

    protocol: Literal["wireguard", "ipsec"] = "wireguard"
    scope: Literal["overlay", "transparent"] = "overlay"
    stage: StageName = "off"
    lower_to: StageName | None = None
    pool: PoolSpec | None = None
    wireguard: WireguardSpec = Field(default_factory=WireguardSpec)
    routing: RoutingSpec = Field(default_factory=RoutingSpec)
    probe: ProbeSpec = Field(default_factory=ProbeSpec)
    guard: GuardSpec = Field(default_factory=GuardSpec)
    protected_cidrs: list[ProtectedCidr] = Field(default_factory=list, max_length=MAX_PROTECTED, alias="protectedCIDRs")
    exemptions: list[ExemptionSpec] = Field(default_factory=list, max_length=MAX_EXEMPTIONS)
    verify: VerifySpec = Field(default_factory=VerifySpec)
    rotation: RotationSpec = Field(default_factory=RotationSpec)
    restored_at: str | None = None
    former_clusters: list[Annotated[str, Field(pattern=UID_PATTERN)]] = Field(default_factory=list, max_length=8)

    @field_validator("restored_at")
    @classmethod
    def _restored_at(cls, text: str | None) -> str | None:
        if text is not None:
            parse_moment(text)
        return text

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
            pool=None if self.pool is None else Pool(Stage(self.pool.stage), frozenset(self.pool.nodes)),
            wireguard=WireguardPolicy(self.wireguard.port, self.wireguard.mtu, self.wireguard.keepalive),
            routing=RoutingPolicy(
                self.routing.table,
                self.routing.rule_priority,
                mark_value(self.routing.fwmark),
                mark_value(self.routing.fwmark_mask),
            ),
            probe=ProbePolicy(probe_range, self.probe.port, self.probe.interval),
            guard=self.guard.policy(),
            protected_cidrs=tuple(sorted(map(Prefix, set(self.protected_cidrs)))),
            exemptions=tuple(one.exemption() for one in self.exemptions),
            verify=VerifyPolicy(duration(self.verify.interval), self.verify.sample),
            rotation=duration(self.rotation.interval),
            restored_at=None if self.restored_at is None else parse_moment(self.restored_at),
            former_clusters=tuple(self.former_clusters),
        )


def _collisions(policy: Policy) -> Iterator[str]:
    """Yield what is right by itself and wrong together."""
    if policy.pool is not None and STAGES.index(policy.pool.stage) < STAGES.index(policy.stage):
        yield f"pool.stage: {policy.pool.stage.value} is behind the others' stage {policy.stage.value}"
    first, probe, routing = policy.wireguard.port, policy.probe.port, policy.routing
    if first <= probe < first + SLOT_PORTS:
        last = first + SLOT_PORTS - 1
        yield f"probe.port: {probe} is one of the tunnels' ports {first}-{last} (wireguard.port); choose another"
    elif first <= probe + 1 < first + SLOT_PORTS:
        yield f"probe.port: the port after {probe}, which verify uses, is one of the tunnels' (wireguard.port)"
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

"""The guard's part of the cluster's policy: `spec.guard`, `spec.protectedCIDRs` and `spec.exemptions`. No I/O.

guard: {table: linkseal_guard, passThrough: [vxlan.calico]}
protectedCIDRs: [10.244.0.0/16, "fd00:244::/48"]
exemptions:
- {name: ssh, protocol: tcp, port: 22, cidr: 192.0.2.0/24, owner: ops, reason: rescue, expires: 2027-01-01T00:00:00Z}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Annotated, Final

from linkseal.tunnels.guard.exemption import Exemption, Protocol
from linkseal.tunnels.validation import MAX_NETWORK, Edge, parse_network
from pydantic import AfterValidator, Field, field_validator, model_validator

TABLE: Final = "linkseal_guard"

MAX_EXEMPTIONS: Final = 64
"""Each is a handful of rules that every packet passes."""

MAX_PROTECTED: Final = 32
"""A cluster has one network of pods for each family, seldom a handful."""

SHORTEST: Final = {4: 8, 6: 16}
"""Length of the widest network of pods: one that is wider holds the addresses of others too."""

_NOT_PODS: Final = {
    "0.0.0.0/8": "this network",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "224.0.0.0/4": "multicast",
    "255.255.255.255/32": "broadcast",
    "::/8": "loopback and others of the host",
    "fe80::/10": "link-local",
    "ff00::/8": "multicast",
}
"""RFC 6890, RFC 4291: what the guard must not drop, and nobody routes."""

_HAS_PORTS: Final = frozenset({"tcp", "udp", "sctp"})
_NAME: Final = r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$"


def _protected(text: str) -> str:
    network = parse_network(text)
    if network.prefixlen < SHORTEST[network.version]:
        shortest = SHORTEST[network.version]
        raise ValueError(f"is too wide: at least /{shortest}; name the cluster's own networks of pods")
    for other, what in _NOT_PODS.items():
        special = ip_network(other)
        if special.version == network.version and special.overlaps(network):
            raise ValueError(f"has addresses of {other} ({what}), which no pod has")
    return str(network)


ProtectedCidr = Annotated[str, Field(max_length=MAX_NETWORK), AfterValidator(_protected)]
"""One of `spec.protectedCIDRs`."""


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """Name of the guard's nftables tables; interfaces of a CNI whose packets are judged where they leave the host."""

    table: str = TABLE
    pass_through: tuple[str, ...] = ()


class GuardSpec(Edge):
    """`spec.guard`."""

    table: str = Field(default=TABLE, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    pass_through: list[Annotated[str, Field(pattern=r"^[^\s/*]{1,15}$")]] = Field(default_factory=list, max_length=16)

    @field_validator("table")
    @classmethod
    def _free(cls, name: str) -> str:
        if name == "linkseal":
            raise ValueError("is the name of the tunnels' own tables; choose another, such as linkseal_guard")
        return name

    def policy(self) -> GuardPolicy:
        """Return it as the value used inside."""
        return GuardPolicy(self.table, tuple(sorted(set(self.pass_through))))


class ExemptionSpec(Edge):
    """One of `spec.exemptions`."""

    name: str = Field(pattern=_NAME)
    protocol: Protocol
    port: int | None = Field(default=None, ge=1, le=65535)
    cidr: str
    owner: str = Field(min_length=1, max_length=100)
    reason: str = Field(min_length=1, max_length=300)
    expires: str

    @field_validator("cidr")
    @classmethod
    def _cidr(cls, text: str) -> str:
        return str(parse_network(text))

    @field_validator("expires")
    @classmethod
    def _expires(cls, text: str) -> str:
        parse_moment(text)
        return text

    @model_validator(mode="after")
    def _fits(self) -> ExemptionSpec:
        if (self.port is not None) != (self.protocol in _HAS_PORTS):
            need = "needs a port: without one it would exempt everything" if self.port is None else "has no ports"
            raise ValueError(f"{self.protocol} {need}")
        if (self.protocol == "icmp" and ":" in self.cidr) or (self.protocol == "icmpv6" and ":" not in self.cidr):
            raise ValueError(f"{self.protocol} does not go to {self.cidr}")
        return self

    def exemption(self) -> Exemption:
        """Return it as the value used inside."""
        expires = parse_moment(self.expires)
        return Exemption(self.name, self.protocol, self.port, self.cidr, self.owner, self.reason, expires)


def parse_moment(text: str) -> datetime:
    """Return an RFC 3339 time. Raises ValueError, also without a time zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a time such as 2027-01-31T12:00:00Z (RFC 3339)") from None
    if parsed.tzinfo is None:
        raise ValueError("must name its time zone, such as 2027-01-31T12:00:00Z")
    return parsed


def guard_collisions(guard: GuardPolicy, exemptions: Sequence[Exemption], *, transparent: bool) -> Iterator[str]:
    """Yield what is right by itself and wrong together."""
    if guard.pass_through and not transparent:
        yield (
            "guard.passThrough: in scope overlay nothing judges the packets such an interface sends to node addresses; "
            "it is for scope transparent"
        )
    names = [exemption.name for exemption in exemptions]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"exemptions: {name} is there twice; give each its own name"

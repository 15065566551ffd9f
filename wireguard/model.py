"""What a WireGuard device should be and what it is, as plain values.

This file does no I/O and holds no secret: a device is known by its *public* key, and whoever applies a step looks
the private key up by it.

Prefixes and addresses are canonical text (`10.244.1.0/24`, `fd00::/64`, as `str(ip_network(...))` gives it):
text compares and hashes in C, which is what keeps 5,000 peers under the budget of docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from linkseal.keys.values import Prefix, PublicKey


class Endpoint(NamedTuple):
    """Where a peer's UDP packets go: an IP literal (a link-local one with `%ifindex`) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class PeerSpec(NamedTuple):
    """A peer as it should be. A NamedTuple because 5,000 of them are compared in one diff."""

    public_key: PublicKey
    allowed_ips: frozenset[Prefix]
    endpoint: Endpoint | None = None
    """None: leave what the kernel has (it may have roamed)."""
    keepalive: int = 0
    """Seconds; 0 is off. Going from 0 to n makes the kernel initiate at once."""


class PeerState(NamedTuple):
    """A peer as the kernel has it."""

    public_key: PublicKey
    allowed_ips: frozenset[Prefix]
    endpoint: Endpoint | None = None
    keepalive: int = 0
    last_handshake: float = 0.0
    """Unix seconds; 0.0 is never. Set only once the session is confirmed in both directions."""
    rx_bytes: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device as it should be.

    `public_key` None: a device without key and peers (the door); `diff` leaves a key it finds there alone, as a key
    without peers carries nothing. `listen_port` 0: whatever the kernel picked.
    """

    name: str
    public_key: PublicKey | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: Mapping[PublicKey, PeerSpec] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device as it is. `peers` is keyed by public key."""

    name: str
    public_key: PublicKey | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: Mapping[PublicKey, PeerState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigureDevice:
    """Set the named attributes of a device; None leaves one alone."""

    device: str
    public_key: PublicKey | None = None
    """Whose private key to load."""
    listen_port: int | None = None
    fwmark: int | None = None


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Add a peer (`add`) or change what differs in one. `allowed_ips` None: unchanged; else they replace."""

    device: str
    public_key: PublicKey
    add: bool
    allowed_ips: frozenset[Prefix] | None = None
    endpoint: Endpoint | None = None
    keepalive: int | None = None
    keep: bool = False
    """`allowed_ips` are added to those the peer has, and taken from any other peer of the device that has one."""


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Remove a peer and its sessions."""

    device: str
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class ReprovokePeer:
    """Remove a peer and add it again in one go: lifts the kernel's 5 s limit on handshake initiations.

    Only ever for a peer that carries no traffic (facts: 126-442 ms instead of 2.1-5.4 s).
    """

    device: str
    spec: PeerSpec


WireguardStep = ConfigureDevice | SetPeer | RemovePeer | ReprovokePeer

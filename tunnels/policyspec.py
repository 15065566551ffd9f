"""The sections of the cluster policy's spec, as a person writes them. A file of values; no I/O.

`linkseal.tunnels.policy` has the whole of it, and the values that are used inside.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from linkseal.tunnels.validation import MAX_NETWORK, Edge, duration, parse_network
from pydantic import AfterValidator, Field, field_validator

SLOT_PORTS: Final = 4
"""Consecutive UDP ports, one for each pair of parities (`linkseal.tunnels.addressing`)."""

MAIN_RULE: Final = 32766
"""Priority of the kernel's rule for the main table: ours come before it."""

LEAST_VERIFY, MOST_VERIFY = 10, 30 * 24 * 3600
"""Seconds between two verifications: a session may take ten."""

LEAST_ROTATION, MOST_ROTATION = 3600, 2 * 366 * 24 * 3600
"""Seconds between two new keys of a node: while one is taken up no other is made."""

LONGEST_PROBE4: Final = 15
LONGEST_PROBE6: Final = 111
"""Eight addresses for each of 16,384 nodes: 17 bits."""

StageName = Literal["off", "prepare", "prefer", "enforce"]


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

    prefix4: str = Field(default="198.18.0.0/15", max_length=MAX_NETWORK)
    prefix6: str = Field(default="fd6c:736c:7072:6f62::/64", max_length=MAX_NETWORK)
    port: int = Field(default=51829, ge=1, le=65534)  # the next one is verify's
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


class PoolSpec(Edge):
    """`spec.pool`: written by the controller into the policy that it signs."""

    stage: StageName
    nodes: list[str] = Field(min_length=1)


class VerifySpec(Edge):
    """`spec.verify`; the interval in seconds or as text: `6h`, `90m`, `1h30m`."""

    interval: int | str = 6 * 3600
    sample: int = Field(default=3, ge=1, le=200)

    @field_validator("interval")
    @classmethod
    def _interval(cls, value: int | str) -> int:
        seconds = duration(value)
        if seconds != 0 and not LEAST_VERIFY <= seconds <= MOST_VERIFY:
            raise ValueError(f"must be 0 (never) or {LEAST_VERIFY} to {MOST_VERIFY} seconds")
        return seconds


class RotationSpec(Edge):
    """`spec.rotation`; the interval in seconds or as text: `720h`, `30d`."""

    interval: int | str = 0

    @field_validator("interval")
    @classmethod
    def _interval(cls, value: int | str) -> int:
        seconds = duration(value)
        if seconds != 0 and not LEAST_ROTATION <= seconds <= MOST_ROTATION:
            raise ValueError("must be 0 (never) or an hour to two years, such as 30d")
        return seconds

"""Which steps turn a device as it is into the device as it should be (pure).

The order is part of the result: first the device, then what gains, then what loses, then peers that go.

    ConfigureDevice   key, port, mark
    SetPeer           new peers
    SetPeer           peers that gain prefixes or change endpoint or keepalive
    SetPeer           peers that lose a prefix nobody takes
    RemovePeer

A prefix belongs to one peer of a device, and giving it to a second peer takes it from the first in one stroke: the
taker's step is the whole move, and the prefix is never without a peer. Replacing a peer's prefixes clears them first
and those which stay are missing for some microseconds: done only where a prefix must go and nobody takes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from linkseal.keys.values import Prefix
from linkseal.wireguard.model import (
    ConfigureDevice,
    DeviceSpec,
    DeviceState,
    PeerSpec,
    PeerState,
    RemovePeer,
    SetPeer,
    WireguardStep,
)


def diff_device(spec: DeviceSpec, state: DeviceState) -> tuple[WireguardStep, ...]:
    """Return the steps from `state` to `spec`, in the order to apply them; empty when nothing differs.

    What `spec` leaves open (no key, port 0, a peer's endpoint None) is left as it is.
    """
    steps: list[WireguardStep] = list(_configure(spec, state))
    changed: list[tuple[PeerSpec, PeerState]] = []
    have_peer = state.peers.get
    for key, want in spec.peers.items():
        have = have_peer(key)
        if have is None:
            steps.append(_add(spec.name, want))
        elif _differs(want, have):
            changed.append((want, have))
    taken = _taken(spec, state, changed)
    steps.extend(step for want, have in changed if (step := _gain(spec.name, want, have)) is not None)
    steps.extend(
        SetPeer(spec.name, want.public_key, add=False, allowed_ips=want.allowed_ips)
        for want, have in changed
        if have.allowed_ips - want.allowed_ips - taken
    )
    steps.extend(RemovePeer(spec.name, key) for key in state.peers if key not in spec.peers)
    return tuple(steps)


def _configure(spec: DeviceSpec, state: DeviceState) -> Iterator[ConfigureDevice]:
    key = spec.public_key if spec.public_key != state.public_key else None
    port = spec.listen_port if spec.listen_port not in (0, state.listen_port) else None
    mark = spec.fwmark if spec.fwmark != state.fwmark else None
    if (key, port, mark) != (None, None, None):
        yield ConfigureDevice(spec.name, key, port, mark)


def _differs(want: PeerSpec, have: PeerState) -> bool:
    return (
        want.allowed_ips != have.allowed_ips
        or want.keepalive != have.keepalive
        or (want.endpoint is not None and want.endpoint != have.endpoint)
    )


def _add(device: str, want: PeerSpec) -> SetPeer:
    return SetPeer(
        device,
        want.public_key,
        add=True,
        allowed_ips=want.allowed_ips,
        endpoint=want.endpoint,
        keepalive=want.keepalive or None,
    )


def _taken(spec: DeviceSpec, state: DeviceState, changed: list[tuple[PeerSpec, PeerState]]) -> frozenset[Prefix]:
    """Return the prefixes that peers get which they did not have."""
    if not any(have.allowed_ips - want.allowed_ips for want, have in changed):
        return frozenset()  # nobody loses one, nobody asks
    gained = [want.allowed_ips - have.allowed_ips for want, have in changed]
    gained += [want.allowed_ips for key, want in spec.peers.items() if key not in state.peers]
    return frozenset().union(*gained)


def _gain(device: str, want: PeerSpec, have: PeerState) -> SetPeer | None:
    """Return the step that gives the peer all it lacks and takes nothing from it."""
    allowed = want.allowed_ips - have.allowed_ips or None
    endpoint = want.endpoint if want.endpoint != have.endpoint else None
    keepalive = want.keepalive if want.keepalive != have.keepalive else None
    if (allowed, endpoint, keepalive) == (None, None, None):
        return None
    return SetPeer(
        device,
        want.public_key,
        add=False,
        allowed_ips=allowed,
        endpoint=endpoint,
        keepalive=keepalive,
        keep=allowed is not None,
    )

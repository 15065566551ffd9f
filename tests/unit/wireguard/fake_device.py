"""A WireGuard device in memory that is stricter than the kernel: it refuses what the kernel lets pass in silence."""

from __future__ import annotations

from collections.abc import Iterable

from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard.model import (
    ConfigureDevice,
    DeviceState,
    PeerState,
    RemovePeer,
    ReprovokePeer,
    SetPeer,
    WireguardStep,
)


class Misuse(AssertionError):  # noqa: N818 - what the steps did
    """A step that the device's present state does not allow."""


class FakeDevice:
    """Applies steps as the kernel does: a prefix given to a second peer moves, replacing clears first.

    `missing` records every prefix that had a peer, had none for a moment, and has one again: traffic lost for nothing.
    """

    def __init__(self, state: DeviceState) -> None:
        self.name = state.name
        self.public_key, self.listen_port, self.fwmark = state.public_key, state.listen_port, state.fwmark
        self.peers: dict[PublicKey, PeerState] = dict(state.peers)
        self._orphaned: set[Prefix] = set()
        self.missing: set[Prefix] = set()

    def state(self) -> DeviceState:
        return DeviceState(self.name, self.public_key, self.listen_port, self.fwmark, dict(self.peers))

    def apply(self, steps: Iterable[WireguardStep]) -> None:
        for step in steps:
            match step:
                case ConfigureDevice():
                    self._configure(step)
                case SetPeer():
                    self._set(step)
                case RemovePeer():
                    self._remove(step.public_key)
                case ReprovokePeer(_, spec):
                    self._remove(spec.public_key)
                    self._set(
                        SetPeer(
                            self.name,
                            spec.public_key,
                            add=True,
                            allowed_ips=spec.allowed_ips,
                            endpoint=spec.endpoint,
                            keepalive=spec.keepalive,
                        )
                    )

    def _configure(self, step: ConfigureDevice) -> None:
        values = (step.public_key, step.listen_port, step.fwmark)
        if all(value is None for value in values):
            raise Misuse("configures nothing")
        if step.public_key is not None and step.public_key == self.public_key:
            raise Misuse("loads the key the device has")
        self.public_key = step.public_key or self.public_key
        self.listen_port = self.listen_port if step.listen_port is None else step.listen_port
        self.fwmark = self.fwmark if step.fwmark is None else step.fwmark

    def _set(self, step: SetPeer) -> None:
        have = self.peers.get(step.public_key)
        if step.add == (have is not None):
            raise Misuse(f"{'adds a present' if step.add else 'changes an absent'} peer {step.public_key}")
        if (step.allowed_ips, step.endpoint, step.keepalive) == (None, None, None) and not step.add:
            raise Misuse(f"changes nothing of peer {step.public_key}")
        have = have or PeerState(step.public_key, frozenset())
        if step.endpoint is not None and step.endpoint == have.endpoint:
            raise Misuse(f"sets the endpoint peer {step.public_key} has")
        self.peers[step.public_key] = have._replace(
            endpoint=step.endpoint or have.endpoint,
            keepalive=have.keepalive if step.keepalive is None else step.keepalive,
        )
        if step.allowed_ips is not None:
            self._allow(step.public_key, step.allowed_ips, keep=step.keep)

    def _allow(self, key: PublicKey, prefixes: frozenset[Prefix], *, keep: bool) -> None:
        have = self.peers[key].allowed_ips
        if keep and have & prefixes:
            raise Misuse(f"adds to {key} what it has: {sorted(have & prefixes)}")
        if not keep:
            self._orphaned |= have
            self.missing |= have & prefixes
        for other, peer in self.peers.items():
            self.peers[other] = peer._replace(allowed_ips=peer.allowed_ips - prefixes)
        self.peers[key] = self.peers[key]._replace(allowed_ips=prefixes | have if keep else prefixes)
        self.missing |= self._orphaned & prefixes
        self._orphaned -= prefixes

    def _remove(self, key: PublicKey) -> None:
        if key not in self.peers:
            raise Misuse(f"removes the absent peer {key}")
        self._orphaned |= self.peers.pop(key).allowed_ips

"""What a WireGuard driver offers; `kernel.py` and `userspace.py` are the two there are.

A driver belongs to one thread. Nothing it raises, logs or shows holds a private key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from errno import EADDRINUSE, EINVAL, ENODEV, ENOMEM, EPERM
from typing import Literal, Protocol

from linkseal.keys.errors import HostError
from linkseal.keys.secrets import fingerprint
from linkseal.keys.values import PublicKey
from linkseal.wireguard.model import (
    ConfigureDevice,
    DeviceState,
    ReprovokePeer,
    WireguardStep,
)

DriverKind = Literal["kernel", "userspace"]


class HasReveal(Protocol):
    """A private key; `linkseal.keys.secrets.PrivateKey` is one."""

    def reveal(self) -> bytes:
        """Return the 32 bytes of the X25519 private key."""
        ...


Secrets = Callable[[PublicKey], HasReveal]
"""Finds the private key of a public key; asked only while a `ConfigureDevice` with a key is encoded."""


class Driver(Protocol):
    """Creates, reads and changes WireGuard devices of the thread's network namespace."""

    @property
    def kind(self) -> DriverKind:
        """Who moves the packets."""
        ...

    @property
    def writes(self) -> int:
        """How many messages that change something were sent so far; an idle reconcile adds none."""
        ...

    def create(self, name: str, mtu: int) -> None:
        """Create a device, down and without key. HostError if it exists or cannot be made."""
        ...

    def delete(self, name: str) -> None:
        """Delete a device; one that is absent is fine."""
        ...

    def up(self, name: str) -> None:
        """Set a device up; HostError names the UDP port if it is in use."""
        ...

    def dump(self, names: Iterable[str]) -> dict[str, DeviceState]:
        """Return the state of the devices that exist; HostError if one is of another kind."""
        ...

    def apply(self, steps: Sequence[WireguardStep], secrets: Secrets) -> None:
        """Carry out steps in order.

        If one fails the others of its kind are still tried, but nothing is removed; then HostError for the first.
        """
        ...

    def close(self) -> None:
        """Give back sockets; devices stay."""
        ...


_ADVICE = {
    EPERM: "Run as root, or with CAP_NET_ADMIN in this network namespace",
    ENODEV: "The device is gone; the next pass creates it again",
    EINVAL: "The kernel holds an address or prefix of it for malformed",
    ENOMEM: "This host is out of memory",
}


def step_refused(step: WireguardStep, errno: int, reason: str) -> HostError:
    """Return the error for a step that failed: device, peer, reason and what to do."""
    if isinstance(step, ConfigureDevice):
        return device_refused(step, errno, reason)
    key = step.spec.public_key if isinstance(step, ReprovokePeer) else step.public_key
    return HostError(
        f"{step.device}: peer {fingerprint(key)} refused: {reason}. {_ADVICE.get(errno, '')}".rstrip(),
        errno=errno,
    )


def device_refused(step: ConfigureDevice, errno: int, reason: str) -> HostError:
    """Return the error for a device's attributes."""
    if errno == EADDRINUSE and step.listen_port is not None:
        return port_in_use(step.device, step.listen_port)
    return HostError(f"{step.device}: configuration refused: {reason}. {_ADVICE.get(errno, '')}".rstrip(), errno=errno)


def port_in_use(device: str, port: int) -> HostError:
    """Return the error for a UDP port that another socket of this host has."""
    return HostError(
        f"{device}: UDP port {port} is in use by another program: find it with `ss -lunp 'sport = :{port}'` and stop "
        "it, or set another port for Linkseal",
        errno=EADDRINUSE,
    )

"""The kernel's own WireGuard, by netlink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from errno import EADDRINUSE, ENODEV, EOPNOTSUPP, EPERM
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.wireguard.apply import SendRefused, apply_steps
from linkseal.wireguard.codec import FAMILY_NAME, decode_device, dump_message, encode
from linkseal.wireguard.driver import Secrets, port_in_use
from linkseal.wireguard.links import create_link, delete_link, set_link_up
from linkseal.wireguard.model import DeviceState, WireguardStep
from linkseal.wireguard.netlink import NETLINK_GENERIC, NETLINK_ROUTE, NetlinkError, NetlinkSocket, family_id


class KernelDriver:
    """Implements `driver.Driver` in the network namespace of the thread that makes it."""

    kind: Final = "kernel"

    def __init__(self) -> None:
        self._route = NetlinkSocket(NETLINK_ROUTE)
        self._generic = NetlinkSocket(NETLINK_GENERIC)
        self._family = 0

    @property
    def writes(self) -> int:
        """How many messages that change something were sent so far."""
        return self._route.writes + self._generic.writes

    def create(self, name: str, mtu: int) -> None:
        """Create a WireGuard device, down and without key. HostError."""
        create_link(self._route, name, "wireguard", mtu)

    def delete(self, name: str) -> None:
        """Delete a device; one that is absent is fine. HostError."""
        delete_link(self._route, name)

    def up(self, name: str) -> None:
        """Set a device up, which binds its UDP port. HostError names the port if it is in use."""
        try:
            set_link_up(self._route, name)
        except HostError as error:
            device = self.dump([name]).get(name) if error.errno == EADDRINUSE else None
            if device is None:
                raise
            raise port_in_use(name, device.listen_port) from None

    def dump(self, names: Iterable[str]) -> dict[str, DeviceState]:
        """Return the state of the devices that exist. HostError if one is no WireGuard device."""
        found: dict[str, DeviceState] = {}
        for name in names:
            try:
                found[name] = decode_device(name, self._generic.dump(dump_message(self._number(), name)))
            except NetlinkError as error:
                if error.errno == ENODEV:
                    continue
                raise _unreadable(name, error) from None
        return found

    def apply(self, steps: Sequence[WireguardStep], secrets: Secrets) -> None:
        """Carry out steps in order, thousands per system call; see `apply.apply_steps`. HostError."""
        apply_steps(steps, lambda some: self._send(some, secrets))

    def _send(self, steps: Sequence[WireguardStep], secrets: Secrets) -> None:
        encoded = encode(self._number(), steps, secrets)
        try:
            self._generic.request_batch([one.payload for one in encoded])
        except NetlinkError as error:
            raise SendRefused(encoded[error.index].first, error.errno or 0, error.reason) from None

    def _number(self) -> int:
        if not self._family:
            try:
                self._family = family_id(self._generic, FAMILY_NAME)
            except NetlinkError as error:
                raise HostError(
                    "this kernel has no WireGuard: load it (`modprobe wireguard`), or install wireguard-go",
                    errno=error.errno,
                ) from None
        return self._family

    def close(self) -> None:
        """Close the sockets; devices stay."""
        self._route.close()
        self._generic.close()


def _unreadable(name: str, error: NetlinkError) -> HostError:
    if error.errno == EOPNOTSUPP:
        text = f"{name} exists but is no kernel WireGuard device: delete it, or choose the userspace driver"
    elif error.errno == EPERM:
        text = f"cannot read {name}: run as root, or with CAP_NET_ADMIN in this network namespace"
    else:
        text = f"cannot read {name}: {str(error).partition(': ')[2]}"
    return HostError(text, errno=error.errno)

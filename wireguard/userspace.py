"""WireGuard by wireguard-go, one daemon per device, for kernels that have none.

The daemon outlives us, and an agent that starts later finds it by its socket. The folder of sockets is one for all
network namespaces of a mount namespace: where several run on a host (the lab), each needs a folder of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from errno import EADDRINUSE, EEXIST
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.values import PublicKey
from linkseal.wireguard import uapi
from linkseal.wireguard.apply import SendRefused, apply_steps
from linkseal.wireguard.driver import Secrets, port_in_use
from linkseal.wireguard.launch import Launcher, OwnProcesses
from linkseal.wireguard.links import delete_link, link_exists, link_is_up, set_link_mtu, set_link_up
from linkseal.wireguard.model import DeviceState, Endpoint, PeerSpec, PeerState, ReprovokePeer, SetPeer, WireguardStep
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket
from linkseal.wireguard.uapisocket import SOCKET_FOLDER, connect, exchange, socket_path

_STOP_SECONDS = 3.0
"""The end takes 5 ms; past this it hangs."""

_BIND_SECONDS = 0.05
"""A daemon that cannot bind its port when the device comes up tells nobody but forgets the port, within some ms. Seen
later than this it is a port that differs, and the next pass sets it and gets the error."""


class UserspaceDriver:
    """Implements `driver.Driver` in the network namespace of the thread that makes it.

    `launcher` starts its daemons, by default we do: HostError if wireguard-go cannot be run here then.
    """

    kind: Final = "userspace"

    def __init__(self, launcher: Launcher | None = None) -> None:
        self._launcher = OwnProcesses() if launcher is None else launcher
        self._route = NetlinkSocket(NETLINK_ROUTE)
        self._writes = 0
        self._scoped: dict[tuple[str, PublicKey], Endpoint] = {}
        """Link-local endpoints as we set them: wireguard-go before 2023 does not give the scope back."""

    @property
    def writes(self) -> int:
        """How many messages that change something were sent so far."""
        return self._route.writes + self._writes

    def create(self, name: str, mtu: int) -> None:
        """Start a daemon that makes the device, down and without key. HostError."""
        if link_exists(self._route, name):
            raise HostError(
                f"cannot create device {name}: one of that name exists; delete it, or let Linkseal clean up "
                "(`linkseal agent cleanup`)",
                errno=EEXIST,
            )
        self._clear_stale(name)
        self._writes += 1
        self._launcher.start(name)
        set_link_mtu(self._route, name, mtu)

    def delete(self, name: str) -> None:
        """Stop the daemon and with it the device; one that is absent is fine. HostError."""
        self._scoped = {key: value for key, value in self._scoped.items() if key[0] != name}
        if not link_exists(self._route, name):
            self._clear_stale(name)
            return
        self._writes += 1
        socket_path(name).unlink(missing_ok=True)  # wireguard-go watches it and ends
        deadline = time.monotonic() + _STOP_SECONDS
        while link_exists(self._route, name):
            if time.monotonic() > deadline:
                delete_link(self._route, name)
                return
            time.sleep(0.005)

    def _clear_stale(self, name: str) -> None:
        """Remove the socket that a killed daemon left; HostError if a daemon listens on it."""
        path = socket_path(name)
        if not path.exists():
            return
        try:
            connect(name).close()
        except SendRefused:
            path.unlink(missing_ok=True)
            return
        raise _foreign(name)

    def up(self, name: str) -> None:
        """Set a device up, which binds its UDP port. HostError names the port if it is in use."""
        if link_is_up(self._route, name):
            return
        before = self.dump([name]).get(name)
        set_link_up(self._route, name)
        deadline = time.monotonic() + _BIND_SECONDS
        while before is not None and before.listen_port and time.monotonic() < deadline:
            after = self.dump([name]).get(name)
            if after is not None and not after.listen_port:
                raise port_in_use(name, before.listen_port)
            time.sleep(0.005)

    def dump(self, names: Iterable[str]) -> dict[str, DeviceState]:
        """Return the state of the devices that exist. HostError if one is served by no daemon or by a foreign one."""
        found: dict[str, DeviceState] = {}
        for name in names:
            exists = link_exists(self._route, name)
            try:
                lines = exchange(name, uapi.GET_REQUEST)
            except SendRefused as refused:
                if not exists:
                    continue
                raise HostError(
                    f"{name} exists but no wireguard-go serves it ({refused.reason}): delete it (`ip link del {name}`)",
                    errno=refused.errno,
                ) from None
            if not exists:
                raise _foreign(name)
            found[name] = self._with_scopes(uapi.decode_device(name, lines))
        return found

    def _with_scopes(self, state: DeviceState) -> DeviceState:
        peers: dict[PublicKey, PeerState] = dict(state.peers)
        for (device, key), known in self._scoped.items():
            peer = peers.get(key)
            bare = known._replace(host=known.host.partition("%")[0])
            if device == state.name and peer is not None and peer.endpoint == bare:
                peers[key] = peer._replace(endpoint=known)
        return DeviceState(state.name, state.public_key, state.listen_port, state.fwmark, peers)

    def apply(self, steps: Sequence[WireguardStep], secrets: Secrets) -> None:
        """Carry out steps in order, one request per device; see `apply.apply_steps`. HostError."""
        apply_steps(steps, lambda some: self._send(some, secrets))

    def _send(self, steps: Sequence[WireguardStep], secrets: Secrets) -> None:
        for request in uapi.encode(steps, secrets):
            self._writes += 1
            try:
                exchange(request.device, request.payload)
            except SendRefused as refused:
                refused.first = request.first
                raise
        for step in steps:
            if isinstance(step, SetPeer | ReprovokePeer):
                self._remember_scope(step.device, step.spec if isinstance(step, ReprovokePeer) else step)

    def _remember_scope(self, device: str, peer: SetPeer | PeerSpec) -> None:
        if peer.endpoint is not None and "%" in peer.endpoint.host:
            self._scoped[device, peer.public_key] = peer.endpoint

    def close(self) -> None:
        """Close the socket; daemons and devices stay."""
        self._route.close()


def _foreign(name: str) -> HostError:
    return HostError(
        f"{socket_path(name)} belongs to a daemon of another network namespace: give this one a {SOCKET_FOLDER} of "
        "its own (a private mount namespace with a tmpfs there), or use other device names",
        errno=EADDRINUSE,
    )

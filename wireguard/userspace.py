"""WireGuard by wireguard-go, one daemon per device, for kernels that have none.

The daemon outlives us, and an agent that starts later finds it by its socket. The folder of sockets is one for all
network namespaces of a mount namespace: where several run on a host (the lab), each needs a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from errno import EADDRINUSE, EEXIST, ENODEV, ENOENT
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.values import PublicKey
from linkseal.wireguard import uapi
from linkseal.wireguard.apply import SendRefused, apply_steps
from linkseal.wireguard.driver import Secrets, port_in_use
from linkseal.wireguard.links import delete_link, link_exists, link_is_up, set_link_mtu, set_link_up
from linkseal.wireguard.model import DeviceState, Endpoint, PeerSpec, PeerState, ReprovokePeer, SetPeer, WireguardStep
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket

SOCKET_FOLDER = Path("/var/run/wireguard")
"""Where wireguard-go and `wg` look for sockets; compiled into them."""

BINARY_VARIABLE = "LINKSEAL_WIREGUARD_GO"
"""Names the wireguard-go to run; without it the one on PATH."""

_TUN = Path("/dev/net/tun")
_START_SECONDS = 10.0
_STOP_SECONDS = 3.0
"""Start to socket takes 6-11 ms, the end 5 ms; past these it hangs."""

_BIND_SECONDS = 0.05
"""A daemon that cannot bind its port when the device comes up tells nobody but forgets the port, within some ms. Seen
later than this it is a port that differs, and the next pass sets it and gets the error."""

_ANSWER_SECONDS = 10.0
"""`get` of 5,000 peers takes 24 ms."""


def find_binary() -> Path:
    """Return the wireguard-go to run; HostError if there is none, or no TUN device to run it on."""
    named = os.environ.get(BINARY_VARIABLE)
    found = shutil.which(named or "wireguard-go")
    if found is None:
        raise HostError(
            f"no wireguard-go: {named + ' cannot be run' if named else 'none on PATH'}; install it "
            f"(Debian: `apt install wireguard-go`) or set {BINARY_VARIABLE} to its path",
            errno=ENOENT,
        )
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise HostError(
            f"wireguard-go needs {_TUN}, which cannot be opened ({error.strerror}): run as root, load it "
            "(`modprobe tun`), or give the container that device",
            errno=error.errno,
        ) from None
    return Path(found)


class UserspaceDriver:
    """Implements `driver.Driver` in the network namespace of the thread that makes it.

    HostError if wireguard-go cannot be run here.
    """

    kind: Final = "userspace"

    def __init__(self) -> None:
        self._binary = find_binary()
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
        self._start(name)
        set_link_mtu(self._route, name, mtu)

    def _start(self, name: str) -> None:
        # It puts itself into the background; a session of its own keeps our terminal's signals from it.
        try:
            done = subprocess.run(
                [self._binary, name],
                env={**os.environ, "LOG_LEVEL": "silent"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                timeout=_START_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"cannot start {self._binary} for {name}: {error}") from None
        deadline = time.monotonic() + _START_SECONDS
        while done.returncode == 0 and time.monotonic() < deadline:
            # The process it leaves behind sets the MTU once more before it answers.
            try:
                _exchange(name, uapi.GET_REQUEST)
            except SendRefused:
                time.sleep(0.005)
            else:
                return
        raise HostError(
            f"{self._binary} made no device {name} (exit status {done.returncode}): see what it says with "
            f"`LOG_LEVEL=verbose {self._binary} -f {name}`"
        )

    def delete(self, name: str) -> None:
        """Stop the daemon and with it the device; one that is absent is fine. HostError."""
        self._scoped = {key: value for key, value in self._scoped.items() if key[0] != name}
        if not link_exists(self._route, name):
            self._clear_stale(name)
            return
        self._writes += 1
        _socket_path(name).unlink(missing_ok=True)  # wireguard-go watches it and ends
        deadline = time.monotonic() + _STOP_SECONDS
        while link_exists(self._route, name):
            if time.monotonic() > deadline:
                delete_link(self._route, name)
                return
            time.sleep(0.005)

    def _clear_stale(self, name: str) -> None:
        """Remove the socket that a killed daemon left; HostError if a daemon listens on it."""
        path = _socket_path(name)
        if not path.exists():
            return
        try:
            _connect(name).close()
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
                lines = _exchange(name, uapi.GET_REQUEST)
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
                _exchange(request.device, request.payload)
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


def _socket_path(name: str) -> Path:
    return SOCKET_FOLDER / f"{name}.sock"


def _foreign(name: str) -> HostError:
    return HostError(
        f"{_socket_path(name)} belongs to a daemon of another network namespace: give this one a {SOCKET_FOLDER} of "
        "its own (a private mount namespace with a tmpfs there), or use other device names",
        errno=EADDRINUSE,
    )


def _connect(name: str) -> socket.socket:
    """Connect to a device's daemon; SendRefused (ENODEV) if none listens."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.settimeout(_ANSWER_SECONDS)
    try:
        link.connect(str(_socket_path(name)))
    except OSError as error:
        link.close()
        raise SendRefused(0, ENODEV, f"its socket: {error.strerror}") from None
    return link


def _exchange(name: str, request: bytes) -> list[str]:
    """Return the lines of the answer without its `errno`; SendRefused if that is not 0 or there is no whole answer."""
    lines: list[str] = []
    with _connect(name) as link, link.makefile("r", encoding="ascii", newline="\n") as answer:
        try:
            link.sendall(request)
            for line in answer:
                field, _, value = line.rstrip("\n").partition("=")
                if field == "errno":
                    if errno := abs(int(value)):
                        raise SendRefused(0, errno)
                    return lines
                lines.append(line.rstrip("\n"))
        except OSError as error:
            raise SendRefused(0, error.errno or ENODEV, "its daemon does not answer") from None
    raise SendRefused(0, ENODEV, "its daemon ended in the middle of an answer")

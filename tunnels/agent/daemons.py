"""The supervisor of wireguard-go: `linkseal agent daemons`, in a pod of its own so that tunnels outlive the agent's.

It starts a daemon when the agent asks (`linkseal.wireguard.launch` has the protocol), and ends one. One that answers
for a device already, started by the boot unit or by a supervisor before, is taken over: there is never a second one.
What it started is remembered beside the socket, so that a new supervisor can say what is no longer there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from linkseal.keys.errors import ConfigError, HostError
from linkseal.keys.files import atomic_write, read_file
from linkseal.tunnels.agent.control import ControlServer
from linkseal.tunnels.validation import Edge, validate
from linkseal.wireguard.launch import DEVICE_PATTERN, START_SECONDS, apart, find_binary, made_none
from linkseal.wireguard.links import delete_link, link_exists
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket
from linkseal.wireguard.uapisocket import SOCKET_FOLDER, pid_of, serves, socket_path
from pydantic import Field

_LOG: Final = logging.getLogger("linkseal.agent")

RECORD: Final = "started.json"

MAX_DAEMONS: Final = 16
"""A node has at most four slots; whoever may ask must not be able to fill the host with processes."""

STOP_SECONDS: Final = 3.0
"""The end takes 5 ms; past this it hangs, and is killed."""

REAP: Final = 1.0
"""Seconds between two looks for daemons that have ended."""


class Asked(Edge):
    """A request."""

    do: Literal["start", "stop", "list"]
    device: str = Field(default="", pattern=rf"^$|{DEVICE_PATTERN}")


class Keeper:
    """The daemons of one network namespace: that of the process that makes it. Blocking; one thread at a time.

    HostError if wireguard-go cannot be run here.
    """

    def __init__(self, record: Path) -> None:
        self._binary, self._record = find_binary(), record
        self._own: dict[str, subprocess.Popen[bytes]] = {}
        known = self._remembered()
        self.lost = tuple(name for name in known if not serves(name))
        """Devices of a supervisor before that have no daemon any more."""
        self._names = {name for name in known if name not in self.lost}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked. Raises HostError, ConfigError (the request makes no sense)."""
        asked = validate(Asked, request, "the request")
        if asked.do == "list":
            return {"daemons": self._listed(), "lost": list(self.lost)}
        if not asked.device:
            raise ConfigError("the request: device: must be the name of a device of ours, such as lsl00")
        return self._start(asked.device) if asked.do == "start" else {"stopped": self._stop(asked.device)}

    def reap(self) -> None:
        """Forget daemons of ours that have ended, and say so."""
        for name, process in list(self._own.items()):
            if process.poll() is not None:
                level = logging.WARNING if process.returncode else logging.INFO  # deleted by the agent: 0
                _LOG.log(level, "wireguard-go of %s has ended (status %s)", name, process.returncode)
                self._forget(name)

    def _listed(self) -> list[dict[str, Any]]:
        self.reap()
        there = sorted(path.stem for path in SOCKET_FOLDER.glob("lsl*.sock") if serves(path.stem))
        return [{"device": name, "pid": pid_of(name), "adopted": name not in self._own} for name in there]

    def _start(self, name: str) -> dict[str, Any]:
        self.reap()
        with NetlinkSocket(NETLINK_ROUTE) as route:
            exists = link_exists(route, name)
        if serves(name):
            if not exists:
                raise _foreign(name)
            return {"device": name, "pid": pid_of(name), "started": False}
        if exists:
            raise HostError(f"{name} exists but no wireguard-go serves it: delete it (`ip link del {name}`)")
        if len(self._own) >= MAX_DAEMONS:
            raise HostError(f"there are {MAX_DAEMONS} daemons already: {', '.join(sorted(self._own))}")
        socket_path(name).unlink(missing_ok=True)
        self._run(name)
        self._names.add(name)
        self._remember()
        _LOG.info("wireguard-go of %s runs", name)
        return {"device": name, "pid": self._own[name].pid, "started": True}

    def _run(self, name: str) -> None:
        # In the foreground, so that it stays our child: who asks is told why it ended, and none is left a zombie.
        try:
            process: subprocess.Popen[bytes] = subprocess.Popen([self._binary, "-f", name], **apart())
        except OSError as error:
            raise HostError(f"cannot start {self._binary} for {name}: {error}") from None
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if serves(name):
                self._own[name] = process
                return
            time.sleep(0.005)
        process.kill()
        raise made_none(self._binary, name, process.wait())

    def _stop(self, name: str) -> bool:
        """End a daemon and with it its device; whether there was one. HostError."""
        process = self._own.get(name)
        if process is None and not serves(name):
            return False
        with NetlinkSocket(NETLINK_ROUTE) as route:
            if process is None and not link_exists(route, name):
                raise _foreign(name)
            socket_path(name).unlink(missing_ok=True)  # wireguard-go watches it and ends
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and link_exists(route, name):
                time.sleep(0.005)
            delete_link(route, name)
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()
            process.wait()
        self._forget(name)
        _LOG.info("wireguard-go of %s was ended", name)
        return True

    def _forget(self, name: str) -> None:
        self._own.pop(name, None)
        self._names.discard(name)
        self._remember()

    def _remember(self) -> None:
        try:
            atomic_write(self._record, json.dumps(sorted(self._names)).encode() + b"\n")
        except HostError as error:
            _LOG.warning("what was started cannot be remembered: %s", error)

    def _remembered(self) -> tuple[str, ...]:
        try:
            found = json.loads(read_file(self._record) or b"[]")
        except (HostError, ValueError) as error:
            _LOG.warning("%s cannot be used and is passed over: %s", self._record, type(error).__name__)
            return ()
        return tuple(name for name in found if isinstance(name, str)) if isinstance(found, list) else ()


def _foreign(name: str) -> HostError:
    return HostError(
        f"the daemon that listens at {socket_path(name)} is of another network namespace: use another folder"
    )


def run(path: Path) -> None:
    """Serve the socket at `path` until SIGTERM or SIGINT, and log to stderr; daemons go on. Raises HostError."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    _LOG.handlers[:], _LOG.propagate = [handler], False
    _LOG.setLevel(logging.INFO)
    SOCKET_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    keeper = Keeper(path.with_name(RECORD))
    asyncio.run(_serve(path, keeper))


async def _serve(path: Path, keeper: Keeper) -> None:
    stop, turn = asyncio.Event(), asyncio.Lock()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def handle(request: Mapping[str, Any]) -> Mapping[str, Any]:
        async with turn:
            return await asyncio.to_thread(keeper.answer, request)

    server = ControlServer(path.parent, handle, path.name)
    await server.start()
    for name in keeper.lost:
        _LOG.warning("wireguard-go of %s is no longer there: the agent starts it again", name)
    _LOG.info("runs wireguard-go for whoever asks at %s", path)
    try:
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(REAP):
                    await stop.wait()
            async with turn:
                await asyncio.to_thread(keeper.reap)
    finally:
        await server.close()
        _LOG.info("stopped; daemons stay as they are")

"""Who starts wireguard-go: this process by itself, or the host's supervisor (`linkseal agent daemons`).

Where a process dies with its pod, so do its children: there the supervisor runs in a pod of its own that is not
replaced with the agent's. It speaks one JSON object a line, as the agent's control socket does:

    {"do": "start", "device": "lsl00"}  →  {"ok": true, "device": "lsl00", "pid": 7, "started": true}
    {"do": "stop", "device": "lsl00"}   →  {"ok": true, "stopped": true}
    {"do": "list"}                      →  {"ok": true, "daemons": [{"device": …, "pid": …, "adopted": …}], "lost": […]}
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from errno import ECONNREFUSED, ENOENT
from pathlib import Path
from typing import Any, Final, Protocol

from linkseal.keys.errors import HostError
from linkseal.wireguard.jsonline import exchange
from linkseal.wireguard.uapisocket import SOCKET_FOLDER, serves

BINARY_VARIABLE: Final = "LINKSEAL_WIREGUARD_GO"
"""Names the wireguard-go to run; without it the one on PATH."""

DEVICE_PATTERN: Final = r"^lsl[a-z0-9]{1,12}$"
"""Names of our devices: an interface's has at most 15 characters."""

START_SECONDS: Final = 10.0
"""Start to socket takes 6-11 ms; past this it hangs."""

ASK_SECONDS: Final = 2 * START_SECONDS

MAX_ANSWER: Final = 1 << 20
"""Bytes."""

_TUN: Final = Path("/dev/net/tun")


class Launcher(Protocol):
    """Starts the daemons of devices."""

    def start(self, name: str) -> None:
        """Start the daemon of a device, and return when it answers. HostError."""
        ...


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


def apart() -> dict[str, Any]:
    """Return how a daemon is started: silent, and with nothing of ours: no terminal, no folder, no file."""
    return {
        "env": {**os.environ, "LOG_LEVEL": "silent"},
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": "/",
        "start_new_session": True,
    }


class OwnProcesses:
    """They are started here and go on without us. HostError if wireguard-go cannot be run here."""

    def __init__(self) -> None:
        self._binary = find_binary()

    def start(self, name: str) -> None:
        """Start the daemon of a device, and return when it answers. HostError."""
        # It puts itself into the background; a session of its own keeps our terminal's signals from it.
        try:
            # which makes its folder itself, but not the target of a link in its place
            Path(os.path.realpath(SOCKET_FOLDER)).mkdir(mode=0o755, parents=True, exist_ok=True)
            done = subprocess.run([self._binary, name], timeout=START_SECONDS, check=False, **apart())
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"cannot start {self._binary} for {name}: {error}") from None
        deadline = time.monotonic() + START_SECONDS
        while done.returncode == 0 and time.monotonic() < deadline:
            # The process it leaves behind sets the MTU once more before it answers.
            if serves(name):
                return
            time.sleep(0.005)
        raise made_none(self._binary, name, done.returncode)


class Supervised:
    """The supervisor that listens at `path` starts them; while it does not, each start is refused."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, name: str) -> None:
        """Have the daemon of a device started, and return when it answers. HostError."""
        ask(self._path, {"do": "start", "device": name})


def made_none(binary: Path, name: str, code: int | None) -> HostError:
    """Return the error of a daemon that made no device."""
    return HostError(
        f"{binary} made no device {name} (exit status {code}): see what it says with "
        f"`LOG_LEVEL=verbose {binary} -f {name}`"
    )


def ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the supervisor, and return its answer. HostError: none answers (ECONNREFUSED), or it refuses."""
    try:
        answer = exchange(path, request, seconds=ASK_SECONDS, limit=MAX_ANSWER)
    except OSError as error:
        raise HostError(
            f"nobody answers at {path} ({error.strerror or error}), who would run wireguard-go: is the pod of the "
            "DaemonSet linkseal-daemons on this node ready? It is asked again",
            errno=ECONNREFUSED,
        ) from None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise HostError(f"what answers at {path} is no supervisor of this version: see the log of linkseal-daemons")
    if not answer.get("ok"):
        raise HostError(f"the supervisor of wireguard-go refused: {str(answer.get('error', 'without a reason'))[:500]}")
    return answer

"""Programs in the background: started, watched, paused, and gone with this process whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from linkseal.keys.errors import HostError

POLL_SECONDS = 0.05


class DaemonError(HostError):
    """A program did not start, did not become ready or ended by itself; the message has the end of its log."""


class Port:
    """A free TCP port of an address, kept for one server after the other until `close`.

    The socket is bound but does not listen: connections are refused while no server runs, and no other program gets the
    port meanwhile. Servers share it by SO_REUSEPORT. OSError where the address is none of this machine's.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._socket.bind((address, 0))
        except OSError:
            self._socket.close()
            raise
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back."""
        self._socket.close()


class Daemon:
    """One program, known by its process; what it prints is appended to a log.

    It is killed by the kernel when this process dies, even of SIGKILL. That signal really comes when the *thread* ends
    that started it, so `starter` is a pool of one thread, which lives as long as the programs are to.
    """

    def __init__(self, command: Sequence[str], log: Path, starter: ThreadPoolExecutor) -> None:
        self._command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        self._log = log
        self._starter = starter
        self._process: subprocess.Popen[bytes] | None = None
        self.name = Path(command[0]).name

    @property
    def pid(self) -> int:
        """Number of its process; DaemonError where it does not run."""
        self.check()
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; in a session of its own, so that Ctrl-C ends this process first, which ends it."""
        assert not self.runs, f"{self.name} runs"
        with self._log.open("ab") as out:
            popen = lambda: subprocess.Popen(  # noqa: E731 - it has to be called in the starter's thread
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._process = self._starter.submit(popen).result()

    def check(self) -> None:
        """DaemonError where it does not run."""
        if not self.runs:
            status = self._process.returncode if self._process else None
            raise DaemonError(
                f"{self.name} does not run (exit status {status}); the end of {self._log}:\n{self.tail()}"
            )

    def wait_until(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until something holds; DaemonError when it does not within that time or the program ends."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DaemonError(
                    f"{self.name}: {what} took over {seconds:.0f} s; the end of {self._log}:\n{self.tail()}"
                )
            time.sleep(POLL_SECONDS)

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing answers once this returns."""
        self.signal(signal.SIGSTOP)
        if self.runs and self._process:
            os.waitid(
                os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT
            )  # all its threads have stopped

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Send a signal; one that does not run gets none."""
        if self.runs and self._process:
            self._process.send_signal(number)

    def stop(self, seconds: float = 20.0) -> None:
        """End it in good order, or by SIGKILL when that takes longer; one that does not run is no error."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        self.resume()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        """Return the last 15 lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:]) if self._log.exists() else ""

"""A Python callable in a process of its own, forked from this one."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from linkseal.keys.errors import HostError


class ForkedProcess:
    """A callable in a process of its own, forked from this one: imports cost seconds in the lab kernel, a fork little.

    Where `stopping` is given, SIGTERM does not end it but appends to that list, for `target` to look at; the signal
    counts from the very first moment. The process outlives this one if nobody ends it.
    """

    def __init__(
        self, target: Callable[[], Any], *, stopping: list[int] | None = None, folder: Path | None = None
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="forked-")) if folder is None else folder
        self.log = self._folder / "log"
        """What the process prints, added to what is there."""
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self.pid = os.fork()
        if self.pid == 0:
            self._live(target, stopping)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _live(self, target: Callable[[], Any], stopping: list[int] | None) -> None:
        """The child's whole life; never returns."""
        status = 70
        try:
            os.setsid()
            gc.freeze()  # a collection would write to every inherited object and so copy its page: seconds in the lab
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            if stopping is not None:
                signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            # Fresh ones: the inherited may hold what the parent has not written yet, or be pytest's that capture.
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - for its whole life
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            value = target()
            (self._folder / "result").write_bytes(pickle.dumps(value))
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:  # noqa: BLE001 - reported to the log, the status says the rest
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Exit status (-n for signal n), or None while it runs."""
        if self._status is None:
            pid, raw = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(raw)
        return self._status

    def wait(self, timeout: float = 30) -> int:
        """Wait for its end; HostError with its log when it does not come."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise HostError(f"process {self.pid} has not ended in {timeout} s; it printed:\n{self.text()}")
            time.sleep(0.01)
        return status

    def result(self, timeout: float = 30) -> Any:
        """Wait for its end and return what the callable returned; HostError with its log if it failed."""
        if status := self.wait(timeout):
            raise HostError(f"process {self.pid} ended with {status}; it printed:\n{self.text()}")
        return pickle.loads((self._folder / "result").read_bytes())  # noqa: S301 - our own child wrote it

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def forget(self) -> None:
        """Kill it if need be and remove its files."""
        self.kill()
        self.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

"""Network namespaces: enter one, run commands in one, fork a process into one, and be rid of all that is in one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

NETNS_FOLDER = Path("/run/netns")
CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(name: str) -> None:
    """Move this thread into a network namespace for good."""
    handle = os.open(NETNS_FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(handle, CLONE_NEWNET), f"setns {name}")
    finally:
        os.close(handle)


def ip_batch(lines: Iterable[str], *, namespace: str | None = None, tool: str = "ip") -> None:
    """Many `ip` (or `tc`, `bridge`) lines in one process: each costs 10 ms and more in the lab kernel."""
    text = "\n".join(lines)
    if not text:
        return
    command = [tool, *(["-n", namespace] if namespace else []), "-batch", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{text}")


def private_mounts(folders: Iterable[str]) -> None:
    """Give this process a mount namespace of its own with an empty tmpfs on each of `folders`."""
    _checked(_libc.unshare(CLONE_NEWNS), "unshare")
    _checked(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _checked(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, None), f"mount tmpfs {folder}")


class Namespace:
    """A network namespace by name: a node, a pod, a router or the wire."""

    def __init__(self, name: str) -> None:
        self.ns = name
        self._forked: list[ForkedProcess] = []
        self._started: list[subprocess.Popen[bytes]] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ns}>"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run the block (this thread only) inside; sockets made there stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(self.ns)
            yield
        finally:
            _checked(_libc.setns(before, CLONE_NEWNET), "setns back")
            os.close(before)

    def run(self, command: str, *, check: bool = True, timeout: float = 60) -> str:
        """Run a shell line inside; return what it printed (stdout and stderr together)."""
        with self.entered():
            done = subprocess.run(
                command, shell=True, text=True, timeout=timeout, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"in {self.ns}: `{command}` ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def popen(self, command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command inside; it is killed with the namespace at the latest."""
        with self.entered():
            process = subprocess.Popen(f"exec {command}", shell=True, stdin=subprocess.DEVNULL, **options)
        self._started.append(process)
        return process

    def sysctl(self, values: dict[str, int | str]) -> None:
        """Set values below /proc/sys/net."""
        with self.entered():
            for key, value in values.items():
                Path("/proc/sys/net", key).write_text(str(value))

    def ip(self, *lines: str) -> None:
        """Run `ip` lines inside, in one process."""
        ip_batch(lines, namespace=self.ns)

    def fork(self, target: Callable[..., Any], *args: Any, private: Iterable[str] = ()) -> ForkedProcess:
        """Run a Python callable inside as a process of its own, without importing anything again.

        `private` are folders on which it sees an empty tmpfs of its own. What it returns is had by `.result()`.
        """

        def inside() -> Any:
            enter(self.ns)
            if folders := list(private):
                private_mounts(folders)
            return target(*args)

        self._forked.append(ForkedProcess(inside))
        return self._forked[-1]

    def end_processes(self) -> None:
        """Kill what `popen` and `fork` started here and remove its files."""
        for process in self._started:
            process.kill()
            process.wait()
        for forked in self._forked:
            forked.forget()


class ForkedProcess:
    """A callable in a process of its own, forked from this one: imports cost 3 s in the lab kernel, a fork little.

    Where `stopping` is given, SIGTERM does not end it but appends to that list, for `target` to look at; the signal
    counts from the very first moment.
    """

    def __init__(self, target: Callable[[], Any], *, stopping: list[int] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="forked-"))
        self.log = self._folder / "log"
        """What the process prints."""
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
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            if stopping is not None:
                signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - the capturing one is pytest's
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
        """Wait for its end; AssertionError with its log when it does not come."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"process {self.pid} has not ended in {timeout} s; it printed:\n{self.text()}")
            time.sleep(0.01)
        return status

    def result(self, timeout: float = 30) -> Any:
        """Wait for its end and return what the callable returned; AssertionError with its log if it failed."""
        if status := self.wait(timeout):
            raise AssertionError(f"process {self.pid} ended with {status}; it printed:\n{self.text()}")
        return pickle.loads((self._folder / "result").read_bytes())  # noqa: S301 - our own child wrote it

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def forget(self) -> None:
        """Kill it if need be and remove its files."""
        self.kill()
        self.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def processes_in(names: Iterable[str]) -> list[int]:
    """Processes whose network namespace is one of these, this one not."""
    inodes = {(NETNS_FOLDER / name).stat().st_ino for name in names if (NETNS_FOLDER / name).exists()}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if (entry / "ns/net").stat().st_ino in inodes:
                    found.append(int(entry.name))
    return found


def remove(names: list[str]) -> None:
    """Kill what runs in these namespaces, process by process, and delete them."""
    for pid in processes_in(names):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ip_batch(f"netns del {name}" for name in names if (NETNS_FOLDER / name).exists())

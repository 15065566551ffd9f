"""Network namespaces: enter one, run commands in one, fork a process into one, and be rid of all that is in one.

A node also has a mount namespace, with sockets' folders of its own: wireguard-go's and the agent's have fixed paths.
It lives as long as its holder, a process that only sleeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.host.programs import with_path
from linkseal.tunnels.lab.forked import ForkedProcess

NETNS_FOLDER: Final = Path("/run/netns")
"""Where iproute2 keeps them."""

OWN_FOLDERS: Final = ("/run/linkseal", "/run/wireguard")
"""What each node has a tmpfs of its own on."""

_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
"""<linux/sched.h>, <linux/mount.h>."""

_READY: Final = b"ready\n"

_END_SECONDS: Final = 5.0
"""How long killed processes may take to be gone."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise HostError(f"{what}: {os.strerror(number)}", errno=number)


def _set_namespace(path: str | Path, kind: int, what: str) -> None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{what}: {error.strerror}", errno=error.errno) from None
    try:
        _checked(_libc.setns(handle, kind), what)
    finally:
        os.close(handle)


def enter(name: str) -> None:
    """Move this thread into a network namespace for good. HostError."""
    _set_namespace(NETNS_FOLDER / name, _CLONE_NEWNET, f"enter the network namespace {name}")


def enter_mounts(pid: int) -> None:
    """Move this process (it must have one thread) into another's mount namespace for good. HostError."""
    before = Path.cwd()
    _set_namespace(f"/proc/{pid}/ns/mnt", _CLONE_NEWNS, f"enter the mount namespace of process {pid}")
    os.chdir(before if before.is_dir() else "/")


def private_mounts(folders: Iterable[str]) -> None:
    """Give this process a mount namespace of its own with an empty tmpfs on each of `folders`. HostError."""
    _checked(_libc.unshare(_CLONE_NEWNS), "make a mount namespace")
    _checked(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate /")
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _checked(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"mode=755"), f"mount tmpfs {folder}")


def ip_batch(lines: Iterable[str], *, namespace: str | None = None, tool: str = "ip") -> None:
    """Many `ip` (or `tc`, `bridge`) lines in one process: each costs 10 ms and more in the lab kernel. HostError."""
    text = "\n".join(lines)
    if not text:
        return
    command = [tool, *(["-n", namespace] if namespace else []), "-batch", "-"]
    try:
        done = subprocess.run(with_path(command), input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostError(f"there is no `{tool}` on PATH: install iproute2") from None
    if done.returncode:
        raise HostError(f"{' '.join(command)}: {done.stderr.strip()}\n{text}")


class Namespace:
    """A network namespace by name: a node, a pod, a router or the wire."""

    def __init__(self, name: str) -> None:
        self.ns = name
        self.holder: int | None = None
        """The process whose mount namespace goes with it, if it has one."""
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
            _checked(_libc.setns(before, _CLONE_NEWNET), "leave the network namespace")
            os.close(before)

    def enter(self) -> None:
        """Move this process (it must have one thread) inside for good, mounts included. HostError."""
        enter(self.ns)
        if self.holder is not None:
            enter_mounts(self.holder)

    def run(self, command: str, *, check: bool = True, timeout: float = 60) -> str:
        """Run a shell line inside; return what it printed (stdout and stderr together). HostError if it fails."""
        with self.entered():
            done = subprocess.run(
                self._shell(command), text=True, timeout=timeout, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        if check and done.returncode:
            raise HostError(f"in {self.ns}: `{command}` ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def popen(self, command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command inside; it is killed with the namespace at the latest."""
        with self.entered():
            process = subprocess.Popen(self._shell(f"exec {command}"), stdin=subprocess.DEVNULL, **options)
        self._started.append(process)
        return process

    def _shell(self, command: str) -> list[str]:
        mounts = [] if self.holder is None else ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt"]
        return with_path([*mounts, "sh", "-c", command])

    def sysctl(self, values: Mapping[str, int | str]) -> None:
        """Set values below /proc/sys/net."""
        with self.entered():
            for key, value in values.items():
                Path("/proc/sys/net", key).write_text(str(value), encoding="ascii")

    def ip(self, *lines: str) -> None:
        """Run `ip` lines inside, in one process."""
        ip_batch(lines, namespace=self.ns)

    def tc(self, *lines: str) -> None:
        """Run `tc` lines inside, in one process."""
        ip_batch(lines, namespace=self.ns, tool="tc")

    def fork(
        self, target: Callable[..., Any], *args: Any, private: Iterable[str] = (), folder: Path | None = None
    ) -> ForkedProcess:
        """Run a Python callable inside as a process of its own, without importing anything again.

        `private` are folders on which it sees an empty tmpfs of its own (where there is a holder, it sees the
        holder's). What it returns is had by `.result()`; `folder` is where what it prints goes, in a file `log`.
        """

        def inside() -> Any:
            self.enter()
            if self.holder is None and (folders := list(private)):
                private_mounts(folders)
            return target(*args)

        self._forked.append(ForkedProcess(inside, folder=folder))
        return self._forked[-1]

    def hold(self, folder: Path | None = None, folders: Iterable[str] = OWN_FOLDERS) -> int:
        """Start the holder of a mount namespace with `folders` empty; return its process number. HostError.

        `folder` is where it leaves its log.
        """
        ready, written = os.pipe()

        def sleeper() -> None:
            private_mounts(folders)
            os.write(written, _READY)
            os.closerange(3, written + 1)
            os.execvp("sleep", ["sleep", "infinity"])  # noqa: S606 - no shell is meant

        forked = self.fork(sleeper, folder=folder)
        os.close(written)
        with os.fdopen(ready, "rb") as pipe:
            if pipe.read() != _READY:
                raise HostError(f"no mount namespace for {self.ns}: {forked.text().strip()[-300:]}")
        self.holder = forked.pid
        return forked.pid

    def end_processes(self) -> None:
        """Kill what `popen`, `fork` and `hold` of this object started and remove its files."""
        for process in self._started:
            process.kill()
            process.wait()
        for forked in self._forked:
            forked.forget()


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
    """Kill what runs in these namespaces, process by process, and delete them. HostError."""
    for pid in processes_in(names):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _END_SECONDS
    while processes_in(names) and time.monotonic() < deadline:
        time.sleep(0.01)
    ip_batch(f"netns del {name}" for name in names if (NETNS_FOLDER / name).exists())

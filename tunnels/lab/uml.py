"""Boot the lab kernel and run commands in it.

The lab kernel is a User-Mode Linux kernel: an ordinary process that is a Linux kernel of its own, with WireGuard, ESP
and netem, sharing this host's file system (hostfs) but neither its network nor its processes. It boots in 0.5 s.

    host                                     lab kernel (process 1 is `labinit.sh`)
    ────                                     ──────────
    requests/7.sh  ── hostfs ──────────────► found within 30 ms, renamed to 7.run, run in a session of its own
    reads 7.out as it grows ◄── hostfs ────  7.out   what it prints, written back every 50 ms
    reads 7.status ◄────────────────────────  7.status  exit status, renamed into place when 7.out is complete

Everything a `LabKernel` is lies in its folder, so another process can go on with it (`lab up`, then `lab exec`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Self

from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.lab.cpus import on_one_cpu
from linkseal.tunnels.lab.kernelcache import cache_folder, find_lab_kernel

BOOT_SECONDS = 30.0
"""A boot takes 0.5 s on an idle machine; past this it hangs."""

POLL_SECONDS = 0.02
"""How often output and exit status are looked for."""

STOP_SECONDS = 5.0
"""How long a kernel may take to power off before it is killed."""

KILL = 'for _ in {1..200}; do [ -s "$1" ] && exec kill -KILL -- "-$(<"$1")"; sleep 0.05; done; exit 1'
"""Kills the session whose leader's number is, or soon will be, in a file."""

PASSED_ON = ("PATH", "HOME", "LANG", "TERM", "XDG_CACHE_HOME")
"""What a command in the lab kernel inherits from this process's environment."""

Output = Callable[[bytes], None]
"""Receives what a command prints (stdout and stderr together), piece by piece as it appears."""


class LabKernel:
    """A lab kernel that runs until `stop`, known by its folder.

    Also a context manager: starts on entry, stops on exit. Errors are HostError and carry the end of the kernel's
    console; ConfigError where there is no lab kernel.
    """

    def __init__(self, folder: Path, *, kernel: Path | None = None, memory: str = "1G") -> None:
        self.folder = folder
        self._requests = folder / "requests"
        self._console = folder / "console.log"
        self._kernel = kernel
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, devices: Sequence[str] = ()) -> None:
        """Boot; return when it takes commands. `devices` are more kernel arguments (`vec0:transport=tap,…`)."""
        if self.running():
            raise HostError(f"a lab kernel already runs in {self.folder}: stop it first")
        kernel = self._kernel or find_lab_kernel()
        if kernel is None:
            raise ConfigError("no lab kernel has been built here: run `make test` once, or use another backend")
        self._prepare_folder()
        with self._console.open("wb") as console, on_one_cpu(cache_folder() / "cpus") as locks:
            self._process = subprocess.Popen(
                self._command(kernel, devices),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=locks,
                start_new_session=True,  # its helper processes are killed with it, and Ctrl-C reaches us first
            )
        (self.folder / "pid").write_text(str(self._process.pid))
        try:
            self._wait_for(self.folder / "booted", time.monotonic() + BOOT_SECONDS, "did not boot")
        except BaseException:
            self.stop()
            raise

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes = b"",
        timeout: float | None = None,
        on_output: Output | None = None,
    ) -> int:
        """Run a command inside; return its exit status (128 + n for signal n).

        `env` is added to `PASSED_ON`; `cwd` is the caller's by default. Past `timeout` seconds the command is killed
        and HostError raised; the kernel goes on.
        """
        request = self._submit(argv, env or {}, cwd or Path.cwd(), stdin)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            return self._follow(request, deadline, on_output or (lambda _: None))
        except BaseException:
            self._cancel(request)
            raise

    def running(self) -> bool:
        """Whether the kernel of this folder is alive (started by this process or by another)."""
        if self._process is not None:
            return self._process.poll() is None
        return self._foreign_pid() is not None

    def stop(self) -> None:
        """Power off; kill what does not. Stopping a stopped kernel does nothing."""
        pid = self._process.pid if self._process is not None else self._foreign_pid()
        if pid is None or not self.running():
            return
        with contextlib.suppress(OSError):
            (self._requests / "poweroff").touch()
        deadline = time.monotonic() + STOP_SECONDS
        while self.running() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # a session of its own: the kernel and its helper processes, nothing else
        if self._process is not None:
            self._process.wait()

    def console(self, lines: int = 15) -> str:
        """Return the last lines the kernel printed."""
        try:
            text = self._console.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _prepare_folder(self) -> None:
        self._requests.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in [*self._requests.iterdir(), self.folder / "booted"]:
            old.unlink(missing_ok=True)
        script = self.folder / "labinit.sh"
        script.write_text(resources.files("linkseal.tunnels.lab").joinpath("labinit.sh").read_text())
        script.chmod(0o700)

    def _command(self, kernel: Path, devices: Sequence[str]) -> list[str]:
        return [
            str(kernel),
            f"mem={self._memory}",
            *("root=/dev/root", "rootfstype=hostfs", "rw"),
            f"init={self.folder / 'labinit.sh'}",
            f"linkseal_lab={self.folder}",  # unknown to the kernel, so it becomes a variable of the init script
            *("quiet", "con=null", "con0=null,fd:1", "ssl=null"),
            f"uml_dir={self.folder / 'uml'}/",  # else it leaves a folder in the user's home
            *devices,
        ]

    def _submit(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, stdin: bytes) -> Path:
        """Write a request; return its path without suffix. The name is unique among processes."""
        if not self.running():
            raise HostError(f"no lab kernel runs in {self.folder}")
        handle, name = tempfile.mkstemp(prefix="", dir=self._requests)
        os.close(handle)
        request = Path(name)
        request.with_suffix(".in").write_bytes(stdin)
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | dict(env)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in passed.items()]
        lines += [f"echo $$ >{shlex.quote(name)}.pid", f"cd {shlex.quote(str(cwd))} || exit 127"]
        lines += [f"exec {shlex.join(argv)}"]
        request.write_text("\n".join(lines) + "\n")
        request.rename(request.with_suffix(".sh"))
        return request

    def _follow(self, request: Path, deadline: float | None, on_output: Output) -> int:
        """Pass output on until the command has ended; return its exit status."""
        output = request.with_suffix(".out")
        read = 0
        while True:
            ended = request.with_suffix(".status").exists()  # asked before reading: nothing is printed after
            read += _pass_on(output, read, on_output)
            if ended:
                status = int(request.with_suffix(".status").read_text())
                self._forget(request)
                return status
            if deadline is not None and time.monotonic() > deadline:
                raise HostError(f"the command in the lab kernel did not end in time{self._last_words()}")
            if not self.running():
                raise HostError(f"the lab kernel died{self._last_words()}")
            time.sleep(POLL_SECONDS)

    def _cancel(self, request: Path) -> None:
        """Kill a command and its children; best effort, the kernel may be gone.

        One not yet taken up is withdrawn. Of one just taken up the number is written a moment later, and is seen
        inside before it is seen out here: so the kill waits for it there.
        """
        with contextlib.suppress(FileNotFoundError):
            request.with_suffix(".sh").unlink()
            return
        with contextlib.suppress(OSError, HostError):
            self._submit(["bash", "-c", KILL, "kill", str(request.with_suffix(".pid"))], {}, Path("/"), b"")

    def _forget(self, request: Path) -> None:
        for suffix in (".run", ".in", ".out", ".pid", ".status"):
            request.with_suffix(suffix).unlink(missing_ok=True)

    def _wait_for(self, file: Path, deadline: float, failure: str) -> None:
        while not file.exists():
            if not self.running() or time.monotonic() > deadline:
                raise HostError(f"the lab kernel {failure}{self._last_words()}")
            time.sleep(POLL_SECONDS)

    def _last_words(self) -> str:
        words = self.console()
        return f"; the end of its console:\n{words}" if words else "; its console says nothing"

    def _foreign_pid(self) -> int | None:
        """Process number of a kernel that another process started in this folder; a reused number does not count."""
        try:
            pid = int((self.folder / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if f"linkseal_lab={self.folder}".encode() in command else None


def run_in_lab_kernel(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    memory: str = "1G",
    timeout: float | None = None,
    on_output: Output | None = None,
    kernel: Path | None = None,
) -> int:
    """Boot a lab kernel, run one command in it, power it off; return the command's exit status.

    Raises HostError on a panic, a hang or a timeout, with the end of the console.
    """
    with (
        tempfile.TemporaryDirectory(prefix="linkseal-lab-") as folder,
        LabKernel(Path(folder), kernel=kernel, memory=memory) as lab,
    ):
        return lab.exec(argv, env=env, cwd=cwd, timeout=timeout, on_output=on_output)


def _pass_on(file: Path, start: int, on_output: Output) -> int:
    """Give what a file holds past `start` to `on_output`; return how many bytes that was."""
    try:
        with file.open("rb") as source:
            source.seek(start)
            piece = source.read()
    except FileNotFoundError:
        return 0
    if piece:
        on_output(piece)
    return len(piece)

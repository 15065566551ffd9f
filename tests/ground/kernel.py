"""Find out whether the running kernel can carry the kernel tests; if not, build the lab kernel once and cache it.

    kernel.py probe     exit 0 if the running kernel has what the tests need, else say what it lacks
    kernel.py build     make sure the lab kernel is in the cache; print its path
    kernel.py fast      the same for the one whose WireGuard timers are divided by ten

The lab kernel is a User-Mode Linux kernel (an ordinary program that is a kernel), compiled from Debian's own
`linux-source` package with tests/ground/lab-kernel.config. It lies in the cache under a hash of that file and of the
package's version, so that a second clone, or a second run, builds nothing. What was compiled is kept beside it, packed:
the fast kernel differs in one header and compiles half a minute with that, four without.

Only the standard library: this runs before there is a virtual environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCE_PACKAGE = "linux-source-6.1"
"""Debian 12's kernel source: has WireGuard, and nftables with netdev egress."""

CONFIG = Path(__file__).with_name("lab-kernel.config")

TIMERS = "drivers/net/wireguard/messages.h"

FAST = {
    "REKEY_TIMEOUT = 5,": "REKEY_TIMEOUT = 1,",  # in whole seconds: half of one cannot be said
    "REKEY_AFTER_TIME = 120,": "REKEY_AFTER_TIME = 12,",
    "REJECT_AFTER_TIME = 180,": "REJECT_AFTER_TIME = 18,",
    "KEEPALIVE_TIMEOUT = 10,": "KEEPALIVE_TIMEOUT = 1,",
    "MAX_TIMER_HANDSHAKES = 90 /": "MAX_TIMER_HANDSHAKES = 9 /",
}
"""What the fast kernel's TIMERS says instead: a session ends after 18 s, so that what bites only then can be tested.
A receiver renews a session REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT after its begin: 16 s, after 12 s."""

PACKED = "objects.tar.gz"
"""Beside a kernel: all that its build made, so that another like it need not."""

OBJECTS = 1000
"""Compiler lines of a whole build; only for saying how far it is."""

PROGRESS_SECONDS = 15.0

NEEDS = {
    "WireGuard": "ip link add lsprobe type wireguard",
    "ESP": "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode transport "
    f"aead 'rfc4106(gcm(aes))' 0x{'00' * 20} 128",
    "netem": "tc qdisc add dev lo root netem delay 1ms",
}
"""What a kernel must do, each tried in a network namespace of its own: a version says nothing about a build."""


class BuildError(Exception):
    """What the tests need could not be built; the message says what to look at."""


def missing_features() -> list[str]:
    """Names of `NEEDS` that the running kernel (or this user) cannot do."""
    return [name for name, command in NEEDS.items() if not _succeeds(command)]


def _succeeds(command: str) -> bool:
    """Whether this shell line works in a fresh network namespace, which vanishes with it."""
    done = subprocess.run(["unshare", "--net", "sh", "-c", command], capture_output=True, check=False)
    return done.returncode == 0


def cache_folder() -> Path:
    """Where everything built here lies: outside the clone, so that a second clone builds nothing."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linkseal"


def source_version() -> str:
    """Version of the installed source package, or a BuildError that says how to get it."""
    query = ["dpkg-query", "-W", "-f", "${Version}", SOURCE_PACKAGE]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        raise BuildError(f"package {SOURCE_PACKAGE} is not installed: run tests/ground/setup")
    return done.stdout.strip()


def lab_kernel(*, fast: bool = False) -> Path:
    """Path of the lab kernel of this clone's configuration, built or not."""
    edits = repr(sorted(FAST.items())) if fast else ""
    key = hashlib.sha256(CONFIG.read_bytes() + source_version().encode() + edits.encode()).hexdigest()[:16]
    return cache_folder() / "kernel" / (f"fast-{key}" if fast else key) / "linux"


def build(*, fast: bool = False) -> Path:
    """Build the lab kernel unless the cache has it; two runs at once build it once."""
    kernel = lab_kernel(fast=fast)
    with locked(kernel.parent):
        if not kernel.exists():
            _build_into(kernel, FAST if fast else {})
        if not fast:
            point_current_at(kernel.parent)
    return kernel


@contextmanager
def locked(folder: Path, name: str = "lab kernel") -> Iterator[None]:
    """Hold the lock of a folder of the cache, so that two runs at once build what is in it once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is building it: waiting for that", name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_into(kernel: Path, edits: Mapping[str, str]) -> None:
    """Unpack, configure, compile, install; a failed build leaves its log and tree for a look."""
    began = time.monotonic()
    folder, log = kernel.parent, kernel.parent / "build.log"
    log.write_text("")
    shutil.rmtree(folder / "tree", ignore_errors=True)
    (folder / "tree").mkdir()
    say(f"unpacking {SOURCE_PACKAGE} {source_version()}")
    logged(["tar", "-xf", f"/usr/src/{SOURCE_PACKAGE}.tar.xz", "-C", str(folder / "tree")], log)
    tree = folder / "tree" / SOURCE_PACKAGE
    unpacked = time.time()
    packed = next((path for path in (folder / PACKED, lab_kernel().with_name(PACKED)) if path.exists()), None)
    if packed is not None:
        logged(["tar", "-xzf", str(packed), "-C", str(tree)], log)
    else:
        _configure(tree, log)
    _edit(tree / TIMERS, edits)
    _compile(tree, log)
    if packed is None and not edits:
        _pack(tree, folder, unpacked)
    shutil.copy2(tree / ".config", folder / "config")
    subprocess.run(["strip", "-o", str(folder / "linux.new"), str(tree / "linux")], check=True)
    (folder / "linux.new").rename(kernel)
    shutil.rmtree(folder / "tree")
    say(f"built in {clock(time.monotonic() - began)}, kept as {kernel}")


def _edit(header: Path, edits: Mapping[str, str]) -> None:
    text = header.read_text()
    for old, new in edits.items():
        if text.count(old) != 1:
            raise BuildError(f"{header} does not say `{old}` once: this kernel source is another one, see FAST")
        text = text.replace(old, new)
    if edits:
        header.write_text(text)


def _pack(tree: Path, folder: Path, since: float) -> None:
    """Keep what a build made: all that is newer than the source, whose files have dates of their own."""
    made = [
        str(path.relative_to(tree))
        for path in tree.rglob("*")
        if (path.is_symlink() or path.is_file()) and path.lstat().st_mtime >= since
    ]
    aside = folder / f".{PACKED}"
    command = ["tar", "-czf", str(aside), "-C", str(tree), "--no-recursion", "-T", "-"]
    subprocess.run(command, input="\n".join(made), text=True, check=True)
    aside.rename(folder / PACKED)


def _configure(tree: Path, log: Path) -> None:
    make = ["make", "-C", str(tree), "ARCH=um"]
    logged([*make, "tinyconfig"], log)
    with (tree / ".config").open("a") as config:
        config.write(CONFIG.read_text())  # the last line of an option wins
    logged([*make, "olddefconfig"], log)
    if dropped := dropped_options(CONFIG.read_text(), (tree / ".config").read_text()):
        raise BuildError(f"the kernel's configuration dropped {', '.join(dropped)}: a dependency is missing")


def dropped_options(asked: str, got: str) -> list[str]:
    """Asked-for lines of a configuration that do not hold in the one that came out.

    >>> dropped_options("CONFIG_A=y\\nCONFIG_B=n\\nCONFIG_C=y", "CONFIG_A=y\\n# CONFIG_B is not set")
    ['CONFIG_C=y']
    """
    wanted = dict(re.findall(r"^(CONFIG_\w+)=(.+)$", asked, re.MULTILINE))
    present = dict(re.findall(r"^(CONFIG_\w+)=(.+)$", got, re.MULTILINE))
    return [f"{name}={value}" for name, value in wanted.items() if present.get(name, "n") != value]


def _compile(tree: Path, log: Path) -> None:
    command = ["make", "-C", str(tree), "ARCH=um", f"-j{os.cpu_count() or 1}", "linux"]
    if watched(command, log, lambda elapsed: say(_progress(log, elapsed))):
        raise BuildError(f"the lab kernel did not compile; the end of {log}:\n{tail(log)}")


def watched(command: list[str], log: Path, tell: Callable[[float], None], **options: Any) -> int:
    """Run a long command into a log and tell every 15 s that it has run so many seconds; its exit status."""
    began = told = time.monotonic()
    with log.open("a") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **options)
    try:
        while process.poll() is None:
            time.sleep(0.5)
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                tell(told - began)
    finally:
        process.kill()
    return process.returncode


def _progress(log: Path, elapsed: float) -> str:
    done = len(re.findall(r"^  (?:CC|AS|HOSTCC) ", log.read_text(errors="replace"), re.MULTILINE))
    return f"compiling, {clock(elapsed)}{about(elapsed, done, OBJECTS)}, {done} of about {max(OBJECTS, done)} objects"


def about(elapsed: float, done: int, whole: int) -> str:
    """How long it will take in all, once a twentieth is done.

    >>> about(60.0, 500, 1000), about(5.0, 1, 1000)
    (' of about 2:00', '')
    """
    return f" of about {clock(max(elapsed * whole / done, elapsed))}" if done > whole // 20 else ""


def logged(command: list[str], log: Path) -> None:
    with log.open("a") as out:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise BuildError(f"`{' '.join(command)}` failed; the end of {log}:\n{tail(log)}")


def tail(log: Path) -> str:
    """Its last 15 lines."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def point_current_at(folder: Path) -> None:
    """`current` beside it is what the product looks for (linkseal.tunnels.lab.kernelcache, .kube.programs)."""
    link = folder.parent / f".current-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.rename(folder.parent / "current")


def clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> clock(130.4)
    '2:10'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def say(text: str, name: str = "lab kernel") -> None:
    print(f"{name}: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    if arguments == ["probe"]:
        missing = missing_features()
        say(
            f"the running kernel lacks {', '.join(missing)}" if missing else "the running kernel has all that is needed"
        )
        return 1 if missing else 0
    if arguments in (["build"], ["fast"]):
        try:
            print(build(fast=arguments == ["fast"]))
        except BuildError as error:
            say(str(error))
            return 1
        return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

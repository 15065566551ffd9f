"""Find out whether the running kernel can carry the kernel tests; if not, build the lab kernel once and cache it.

    kernel.py probe     exit 0 if the running kernel has what the tests need, else say what it lacks
    kernel.py build     make sure the lab kernel is in the cache; print its path

The lab kernel is a User-Mode Linux kernel (an ordinary program that is a kernel), compiled from Debian's own
`linux-source` package with tests/ground/lab-kernel.config. It lies in the cache under a hash of that file and of the
package's version, so that a second clone, or a second run, builds nothing.

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
from pathlib import Path

SOURCE_PACKAGE = "linux-source-6.1"
"""Debian 12's kernel source: has WireGuard, and nftables with netdev egress."""

CONFIG = Path(__file__).with_name("lab-kernel.config")

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
    """The lab kernel could not be built; the message says what to look at."""


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


def lab_kernel() -> Path:
    """Path of the lab kernel of this clone's configuration, built or not."""
    key = hashlib.sha256(CONFIG.read_bytes() + source_version().encode()).hexdigest()[:16]
    return cache_folder() / "kernel" / key / "linux"


def build() -> Path:
    """Build the lab kernel unless the cache has it; two runs at once build it once."""
    kernel = lab_kernel()
    kernel.parent.mkdir(parents=True, exist_ok=True)
    with (kernel.parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is building it: waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not kernel.exists():
            _build_into(kernel)
        _point_current_at(kernel.parent)
    return kernel


def _build_into(kernel: Path) -> None:
    """Unpack, configure, compile, install; a failed build leaves its log and tree for a look."""
    began = time.monotonic()
    folder, log = kernel.parent, kernel.parent / "build.log"
    log.write_text("")
    shutil.rmtree(folder / "tree", ignore_errors=True)
    (folder / "tree").mkdir()
    say(f"unpacking {SOURCE_PACKAGE} {source_version()}")
    _logged(["tar", "-xf", f"/usr/src/{SOURCE_PACKAGE}.tar.xz", "-C", str(folder / "tree")], log)
    tree = folder / "tree" / SOURCE_PACKAGE
    _configure(tree, log)
    _compile(tree, log)
    shutil.copy2(tree / ".config", folder / "config")
    subprocess.run(["strip", "-o", str(folder / "linux.new"), str(tree / "linux")], check=True)
    (folder / "linux.new").rename(kernel)
    shutil.rmtree(folder / "tree")
    say(f"built in {clock(time.monotonic() - began)}, kept as {kernel}")


def _configure(tree: Path, log: Path) -> None:
    make = ["make", "-C", str(tree), "ARCH=um"]
    _logged([*make, "tinyconfig"], log)
    with (tree / ".config").open("a") as config:
        config.write(CONFIG.read_text())  # the last line of an option wins
    _logged([*make, "olddefconfig"], log)
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
    began = told = time.monotonic()
    with log.open("a") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            time.sleep(0.5)
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                say(_progress(log, told - began))
    finally:
        process.kill()
    if process.returncode:
        raise BuildError(f"the lab kernel did not compile; the end of {log}:\n{_tail(log)}")


def _progress(log: Path, elapsed: float) -> str:
    done = len(re.findall(r"^  (?:CC|AS|HOSTCC) ", log.read_text(errors="replace"), re.MULTILINE))
    whole = elapsed * OBJECTS / max(done, 1)
    about = f" of about {clock(max(whole, elapsed))}" if done > OBJECTS // 20 else ""
    return f"compiling, {clock(elapsed)}{about}, {done} of about {max(OBJECTS, done)} objects"


def _logged(command: list[str], log: Path) -> None:
    with log.open("a") as out:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise BuildError(f"`{' '.join(command)}` failed; the end of {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _point_current_at(folder: Path) -> None:
    """`kernel/current` is what the product looks for (linkseal.tunnels.lab.kernelcache)."""
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


def say(text: str) -> None:
    print(f"lab kernel: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    if arguments == ["probe"]:
        missing = missing_features()
        say(
            f"the running kernel lacks {', '.join(missing)}" if missing else "the running kernel has all that is needed"
        )
        return 1 if missing else 0
    if arguments == ["build"]:
        try:
            print(build())
        except BuildError as error:
            say(str(error))
            return 1
        return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

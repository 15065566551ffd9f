"""The shell line that becomes a container: namespaces, a root of its own, and no more rights than it was given. Pure.

The root is a tmpfs. Into it go, read-only, `/usr` of this machine and the folders that this program runs from: the
"image". /proc and /sys are those of the container's own process and network namespaces, read-only where runtimes make
them so; /dev has the six devices that all containers have. What else is there are the volumes that were asked for.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from linkseal.tunnels.lab.kube.podspec import ContainerSpec

READ_ONLY_PROC: Final = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
"""What container runtimes mount read-only in a container that is not privileged (OCI runtime defaults)."""

MASKED: Final = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware")
"""What they hide."""

DEVICES: Final = {"null": "1 3", "zero": "1 5", "full": "1 7", "random": "1 8", "urandom": "1 9", "tty": "5 0"}
"""Device files of every container, with their numbers."""

MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64")
"""Links into /usr of a Debian root."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a container runs from: folders of this machine, each read-only at its own path, and where programs are."""

    folders: tuple[Path, ...]
    path: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A volume on this machine: a folder, file or device, and where it goes in the container."""

    source: Path
    target: str
    read_only: bool
    is_file: bool = False


def command_line(
    container: ContainerSpec,
    root: Path,
    image: Image,
    volumes: Sequence[Bound],
    *,
    network_of: int | None = None,
    host_pid: bool = False,
) -> list[str]:
    """Return the words that start a container; they go on as its first process. `root`: an empty folder.

    `network_of` is a process whose network namespace it gets; without one it keeps the caller's: the node's.
    """
    enter = [] if network_of is None else ["nsenter", f"--net=/proc/{network_of}/ns/net"]
    # The forked process ends with its parent, so that who ends the parent has ended the container.
    spaces = ["--mount", "--ipc", "--uts", *(() if host_pid else ("--pid",)), "--fork", "--kill-child=KILL"]
    script = "\n".join(_script(container, root, image, volumes))
    return [*enter, "unshare", *spaces, "sh", "-euc", script]


def _script(container: ContainerSpec, root: Path, image: Image, volumes: Sequence[Bound]) -> Iterator[str]:
    yield f"hostname {shlex.quote(container.env['HOSTNAME'])}"
    yield "mount --make-rprivate /"
    yield f"cd {shlex.quote(str(root))}"
    yield "mount -t tmpfs -o mode=755 root ."
    yield f"cd {shlex.quote(str(root))}"  # what is mounted there now
    yield "mkdir -p proc sys dev tmp run etc usr var .old"
    yield "chmod 1777 tmp"
    yield f"for name in {' '.join(MERGED)}; do [ -e /$name ] && ln -s usr/$name $name || true; done"
    for file in ("passwd", "group", "nsswitch.conf", "ld.so.cache", "alternatives", "ssl"):
        yield f"[ -e /etc/{file} ] && cp -a /etc/{file} etc/ || true"
    for folder in (Path("/usr"), *image.folders):
        yield from _bind(Bound(folder, str(folder), read_only=True))
    yield from _kernel(privileged=container.privileged)
    for volume in volumes:
        yield from _bind(volume)
    if container.read_only_root:
        yield "mount -o remount,ro root ."
    yield "pivot_root . .old"
    inside = f"umount -l /.old; exec {shlex.join(_privileges(container, image))}"
    yield f"exec chroot . sh -euc {shlex.quote(inside)}"


def _bind(one: Bound) -> Iterator[str]:
    source, target = shlex.quote(str(one.source)), shlex.quote(f".{one.target}")
    if one.is_file:
        yield f"mkdir -p $(dirname {target}); : >>{target}"
    else:
        yield f"mkdir -p {target}"
    yield f"mount --bind {source} {target}"
    if one.read_only:
        yield f"mount -o remount,bind,ro {target}"


def _kernel(*, privileged: bool) -> Iterator[str]:
    """Yield what mounts the kernel's own file systems."""
    yield "mount -t proc -o nosuid,nodev,noexec proc proc"
    yield f"mount -t sysfs -o nosuid,nodev,noexec{'' if privileged else ',ro'} sysfs sys"
    yield "mount -t tmpfs -o mode=755,nosuid,noexec dev dev"
    for name, numbers in DEVICES.items():
        yield f"mknod -m 666 dev/{name} c {numbers}"
    yield "ln -s /proc/self/fd dev/fd; ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr"
    yield "mkdir -p dev/shm; mount -t tmpfs -o mode=1777,nosuid,nodev,noexec shm dev/shm"
    if privileged:
        return
    for path in READ_ONLY_PROC:
        yield f"[ -e .{path} ] && mount --bind .{path} .{path} && mount -o remount,bind,ro .{path} || true"
    for path in MASKED:
        yield f"if [ -d .{path} ]; then mount -t tmpfs -o ro masked .{path}; fi"
        yield f"if [ -f .{path} ]; then mount --bind dev/null .{path}; fi"


def _privileges(container: ContainerSpec, image: Image) -> list[str]:
    """Return the words that give up what the container does not get, and become its command."""
    # A change of user takes back what --kill-child has set (prctl(2)): the container would outlive its kubelet.
    words = ["setpriv", "--pdeathsig=KILL", f"--reuid={container.uid}", f"--regid={container.gid}", "--clear-groups"]
    if not container.privileged:
        kept = ",".join(f"+{name.lower()}" for name in sorted(container.capabilities))
        words += [f"--bounding-set=-all{',' if kept else ''}{kept}", "--inh-caps=-all", "--ambient-caps=-all"]
    if container.no_new_privileges:
        words.append("--no-new-privs")
    variables: Mapping[str, str] = {"PATH": image.path, "HOME": "/root", "PYTHONUNBUFFERED": "1", **container.env}
    return [*words, "--", "env", "-i", *(f"{k}={v}" for k, v in variables.items()), *container.command]

"""The copied root on the host's disk: made beside the old one, proven, then put in its place by a rename.

    STATE/boot/root-<digest>    whole and proven; the digest is of its manifest, so that equal content is an equal name
    STATE/boot/new-…            one being made; removed by the next attempt if that was broken off

The proof runs the very command of the units in the new root, with this host's state as its working directory (systemd
mounts it, and the agent's container may mount nothing): interpreter, modules, libraries, nft and the state are tried.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.files import sync_folder
from linkseal.tunnels.boot.closure import Closure
from linkseal.tunnels.boot.unit import PATH, PROGRAM

FORMAT: Final = "linkseal boot root 1"
"""First line of a manifest: what is done with the same list is the same."""

DIGITS: Final = 16
"""Of the digest, in the name: 64 bits, against chance alone."""

ROOT, NEW = "root-", "new-"

SPARE: Final = 64 << 20
"""Bytes that must stay free on the host's disk beside a new root."""

_PROOF_SECONDS: Final = 120

_ENTER: Final = (
    "import os, sys; os.chroot(sys.argv[1]); os.execve(sys.argv[2], sys.argv[2:], dict(os.environ))"  # cwd stays
)


def folder_of(state: Path) -> Path:
    """Where the roots of a state directory are."""
    return state / "boot"


def manifest_of(closure: Closure) -> str:
    """Every file with its mode and the hash of its content, links, empty folders; in order. Raises OSError."""
    lines = [f"{file.mode:o} {_hash(file.source, file.data)} {path}" for path, file in closure.files.items()]
    lines += [f"link {target} {path}" for path, target in closure.links.items()]
    lines += [f"folder {path}" for path in closure.folders]
    return "\n".join([FORMAT, *sorted(lines)]) + "\n"


def name_of(manifest: str) -> str:
    """Return the name of the root that has this manifest."""
    return ROOT + hashlib.sha256(manifest.encode()).hexdigest()[:DIGITS]


def is_whole(root: Path, closure: Closure, manifest: str) -> bool:
    """Whether all that is to be in a root is there, and nothing else, but what Python compiled. Raises OSError."""
    if not root.is_dir() or root.is_symlink():
        return False
    found = Closure(closure.python, folders=set(closure.folders))
    for path, status in _walk(root):
        where = root / path
        if stat.S_ISLNK(status.st_mode):
            found.links[path] = str(where.readlink())
        elif not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return False
        else:
            found.copy(where, path)
            found.files[path] = found.files[path]._replace(mode=stat.S_IMODE(status.st_mode))
    return all((root / folder).is_dir() for folder in closure.folders) and manifest_of(found) == manifest


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield all that is no folder below a root, with its path from there; links are not followed."""
    for where, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in (*names, *(one for one in folders if os.path.islink(os.path.join(where, one)))):  # noqa: PTH114, PTH118
            path = Path(where, name)
            yield str(path.relative_to(root)), path.lstat()


def make(closure: Closure, manifest: str, state: Path) -> Path:
    """Make the root, prove it and put it in its place; returns it. Raises HostError: what was there is untouched."""
    folder = folder_of(state)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for left in folder.glob(f"{NEW}*"):
            shutil.rmtree(left)
        _require_space(folder, closure.size)
        new = folder / f"{NEW}{secrets.token_hex(4)}"
        try:
            _fill(new, closure)
            prove(new, closure.python, state)
            _sync(new)
            return _put(new, folder / name_of(manifest))
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise HostError(f"the boot root in {folder} cannot be made: {error}", errno=error.errno) from error


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise HostError(f"{folder} has {free >> 20} MiB free; the boot root needs {(size + SPARE) >> 20} MiB")


def _fill(new: Path, closure: Closure) -> None:
    new.mkdir(mode=0o755)
    for name in sorted(closure.folders | {str(Path(path).parent) for path in (*closure.files, *closure.links)}):
        (new / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    for path, target in closure.links.items():
        (new / path).symlink_to(target)
    for path, file in closure.files.items():
        where = new / path
        if file.source is None:
            where.write_bytes(file.data)
        else:
            shutil.copyfile(file.source, where)
        where.chmod(file.mode)


def prove(root: Path, python: str, state: Path) -> None:
    """Run in `root` what a boot will, up to where it would change the kernel. Raises HostError with its words."""
    command = [python, "-I", PROGRAM, "agent", "restore", "--check", "--state", "."]
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ENTER, os.fspath(root), *command],
            env={"PATH": PATH}, cwd=state, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_PROOF_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"the new boot root could not be tried: {error}") from None
    if done.returncode:
        words = " ".join(done.stderr.split())[-300:] or f"exit status {done.returncode}"
        raise HostError(f"the new boot root does not work, so the old one stays: {words}")


def _sync(folder: Path) -> None:
    """Have all that was written on this file system on disk. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def _put(new: Path, place: Path) -> Path:
    """Rename; one of the same name that is there is damaged, or it would not have been made anew."""
    if place.exists():
        place.rename(new.with_name(f"{NEW}{secrets.token_hex(4)}"))
    new.rename(place)
    sync_folder(place.parent)
    return place


def others(state: Path, kept: Path | None) -> list[Path]:
    """Return the roots of a state directory but this one, finished or not."""
    folder = folder_of(state)
    found = [one for one in folder.iterdir() if one.name.startswith((ROOT, NEW))] if folder.is_dir() else []
    return sorted(one for one in found if one != kept)


def _hash(source: Path | None, data: bytes) -> str:
    if source is None:
        return hashlib.sha256(data).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Files that survive a crash and secrets that only their owner can read. The one place of keys/ that touches a disk.

Every write is atomic and durable: a temporary file in the same folder, fsync, rename, fsync of the folder. A reader
sees the old content or the new, and a full disk leaves the old.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from linkseal.keys.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

PUBLIC: Final = 0o644
SECRET: Final = 0o600
FOLDER: Final = 0o700
_TEMPORARY: Final = ".tmp"
_MAX_FILE: Final = 1 << 20
"""Bytes: no file of a node's state comes near a mebibyte; a sparse giant in its place must not fill the memory."""


def atomic_write(path: Path, data: bytes, mode: int = PUBLIC) -> bool:
    """Put `data` into `path` with permissions `mode`; return whether anything was written.

    A file that holds just that is left alone: idle means no writes. Raises HostError; the old file is whole then.
    """
    if _holds(path, data, mode):
        return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        _write_through(temporary, data, mode)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise host_error(f"cannot write {path}", error) from None
    return True


def _holds(path: Path, data: bytes, mode: int) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        same = stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == mode and status.st_size == len(data)
        return same and file.read() == data


def _write_through(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)  # whatever the umask says
        file.write(data)
        file.flush()
        os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` survive a power cut. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_file(path: Path, *, secret: bool = False) -> bytes | None:
    """Return what `path` holds, None if it is absent; never follows a link in its place.

    `secret`: refuse a file that is not ours or that others can read or write. Raises HostError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise host_error(f"cannot read {path}", error) from None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE:
            raise HostError(f"{path} is no ordinary file of at most {_MAX_FILE} bytes: remove it")
        if secret:
            _check_private(path, status, SECRET)
        try:
            return file.read(_MAX_FILE)
        except OSError as error:
            raise host_error(f"cannot read {path}", error) from None


def private_folder(folder: Path) -> None:
    """Make `folder` with permissions 0700, or check that it is ours and nobody else's. Raises HostError.

    An empty one of ours is made so: kubelets and init systems make folders that all may read (hostPath: 0755).
    Temporary files that a crash left in it are removed: one may hold half a key.
    """
    try:
        folder.mkdir(mode=FOLDER, parents=True, exist_ok=True)
        status = folder.lstat()
        if status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode) and not any(folder.iterdir()):
            folder.chmod(FOLDER)
        _check_private(folder, folder.lstat(), FOLDER)
        for leftover in folder.glob(f".*{_TEMPORARY}"):
            leftover.unlink()
    except OSError as error:
        raise host_error(f"cannot use the folder {folder}", error) from None


def _check_private(path: Path, status: os.stat_result, mode: int) -> None:
    if status.st_uid != os.geteuid():
        raise HostError(
            f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}, who runs this: "
            f"`chown {os.geteuid()} {path}` if it is yours"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise HostError(
            f"{path} can be read or written by others (mode {stat.S_IMODE(status.st_mode):04o}): "
            f"`chmod {mode:o} {path}`, and raise a new generation if anybody may have read it"
        )


def erase_file(path: Path) -> None:
    """Overwrite a secret file with zeros and remove it; absent is fine. Raises HostError.

    Overwriting is all a program can do; a copy-on-write file system or a flash disk may keep the old blocks.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise host_error(f"cannot erase {path}", error) from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(bytes(os.fstat(fd).st_size))
            file.flush()
            os.fsync(fd)
        path.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise host_error(f"cannot erase {path}", error) from None


def host_error(what: str, error: OSError) -> HostError:
    """Return `error` as a HostError that carries its errno."""
    return HostError(f"{what}: {error.strerror or error}", errno=error.errno)

"""Reading and writing the files of a directory that others write too: no links, limited sizes, precise errors.

absent                                          None
a link, a folder, too large, not UTF-8          PeerError: somebody put it there
no permission, I/O error, stale NFS handle      DirectoryError: the directory is in trouble
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from linkseal.keys import codes
from linkseal.keys.errors import DirectoryError, HostError, PeerError
from linkseal.keys.files import PUBLIC, atomic_write
from linkseal.keys.values import is_node_name


class Stamp(NamedTuple):
    """By what a changed file is told without reading it."""

    modified: int
    """Nanoseconds."""
    size: int
    inode: int


def stamp(path: str) -> Stamp | None:
    """Return the stamp of a file (or of a link itself), None if it is absent. Raises DirectoryError."""
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - a Path for each of 10,000 costs more
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise trouble("read", path, error) from None
    return Stamp(found.st_mtime_ns, found.st_size, found.st_ino)


def read(path: str, limit: int, node: str) -> str | None:
    """Return the text of a file, None if it is absent. Raises PeerError (about `node`) and DirectoryError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PeerError(f"{path} is a link; it is not followed", code=codes.MALFORMED, node=node) from None
        raise trouble("read", path, error) from None
    try:
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise PeerError(f"{path} is no ordinary file", code=codes.MALFORMED, node=node)
            raw = file.read(limit + 1)
    except OSError as error:
        raise trouble("read", path, error) from None
    if len(raw) > limit:
        raise PeerError(f"{path} is larger than {limit} bytes", code=codes.TOO_LARGE, node=node)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise PeerError(f"{path} is not UTF-8", code=codes.MALFORMED, node=node) from None


def write(path: Path, text: str) -> bool:
    """Write a file that everybody may read, atomically; return False if it held just that. Raises DirectoryError."""
    try:
        return atomic_write(path, text.encode(), PUBLIC)
    except HostError as error:
        raise DirectoryError(str(error)) from error


def remove(path: Path) -> None:
    """Remove a file; absent is fine. Raises DirectoryError."""
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as error:
        raise trouble("remove", path, error) from None


def folders(path: Path) -> list[str]:
    """Return the names of the folders in `path`, sorted; links and hidden ones left out. Raises DirectoryError."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False))
    except OSError as error:
        raise trouble("read", path, error) from None


def node_folder(nodes: Path, node: str, *, make: bool = False) -> Path:
    """Return the folder of `node`. Raises DirectoryError if it is absent (and not to be made) or is a link."""
    if not is_node_name(node):  # also keeps us inside `nodes`
        raise DirectoryError(f"{node[:80]!r} is no node name")
    folder = nodes / node
    try:
        if make:
            folder.mkdir(exist_ok=True)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise DirectoryError(f"{folder} is no folder (links are not followed)")
    except FileNotFoundError:
        raise DirectoryError(f"{node} is not in the directory {nodes.parent}: removed, or not added yet") from None
    except OSError as error:
        raise trouble("use", folder, error) from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others who lock `folder` out. Raises DirectoryError."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        raise trouble("lock", folder, error) from None
    try:
        yield
    finally:
        os.close(fd)


def unsafe(path: Path) -> str | None:
    """Return why somebody else could replace what is in the folder `path`, None if nobody can."""
    try:
        found = path.stat()
    except OSError as error:
        raise trouble("read", path, error) from None
    if found.st_uid not in {0, os.geteuid()}:
        return f"{path} belongs to user {found.st_uid}: `chown root {path}`"
    if found.st_mode & stat.S_IWOTH:
        return f"{path} can be written by everybody: `chmod o-w {path}`"
    return None


def trouble(what: str, path: object, error: OSError) -> DirectoryError:
    """Return `error` as a DirectoryError."""
    reason = error.strerror or error
    return DirectoryError(f"cannot {what} {path}: {reason}; check that the directory is mounted and its permissions")

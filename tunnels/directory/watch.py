"""Waiting for changes of a folder of nodes: inotify where it works, looking every few seconds where it does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from asyncinotify import Event, Inotify, Mask

_LOG: Final = logging.getLogger("linkseal.directory")

POLL: Final = 5.0
"""Seconds between two looks where events cannot be had, or do not tell what other machines write (NFS)."""

SAFETY: Final = 60.0
"""Seconds after which to look again although no event came: the kernel drops events when its queue is full."""

QUIET: Final = 0.05
LONGEST: Final = 0.5
"""Seconds: a burst of changes is over after QUIET without one, and is not waited for longer than LONGEST."""

SHARED: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "virtiofs", "hostfs"})
"""File systems that others change without this kernel's knowledge; beside them everything by FUSE."""

_CHANGES: Final = Mask.CREATE | Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE
_LOST: Final = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED
_FOLDER: Final = _CHANGES | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR


class Watcher:
    """Watches ROOT, ROOT/nodes and every ROOT/nodes/NAME. `matters(node, file)` says which files count.

    `node` is "" for files of ROOT itself. Belongs to the event loop that waits first.
    """

    def __init__(self, root: Path, matters: Callable[[str, str], bool]) -> None:
        self._root = root
        self._nodes = root / "nodes"
        self._matters = matters
        self._changed = asyncio.Event()
        self._inotify: Inotify | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: tuple[object, ...] = ()
        self._interval = POLL

    async def wait(self, seconds: float) -> bool:
        """Return True when something that counts may have changed, False after `seconds` without."""
        if self._inotify is None and self._start():
            return True  # what changed before the watch began has had no event
        limit = min(seconds, self._interval)
        if not await self._event(limit):
            if self._inotify is not None and self._identity() != self._watched:
                self.close()  # another file system was mounted over it
            return limit < seconds or seconds >= self._interval
        end = asyncio.get_running_loop().time() + LONGEST
        self._changed.clear()
        while asyncio.get_running_loop().time() < end and await self._event(QUIET):
            self._changed.clear()
        return True

    def close(self) -> None:
        """Stop watching."""
        if self._inotify is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()
        self._inotify = self._loop = None
        self._interval = POLL

    def _start(self) -> bool:
        """Begin to watch; tell whether that worked. Tried again at every wait: the folder may not be there yet."""
        try:
            self._inotify = Inotify(sync_timeout=0)
            self._watched = self._identity()
            self._inotify.add_watch(self._root, _FOLDER)
            self._inotify.add_watch(self._nodes, _FOLDER)
            with os.scandir(self._nodes) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        self._watch_node(Path(entry.path))
        except OSError as error:  # no such folder, or no watches left (fs.inotify.max_user_watches)
            _LOG.debug("no inotify on %s (%s): looking every %g s", self._root, error.strerror, POLL)
            self.close()
            return False
        self._interval = POLL if is_shared(self._root) else SAFETY
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fd, self._take)
        return True

    def _identity(self) -> tuple[object, ...]:
        """Which folders these paths are now."""
        with contextlib.suppress(OSError):
            return tuple((found.st_dev, found.st_ino) for found in (self._root.stat(), self._nodes.stat()))
        return ()

    def _watch_node(self, folder: Path) -> None:
        assert self._inotify is not None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone again already
            self._inotify.add_watch(folder, _FOLDER | Mask.DONT_FOLLOW)

    async def _event(self, seconds: float) -> bool:
        """Wait for an event that counts; False after `seconds` without."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _take(self) -> None:
        """Take the events that are there; `Inotify.get` would lose some when a timeout cancels it."""
        while self._inotify is not None and (event := self._inotify.sync_get()) is not None:
            if self._counts(event):
                self._changed.set()

    def _counts(self, event: Event) -> bool:
        if Mask.Q_OVERFLOW in event.mask:
            return True
        folder = event.watch.path if event.watch is not None else None
        if folder is None or event.mask & _LOST:
            return self._lost(folder)
        name = str(event.name) if event.name is not None else ""
        if folder == self._root:
            return name == "nodes" or self._matters("", name)
        if folder == self._nodes:
            if name.startswith("."):
                return False
            if event.mask & (Mask.CREATE | Mask.MOVED_TO):
                self._add(folder / name)
            return True
        return self._matters(folder.name, name)

    def _add(self, folder: Path) -> None:
        try:
            self._watch_node(folder)
        except OSError as error:
            _LOG.debug("no inotify on %s (%s): looking every %g s", folder, error.strerror, POLL)
            self._interval = POLL

    def _lost(self, folder: Path | None) -> bool:
        """A folder went away: of a node, its parent's event tells; the root or `nodes`, begin anew."""
        if folder in {self._root, self._nodes}:
            self.close()
            return True
        return False


def is_shared(path: Path) -> bool:
    """Tell whether other machines can change `path` without an event here, by the type of its file system."""
    try:
        resolved = str(path.resolve())
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return True
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind in SHARED or kind.startswith("fuse")

"""What the nodes of a file directory report, read again only where it changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from linkseal.keys.errors import PeerError
from linkseal.tunnels.directory.access import Stamp, read, stamp
from linkseal.tunnels.directory.files import NODES, STATUS
from linkseal.tunnels.status import MAX_REPORT, NodeEncryption, parse_report


class Reports:
    """The reports in one directory."""

    def __init__(self, directory: Path) -> None:
        self._nodes = directory / NODES
        self._known: dict[str, tuple[Stamp, NodeEncryption | None]] = {}

    def of(self, names: Iterable[str]) -> dict[str, NodeEncryption | None]:
        """Return the reports of these nodes, None where there is none that can be read. Raises DirectoryError."""
        return {name: self._of(name) for name in names}

    def _of(self, name: str) -> NodeEncryption | None:
        path = f"{self._nodes}/{name}/{STATUS}"
        found = stamp(path)
        if found is None:
            self._known.pop(name, None)
            return None
        known = self._known.get(name)
        if known is None or known[0] != found:  # agents rename a new file into place: its inode tells
            known = self._known[name] = (found, _read(path, name))
        return known[1]


def _read(path: str, name: str) -> NodeEncryption | None:
    try:
        text = read(path, MAX_REPORT, name)
        return None if text is None else parse_report(text, name)
    except PeerError:
        return None

"""Faults of the directory where nodes find each other: away, emptied, rolled back, written to by somebody else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import HostError
from linkseal.keys.files import PUBLIC, atomic_write
from linkseal.tunnels.directory.files import ANNOUNCEMENT, NODES, unwrap_announcement, wrap_announcement
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import STATUS, Fault, Faults
from linkseal.tunnels.lab.lab import Lab


def _kept(lab: Lab) -> Path:
    return lab.directory.with_name("directory.kept")


def _away(lab: Lab, _: Node) -> str:
    if _kept(lab).exists():
        raise HostError("the directory is away already: directory-back brings it back")
    lab.directory.rename(_kept(lab))
    return "the directory cannot be read: it is not there"


def _wipe(lab: Lab, node: Node) -> str:
    _away(lab, node)
    (lab.directory / NODES).mkdir(parents=True)
    return "the directory is empty"


def _back(lab: Lab, _: Node) -> str:
    if not _kept(lab).exists():
        raise HostError("the directory is where it belongs")
    _replace(lab, _kept(lab))
    return "the directory is back, as it was"


def _rollback(lab: Lab, node: Node) -> str:
    """Put back a copy that is older than the node's newest generation."""
    copy = lab.directory.with_name("directory.older")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(lab.directory, copy)
    number = lab.ask(node, "rotate")["generation"]
    before = _announced(lab, node)
    lab.wait(lambda: _announced(lab, node) != before, f"generation {number} announced")
    _replace(lab, copy)
    return f"the directory is an older copy, from before {node.name} announced generation {number}"


def _replace(lab: Lab, copy: Path) -> None:
    """Put another folder in the directory's place, as somebody who mounts another one does."""
    aside = lab.directory.with_name("directory.aside")
    shutil.rmtree(aside, ignore_errors=True)
    if lab.directory.exists():
        lab.directory.rename(aside)
    copy.rename(lab.directory)
    shutil.rmtree(aside, ignore_errors=True)


def _file(lab: Lab, node: Node) -> Path:
    return lab.directory / NODES / node.name / ANNOUNCEMENT


def _announced(lab: Lab, node: Node) -> SignedAnnouncement:
    try:
        return unwrap_announcement(_file(lab, node).read_text(encoding="utf-8"), node=node.name)
    except OSError as error:
        raise HostError(f"{node.name} has announced nothing: {error.strerror}") from None


def _other(lab: Lab, node: Node) -> Node:
    return next(other for other in lab.cluster if other is not node)


def _forged(lab: Lab, node: Node) -> str:
    """Let a node announce another's key, under a signature of its own that does not fit."""
    own, other = _announced(lab, node), _other(lab, node)
    said = json.loads(own.text) | {"generations": json.loads(_announced(lab, other).text)["generations"]}
    said["serial"] += 1
    _put(lab, node, SignedAnnouncement(json.dumps(said), own.signature, own.certificate))
    return f"{node.name} is said to announce the key of {other.name}; the signature is another text's"


def _unsigned(lab: Lab, node: Node) -> str:
    own = _announced(lab, node)
    signature = _announced(lab, _other(lab, node)).signature
    _put(lab, node, SignedAnnouncement(own.text, signature, own.certificate))
    return f"the announcement of {node.name} is as it was, under somebody else's signature"


def _copied(lab: Lab, node: Node) -> str:
    other = _other(lab, node)
    _put(lab, node, _announced(lab, other))
    return f"the announcement of {other.name}, whole and well signed, is in the folder of {node.name}"


def _put(lab: Lab, node: Node, signed: SignedAnnouncement) -> None:
    atomic_write(_file(lab, node), wrap_announcement(signed).encode(), PUBLIC)


_LASTS: Final = f"nobody is forgotten: {STATUS}"
_AGAIN: Final = f"the others refuse it and keep what they had; the node publishes again: {STATUS}"

DIRECTORY: Final[Faults] = {
    "directory-away": Fault(_away, "take the directory away", _LASTS, "directory-back"),
    "directory-wipe": Fault(_wipe, "empty the directory", _LASTS, "directory-back"),
    "directory-back": Fault(_back, "undo directory-away and directory-wipe", STATUS),
    "directory-rollback": Fault(_rollback, "roll the directory back to before a node's newest generation", _AGAIN),
    "forged": Fault(_forged, "let a node announce another's key under a signature that does not fit", _AGAIN),
    "unsigned": Fault(_unsigned, "put another's signature under a node's announcement", _AGAIN),
    "copied": Fault(_copied, "put another's whole announcement into a node's folder", _AGAIN),
}

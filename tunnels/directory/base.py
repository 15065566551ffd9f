"""What every directory can do: the cluster API, or a folder of files. Nodes find each other in it.

A directory is not trusted: what counts is signed. It must not lie about deletions by accident, though, so a node is
confirmed gone only after `Absences` has seen it missing twice from a directory that was itself sound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import PeerError
from linkseal.keys.policydoc import SignedPolicy
from linkseal.tunnels.register import Finding, Snapshot
from linkseal.tunnels.status import NodeEncryption, Request, parse_report

CONFIRM_AFTER: Final = 2.0
"""Seconds between two snapshots that both miss a node, before it is confirmed gone."""

MAX_NODES: Final = 10_000
"""Nodes of one directory; more are refused as a whole, since leaving some out would look like deletions."""


Failed = Callable[[Exception], None]
"""Is told of a write that takes long and fails after all; in the event loop."""


def unheard(_: Exception) -> None:
    """For who does not want to know."""


@dataclass(frozen=True, slots=True)
class DirectoryView:
    """What the directory says at one moment to one node.

    `policy`: as signed, not verified yet; None: there is none that could be. `ca_bundle`: PEM text, not trusted yet.
    `requests`: what is asked of the node. `findings`: what could not be read, beside what the register finds.
    """

    snapshot: Snapshot
    policy: SignedPolicy | None
    ca_bundle: str
    requests: tuple[Request, ...] = ()
    findings: tuple[Finding, ...] = ()
    cross_certificates: str = ""
    """PEM text: what CAs say of other CAs."""
    uid: str | None = None
    """By which the directory knows the node; None: it has no say in that."""
    registered: float | None = None
    """Since when it knows the node, Unix seconds by its own clock; None: it does not say."""


class Directory(Protocol):
    """Where nodes find each other. Every method raises DirectoryError when it cannot be reached, read or written."""

    async def view(self, node: str, known: Collection[str] = ()) -> DirectoryView:
        """Return what is there, for `node`. `known`: names the caller knows, whose deletion it wants to be told."""

    async def wait_for_change(self, seconds: float) -> bool:
        """Return True as soon as another `view` may differ, False after `seconds` without a change."""

    async def publish(self, node: str, signed: SignedAnnouncement, failed: Failed = unheard) -> None:
        """Put the node's announcement there; one that is there already is not written again.

        A write that takes long goes on when this has returned; `failed` is told if it fails then.
        """

    async def request_certificate(self, node: str, csr: str) -> None:
        """Ask the signer to certify the node's identity key (PEM)."""

    async def certificate(self, node: str) -> str | None:
        """Return the certificate that the signer issued to the node (PEM), None while there is none."""

    async def publish_status(self, node: str, report: str, failed: Failed = unheard) -> None:
        """Put the node's report there (JSON text of `linkseal.tunnels.status.to_json`); `failed`: as of `publish`."""

    async def status(self, node: str) -> str | None:
        """Return one node's report as published, None while there is none."""

    async def statuses(self) -> Mapping[str, str]:
        """Return every node's report as published; a node without one is missing, an unreadable one is empty text."""

    async def report(self, node: str) -> str | None:
        """Return one node's report as published, None while there is none, empty text if it cannot be read."""

    async def withdraw(self, node: str) -> None:
        """Take away what the node published. Peers keep what they accepted until the node itself is removed."""

    async def request(self, node: str, request: Request) -> None:
        """Ask something of the node's agent."""

    async def close(self) -> None:
        """Give back what watching needed."""


async def reports(directory: Directory) -> dict[str, NodeEncryption | None]:
    """Return every node's report, None where it cannot be read: the argument of `cluster_status`."""
    return {name: _report(text, name) for name, text in (await directory.statuses()).items()}


async def report_of(directory: Directory, node: str) -> NodeEncryption | None:
    """Return one node's report, None where there is none or it cannot be read. Raises DirectoryError."""
    text = await directory.report(node)
    return None if text is None else _report(text, node)


def _report(text: str, node: str) -> NodeEncryption | None:
    try:
        return parse_report(text, node)
    except PeerError:
        return None


class Absences:
    """Which nodes are gone, and not merely out of sight: a directory can be wiped, rolled back or unmounted. No I/O."""

    def __init__(self) -> None:
        self._cluster_uid = ""
        self._seen: dict[str, None] = {}
        self._missing: dict[str, float] = {}

    def see(self, cluster_uid: str, present: Collection[str], known: Iterable[str], now: float) -> frozenset[str]:
        """Take in a sound snapshot; return the names that are confirmed gone. `now`: monotonic seconds.

        Only names seen before, or `known` to the caller, can be gone.
        """
        if cluster_uid != self._cluster_uid:  # another cluster's directory says nothing about our nodes
            self._cluster_uid, self._seen, self._missing = cluster_uid, {}, {}
        self._seen.update(dict.fromkeys(present))
        for name in list(self._seen)[: max(0, len(self._seen) - 2 * MAX_NODES)]:
            del self._seen[name]
        missing = {name for name in (*self._seen, *known) if name not in present}
        self._missing = {name: self._missing.get(name, now) for name in missing}
        return frozenset(name for name, since in self._missing.items() if now - since >= CONFIRM_AFTER)

    def unsound(self) -> None:
        """Take in that the directory could not be read: what was missing before proves nothing any more."""
        self._missing = {}

    def due(self, now: float) -> float | None:
        """Return in how many seconds another snapshot can confirm something, None if nothing is waiting for it."""
        waiting = [since + CONFIRM_AFTER - now for since in self._missing.values() if now - since < CONFIRM_AFTER]
        return max(0.0, min(waiting)) if waiting else None

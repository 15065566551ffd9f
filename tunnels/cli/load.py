"""What the directory says, read once: reports, policy and grants, as `status` and `links` need them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from linkseal.keys import grant as grants
from linkseal.keys import policydoc
from linkseal.keys.errors import ConfigError, PeerError
from linkseal.tunnels.cli.output import clean, note
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.cluster import ClusterStatus, cluster_status
from linkseal.tunnels.directory.base import Directory, DirectoryView, reports
from linkseal.tunnels.policy import Policy, read_signed
from linkseal.tunnels.register import NodeDocuments
from linkseal.tunnels.status import NodeEncryption
from linkseal.tunnels.statustypes import format_time

MAX_NOTES: Final = 10
"""Files of the directory that cannot be read, said on stderr."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster at one moment; `now` in Unix seconds."""

    status: ClusterStatus
    policy: Policy
    now: float

    @property
    def taken_at(self) -> str:
        """The moment as RFC 3339."""
        return format_time(self.now)

    def require(self, node: str | None) -> None:
        """Raise ConfigError if `node` is named and not known."""
        names = [summary.name for summary in self.status.nodes]
        if node is not None and node not in names:
            known = ", ".join(names[:20]) or "none"
            raise ConfigError(f"there is no node {node[:80]!r} in the directory; known: {known}")


def look(session: Session) -> Seen:
    """Read the directory now. Raises ConfigError, DirectoryError."""
    view, found = session.with_directory(_read)
    for finding in view.findings[:MAX_NOTES]:
        note(f"warning: {finding.code}: {clean(finding.message)}")
    policy = policy_of(view)
    return judge(found, policy, view.snapshot.nodes, time.time())


def policy_of(view: DirectoryView) -> Policy:
    """Return the policy that the directory holds; signatures are the agents' matter. Raises ConfigError."""
    if view.policy is None:
        raise ConfigError("the directory holds no signed policy: run `linkseal controller run`, which writes it")
    try:
        spec = policydoc.parse(view.policy.text).spec
    except PeerError as error:
        raise ConfigError(f"{error}; the controller writes it anew") from None
    policy, strange = read_signed(spec, "the cluster's policy")
    if strange:
        note(f"warning: the cluster's policy says more than this version knows: {clean(', '.join(strange))}")
    return policy


async def _read(directory: Directory) -> tuple[DirectoryView, dict[str, NodeEncryption | None]]:
    return await directory.view(""), await reports(directory)


def judge(
    found: Mapping[str, NodeEncryption | None], policy: Policy, documents: Mapping[str, NodeDocuments], now: float
) -> Seen:
    """Return what the reports say of the nodes that have documents in the directory. Pure."""
    opted_out = {name for name, entry in documents.items() if _opted_out(name, entry)}
    nodes = set(found) | set(documents)
    return Seen(cluster_status(found, policy, now, nodes=nodes, opted_out=opted_out), policy, now)


def _opted_out(name: str, documents: NodeDocuments) -> bool:
    """Whether a node's grant takes it out of scope; signatures are the agents' matter, what they refuse they report."""
    if documents.grant is None:
        return False
    try:
        return grants.parse(documents.grant.text, node=name).opted_out
    except PeerError:
        return False

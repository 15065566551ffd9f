"""What the directory says, read once: reports, policy and grants, as `status` and `links` need them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from linkseal.keys import grant as grants
from linkseal.keys import policydoc
from linkseal.keys.errors import ConfigError, DirectoryError, PeerError
from linkseal.tunnels import codes
from linkseal.tunnels.cli.output import clean, note
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.cluster import ClusterStatus, cluster_status
from linkseal.tunnels.directory.base import Directory, DirectoryView, reports
from linkseal.tunnels.policy import Policy, read_signed
from linkseal.tunnels.register import NodeDocuments
from linkseal.tunnels.status import NodeEncryption
from linkseal.tunnels.statustypes import format_time

TOLD: Final = ("Accepted", "Reached", "Granted", "Bounded", "CASteady")
"""Conditions that are shown; whether links are sealed is counted here anew."""

MAX_NOTES: Final = 10
"""Files of the directory that cannot be read, said on stderr."""


class Said(NamedTuple):
    """A condition of the ClusterEncryption that is not True."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster at one moment; `now` in Unix seconds."""

    status: ClusterStatus
    policy: Policy
    now: float
    said: tuple[Said, ...] = ()
    """What the controller of a Kubernetes cluster says is not as it should be."""

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
    return with_said(judge(found, policy, view.snapshot.nodes, time.time()), _said(session))


def _said(session: Session) -> tuple[Said, ...]:
    access = session.cluster()
    if access is None:
        return ()
    from linkseal.tunnels.controller import clusterlook  # noqa: PLC0415 - needs what only linkseal[kubernetes] has

    try:
        found = asyncio.run(clusterlook.conditions(access))
    except DirectoryError as error:
        if str(error) not in session.told:
            session.told.add(str(error))
            note(f"warning: what the controller says is not known: {error}")
        return (Said("Granted", "Unknown", f"that is not known: {error}"),)
    return tuple(
        Said(str(one.get("type")), str(one.get("reason", "")), clean(str(one.get("message", ""))))
        for one in found
        if one.get("status") == "False" and one.get("type") in TOLD
    )


def with_said(seen: Seen, said: tuple[Said, ...]) -> Seen:
    """Return it with what the controller says: what is in no grant is not encrypted, whatever links report. Pure."""
    lacking = tuple(f"not all is granted: {one.message}" for one in said if one.type == "Granted")
    status = seen.status
    if lacking:
        status = replace(status, everything_sealed=False, reasons=(*status.reasons, *lacking))
    return replace(seen, status=status, said=said)


def policy_of(view: DirectoryView) -> Policy:
    """Return the policy that the directory holds; signatures are the agents' matter. Raises ConfigError."""
    if view.policy is None:
        for finding in view.findings:
            if finding.code == codes.POLICY_UNSIGNED:
                raise ConfigError(
                    f"{clean(finding.message)}: nothing is asked for yet (`linkseal enable --to prepare`), the "
                    "controller has not signed it (see its pods), or it runs in another namespace (--namespace)"
                )
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

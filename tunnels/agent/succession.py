"""A cluster that goes on from another: the store of the API server was lost, the CA was not, and the nodes run on.

The word is a policy that a CA trusted here signed for the new cluster, and that names this node's as a former one.
Then the node belongs to the new one: the same keys, peers and data path, the UID that the new cluster gave it, and
another certificate. Peers stay as the former cluster knew them until each has announced itself in the new one
(`linkseal.tunnels.acceptance`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from linkseal.keys import policydoc
from linkseal.keys.ca import Trust
from linkseal.keys.errors import ConfigError, PeerError
from linkseal.keys.policydoc import SignedPolicy
from linkseal.keys.store import KeyStore
from linkseal.tunnels import codes
from linkseal.tunnels.agent.pinned import pinned
from linkseal.tunnels.agent.state import KnownGood, SavedCluster
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy, changes, read_signed
from linkseal.tunnels.register import Finding
from linkseal.tunnels.world import STAGES

_LOG: Final = logging.getLogger("linkseal.agent")


@dataclass(frozen=True, slots=True)
class Present:
    """What a node stands by: its cluster, whom it trusts, the policy in force and when that was signed."""

    node: str
    cluster: str
    trust: Trust
    policy: Policy
    issued: datetime


@dataclass(frozen=True, slots=True)
class Succession:
    """The cluster that goes on from a node's own. `uid`: the node's there; None: the directory has no say in that."""

    cluster: str
    policy: SignedPolicy
    uid: str | None


def successor(view: DirectoryView, present: Present) -> Succession | Finding | None:
    """Return what the directory of another cluster is to this node: its successor, one that cannot be, or nothing."""
    offered, cluster = view.policy, view.snapshot.cluster_uid
    if offered is None or not cluster:
        return None
    try:
        document = policydoc.verify(offered, present.trust, cluster=cluster)
        policy, _ = read_signed(document.spec)
    except (PeerError, ConfigError):
        return None  # a stranger's, or none that this version can read: LS1023 says that nothing is taken from it
    if present.cluster not in policy.former_clusters:
        return None
    if document.issued <= present.issued:
        words = "was signed before the policy in force here: see to the controller's clock"
    elif wrong := _unfit(policy, present):
        words = wrong
    elif present.node not in view.snapshot.nodes:
        return None  # its kubelet has not registered it there yet
    else:
        return Succession(cluster, offered, view.uid)
    message = f"cluster {cluster} goes on from this one, and its policy {words}"
    return Finding(codes.POLICY_REFUSED, HOST_SUBJECT, message)


def _unfit(policy: Policy, present: Present) -> str:
    """Return why a policy cannot take the present one's place, empty if it can: no stage falls, no number changes."""
    stage, own = policy.stage_of(present.node), present.policy.stage_of(present.node)
    if STAGES.index(stage) < STAGES.index(own):
        return (
            f"has this node at stage {stage.value}, where it is at {own.value}: take formerClusters out of the spec, "
            f"and set it once more together with `stage: {own.value}`"
        )
    if own is not Stage.OFF and pinned(policy) != pinned(present.policy):
        return f"changes {changes(pinned(present.policy), pinned(policy))}, which stays as it is until stage off"
    return ""


def cross(state: Path, node: str, found: Succession, uids: Collection[str]) -> None:
    """Have the state directory belong to the new cluster. Raises HostError; whatever is written, it can be done again.

    `uids`: of all nodes as the cluster before knew them.
    """
    store, known = KeyStore(state), KnownGood(state)
    owner = store.owner()
    known.save_former(frozenset({*uids, *known.former()}))
    store.move(node, found.uid or ("" if owner is None else owner.uid), found.cluster)
    known.save_cluster(SavedCluster(found.cluster, found.policy))
    _LOG.info("this node belongs to cluster %s now, which goes on from the one before", found.cluster)

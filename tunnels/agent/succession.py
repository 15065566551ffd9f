"""A cluster that goes on from another: the store of the API server was lost, the CA was not, and the nodes run on.

The word is a policy that a CA trusted here signed for the new cluster, and that names this node's as a former one.
Then the node belongs to the new one: the same keys, peers and data path, the UID that the new cluster gave it, and
another certificate. Peers stay as the former cluster knew them until each has announced itself in the new one
(`linkseal.tunnels.acceptance`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from linkseal.keys import grant as grants
from linkseal.keys import policydoc
from linkseal.keys.ca import Trust
from linkseal.keys.errors import ConfigError, PeerError
from linkseal.keys.policydoc import SignedPolicy
from linkseal.keys.store import KeyStore
from linkseal.tunnels import codes
from linkseal.tunnels.agent.state import KnownGood, SavedCluster, SavedFormer
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy, changes, read_signed, standing
from linkseal.tunnels.register import Finding, Register
from linkseal.tunnels.stages import Position
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
    peers: frozenset[str] = frozenset()
    """Names of the other nodes."""
    index: int | None = None
    """The node's own, of which its probe addresses are made; None: it was never granted one."""


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
    elif present.index is not None and _index_there(view, present) != present.index:
        words = (
            f"does not count until the cluster has granted {present.node} the index {present.index} there too: others "
            "know its probe addresses by that"
        )
    else:
        return Succession(cluster, offered, view.uid)
    message = f"cluster {cluster} goes on from this one, and its policy {words}"
    return Finding(codes.POLICY_REFUSED, HOST_SUBJECT, message)


def _index_there(view: DirectoryView, present: Present) -> int | None:
    """Return the index that this node is granted in the other directory, None if it is granted none yet."""
    signed = view.snapshot.nodes[present.node].grant
    try:
        grant = None if signed is None else grants.verify(signed, present.trust, node=present.node)
    except PeerError:
        return None
    return None if grant is None or (view.uid is not None and grant.uid != view.uid) else grant.index


def _unfit(policy: Policy, present: Present) -> str:
    """Return why a policy cannot take the present one's place, empty if it can: no stage falls, no number changes."""
    stages = policy.stage_of(present.node), present.policy.stage_of(present.node)
    if _below(*stages):
        return _falls("this node", *stages)
    there, here = (Position(one.stage, one.pool) for one in (policy, present.policy))
    for peer in sorted(present.peers):
        new, old = there.between(present.node, peer), here.between(present.node, peer)
        if _below(new, old):
            return _falls(f"the traffic with {peer}", new, old)
    ours, theirs = standing(present.policy), standing(policy)
    if stages[1] is not Stage.OFF and ours != theirs:
        return f"changes {changes(ours, theirs)}, which stays as it is until stage off: say in the spec what was there"
    lost = sorted(set(present.policy.protected_cidrs) - set(policy.protected_cidrs))
    return f"leaves {', '.join(lost)} out of protectedCIDRs: say in the spec what was there" if lost else ""


def _below(new: Stage, old: Stage) -> bool:
    return STAGES.index(new) < STAGES.index(old)


def _falls(what: str, new: Stage, old: Stage) -> str:
    return f"has {what} at stage {new.value}, where it is at {old.value}: raise it in the spec"


def cross(state: Path, node: str, found: Succession, register: Register) -> None:
    """Have the state directory belong to the new cluster. Raises HostError; whatever is written, it can be done again.

    `register`: what the cluster before had accepted.
    """
    store, known = KeyStore(state), KnownGood(state)
    owner, before = store.owner(), known.former()
    me = register.peers.get(node)
    # Where the directory has no say in UIDs they stay, and nobody can tell by them what was before.
    uids = {peer.uid for peer in register.peers.values()} if found.uid is not None else set()
    uids |= set() if before is None else before.uids
    former = SavedFormer(register.cluster_uid, 0 if me is None else me.grant.index, frozenset(uids))
    known.save_former(former)
    store.move(node, found.uid or ("" if owner is None else owner.uid), found.cluster)
    known.save_cluster(SavedCluster(found.cluster, found.policy))
    _LOG.info("this node belongs to cluster %s now, which goes on from the one before", found.cluster)

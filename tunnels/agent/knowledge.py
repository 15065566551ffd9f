"""What this node knows of the cluster: trusted CA, register, policy; and its last known good on disk.

The directory's view comes in, findings and the changed names come out. What is refused leaves the last
good in place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from linkseal.keys import codes as documents
from linkseal.keys import policydoc
from linkseal.keys.ca import Trust
from linkseal.keys.errors import ConfigError, HostError, PeerError
from linkseal.keys.grant import Grant
from linkseal.keys.policydoc import PolicyDocument, SignedPolicy
from linkseal.tunnels import codes
from linkseal.tunnels.agent.anchors import Anchors
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.pinned import pinned
from linkseal.tunnels.agent.registration import begin_again, registered_again
from linkseal.tunnels.agent.state import KnownGood, SavedCluster, SavedFormer
from linkseal.tunnels.agent.succession import Present, Succession, cross, successor
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy, changes, read_signed
from linkseal.tunnels.register import Finding, Peer, Register
from linkseal.tunnels.statusparts import FormerStatus

_LOG: Final = logging.getLogger(__name__)

DOCUMENT_CODES: Final = frozenset(
    value for name, value in vars(documents).items() if name.isupper() and str(value).startswith("LS1")
)
"""All codes the register can raise."""

POLICY_CODES: Final = frozenset(
    {codes.POLICY_REFUSED, codes.POLICY_OLDER, codes.POLICY_UNSIGNED, documents.UNKNOWN_FORMAT}
)

LEARNT_CODES: Final = (
    DOCUMENT_CODES | POLICY_CODES | {codes.POLICY_NEWER, codes.DIRECTORY_UNREADABLE, codes.DIRECTORY_PERMISSIONS}
)
"""And those the directory adds about single nodes' files, its policy and its own folder (`DirectoryView.findings`)."""

_CLUSTER: Final = ""
"""Stands for the cluster's UID and policy among the names of nodes that are to be saved."""


class Knowledge:
    """Owned by the worker's thread."""

    def __init__(self, node: str, keyring: Keyring, known: KnownGood, findings: ActiveFindings) -> None:
        self.node = node
        self.policy: Policy | None = None
        self.register: Register | None = None
        self.anchors = Anchors(keyring)
        self._keyring = keyring
        self._known = known
        self._findings = findings
        self.policy_serial = 0
        """Of the policy in force; 0: none is."""
        self._issued: datetime | None = None
        """When the policy in force was signed."""
        self.registered: float | None = None
        """When the directory came to know this node, Unix seconds; None: it has not said."""
        self.held = False
        """Whether a running agent stands on the policy's numbers (`pinned`), so that they must stay."""
        self.outgrown = False
        """Whether a policy came with other numbers that are for an agent begun anew."""
        self.succession: Succession | None = None
        """The cluster that goes on from this one, if this node can come over to it now."""
        self.new_uid: str | None = None
        """That of this node now, if it was deleted and registered again."""
        self.crossed = False
        """Whether the disk is that of a node of the other cluster, or of another UID: an agent begun anew is one."""
        self.deferred = False
        """Whether what is learnt is not written down yet: by the disk one knows what to remove."""
        self._passed = 0
        """Serial of the newest policy that was seen and refused for its numbers."""
        self._signed: SignedPolicy | None = None
        self._judged: tuple[SignedPolicy, Trust] | None = None
        """The policy that was judged last, and by which CAs."""
        self._wrong: tuple[Finding, ...] = ()
        self._strange: tuple[str, ...] = ()
        """Fields of the policy in force that only a newer version knows."""
        self._unsaved: set[str] = set()
        self.abroad = False
        """Whether the directory was another cluster's when it was looked at last."""
        self._former: SavedFormer | None = None

    @property
    def trust(self) -> Trust | None:
        """The CAs by which what is new is judged, None before the first."""
        return self.anchors.trust

    @property
    def accepted(self) -> Mapping[str, Peer]:
        """All nodes that are accepted, none before the first."""
        return {} if self.register is None else self.register.peers

    @property
    def grant(self) -> Grant | None:
        """This node's own grant, None before the first."""
        peer = None if self.register is None else self.register.peers.get(self.node)
        return None if peer is None else peer.grant

    @property
    def is_off(self) -> bool:
        """Whether this node stands at stage off by the policy in force."""
        return self.policy is not None and self.policy.stage_of(self.node) is Stage.OFF

    @property
    def unsaved(self) -> bool:
        """Whether something that was learnt is not on disk yet; the next `learn` tries again."""
        return bool(self._unsaved or self.anchors.refused)

    @property
    def over(self) -> bool:
        """Whether what has been learnt is for an agent begun anew."""
        return self.outgrown or self.crossed

    def cross(self, state: Path, now: float) -> None:
        """Become a node of the cluster that goes on from this one, or the one registered again, if there is one.

        What the disk refuses is told.
        """
        if self.register is None or self.crossed:
            return
        try:
            if self.succession is not None:
                cross(state, self.node, self.succession, self.register)
            elif self.new_uid is not None:
                self._keyring.superseded = True
                begin_again(state, self.node, self.new_uid, datetime.fromtimestamp(now, UTC))
            else:
                return
            self.crossed = True
        except HostError as error:
            self.succession = self.new_uid = None
            self._unsaved.add(_CLUSTER)  # so that it is tried again
            self._findings.raise_(codes.STATE_NOT_SAVED, HOST_SUBJECT, str(error), now)

    def is_abroad(self, view: DirectoryView) -> bool:
        """Whether the directory is that of another cluster: nothing is taken from it, and nothing done for it."""
        register = self.register
        return register is not None and self.trust is not None and register.is_of_another(view.snapshot)

    def is_at_home(self, view: DirectoryView) -> bool:
        """Whether the directory knows this node by its UID: what it says and asks for is for that one."""
        return not self.is_abroad(view) and view.uid in (None, self._keyring.uid)

    def former(self) -> FormerStatus | None:
        """The cluster from which this node comes, or to which it belongs while the directory is another's."""
        if self.abroad and self.register is not None:
            return FormerStatus(self.register.cluster_uid, 0 if self.grant is None else self.grant.index, over=False)
        return None if self._former is None else FormerStatus(self._former.cluster, self._former.index, over=True)

    def published_serial(self) -> int:
        """The serial of this node's own announcement as accepted from the directory; 0: none."""
        peer = None if self.register is None else self.register.peers.get(self.node)
        return 0 if peer is None or peer.announcement is None else peer.announcement.serial

    def recall(self) -> None:
        """Take up what the disk knows: trust, policy, accepted documents."""
        self.anchors.recall()
        cluster = self._known.cluster()
        if cluster is None or self.trust is None:
            return
        ever = self.anchors.ever()
        self._former = self._known.former()
        former = frozenset[str]() if self._former is None else self._former.uids
        try:
            document = policydoc.verify(cluster.policy, ever, cluster=cluster.uid)
            self.policy, self._strange = read_signed(document.spec, "last known policy")
            self._signed, self.policy_serial, self._issued = cluster.policy, document.serial, document.issued
            self._passed = self._known.passed()
            self.anchors.told(document.authorities)
        except (ConfigError, PeerError) as error:
            _LOG.warning("the policy on disk cannot be used, so it is not known until the directory tells: %s", error)
        refresh = Register.from_known_good(self.node, cluster.uid, self._known.peers(), ever, former)
        self.register = refresh.register
        self._tell(refresh.findings, 0.0)

    def learn(self, view: DirectoryView, now: float) -> frozenset[str]:
        """Take in what the directory says; returns the names of nodes that changed."""
        self.abroad, self.succession, self.new_uid = self.is_abroad(view), None, None
        if self.abroad and self.register is not None and self.trust is not None:
            self._learn_of_another(view, self.register, self.trust, now)
            return frozenset()
        self.registered = view.registered if view.registered is not None else self.registered
        broken = self.anchors.offer(view.ca_bundle, view.cross_certificates)
        if self.trust is None:
            self._tell((*broken, *view.findings), now)
            return frozenset()
        if self.register is None:
            self.register = Register(self.node, view.snapshot.cluster_uid)
        wrong = self._learn_policy(view.policy, self.trust, self.register.cluster_uid or view.snapshot.cluster_uid)
        word = None if self.policy is None else self.policy.restored_at
        refresh = self.register.refresh(view.snapshot, self.trust, datetime.fromtimestamp(now, UTC), word)
        self.register = refresh.register
        waits = self._follow_registration(view, self.trust)
        self._tell((*refresh.findings, *view.findings, *broken, *wrong, *waits), now)
        self._save(refresh.changed, view, now)
        if self.unsaved:  # what is not on disk would be lost on the way
            self.new_uid = None
        return refresh.changed

    def _follow_registration(self, view: DirectoryView, trust: Trust) -> tuple[Finding, ...]:
        """Find out whether this node was registered again; returns what it waits for."""
        own = self._keyring
        if self.is_at_home(view):
            self.crossed = self.crossed or own.superseded  # and back: there may be half of another on the disk
            return ()
        self.new_uid = registered_again(view, self.node, own.uid, self.grant, trust)
        if self.new_uid is not None:
            return ()
        message = (
            f"the directory knows {self.node} by the UID {view.uid}, and by {own.uid} before: registered again, it "
            "waits for a grant for the new one"
        )
        return (Finding(documents.NO_GRANT, self.node, message),)

    def _learn_of_another(self, view: DirectoryView, register: Register, trust: Trust, now: float) -> None:
        """Take nothing from the directory of another cluster, but that it goes on from this one."""
        refresh = register.refresh(view.snapshot, trust, datetime.fromtimestamp(now, UTC))
        self.anchors.take_named(view.ca_bundle)
        found: Succession | Finding | None = None
        if self.policy is not None and self._issued is not None:
            found = successor(view, self._present(register, self.policy, self._issued, self.anchors.trust or trust))
        self.succession = found if isinstance(found, Succession) else None
        wrong = (*self.anchors.strangers(view.ca_bundle), *([found] if isinstance(found, Finding) else ()))
        self._tell((*refresh.findings, *wrong), now)
        self._save((), view, now)
        if self.unsaved:  # what is not on disk would be lost on the way
            self.succession = None

    def _present(self, register: Register, policy: Policy, issued: datetime, trust: Trust) -> Present:
        peers = frozenset(register.peers) - {self.node}
        index = None if self.grant is None else self.grant.index
        return Present(self.node, register.cluster_uid, trust, policy, issued, peers, index)

    def _learn_policy(self, offered: SignedPolicy | None, trust: Trust, cluster: str) -> tuple[Finding, ...]:
        """Take up a newer policy that a trusted CA signed for this cluster; returns what is wrong with another.

        One without signature is among the directory's own findings.
        """
        if offered is None or (self._signed is not None and offered.text == self._signed.text):
            self._wrong = ()
        elif self._judged != (offered, trust) or not self._wrong:  # what was refused once is not verified again
            self._wrong = self._take_policy(offered, trust, cluster)
            self._judged = (offered, trust)
        text = f"passed over, as only a newer version knows them: {', '.join(self._strange)}"
        return (*self._wrong, *([Finding(codes.POLICY_NEWER, HOST_SUBJECT, text)] if self._strange else ()))

    def _take_policy(self, offered: SignedPolicy, trust: Trust, cluster: str) -> tuple[Finding, ...]:
        try:
            document = policydoc.verify(offered, trust, cluster=cluster)
        except PeerError as error:
            code = error.code if error.code == documents.UNKNOWN_FORMAT else codes.POLICY_UNSIGNED
            return (Finding(code, HOST_SUBJECT, f"{error}; the last good one stays"),)
        if self._signed is not None and document.serial <= self.policy_serial:
            how = "has" if document.serial < self.policy_serial else "says something else and also has"
            message = f"the directory's policy {how} serial {document.serial}, in force is {self.policy_serial}"
            return (Finding(codes.POLICY_OLDER, HOST_SUBJECT, message),)
        try:
            policy, strange = read_signed(document.spec)
        except ConfigError as error:
            return (Finding(codes.POLICY_REFUSED, HOST_SUBJECT, f"policy refused, the last one stays: {error}"),)
        refused = self._unfit(document, policy)
        if refused is not None:
            return (refused,)
        if self.policy is not None and pinned(policy) != pinned(self.policy) and self._outgrown(self.policy, policy):
            return ()
        self.policy, self._signed, self.policy_serial = policy, offered, document.serial
        self._strange, self._issued = strange, document.issued
        self.anchors.told(document.authorities)
        return ()

    def _unfit(self, document: PolicyDocument, policy: Policy) -> Finding | None:
        """Return why a policy cannot succeed the one in force, None if it can, if only in an agent begun anew."""
        if not self._follows(document, policy):
            message = (
                f"policy {document.serial} follows {document.after}, and {self.policy_serial} is in force: whoever "
                "signed it does not know that one"
            )
            return Finding(codes.POLICY_OLDER, HOST_SUBJECT, message)
        if self.policy is None or pinned(policy) == pinned(self.policy):
            return None
        at_off = Stage.OFF in (self.policy.stage_of(self.node), policy.stage_of(self.node))
        if not at_off and not self._missed(document):
            self._passed = max(self._passed, document.serial)
            self._unsaved.add(_CLUSTER)
            message = (
                f"{changes(pinned(self.policy), pinned(policy))} changes only at stage off: `linkseal disable`, change "
                "it, and enable again"
            )
            return Finding(codes.POLICY_REFUSED, HOST_SUBJECT, message)
        return None

    def _missed(self, document: PolicyDocument) -> bool:
        """Whether there were policies between that this node never saw.

        Numbers change at stage off alone: it was away while the cluster went there, and nobody uses its own any more.
        """
        return document.after is not None and document.after > max(self.policy_serial, self._passed)

    def _outgrown(self, present: Policy, policy: Policy) -> bool:
        """Whether other numbers are for an agent begun anew. Is it to be off, it goes there with its own before."""
        self.outgrown = self.held or present.stage_of(self.node) is not Stage.OFF
        if self.outgrown and policy.stage_of(self.node) is Stage.OFF:
            self.leave()
        return self.outgrown

    def leave(self) -> None:
        """Stand at stage off by the numbers of the policy in force: another may have any others then."""
        if self.policy is not None:
            self.policy = replace(self.policy, stage=Stage.OFF, pool=None)

    def _follows(self, document: PolicyDocument, policy: Policy) -> bool:
        """Whether it succeeds what is in force, or the operator has said since that the directory is right as it is."""
        if document.after is None or document.after >= self.policy_serial or self._issued is None:
            return True
        return policy.restored_at is not None and policy.restored_at > self._issued

    def _tell(self, found: Iterable[Finding], now: float) -> None:
        current: dict[tuple[str, str], str] = {}
        for finding in found:
            key = (finding.code, finding.node)
            current[key] = f"{current[key]}; {finding.message}" if key in current else finding.message
        self._findings.replace(LEARNT_CODES, current, now)

    def write(self, view: DirectoryView, now: float) -> None:
        """Write down what was learnt while that was deferred."""
        self.deferred = False
        self._save((), view, now)

    def _save(self, changed: Iterable[str], view: DirectoryView, now: float) -> None:
        """Write what changed to disk (last known good), and what could not be written before."""
        register = self.register
        if register is None:
            return
        self._unsaved |= {_CLUSTER, *changed}
        if self.deferred:
            return
        refused = self.anchors.refused
        for name in sorted(self._unsaved):
            try:
                self._save_one(name, register, register.cluster_uid or view.snapshot.cluster_uid)
                self._unsaved.discard(name)
            except HostError as error:
                refused = refused or str(error)
        if refused:
            more = f" (and {len(self._unsaved) - 1} more)" if len(self._unsaved) > 1 else ""
            self._findings.raise_(codes.STATE_NOT_SAVED, HOST_SUBJECT, refused + more, now)
        else:
            self._findings.clear(codes.STATE_NOT_SAVED, HOST_SUBJECT)

    def _save_one(self, name: str, register: Register, cluster_uid: str) -> None:
        peer = register.peers.get(name)
        if name == _CLUSTER:
            self.anchors.save()  # before the policy that retired one: it does so once
            if self._signed is not None:
                self._known.save_cluster(SavedCluster(cluster_uid, self._signed))
            if self._passed:
                self._known.save_passed(self._passed)
        elif peer is None:
            self._known.forget_peer(name)
        else:
            self._known.save_peer(name, peer.documents)

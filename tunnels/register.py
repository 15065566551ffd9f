"""The register: what this node accepts of what the directory says, and why the rest is refused.

    Snapshot ──► judge each changed node ──► confirmed deletions ──► conflicts ──► Register, findings, changed names

It is a value: `refresh` returns the next one. A node whose documents are unchanged costs one comparison. It can
be rebuilt from the accepted documents on disk (`from_known_good`). No I/O; time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, NamedTuple

from linkseal.keys import codes
from linkseal.keys.announcement import Announcement
from linkseal.keys.ca import Trust
from linkseal.keys.grant import Grant
from linkseal.tunnels.acceptance import Entry, Finding, Memory, NodeDocuments, judge
from linkseal.tunnels.conflicts import Loss, resolve

__all__ = ["Finding", "NodeDocuments", "Peer", "Refresh", "Register", "Snapshot"]

HELD_FROM: Final = 3
HELD_SHARE_OF: Final = 10
"""Law 5: at least three deletions at once that are more than one in ten of the known peers are held."""
WORD_HOLDS: Final = timedelta(hours=1)
"""How long the operator's word counts that the directory is right as it is: later losses are another matter."""
WORD_AHEAD: Final = timedelta(minutes=5)
"""By which the clock of who gave it may be ahead."""
REMEMBERED_NODES: Final = 1024
"""Removed nodes whose serials are remembered, so that their old documents cannot come back."""
_NAMED: Final = 5
_UNSEEN: Final = NodeDocuments()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The directory at one moment. A node missing from `nodes` is silence unless it is in `confirmed_gone`.

    `cluster_uid` empty: the directory does not say. `rolled_back`: nodes that went with an older state of it, which
    was put back; whether they are gone nobody knows.
    """

    cluster_uid: str
    nodes: Mapping[str, NodeDocuments]
    confirmed_gone: frozenset[str] = frozenset()
    rolled_back: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Peer:
    """A node of the cluster (this one included), as accepted, without what it lost in conflicts.

    `announcement` None: no agent there, or none accepted. `documents`: the accepted ones as received, for the disk.
    """

    name: str
    uid: str
    grant: Grant
    announcement: Announcement | None
    documents: NodeDocuments


class Refresh(NamedTuple):
    """Outcome of a refresh. `changed`: names in `peers` that were added, removed or altered. Findings are sorted."""

    register: Register
    findings: tuple[Finding, ...]
    changed: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Register:
    """What is accepted. `me` is this node's name; `peers` holds every node with a grant, this one included."""

    me: str
    cluster_uid: str = ""
    peers: Mapping[str, Peer] = field(default_factory=dict)
    _entries: Mapping[str, Entry] = field(default_factory=dict, repr=False)
    _losses: Mapping[str, Loss] = field(default_factory=dict, repr=False)
    conflicts: tuple[Finding, ...] = ()
    former: frozenset[str] = frozenset()
    """UIDs that nodes had in the cluster from which this one goes on: see `linkseal.tunnels.acceptance`."""
    _gone: Mapping[str, Memory] = field(default_factory=dict, repr=False)
    held: frozenset[str] = frozenset()
    """Nodes that are gone and kept for their number alone: they keep from nobody what he was granted since."""
    _trust: Trust | None = field(default=None, repr=False)

    @classmethod
    def from_known_good(
        cls,
        me: str,
        cluster_uid: str,
        documents: Mapping[str, NodeDocuments],
        trust: Trust,
        former: frozenset[str] = frozenset(),
    ) -> Refresh:
        """Rebuild a register from accepted documents (`Peer.documents`); certificates may have expired since."""
        epoch = datetime.fromtimestamp(0, UTC)
        entries = {
            name: judge(name, found, Entry(_UNSEEN), trust, epoch, check_time=False)
            for name, found in documents.items()
        }
        findings = {finding for entry in entries.values() for finding in entry.refusals}
        accepted = {name: entry for name, entry in entries.items() if entry.grant is not None}
        register, changed = cls(me, cluster_uid, former=former, _trust=trust).settled(accepted)
        return Refresh(register, _sorted({*findings, *register.conflicts}), changed)

    def refresh(self, snapshot: Snapshot, trust: Trust, now: datetime, word: datetime | None = None) -> Refresh:
        """Return the register after `snapshot` was seen at `now`. Nothing in the snapshot makes it raise.

        `word`: when the operator said that the directory is right as it is (`Policy.restored_at`). Of the directory of
        another cluster nothing is taken (law 5): what that says of nodes is not about these.
        """
        if self.is_of_another(snapshot):
            found = {*self.conflicts, self._another(snapshot), *_lasting(self._entries, now)}
            return Refresh(self, _sorted(found), frozenset())
        entries, gone = dict(self._entries), dict(self._gone)
        touched = self._judge_changed(snapshot, trust, now, entries, gone)
        said = word is not None and -WORD_AHEAD <= now - word <= WORD_HOLDS
        deletions, held, many = self._deletions(snapshot, said=said)
        touched |= _remove(deletions, entries, gone) or many != self.held
        for name in [n for n, e in entries.items() if e.grant is None and n not in snapshot.nodes]:
            del entries[name]  # nothing of it was ever accepted, so there is nothing to keep
        cluster_uid = self.cluster_uid or snapshot.cluster_uid
        register = replace(self, cluster_uid=cluster_uid, _entries=entries, _gone=gone, held=many, _trust=trust)
        changed: frozenset[str] = frozenset()
        if touched:
            register, changed = self.settled(entries, register)
        own = _own_documents(self.me, entries, snapshot)
        return Refresh(register, _sorted({*register.conflicts, *held, *own, *_lasting(entries, now)}), changed)

    def _judge_changed(
        self, snapshot: Snapshot, trust: Trust, now: datetime, entries: dict[str, Entry], gone: dict[str, Memory]
    ) -> bool:
        """Judge every node whose documents, or whose reasons to be refused, are not what they were; tell if any was."""
        same_trust = self._trust is trust or self._trust == trust
        touched = False
        for name, documents in snapshot.nodes.items():
            entry = entries.get(name)
            if entry is not None and (entry.documents is documents or entry.documents == documents):
                in_time = entry.recheck is not None and entry.recheck[0] <= now <= entry.recheck[1]
                if not in_time and (same_trust or not entry.refusals):
                    continue
            before = entry or Entry(_UNSEEN, memory=gone.get(name))
            entries[name] = judge(name, documents, before, trust, now, former=self.former)
            if entries[name].grant is not None:
                gone.pop(name, None)
            touched = True
        return touched

    def _deletions(self, snapshot: Snapshot, *, said: bool) -> tuple[list[str], list[Finding], frozenset[str]]:
        """Return the deletions that are carried out, why others are not (law 5), and which for their number.

        `said`: by the operator. Those that are held already do not count with what goes later.
        """
        gone = sorted(name for name in snapshot.confirmed_gone if name in self.peers and name not in snapshot.nodes)
        lost = [] if said else [name for name in gone if name in snapshot.rolled_back]
        held = [self._kept(lost, "an older state of the directory was put back")] if lost else []
        left = [] if said else [n for n in gone if n not in lost and self.peers[n].uid in self.former]
        held += [self._kept(left, "the cluster before knew them")] if left else []
        gone = [name for name in gone if name not in {*lost, *left}]
        others = len(self.peers) - (self.me in self.peers)
        if gone and self.me in self.peers and self.me not in snapshot.nodes:
            return [], [*held, self._kept(gone, "this node itself is absent")], self.held & frozenset(gone)
        many = frozenset[str]() if said else self.held & frozenset(gone)
        fresh = [name for name in gone if name not in many]
        if not said and len(fresh) >= HELD_FROM and HELD_SHARE_OF * len(fresh) > others:
            many, fresh = frozenset(gone), []
        if many:
            held.append(self._kept(sorted(many), f"{len(many)} of {others} disappeared at once"))
        return fresh, held, many

    def is_of_another(self, snapshot: Snapshot) -> bool:
        """Whether the directory belongs to another cluster than this node, or does not say to which."""
        return bool(self.cluster_uid) and snapshot.cluster_uid != self.cluster_uid

    def _another(self, snapshot: Snapshot) -> Finding:
        message = (
            f"the directory belongs to cluster {snapshot.cluster_uid[:80]!r}, this node to {self.cluster_uid!r}: "
            "nothing is taken from it, and nothing removed"
        )
        return Finding(codes.CLUSTER_CHANGED, self.me, message)

    def _kept(self, names: list[str], why: str) -> Finding:
        listed = ", ".join(islice(names, _NAMED)) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        return Finding(codes.DELETIONS_HELD, self.me, f"{listed}: gone from the directory, and {why}: all are kept")

    def settled(
        self, entries: Mapping[str, Entry], register: Register | None = None
    ) -> tuple[Register, frozenset[str]]:
        """Settle the conflicts among `entries`; return the register with new peers, and the names that changed."""
        losses, conflicts = resolve(entries, (register or self).held)
        peers: dict[str, Peer] = {}
        changed = {name for name in self.peers if name not in entries}
        for name, entry in entries.items():
            if entry.grant is None:
                continue
            known, loss = self.peers.get(name), losses.get(name)
            if known is None or self._entries.get(name) is not entry or self._losses.get(name) != loss:
                peer = _peer(name, entry, loss or Loss())
                if peer != known:
                    changed.add(name)
                    known = peer
            assert known is not None
            peers[name] = known
        settled = replace(register or self, peers=peers, _entries=entries, _losses=losses, conflicts=tuple(conflicts))
        return settled, frozenset(changed)


def _peer(name: str, entry: Entry, loss: Loss) -> Peer:
    assert entry.grant is not None
    grant = entry.grant.value
    announcement = loss.announcement(entry.announcement.value if entry.announcement else None)
    return Peer(name, grant.uid, loss.grant(grant), announcement, entry.known_good)


def _remove(names: list[str], entries: dict[str, Entry], gone: dict[str, Memory]) -> bool:
    """Take `names` out of `entries` and remember their serials; tell if there were any."""
    for name in names:
        memory = entries.pop(name).memory
        assert memory is not None
        gone[name] = memory
    for name in list(islice(gone, max(0, len(gone) - REMEMBERED_NODES))):
        del gone[name]
    return bool(names)


def _own_documents(me: str, entries: Mapping[str, Entry], snapshot: Snapshot) -> list[Finding]:
    """Tell whether this node's own documents, accepted before, are in the directory as they should be."""
    entry, published = entries.get(me), snapshot.nodes.get(me)
    if entry is None or entry.grant is None:
        return []
    if published is None or published.grant is None or (entry.announcement and published.announcement is None):
        what = "are absent from the directory, or some of them: publish them again"
    elif entry.refusals:
        what = "in the directory are not what this node accepted: somebody altered or restored them"
    else:
        return []
    return [Finding(codes.OWN_DOCUMENTS, me, f"this node's own documents {what}")]


def _lasting(entries: Mapping[str, Entry], now: datetime) -> list[Finding]:
    """Return what is to be told as long as it is so: refusals, expired certificates, lost capabilities."""
    findings: list[Finding] = []
    for name, entry in entries.items():
        if entry.refusals:
            findings.extend(entry.refusals)
        accepted = entry.announcement
        if accepted is None:
            continue
        if accepted.expires < now:
            message = f"the certificate of {name} expired on {accepted.expires:%Y-%m-%d %H:%M} UTC; its links are kept"
            findings.append(Finding(codes.ACCEPTED_EXPIRED, name, message))
        if accepted.lost:
            message = f"{name} no longer announces {', '.join(accepted.lost)}: downgraded, or its kernel changed"
            findings.append(Finding(codes.CAPABILITY_LOST, name, message))
    return findings


def _sorted(findings: set[Finding]) -> tuple[Finding, ...]:
    return tuple(
        sorted(findings, key=lambda finding: (finding.code, finding.node, finding.other or "", finding.message))
    )

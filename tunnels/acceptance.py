"""Whether one node's documents are accepted, judged against what was accepted from it before.

Rules (laws 5 and 6): the grant says which UID a name has; an announcement is that UID's or nobody's. A higher serial
replaces, the same bytes change nothing, everything else is refused and leaves the last good document in place. Silence
removes nothing. No I/O; time is an argument.

Where a cluster goes on from another whose directory was lost, nodes have new UIDs and the same keys: the documents of a
former UID stay, both of them, until the new one has announced itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_network
from typing import Final, NamedTuple

from linkseal.keys import announcement as announcements
from linkseal.keys import codes
from linkseal.keys import grant as grants
from linkseal.keys.announcement import Announcement, SignedAnnouncement
from linkseal.keys.ca import Trust
from linkseal.keys.errors import PeerError
from linkseal.keys.grant import Grant, SignedGrant
from linkseal.keys.values import Prefix, PublicKey, is_node_name

REMEMBERED_KEYS: Final = 16
"""Keys of withdrawn generations kept for each node: eight rotations."""


class Finding(NamedTuple):
    """Something to tell about the documents of `node`; `other` is the second party of a conflict."""

    code: str
    node: str
    message: str
    other: str | None = None


@dataclass(frozen=True, slots=True)
class NodeDocuments:
    """What the directory holds about one node, as received; None: absent."""

    announcement: SignedAnnouncement | None = None
    grant: SignedGrant | None = None


class Span(NamedTuple):
    """One prefix or address of a grant as a range of numbers, for finding overlaps. Sorts wider before narrower."""

    version: int
    low: int
    minus_high: int
    prefix: Prefix


@dataclass(frozen=True, slots=True)
class AcceptedGrant:
    """A verified grant. `spans` are its prefixes and addresses."""

    value: Grant
    signed: SignedGrant
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class AcceptedAnnouncement:
    """A verified announcement. `lost` are capabilities that the one before still had."""

    value: Announcement
    signed: SignedAnnouncement
    expires: datetime
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """What replay is judged by, for one node name. Survives the node's removal; texts are kept as digests."""

    uid: str
    grant_serial: int
    grant_digest: bytes
    issued: datetime
    """Of the newest grant: orders grants of different UIDs, which share no serial."""
    serial: int = 0
    digest: bytes = b""
    live: tuple[tuple[int, PublicKey], ...] = ()
    highest: int = 0
    """Highest generation number seen."""
    withdrawn: tuple[PublicKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One node name: the documents last judged, what is accepted, and why the rest is not."""

    documents: NodeDocuments
    grant: AcceptedGrant | None = None
    announcement: AcceptedAnnouncement | None = None
    memory: Memory | None = None
    refusals: tuple[Finding, ...] = ()
    recheck: tuple[datetime, datetime] | None = None
    """The dates of a certificate that was refused for its dates: judge again when they include the present."""

    @property
    def known_good(self) -> NodeDocuments:
        """The accepted documents as received: what is kept on disk."""
        return NodeDocuments(
            self.announcement.signed if self.announcement else None, self.grant.signed if self.grant else None
        )


def judge(
    name: str,
    documents: NodeDocuments,
    before: Entry,
    trust: Trust,
    now: datetime,
    *,
    former: Collection[str] = (),
    check_time: bool = True,
) -> Entry:
    """Return the entry of `name` after its `documents` were seen; `before` is what it was. Never raises.

    `former`: UIDs that nodes had in the cluster from which this one goes on.
    """
    if not is_node_name(name):
        finding = Finding(codes.MALFORMED, name, f"{name[:80]!r} is no node name: remove it from the directory")
        return Entry(documents, refusals=(finding,))
    entry = replace(before, documents=documents, refusals=(), recheck=None)
    for step in (_judge_grant, _judge_announcement):
        try:
            entry = step(name, entry, trust, now, check_time)
        except PeerError as error:
            refusal = Finding(error.code, name, str(error), error.other)
            entry = replace(entry, refusals=(*entry.refusals, refusal))
            if error.code == codes.CERTIFICATE_EXPIRED:
                entry = replace(entry, recheck=_dates(name, entry, trust, now))
    if _is_coming(before, entry, former):
        return replace(before, documents=documents, refusals=entry.refusals, recheck=entry.recheck)
    return entry


def _is_coming(before: Entry, entry: Entry, former: Collection[str]) -> bool:
    """Whether a node of the former cluster has a grant in this one, and has not announced itself here yet."""
    if before.grant is None or before.announcement is None or before.grant.value.uid not in former:
        return False
    return entry.announcement is None


def _judge_grant(name: str, entry: Entry, trust: Trust, _now: datetime, _check_time: bool) -> Entry:  # noqa: FBT001
    signed = entry.documents.grant
    if signed is None or (entry.grant is not None and entry.grant.signed == signed):
        return entry
    grant = grants.verify(signed, trust, node=name)
    memory, digest = entry.memory, _digest(signed.text)
    if memory is not None and grant.uid == memory.uid:
        _check_serial(name, "grant", (grant.serial, digest), (memory.grant_serial, memory.grant_digest))
        memory = replace(memory, grant_serial=grant.serial, grant_digest=digest, issued=grant.issued)
    elif memory is not None and grant.issued <= memory.issued:
        raise PeerError(
            f"the grant of {name} is for UID {grant.uid} and no newer than the accepted one for UID {memory.uid}",
            code=codes.GRANT_WRONG_NODE,
            node=name,
        )
    else:  # first seen, or made anew under its name: whoever had the name before has no say any more
        memory = Memory(grant.uid, grant.serial, digest, grant.issued)
    kept = entry.announcement if entry.announcement and entry.announcement.value.uid == grant.uid else None
    return replace(entry, grant=AcceptedGrant(grant, signed, _spans(grant)), announcement=kept, memory=memory)


def _judge_announcement(name: str, entry: Entry, trust: Trust, now: datetime, check_time: bool) -> Entry:  # noqa: FBT001
    signed, accepted = entry.documents.announcement, entry.announcement
    if signed is None or (accepted is not None and accepted.signed == signed):
        return entry
    if entry.grant is None or entry.memory is None:
        raise PeerError(
            f"{name} announces itself, and the cluster has granted it nothing: sign a grant for it",
            code=codes.NO_GRANT,
            node=name,
        )
    uid = entry.grant.value.uid
    announcement = announcements.verify(signed, trust, node=name, uid=uid, now=now, check_time=check_time)
    certificate = trust.verify_certificate(signed.certificate, name, uid, now, check_time=False)
    memory, digest = entry.memory, _digest(signed.text)
    _check_serial(name, "announcement", (announcement.serial, digest), (memory.serial, memory.digest))
    lost: tuple[str, ...] = accepted.lost if accepted else ()
    if announcement.serial > memory.serial:
        memory = _remember(announcement, memory, digest)
        lost = tuple(sorted(set(accepted.value.capabilities) - set(announcement.capabilities))) if accepted else ()
    accepted = AcceptedAnnouncement(announcement, signed, certificate.not_after, lost)
    return replace(entry, announcement=accepted, memory=memory)


def _check_serial(name: str, what: str, new: tuple[int, bytes], known: tuple[int, bytes]) -> None:
    """Raise PeerError if `new` (serial, digest) is a replay of, or contradicts, what is `known`."""
    if new[0] > known[0] or new == known:
        return
    if new[0] < known[0]:
        code = codes.SERIAL_REPLAYED if what == "announcement" else codes.GRANT_REPLAYED
        why = f"has serial {new[0]}, and {known[0]} is accepted already: replayed, or restored from an old backup"
    else:
        code = codes.EQUIVOCATION if what == "announcement" else codes.GRANT_REPLAYED
        why = f"has serial {new[0]} like the accepted one and other content: two signers, or a lost store"
    raise PeerError(f"the {what} of {name} {why}", code=code, node=name)


def _remember(announcement: Announcement, memory: Memory, digest: bytes) -> Memory:
    """Return `memory` with this newer announcement. Raises PeerError if it brings back what was withdrawn."""
    known = dict(memory.live)
    live = tuple((g.number, g.public_key) for g in announcement.generations)
    for number, key in live:
        moved = known[number] != key if number in known else number <= memory.highest
        if moved or key in memory.withdrawn or any(k == key and n != number for n, k in memory.live):
            raise PeerError(
                f"{announcement.node} announces generation {number} with a number or key that was used before: "
                "a number is given once (a store restored from a backup does this; raise a new generation)",
                code=codes.GENERATION_REUSED,
                node=announcement.node,
            )
    gone = tuple(key for _, key in memory.live if key not in dict(live).values())
    return replace(
        memory,
        serial=announcement.serial,
        digest=digest,
        live=live,
        highest=max(memory.highest, *(number for number, _ in live)),
        withdrawn=(*memory.withdrawn, *gone)[-REMEMBERED_KEYS:],
    )


def _dates(name: str, entry: Entry, trust: Trust, now: datetime) -> tuple[datetime, datetime] | None:
    signed = entry.documents.announcement
    if signed is None or entry.grant is None:
        return None
    certificate = trust.verify_certificate(signed.certificate, name, entry.grant.value.uid, now, check_time=False)
    return certificate.not_before, certificate.not_after


def _spans(grant: Grant) -> tuple[Span, ...]:
    spans = []
    for prefix in sorted(grant.protected()):
        network = ip_network(prefix)
        low, high = int(network.network_address), int(network.broadcast_address)
        spans.append(Span(network.version, low, -high, prefix))
    return tuple(spans)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

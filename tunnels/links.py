"""The link book: every directed link of this node, its state, and which one carries a peer's traffic.

The rule of this file: evidence comes in (device dumps, probe outcomes), decisions go out (current pair, endpoints to
set, peers to provoke). Time is an argument, nothing is read or written, and no link is preferred that is not proven.

    installed ──handshake──► pending ──proof──► proven ──chosen──► sealed
                                                  ▲                  │ no handshake for 180 s,
                                                  └──────proof──── stale   or three probe rounds lost

Among proven links the one with the newest generations wins (greatest g + h, then greatest g), but a link that works is
never left for an older generation of either end: that one may be about to be retired. The current link is kept
until a better one is proven, however silent it gets: traffic never falls back from a tunnel to plaintext by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple

from linkseal.keys.values import PublicKey
from linkseal.tunnels.linkrecord import LinkRecord, slot_endpoint
from linkseal.tunnels.model import KeyOfGeneration, LinkKey, LinkState
from linkseal.tunnels.plan import initiates, pair_links
from linkseal.tunnels.world import Me, Peer, PeerLinks
from linkseal.wireguard.model import DeviceState, Endpoint, PeerState

PROOF_LASTS: Final = 240.0
"""Seconds: three probe intervals of 60 s and a minute; an older proof says nothing about now (law 9)."""

DEAD_AFTER: Final = 600.0
"""Seconds without a handshake on any generation after which a peer holds neither a stage nor a rotation (DESIGN 6)."""

ENDPOINT_PATIENCE: Final = 15.0
"""Seconds without a first handshake after which a roamed endpoint is given up for the announced one: three of
WireGuard's 5 s retries."""

INSIST: Final = 60.0
"""Seconds after a peer announced another endpoint during which packets that still come from the old one do not bring it
back: both ends go on as they last heard from each other, so somebody must begin, and once is not enough under load."""
INSIST_EVERY: Final = 1.0
"""Seconds between two attempts."""
LATELY: Final = 10.0
"""Seconds after it during which one looks whether it came back, also where it was not seen to: ten attempts."""

HELP_AFTER: Final = 30.0
"""Seconds after which the end that should only answer tries as well: the other may be unable to reach it."""

FIRST_PROVOKE: Final = 1.0
LAST_PROVOKE: Final = 60.0
"""Seconds between attempts to provoke a handshake: doubled from the first to the last."""


class Move(NamedTuple):
    """A peer's traffic goes from one link to another."""

    peer: str
    old: tuple[int, int] | None
    new: tuple[int, int]


class LinkBook:
    """All links of one node. Holds state, does no I/O."""

    def __init__(self) -> None:
        self.records: dict[LinkKey, LinkRecord] = {}
        self.current: dict[str, tuple[int, int]] = {}
        self.moved_at: dict[str, float] = {}
        """When this node last moved its sending to a peer."""
        self.announced: dict[str, Endpoint | None] = {}
        self.path_mtu: dict[str, int] = {}
        self._by_peer: dict[str, list[LinkKey]] = {}
        self.proof_lasts = PROOF_LASTS
        """Seconds a proof holds; some intervals of the probes."""
        self._watched: dict[tuple[str, int], float] = {}
        """Peer and generation of ours → since when this process listens to it; -inf: from its beginning."""
        self._entered: set[str] = set()
        """Peers whose traffic has gone into a tunnel: from then on it never goes elsewhere by itself."""
        self.leaving: frozenset[int] = frozenset()
        """Generations of ours that were aborted: left for any other that works."""
        self._withdrawn: set[tuple[str, int]] = set()
        """Peer and generation that it announces no more, though it carries traffic to it still."""
        self._left: dict[str, tuple[Endpoint, float]] = {}
        """Base endpoint that a peer announced before the present one, and when it changed."""
        self._heard: dict[tuple[str, int], float] = {}
        """Peer and generation of ours → latest handshake, which outlives the loss of a device."""

    # --- what there is ------------------------------------------------------------------------------------------

    def sync(self, me: Me, peers: Mapping[str, Peer], endpoints: Mapping[str, Endpoint | None], now: float) -> None:
        """Bring the set of links in line with the live generations; what is known of those that stay is kept."""
        wanted: dict[LinkKey, LinkRecord] = {}
        for name, peer in peers.items():
            endpoint = endpoints.get(name)
            for own, remote in pair_links(me, peer):
                key = LinkKey(name, own.number, remote.number)
                known = self.records.get(key)
                if known is None or known.own_key != own.public_key or known.remote_key != remote.public_key:
                    known = LinkRecord(key, own.public_key, remote.public_key, now)
                initiator = initiates(me, peer, own, remote, endpoint)
                wanted[key] = known if known.initiator == initiator else replace(known, initiator=initiator)
        self.records = wanted
        for name, before in self.announced.items():
            if before is not None and endpoints.get(name) not in (None, before):
                self._left[name] = (before, now)
        self.announced = {name: endpoints.get(name) for name in peers}
        self._by_peer = {}
        for key in wanted:
            self._by_peer.setdefault(key.peer, []).append(key)
        old = {name for name, _ in self._watched}
        pairs = {(key.peer, key.own) for key in wanted}
        self._watched = {pair: self._watched.get(pair, -inf if pair[0] in old else now) for pair in pairs}
        self._forget(peers, {generation.number for generation in me.generations})

    def _forget(self, peers: Mapping[str, Peer], own: set[int]) -> None:
        """Drop what is known of peers and generations that are no more."""
        standing = {name: self._standing(name, pair) for name, pair in self.current.items()}
        self.current = {name: pair for name, pair in standing.items() if pair is not None}
        self.moved_at = {name: at for name, at in self.moved_at.items() if name in peers}
        self.path_mtu = {name: mtu for name, mtu in self.path_mtu.items() if name in peers}
        self._left = {name: left for name, left in self._left.items() if name in peers}
        self._entered = {name for name in {*self._entered, *self.current} if name in peers}
        self._heard = {key: at for key, at in self._heard.items() if key[0] in peers and key[1] in own}

    def _standing(self, name: str, pair: tuple[int, int]) -> tuple[int, int] | None:
        """What carries a peer's traffic now; None: there is no link to it any more.

        When the generation that did is gone (retired while the peer was dead, aborted, replaced in the same slot), the
        newest link stands in, proven or not: what goes into the tunnel stays there and waits; it never falls back to
        plaintext by itself.
        """
        links = self._by_peer.get(name, [])
        if LinkKey(name, *pair) in self.records or not links:
            return pair if links else None
        newest = max(links, key=lambda key: (key.own + key.remote, key.own))
        return newest.own, newest.remote

    def retain(self, peers: Mapping[str, Peer]) -> dict[str, Peer]:
        """Peers with the generation that carries their traffic now kept beside what they announce (law 1).

        A peer that lost its store announces a new key only: until that link is proven the old one stays, so that
        nothing falls back to plaintext. Not where both would need the same slot.
        """
        kept: dict[str, Peer] = {}
        self._withdrawn = set()
        for name, peer in peers.items():
            pair = self.current.get(name)
            old = None if pair is None else self.records.get(LinkKey(name, *pair))
            parities = {generation.number % 2 for generation in peer.generations}
            numbers = {generation.number for generation in peer.generations}
            if old is None or old.key.remote in numbers or old.key.remote % 2 in parities or not numbers:
                kept[name] = peer
            else:
                lost = KeyOfGeneration(old.key.remote, old.remote_key)
                self._withdrawn.add((name, lost.number))
                kept[name] = replace(peer, generations=tuple(sorted((*peer.generations, lost))))
        return kept

    def adopt(self, name: str, pair: tuple[int, int]) -> None:
        """Take over what the kernel (or the disk) says carries a peer's traffic, at start.

        What is on the disk alone is made anew: its peer still has a session and would not begin.
        """
        self._entered.add(name)
        for key in self._by_peer.get(name, ()):
            if not self.records[key].installed:
                self.records[key] = replace(self.records[key], provoke=True)
        standing = self._standing(name, pair)
        if standing is not None:
            self.current[name] = standing

    # --- evidence -----------------------------------------------------------------------------------------------

    def observe(
        self,
        devices: Mapping[str, DeviceState],
        now: float,
        *,
        down: Collection[str] = (),
        wall: float | None = None,
    ) -> list[LinkKey]:
        """Take in device dumps; return links whose peer or session was there before and is gone (drift).

        `now` is a clock that never jumps; `wall` the kernel's, in which it gives handshakes (None: the same).

        A device that is `down`, or was given another key, has forgotten its sessions, though it still has its peers.
        """
        gone: list[LinkKey] = []
        for key, record in self.records.items():
            device = devices.get(record.slot)
            state = None if device is None else device.peers.get(record.remote_key)
            sound = device is not None and device.public_key == record.own_key and device.name not in down
            if state is None or not sound:
                if record.installed:
                    self.records[key] = record.without_peer() if state is None else record.without_session(now)
                    gone += [] if record.provoke and state is not None else [key]  # a session: told once
                continue
            seen = self._seen(record, state, now, now if wall is None else wall)
            self.records[key] = seen if seen.fresh(now) or seen.proven_at is None else replace(seen, lost=True)
            if seen.handshake_at is not None:
                self._heard[key.peer, key.own] = max(seen.handshake_at, self._heard.get((key.peer, key.own), 0.0))
        return gone

    def _seen(self, record: LinkRecord, state: PeerState, now: float, wall: float) -> LinkRecord:
        handshake = record.handshake_at
        if state.last_handshake != record.kernel_handshake:  # its age is true now; later the wall clock may jump
            handshake = now - max(0.0, wall - state.last_handshake) if state.last_handshake else None
        if handshake is not None and record.session_lost_at is not None and handshake <= record.session_lost_at:
            handshake = None
        answered = handshake is not None and handshake != record.handshake_at
        announced = self.announced_endpoint(record.key)
        if record.is_as_before(state) and (record.endpoint_set == announced or state.endpoint != announced):
            return record
        adopted = not record.installed and record.endpoint_set is None and not record.provoke
        return replace(
            record,
            installed=True,
            endpoint=state.endpoint,
            endpoint_set=announced if state.endpoint == announced or adopted else record.endpoint_set,
            handshake_at=handshake,
            kernel_handshake=state.last_handshake,
            rx_bytes=state.rx_bytes,
            tx_bytes=state.tx_bytes,
            session_lost_at=None if answered else record.session_lost_at,
            provoke=record.provoke and not answered,
            provoked=0 if answered else record.provoked,
        )

    def endpoint_written(self, slot: str, remote_key: PublicKey, now: float) -> None:
        """Note that the announced endpoint was written to the kernel; from now on roaming is left alone."""
        for key, record in self.records.items():
            if record.slot == slot and record.remote_key == remote_key:
                self.records[key] = replace(record, endpoint_set=self.announced_endpoint(key), endpoint_set_at=now)
                return

    def remember_endpoint(self, name: str, base: Endpoint, now: float) -> None:
        """Before a restart this base endpoint was the announced one: a change since then is to be written."""
        for key in self._by_peer.get(name, ()):
            self.records[key] = replace(self.records[key], endpoint_set=slot_endpoint(base, key))
        if base != self.announced.get(name):
            self._left[name] = (base, now)

    def proved(self, key: LinkKey, at: float, size: int, peer_uses: tuple[int, int] | None) -> None:
        """Take in a full round of probes. `peer_uses` is (our generation, theirs), as the peer's reply says."""
        record = self.records.get(key)
        if record is not None:
            self.records[key] = replace(
                record,
                proven_at=at,
                proof_size=size,
                lost=False,
                code=None,
                detail="",
                peer_uses=peer_uses,
                peer_uses_at=at if peer_uses != record.peer_uses else record.peer_uses_at,
            )

    def diagnosed(self, key: LinkKey, code: str, detail: str, *, lost: bool = False) -> None:
        """Take in a failed round of probes; `lost`: it was proven, and three rounds in a row have failed now."""
        record = self.records.get(key)
        if record is not None:
            self.records[key] = replace(record, code=code, detail=detail, lost=record.lost or lost)

    def usable(self, record: LinkRecord, now: float) -> bool:
        """Proven, not too long ago, and nothing says otherwise since."""
        return record.usable(now) and record.proven_at is not None and now - record.proven_at <= self.proof_lasts

    # --- decisions ----------------------------------------------------------------------------------------------

    def choose(self, now: float) -> list[Move]:
        """Move each peer to its best proven link; return the moves.

        Never back to an older generation of either end while the link in use works: the other end has been told that
        it is in use, and may be retiring the older one at this moment. But one that is withdrawn is left for any other.
        """
        moves: list[Move] = []
        for name, keys in self._by_peer.items():
            current = self.current.get(name)
            own, remote = current if current is not None and self._keeps(name, current, now) else (0, 0)
            usable = [k for k in keys if k.own >= own and k.remote >= remote and self.usable(self.records[k], now)]
            if not usable:
                continue
            best = max(usable, key=lambda key: (not self._leaves(key), key.own + key.remote, key.own))
            pair = (best.own, best.remote)
            if pair != current:
                moves.append(Move(name, current, pair))
                self.current[name] = pair
                self.moved_at[name] = now
        return moves

    def take_back(self, moves: Iterable[Move]) -> None:
        """The kernel refused them: traffic goes where it went before."""
        for move in moves:
            if move.old is None:
                self.current.pop(move.peer, None)
            else:
                self.current[move.peer] = move.old

    def _keeps(self, name: str, pair: tuple[int, int], now: float) -> bool:
        """Whether nothing speaks against a link in use. One taken over at start need not have been proven yet."""
        key = LinkKey(name, *pair)
        record = self.records[key]
        return record.installed and record.fresh(now) and not record.doubted and not self._leaves(key)

    def _leaves(self, key: LinkKey) -> bool:
        """Whether one of its generations is being withdrawn."""
        return key.own in self.leaving or (key.peer, key.remote) in self._withdrawn

    def peer_links(self, now: float) -> dict[str, PeerLinks]:
        """Return what `plan` needs to know of each peer."""
        entered = self._entered | set(self.current)
        return {
            name: PeerLinks(
                self.current.get(name),
                frozenset([key[1:] for key in keys if self._wants_endpoint(self.records[key], now)]),
                self.path_mtu.get(name),
                frozenset([key[1:] for key in keys if self.records[key].provoke]),
                name in entered,
            )
            for name, keys in {**dict.fromkeys(entered, ()), **self._by_peer}.items()
        }

    def provocations(self, now: float) -> list[LinkKey]:
        """Return links whose peer is to be removed and added anew, which lifts the kernel's limit on handshakes.

        Never the one that carries traffic, unless its session is known to be gone, or it had none since its device was
        made. Doubles its pause from 1 s to 60 s for ever: one dead peer costs little.
        """
        due: list[LinkKey] = []
        for key, record in self.records.items():
            carries = self.current.get(key.peer) == record.pair
            has_session = record.session_lost_at is None and record.kernel_handshake > 0
            if not self._unanswered(record, now) or (carries and has_session):
                continue
            if now < max(record.next_provoke, record.since + (FIRST_PROVOKE if record.initiator else HELP_AFTER)):
                continue
            pause = min(LAST_PROVOKE, FIRST_PROVOKE * 2 ** min(record.provoked, 10))
            again = record.provoked > 0 or not record.initiator  # what initiates by itself gets a first pause
            self.records[key] = replace(
                record, provoked=record.provoked + 1, next_provoke=now + pause, provoke=record.provoke or again
            )
            if again:
                due.append(key)
        return due

    def _unanswered(self, record: LinkRecord, now: float) -> bool:
        return record.installed and self.announced_endpoint(record.key) is not None and not record.fresh(now)

    # --- views --------------------------------------------------------------------------------------------------

    def state(self, record: LinkRecord, now: float) -> LinkState:
        """Unknown is never a pass: without a fresh handshake and a proof nothing is sealed (law 9)."""
        if not record.installed:
            return LinkState.ABSENT
        carries = self.current.get(record.key.peer) == record.pair
        if self.usable(record, now):
            return LinkState.SEALED if carries else LinkState.PROVEN
        return LinkState.STALE if carries or record.proven_at is not None else LinkState.PENDING

    def of_peer(self, name: str) -> Iterator[LinkRecord]:
        """Return the links to one peer."""
        return (self.records[key] for key in self._by_peer.get(name, ()))

    def alive(self, name: str, now: float, own: Iterable[int] | None = None) -> bool:
        """Whether any link to a peer, or one by these generations of ours, has had a handshake within DEAD_AFTER."""
        numbers = {key.own for key in self._by_peer.get(name, ())} if own is None else own
        pairs = [(name, number) for number in numbers]
        if any(now - self._watched.get(pair, -inf) < DEAD_AFTER for pair in pairs):
            return True  # not heard yet is not silent: this process has not listened long enough
        return any(now - self._heard.get(pair, -inf) <= DEAD_AFTER for pair in pairs)

    def changing(self, key: LinkKey, now: float) -> bool:
        """Whether one end rotates, or the other's endpoint is a new one: looked at every second, with packets sent."""
        lately = now - self._left.get(key.peer, (None, -inf))[1] <= LATELY
        return lately or self.insists(key, now) or len(self._by_peer.get(key.peer, ())) > 1

    def announced_endpoint(self, key: LinkKey) -> Endpoint | None:
        """Where the peer says this link's slot is; None: it cannot be reached."""
        base = self.announced.get(key.peer)
        return None if base is None else slot_endpoint(base, key)

    def insists(self, key: LinkKey, now: float) -> bool:
        """Whether a link has just gone from its peer's former endpoint, or came back to it, and is to leave it."""
        base, since = self._left.get(key.peer, (None, -inf))
        return base is not None and now - since <= INSIST and self.records[key].endpoint == slot_endpoint(base, key)

    def _wants_endpoint(self, record: LinkRecord, now: float) -> bool:
        """Tell whether to write the announced endpoint: once; a roamed one stays until it proves dead."""
        announced = self.announced_endpoint(record.key)
        if announced is None or record.endpoint == announced:
            return False
        if not record.installed or record.endpoint is None:
            return True
        if self.insists(record.key, now) and now - record.endpoint_set_at >= INSIST_EVERY:
            return True
        changed = record.endpoint_set is not None and record.endpoint_set != announced
        waiting_since = max(record.since, record.session_lost_at or 0.0)
        return changed or (not record.fresh(now) and now - waiting_since > ENDPOINT_PATIENCE)

"""What this node reports of itself: `NodeStatus` from the worker's state. Pure."""

from __future__ import annotations

import contextlib
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.secrets import fingerprint
from linkseal.tunnels import codes
from linkseal.tunnels.agent.worker import Worker
from linkseal.tunnels.linkrecord import LinkRecord
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.redirect.judge import redirects
from linkseal.tunnels.register import Peer
from linkseal.tunnels.status import (
    MAX_PAIRS,
    MAX_UNSEALED,
    WORST_FIRST,
    FindingStatus,
    GenerationStatus,
    LinkCounts,
    NodeStatus,
    PairStatus,
    RequestStatus,
    UnsealedPeer,
)
from linkseal.tunnels.statusparts import GuardStatus
from linkseal.tunnels.truth import Untrue
from linkseal.tunnels.world import device_mtu, encrypts

NONE_UNTRUE: Final[Mapping[str, Untrue]] = {}


def node_status(
    worker: Worker,
    requests: Mapping[str, RequestStatus],
    published: int,
    now: float,
    untrue: Mapping[str, Untrue] = NONE_UNTRUE,
) -> NodeStatus:
    """The whole report at `now`. `untrue`: peers to which the kernel would not encrypt, whatever the book says."""
    policy, features = worker.knowledge.policy, worker.features
    states = dict(_peer_states(worker, now, untrue))
    counts = Counter(state for state, _ in states.values())
    unsealed = [
        UnsealedPeer(name, state, code)
        for name, (state, code) in sorted(states.items())
        if state is not LinkState.SEALED
    ]
    shown, shown_links = worker.findings.shown(now), sorted(worker.book.records)[:MAX_PAIRS]
    return NodeStatus(
        observed_at=now,
        stage=policy.stage_of(worker.knowledge.node) if policy is not None else Stage.OFF,
        scope=policy.scope if policy is not None else Scope.OVERLAY,
        protocol="wireguard",
        driver=features.driver,
        door=worker.door,
        version=version("linkseal"),
        kernel=platform.release(),
        mtu=0 if worker.world is None else device_mtu(worker.world),
        serial=0 if worker.keyring.last_parsed is None else worker.keyring.last_parsed.serial,
        announced_serial=published,
        generations=tuple(_generations(worker)),
        links=LinkCounts(total=len(states), **{state.value: counts[state] for state in LinkState}),
        unsealed=tuple(sorted(unsealed, key=lambda entry: WORST_FIRST.index(entry.state))[:MAX_UNSEALED]),
        pairs=tuple(_pair(worker, worker.book.records[key], now, untrue) for key in shown_links),
        findings=tuple(FindingStatus(f.code, f.subject, f.message, f.since) for f in shown)[:MAX_PAIRS],
        requests=dict(requests),
        policy=worker.applied,
        guard=guard_status(worker, now),
        trust=() if worker.knowledge.trust is None else worker.knowledge.trust.fingerprints,
        boot=worker.boot,
        former=worker.knowledge.former(),
    )


def guard_status(worker: Worker, now: float) -> GuardStatus:
    """The guard's part, its counters read anew; and whether packets can be redirected past it."""
    worker.guard.look(worker.world, worker.observed.guard, worker.carried, now)
    with contextlib.suppress(HostError):  # read the next time
        worker.guard.programs(worker.host.redirect.counters(), now)
    first = worker.first_guard.of(worker.keyring.uid)
    status = worker.guard.status(worker.desired, worker.observed)
    status = replace(status, first_loaded_at=first.at, unguarded=first.unguarded)
    if worker.world is None or worker.world.layout.stage is Stage.OFF:
        return status
    return replace(status, redirects=redirects(worker.world, worker.observed.redirect).redirects)


def _generations(worker: Worker) -> Iterator[GenerationStatus]:
    state = worker.keyring.generations
    keys = {entry.number: entry.public_key for entry in worker.keyring.own_keys()}
    for generation in () if state is None else state.live:
        number = generation.number
        yield GenerationStatus(number, generation.state.value, fingerprint(keys[number]), generation.raised.timestamp())


def _peer_states(
    worker: Worker, now: float, untrue: Mapping[str, Untrue]
) -> Iterator[tuple[str, tuple[LinkState, str | None]]]:
    """Every other node that owns something: the state of the link that carries, or should carry, its traffic.

    A node whose documents are refused or that has no agent has no link; what it owns is not encrypted.
    """
    register = worker.knowledge.register
    for name, peer in () if register is None else register.peers.items():
        if name == worker.knowledge.node or peer.grant.opted_out or _behind(worker, name):
            continue
        yield name, _peer_state(worker, name, peer, now, untrue)


def _behind(worker: Worker, name: str) -> bool:
    """Whether a peer is still off while this node, in a pool, has gone further: there is to be no link yet."""
    policy = worker.knowledge.policy
    return policy is not None and policy.pool is not None and policy.stage_of(name) is Stage.OFF


def _peer_state(
    worker: Worker, name: str, peer: Peer, now: float, untrue: Mapping[str, Untrue]
) -> tuple[LinkState, str | None]:
    records = list(worker.book.of_peer(name))
    if not records:
        return (LinkState.ABSENT if peer.announcement is not None else LinkState.REFUSED), None
    carrying = [record for record in records if record.pair == worker.book.current.get(name)]
    best = carrying or sorted(records, key=lambda record: record.key)[-1:]
    return _state(worker, best[0], now, untrue)


def _state(
    worker: Worker, record: LinkRecord, now: float, untrue: Mapping[str, Untrue]
) -> tuple[LinkState, str | None]:
    """A link's state, and the code that says why it is no better.

    Sealed is what the book calls so, if moreover the kernel took all that sends traffic into it, any is sent, and
    the kernel was found to send it there.
    """
    state = worker.book.state(record, now - worker.ahead)
    if state is not LinkState.SEALED:
        return state, record.code
    if worker.unfit is None or record.key.peer in worker.unfit:
        return LinkState.STALE, codes.STEP_REFUSED
    peer = None if worker.world is None else worker.world.peers.get(record.key.peer)
    if worker.world is None or peer is None or not encrypts(worker.world, peer):
        return LinkState.PROVEN, None
    if (objection := untrue.get(record.key.peer)) is not None:
        return LinkState.STALE, objection.code
    return state, record.code


def _pair(worker: Worker, record: LinkRecord, now: float, untrue: Mapping[str, Untrue]) -> PairStatus:
    state, code = _state(worker, record, now, untrue)

    def wall(at: float | None) -> float | None:
        return None if at is None else at + worker.ahead

    return PairStatus(
        peer=record.key.peer,
        own=record.key.own,
        remote=record.key.remote,
        slot=record.slot,
        state=state,
        since=record.since + worker.ahead,
        last_handshake=wall(record.handshake_at),
        last_proof=wall(record.proven_at),
        rx_bytes=record.rx_bytes,
        tx_bytes=record.tx_bytes,
        endpoint=None if record.endpoint is None else str(record.endpoint),
        path_mtu=record.proof_size or None,
        carries=worker.book.current.get(record.key.peer) == record.pair,
        code=code,
    )

"""What a node answers, from where, to where, and what it does not answer."""

import pytest
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.model import Family
from linkseal.tunnels.probe.bucket import TokenBucket
from linkseal.tunnels.probe.packet import PROBE_SLOT, Datagram, Reply, Request, Rung
from linkseal.tunnels.probe.responder import MAX_BUCKETS, Outgoing, Responder

RANGES = ProbeRange()
HERE, THERE = 2, 5
OWN, REMOTE = 3, 6  # as the asking node sees them
SOURCES: dict[Family, tuple[str, ...]] = {4: ("10.244.2.1", "192.0.2.12"), 6: ("fd00:2::1",)}


def responder(peers: dict[str, int] | None = None) -> Responder:
    known = {"asker": THERE} if peers is None else peers
    made = Responder("here", HERE, RANGES, lambda node: (REMOTE, OWN) if node == "asker" else None, known.get)
    made.set_own_sources(SOURCES)
    return made


def asked(rung: Rung = Rung.SMALL, slot: int = 0, family: Family = 4, **more: object) -> Datagram:
    address = RANGES.local if rung.answered_by_host else RANGES.forwarded
    request = Request(b"n" * 16, "asker", OWN, REMOTE, rung, 1420, slot)._replace(**more)  # type: ignore[arg-type]
    source = "10.244.5.1" if family == 4 else "fd00:5::1"
    return Datagram(family, source, address(family, HERE, REMOTE, OWN), 1420, request)


def answer(made: Responder, datagram: Datagram, *, by_host: bool = False, now: float = 0.0) -> Outgoing | None:
    assert isinstance(datagram.probe, Request)
    return made.answer(datagram, datagram.probe, now, by_host=by_host)


@pytest.mark.parametrize("family", [4, 6])
def test_a_reply_goes_from_the_slot_to_the_askers_probe_address_of_the_mirrored_pair(family: Family) -> None:
    out = answer(responder(), asked(family=family))
    assert out is not None
    assert (out.by_host, out.source, out.size) == (False, SOURCES[family][0], 1420)
    assert out.destination == RANGES.forwarded(family, THERE, OWN, REMOTE)
    assert isinstance(out.probe, Reply)
    assert (out.probe.node, out.probe.own, out.probe.remote) == ("here", REMOTE, OWN)
    assert (out.probe.saw, out.probe.named) == ("10.244.5.1" if family == 4 else "fd00:5::1", SOURCES[family][0])
    assert (out.probe.uses, out.probe.offers) == ((REMOTE, OWN), len(SOURCES[family]))


@pytest.mark.parametrize(
    ("datagram", "source", "slot"),
    [
        (asked(slot=1), "192.0.2.12", 1),
        (asked(slot=2), RANGES.forwarded(4, HERE, REMOTE, OWN), PROBE_SLOT),
        (asked(slot=PROBE_SLOT), RANGES.forwarded(4, HERE, REMOTE, OWN), PROBE_SLOT),
        (asked(Rung.NAME, slot=1), RANGES.forwarded(4, HERE, REMOTE, OWN), PROBE_SLOT),
    ],
    ids=["second", "beyond the last", "probe address", "name"],
)
def test_the_slot_asked_for_decides_the_source(datagram: Datagram, source: str, slot: int) -> None:
    out = answer(responder(), datagram)
    assert out is not None
    assert (out.source, out.probe.slot) == (source, slot)


def test_a_name_is_told_without_answering_from_it() -> None:
    out = answer(responder(), asked(Rung.NAME, slot=1))
    assert out is not None
    assert isinstance(out.probe, Reply)
    assert out.probe.named == "192.0.2.12"


@pytest.mark.parametrize("rung", [Rung.LOCAL, Rung.HALF])
def test_host_rungs_are_answered_between_local_addresses(rung: Rung) -> None:
    out = answer(responder(), asked(rung, slot=PROBE_SLOT), by_host=True)
    assert out is not None
    assert out.by_host
    assert (out.source, out.destination) == (RANGES.local(4, HERE, REMOTE, OWN), RANGES.local(4, THERE, OWN, REMOTE))


def test_a_reply_is_never_larger_than_its_request() -> None:
    small = asked()._replace(size=400)
    out = answer(responder(), small)
    assert out is not None
    assert out.size == out.probe.size == 400


@pytest.mark.parametrize(
    ("datagram", "by_host"),
    [
        (asked(own=OWN + 1), False),
        (asked(remote=REMOTE + 1), False),
        (asked(node="stranger"), False),
        (asked()._replace(destination=RANGES.forwarded(4, HERE + 1, REMOTE, OWN)), False),
        (asked()._replace(destination=RANGES.local(4, HERE, REMOTE, OWN)), False),
        (asked(), True),
        (asked(Rung.LOCAL), False),
    ],
    ids=["other link", "other link back", "unknown node", "other node", "local", "by host", "forwarded"],
)
def test_what_did_not_come_on_its_link_is_not_answered(datagram: Datagram, by_host: bool) -> None:  # noqa: FBT001
    assert answer(responder(), asked()) is not None
    assert answer(responder(), datagram, by_host=by_host) is None


def test_a_peer_gets_fifty_replies_a_second_and_others_are_not_held_by_it() -> None:
    made = responder({"asker": THERE, "other": 9})
    answered = [answer(made, asked(), now=1 + n / 1000) for n in range(1000)]
    assert 99 <= sum(out is not None for out in answered) <= 100
    assert answer(made, asked(node="other"), now=2.0) is not None


def test_names_that_come_and_go_take_bounded_memory() -> None:
    made = Responder("here", HERE, RANGES, lambda _: None, lambda _: THERE)
    for number in range(MAX_BUCKETS + 100):
        answer(made, asked(node=f"n{number}"), now=float(number))
    assert len(made._buckets) <= MAX_BUCKETS


def test_an_overdrawn_bucket_makes_the_next_wait() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    bucket.spend(25)
    assert not bucket.take(0.0)
    assert bucket.ready_at(0.0) == pytest.approx(2.1)
    assert bucket.take(2.2)

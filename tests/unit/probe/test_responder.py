"""What a node answers, from where, to where, and what it does not answer."""

import pytest
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.model import Family
from linkseal.tunnels.probe.bucket import TokenBucket
from linkseal.tunnels.probe.packet import PROBE_SLOT, SMALL_SIZE, Datagram, Reply, Request, Rung, encode_packet
from linkseal.tunnels.probe.responder import MAX_BUCKETS, Outgoing, Responder

RANGES = ProbeRange()
HERE, THERE = 2, 5
OWN, REMOTE = 3, 6  # as the asking node sees them
OWNED = {"asker": ("10.244.5.1", "fd00:5::1"), "other": ("10.244.9.1",)}
SOURCES: dict[Family, tuple[str, ...]] = {4: ("10.244.2.1", "192.0.2.12"), 6: ("fd00:2::1",)}


def responder(peers: dict[str, int] | None = None) -> Responder:
    known = {"asker": THERE} if peers is None else peers
    uses = {"asker": (REMOTE, OWN)}.get
    made = Responder("here", HERE, RANGES, uses, known.get, lambda node: OWNED.get(node, ()))
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
    assert answer(made, asked(node="other")._replace(source="10.244.9.1"), now=2.0) is not None


@pytest.mark.parametrize(
    "source", ["10.244.5.7", "10.244.9.1", RANGES.forwarded(4, THERE + 1, OWN, REMOTE)], ids=["pod", "peer", "probe"]
)
def test_what_does_not_come_from_the_node_it_names_uses_up_none_of_its_replies(source: str) -> None:
    made = responder()
    forged = [answer(made, asked()._replace(source=source)) for _ in range(1000)]
    assert forged == [None] * 1000
    assert answer(made, asked()) is not None


@pytest.mark.parametrize(("own", "remote"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_all_probe_addresses_of_a_node_are_its_own(own: int, remote: int) -> None:
    for address in (RANGES.forwarded, RANGES.local):
        assert answer(responder(), asked()._replace(source=address(4, THERE, own, remote))) is not None


@pytest.mark.parametrize("family", [4, 6])
def test_a_request_smaller_than_any_probe_is_refused_and_the_smallest_has_a_reply_that_fits(family: Family) -> None:
    longest = "n" * 253
    made = Responder(longest, HERE, RANGES, {"asker": (REMOTE, OWN)}.get, {"asker": THERE}.get, OWNED.__getitem__)
    made.set_own_sources(SOURCES)
    assert answer(made, asked(family=family)._replace(size=SMALL_SIZE - 1)) is None
    out = answer(made, asked(family=family)._replace(size=SMALL_SIZE))
    assert out is not None
    assert len(encode_packet(out.probe, out.source, out.destination, 1, out.size)) == SMALL_SIZE


def test_names_that_come_and_go_take_bounded_memory() -> None:
    made = Responder("here", HERE, RANGES, lambda _: None, lambda _: THERE, lambda _: OWNED["asker"])
    for number in range(MAX_BUCKETS + 100):
        answer(made, asked(node=f"n{number}"), now=float(number))
    assert len(made._buckets) <= MAX_BUCKETS


def test_an_overdrawn_bucket_makes_the_next_wait() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    bucket.spend(25)
    assert not bucket.take(0.0)
    assert bucket.ready_at(0.0) == pytest.approx(2.1)
    assert bucket.take(2.2)

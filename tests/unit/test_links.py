"""The link book, one rule at a time; whole clusters are in tests/property/test_links_laws.py."""

from __future__ import annotations

from dataclasses import replace

from linkseal.tunnels.linkrecord import HANDSHAKE_FRESH
from linkseal.tunnels.links import ENDPOINT_PATIENCE, HELP_AFTER, LinkBook
from linkseal.tunnels.model import KeyOfGeneration, LinkKey, LinkState
from linkseal.tunnels.world import Me, Peer
from linkseal.wireguard.model import DeviceState, Endpoint, PeerState
from property.worlds import as_me, keys, make_peer, public_key

NOW = 1_000_000.0
ME = as_me(make_peer(1, 1))
PEER = make_peer(2, 1)
BASE = PEER.endpoints[0]
THERE = Endpoint(BASE.host, 51823)
ROAMED = Endpoint("198.51.100.7", 4242)
KEY = LinkKey("n2", 1, 1)


def kernel(
    me: Me, peer: Peer, handshakes: dict[tuple[int, int], float], endpoint: Endpoint | None = THERE
) -> dict[str, DeviceState]:
    """Devices as they are with every link installed; `handshakes` by pair of generations, 0 for the others."""
    devices = {}
    for own in me.generations:
        for parity in (0, 1):
            peers = {
                g.public_key: PeerState(
                    g.public_key, frozenset(), endpoint, 0, handshakes.get((own.number, g.number), 0.0)
                )
                for g in peer.generations
                if g.number % 2 == parity
            }
            name = f"lsl{own.number % 2}{parity}"
            devices[name] = DeviceState(name, own.public_key, 1, 1, peers)
    return devices


def book_of(me: Me = ME, peer: Peer = PEER, base: Endpoint | None = BASE) -> LinkBook:
    book = LinkBook()
    book.sync(me, {"n2": peer}, {"n2": base}, NOW)
    return book


def sealed(me: Me = ME, peer: Peer = PEER) -> LinkBook:
    """Every link of the two proven at NOW, traffic by the newest."""
    book = book_of(me, peer)
    pairs = {(own.number, remote.number): NOW for own in me.generations for remote in peer.generations}
    book.observe(kernel(me, peer, pairs), NOW)
    for pair in pairs:
        book.proved(LinkKey("n2", *pair), NOW, 1420, pair)
    book.choose(NOW)
    return book


def state(book: LinkBook, now: float = NOW) -> LinkState:
    return book.state(book.records[KEY], now)


def test_a_handshake_alone_seals_nothing_and_moves_nothing() -> None:
    book = book_of()
    assert state(book) is LinkState.ABSENT
    book.observe(kernel(ME, PEER, {(1, 1): NOW}), NOW)
    assert state(book) is LinkState.PENDING
    assert book.choose(NOW) == []
    book.proved(KEY, NOW, 1420, None)
    assert state(book) is LinkState.PROVEN
    assert book.choose(NOW) == [("n2", None, (1, 1))]
    assert state(book) is LinkState.SEALED
    assert book.peer_links(NOW)["n2"].current == (1, 1)


def test_a_stale_handshake_is_never_sealed_yet_traffic_stays() -> None:
    book = sealed()
    late = NOW + HANDSHAKE_FRESH + 1
    book.observe(kernel(ME, PEER, {(1, 1): NOW}), late)
    assert state(book, late) is LinkState.STALE
    assert book.choose(late) == []
    assert book.current == {"n2": (1, 1)}


def test_a_link_whose_session_ended_must_be_proven_again() -> None:
    """The path may have changed while nobody looked: a new handshake is no proof of it."""
    book = sealed()
    late = NOW + HANDSHAKE_FRESH + 1
    book.observe(kernel(ME, PEER, {(1, 1): NOW}), late)
    book.observe(kernel(ME, PEER, {(1, 1): late}), late)
    assert state(book, late) is LinkState.STALE
    book.proved(KEY, late, 1420, (1, 1))
    assert state(book, late) is LinkState.SEALED


def test_a_link_lost_to_probes_is_left_for_an_older_one_that_works() -> None:
    peer = replace(PEER, generations=keys("n2", 1, 2))
    book = sealed(peer=peer)
    assert book.current == {"n2": (1, 2)}
    book.diagnosed(LinkKey("n2", 1, 2), "LS2002", "", lost=True)
    assert book.choose(NOW) == [("n2", (1, 2), (1, 1))]


def test_one_failed_round_moves_nothing() -> None:
    book = sealed(peer=replace(PEER, generations=keys("n2", 1, 2)))
    book.diagnosed(LinkKey("n2", 1, 2), "LS2002", "")
    assert book.choose(NOW) == []


def test_traffic_never_goes_back_at_one_end_while_its_link_works() -> None:
    """(1,2) and (2,1) are equally new; who left the peer's 1 has said so, and it may be withdrawn at this moment."""
    me, peer = replace(ME, generations=keys("n1", 1, 2)), replace(PEER, generations=keys("n2", 1, 2))
    book = book_of(me, peer)
    devices = kernel(me, peer, {(1, 2): NOW, (2, 1): NOW, (2, 2): NOW})
    book.observe(devices, NOW)
    book.proved(LinkKey("n2", 1, 2), NOW, 1420, None)
    book.choose(NOW)
    book.proved(LinkKey("n2", 2, 1), NOW, 1420, None)
    assert book.choose(NOW) == []
    book.proved(LinkKey("n2", 2, 2), NOW, 1420, None)
    assert book.choose(NOW) == [("n2", (1, 2), (2, 2))]


def test_a_link_taken_over_at_start_is_kept_until_a_newer_one_is_proven() -> None:
    peer = replace(PEER, generations=keys("n2", 1, 2))
    book = book_of(peer=peer)
    book.observe(kernel(ME, peer, {(1, 1): NOW, (1, 2): NOW}), NOW)
    book.adopt("n2", (1, 2))
    book.proved(KEY, NOW, 1420, None)
    assert book.choose(NOW) == [], "the older one happened to be proven first"
    book.diagnosed(LinkKey("n2", 1, 2), "LS2003", "not forwarded")
    assert book.choose(NOW) == [("n2", (1, 2), (1, 1))], "it was asked now, and does not work"


def test_a_peer_that_vanishes_from_the_device_is_drift_and_this_end_initiates() -> None:
    book = sealed()
    empty = {"lsl11": DeviceState("lsl11", ME.generations[0].public_key)}
    assert book.observe(empty, NOW) == [KEY]
    assert book.observe(empty, NOW) == []
    links = book.peer_links(NOW)["n2"]
    assert links.current == (1, 1), "traffic stays"
    assert links.provoke == links.set_endpoint == {(1, 1)}
    book.observe(kernel(ME, PEER, {(1, 1): NOW + 1}), NOW + 1)
    assert book.peer_links(NOW + 1)["n2"].provoke == frozenset()


def test_a_device_with_another_key_counts_as_no_device() -> None:
    book = sealed()
    strange = {"lsl11": replace(kernel(ME, PEER, {(1, 1): NOW})["lsl11"], public_key=public_key("x", 1))}
    assert book.observe(strange, NOW) == [KEY]


def test_a_roamed_endpoint_is_left_alone_until_it_proves_dead() -> None:
    book = sealed()
    book.observe(kernel(ME, PEER, {(1, 1): NOW}, ROAMED), NOW)
    assert book.peer_links(NOW)["n2"].set_endpoint == frozenset()
    late = NOW + HANDSHAKE_FRESH + ENDPOINT_PATIENCE
    assert book.peer_links(late)["n2"].set_endpoint == {(1, 1)}


def test_a_newly_announced_endpoint_is_written_once_even_over_a_roamed_one() -> None:
    book = sealed()
    book.observe(kernel(ME, PEER, {(1, 1): NOW}, ROAMED), NOW)
    moved = Endpoint("192.0.2.77", 51820)
    book.sync(ME, {"n2": PEER}, {"n2": moved}, NOW)
    assert book.peer_links(NOW)["n2"].set_endpoint == {(1, 1)}
    book.endpoint_written("lsl11", PEER.generations[0].public_key, NOW)
    assert book.peer_links(NOW)["n2"].set_endpoint == frozenset()


def test_a_former_endpoint_that_comes_back_is_left_again_for_a_minute_once_a_second() -> None:
    """Each end goes on as it last heard from the other, so a packet under way brings the old one back."""
    book, key = sealed(), PEER.generations[0].public_key
    book.sync(ME, {"n2": PEER}, {"n2": Endpoint("192.0.2.77", 51820)}, NOW)
    written = []
    for tick in range(200):
        now = NOW + tick / 2
        book.observe(kernel(ME, PEER, {(1, 1): NOW}), now)
        if book.peer_links(now)["n2"].set_endpoint:
            book.endpoint_written("lsl11", key, now)
            written.append(now - NOW)
    assert written == [float(second) for second in range(61)]
    assert book.changing(KEY, NOW + 60)
    assert not book.changing(KEY, NOW + 61)


def test_a_link_with_a_new_endpoint_is_looked_at_for_ten_seconds_though_the_old_one_is_not_seen() -> None:
    """Between two looks it may have come back, and the next poll may be far."""
    book = sealed()
    assert not book.changing(KEY, NOW)
    moved = Endpoint("192.0.2.77", 51820)
    book.sync(ME, {"n2": PEER}, {"n2": moved}, NOW)
    book.observe(kernel(ME, PEER, {(1, 1): NOW}, Endpoint(moved.host, 51823)), NOW)
    assert not book.insists(KEY, NOW)
    assert [book.changing(KEY, NOW + second) for second in (0, 10, 11)] == [True, True, False]


def test_no_endpoint_is_set_for_a_peer_that_announces_none() -> None:
    book = book_of(base=None)
    assert book.peer_links(NOW)["n2"].set_endpoint == frozenset()


def test_a_generation_withdrawn_by_mistake_is_kept_until_its_successor_is_proven() -> None:
    book = sealed()
    lost_store = replace(PEER, generations=keys("n2", 2))
    kept = book.retain({"n2": lost_store})["n2"]
    assert [g.number for g in kept.generations] == [1, 2]
    book.sync(ME, {"n2": kept}, {"n2": BASE}, NOW)
    assert book.current == {"n2": (1, 1)}
    book.observe(kernel(ME, kept, {(1, 1): NOW, (1, 2): NOW}), NOW)
    book.proved(LinkKey("n2", 1, 2), NOW, 1420, None)
    book.choose(NOW)
    assert book.retain({"n2": lost_store})["n2"] == lost_store


def test_nothing_is_kept_where_both_would_need_one_slot_or_the_peer_has_no_tunnel_any_more() -> None:
    book = sealed()
    for numbers in ((3,), ()):
        peer = replace(PEER, generations=keys("n2", *numbers))
        assert book.retain({"n2": peer})["n2"] == peer


def due_times(book: LinkBook, me: Me, peer: Peer, seconds: int) -> list[int]:
    found = []
    for second in range(seconds):
        book.observe(kernel(me, peer, {}), NOW + second)
        found += [second] * len(book.provocations(NOW + second))
    return found


def ends() -> tuple[Me, Peer, Me, Peer]:
    """(initiator, its peer, answerer, its peer)."""
    one, two = make_peer(1, 1), make_peer(2, 1)
    low, high = sorted((one, two), key=lambda peer: peer.generations[0].public_key)
    return as_me(low), high, as_me(high), low


def test_the_initiator_provokes_with_doubling_pauses() -> None:
    me, peer, _, _ = ends()
    book = LinkBook()
    book.sync(me, {peer.name: peer}, {peer.name: BASE}, NOW)
    assert due_times(book, me, peer, 300) == [2, 4, 8, 16, 32, 64, 124, 184, 244]


def test_the_answering_end_helps_after_half_a_minute_and_says_that_it_initiates_now() -> None:
    _, _, me, peer = ends()
    book = LinkBook()
    book.sync(me, {peer.name: peer}, {peer.name: BASE}, NOW)
    assert due_times(book, me, peer, 60)[0] == HELP_AFTER
    assert book.peer_links(NOW)[peer.name].provoke == {(1, 1)}


def test_the_link_that_carries_traffic_is_never_provoked() -> None:
    book = sealed()
    late = NOW + 10_000
    book.observe(kernel(ME, PEER, {(1, 1): NOW}), late)
    assert book.provocations(late) == []


def test_a_peer_that_leaves_leaves_nothing_behind() -> None:
    book = sealed()
    book.path_mtu["n2"] = 1400
    book.sync(ME, {}, {}, NOW)
    assert not any(
        (book.records, book.current, book.moved_at, book.announced, book.path_mtu, book._by_peer, book._heard)
    )


def test_what_went_into_a_tunnel_never_falls_back_to_plaintext_when_our_generation_goes() -> None:
    """The peer is dead and our old generation is retired: the new link stands in, unproven, and holds the traffic."""
    book = sealed()
    newer = replace(ME, generations=(KeyOfGeneration(ME.generations[-1].number + 1, ME.generations[-1].public_key),))
    book.sync(newer, {PEER.name: PEER}, {PEER.name: BASE}, NOW + 700)
    assert book.current == {PEER.name: (newer.generations[0].number, PEER.generations[-1].number)}
    assert book.state(next(book.of_peer(PEER.name)), NOW + 700) is LinkState.ABSENT


def test_a_generation_that_a_peer_takes_back_is_left_for_the_older_and_kept_until_then() -> None:
    book = sealed(peer=replace(PEER, generations=keys("n2", 1, 2)))
    assert book.current == {"n2": (1, 2)}
    aborted = replace(PEER, generations=keys("n2", 1))
    kept = book.retain({"n2": aborted})["n2"]
    assert [g.number for g in kept.generations] == [1, 2]
    book.sync(ME, {"n2": kept}, {"n2": BASE}, NOW)
    assert book.choose(NOW) == [("n2", (1, 2), (1, 1))]
    assert [g.number for g in book.retain({"n2": aborted})["n2"].generations] == [1]


def test_a_generation_of_ours_that_was_aborted_is_left_only_for_a_link_that_works() -> None:
    book = LinkBook()
    me = replace(ME, generations=keys("n1", 1, 2))
    book.sync(me, {"n2": PEER}, {"n2": BASE}, NOW)
    book.observe(kernel(me, PEER, {(1, 1): NOW, (2, 1): NOW}), NOW)
    book.proved(LinkKey("n2", 2, 1), NOW, 1420, None)
    book.choose(NOW)
    book.leaving = frozenset({2})
    assert book.choose(NOW) == [], "nothing else works"
    book.proved(LinkKey("n2", 1, 1), NOW, 1420, None)
    assert book.choose(NOW) == [("n2", (2, 1), (1, 1))]

"""What holds the old generation, one reason at a time."""

from __future__ import annotations

from dataclasses import replace

from linkseal.tunnels.links import DEAD_AFTER, LinkBook
from linkseal.tunnels.model import LinkKey
from linkseal.tunnels.rotation import GRACE, holders
from linkseal.wireguard.model import DeviceState, PeerState
from property.worlds import as_me, keys, make_peer

NOW = 1_000_000.0
ME = replace(as_me(make_peer(1)), generations=keys("n1", 1, 2))
PEER = make_peer(2, 5)
OLD, NEW = LinkKey("n2", 1, 5), LinkKey("n2", 2, 5)


def see(book: LinkBook, now: float, *live: LinkKey) -> None:
    """A handshake a second ago on these links, and none on the others."""
    [remote] = PEER.generations
    book.sync(ME, {"n2": PEER}, {"n2": PEER.endpoints[0]}, now)
    devices = {}
    for own in ME.generations:
        handshake = now - 1 if LinkKey("n2", own.number, 5) in live else 0.0
        peers = {remote.public_key: PeerState(remote.public_key, frozenset(), None, 0, handshake)}
        devices[f"lsl{own.number % 2}1"] = DeviceState(f"lsl{own.number % 2}1", own.public_key, peers=peers)
    book.observe(devices, now)


def moved() -> LinkBook:
    """Both links alive and proven, the peer said by the new one that it uses it, this node moved; all at NOW."""
    book = LinkBook()
    see(book, NOW, OLD, NEW)
    book.proved(OLD, NOW, 1420, (2, 5))
    book.proved(NEW, NOW, 1420, (2, 5))
    book.choose(NOW)
    return book


def held(book: LinkBook, now: float = NOW + 10) -> str | None:
    return holders(book, 1, 2, now).get("n2")


def test_nothing_holds_once_both_ends_have_moved_and_packets_have_arrived() -> None:
    book = moved()
    assert "under way" in (held(book, NOW + GRACE / 2) or "")
    assert held(book, NOW + GRACE) is None


def test_a_peer_that_has_not_replied_by_the_new_one_holds() -> None:
    book = LinkBook()
    see(book, NOW, OLD, NEW)
    book.proved(NEW, NOW, 1420, None)
    book.choose(NOW)
    assert "not yet replied" in (held(book) or "")
    book.proved(NEW, NOW, 1420, (1, 5))
    assert "not yet replied" in (held(book) or "")


def test_this_node_itself_holds_while_it_sends_by_the_old_one() -> None:
    book = LinkBook()
    see(book, NOW, OLD, NEW)
    book.proved(OLD, NOW, 1420, (2, 5))
    book.choose(NOW)
    assert "by generation 1" in (held(book) or "")


def test_a_peer_that_says_it_went_back_holds() -> None:
    book = moved()
    book.proved(OLD, NOW + 5, 1420, (1, 5))
    assert "again" in (held(book) or "")


def test_the_grace_counts_from_the_later_move() -> None:
    """The peer moved long ago; what this node sent by the old link just before its own move is still under way."""
    book = LinkBook()
    see(book, NOW, OLD, NEW)
    book.proved(OLD, NOW, 1420, (1, 5))
    book.choose(NOW)
    book.proved(NEW, NOW + 1, 1420, (2, 5))
    book.proved(OLD, NOW + 1, 1420, (2, 5))
    book.choose(NOW + 8)
    assert "under way" in (held(book, NOW + 8.5) or "")


def test_a_peer_alive_on_the_old_one_that_was_never_proven_holds() -> None:
    book = LinkBook()
    see(book, NOW, OLD)
    assert "none has been proven" in (held(book) or "")


def test_a_peer_never_heard_of_holds_until_it_has_been_listened_for_ten_minutes() -> None:
    """After a restart or a reboot in mid-rotation nothing has been heard yet of anybody."""
    book = LinkBook()
    see(book, NOW)
    assert list(holders(book, 1, 2, NOW)) == ["n2"]
    see(book, NOW + DEAD_AFTER)
    assert holders(book, 1, 2, NOW + DEAD_AFTER) == {}


def test_a_dead_peer_holds_for_ten_minutes_and_no_longer() -> None:
    book = LinkBook()
    see(book, NOW, OLD)
    book.proved(OLD, NOW, 1420, (1, 5))
    book.choose(NOW)
    for after, holds in ((DEAD_AFTER - 2, True), (DEAD_AFTER, False)):
        see(book, NOW + after)
        assert (held(book, NOW + after) is not None) is holds


def test_a_device_deleted_by_somebody_does_not_make_its_peers_dead() -> None:
    """The kernel forgot the handshakes with it; the peers still send by the old generation."""
    book = LinkBook()
    see(book, NOW, OLD)
    book.proved(OLD, NOW, 1420, (1, 5))
    book.choose(NOW)
    book.observe({}, NOW + 5)
    assert held(book, NOW + 5) is not None


def test_an_aborted_generation_is_held_by_those_alone_who_had_a_session_by_it() -> None:
    """The same question the other way round: 2, raised by this process, goes; 1 stays."""
    book = LinkBook()
    book.sync(replace(ME, generations=keys("n1", 1)), {"n2": PEER}, {"n2": PEER.endpoints[0]}, NOW)
    see(book, NOW, OLD)
    book.proved(OLD, NOW, 1420, None)
    book.choose(NOW)
    assert holders(book, 2, 1, NOW) == {}, "it cannot send by 2"
    see(book, NOW, OLD, NEW)
    assert "not yet replied" in holders(book, 2, 1, NOW)["n2"]
    book.proved(OLD, NOW + 1, 1420, (1, 5))
    assert holders(book, 2, 1, NOW + 1 + GRACE) == {}

"""The link book when the kernel forgot a session but kept the peer: a slot was down, or had another key for a while."""

from __future__ import annotations

from dataclasses import replace

from linkseal.tunnels.links import ENDPOINT_PATIENCE, LinkBook
from linkseal.tunnels.model import LinkKey, LinkState
from linkseal.wireguard.model import DeviceState, Endpoint, PeerState
from property.worlds import as_me, make_peer, public_key

NOW = 1_000_000.0
KEY = LinkKey("n2", 1, 1)
ME, PEER = as_me(make_peer(1, 1)), make_peer(2, 1)
OWN, THEIRS = ME.generations[0].public_key, PEER.generations[0].public_key
ROAMED = Endpoint("198.51.100.7", 4242)


def kernel(handshake: float) -> dict[str, DeviceState]:
    peer = PeerState(THEIRS, frozenset(), ROAMED, 0, handshake)
    return {"lsl11": DeviceState("lsl11", OWN, 51823, 1, {THEIRS: peer})}


def sealed() -> LinkBook:
    book = LinkBook()
    book.sync(ME, {"n2": PEER}, {"n2": PEER.endpoints[0]}, NOW)
    book.observe(kernel(NOW), NOW)
    book.proved(KEY, NOW, 1420, None)
    book.choose(NOW)
    assert book.state(book.records[KEY], NOW) is LinkState.SEALED
    return book


def test_a_slot_that_is_down_has_no_session_whatever_handshake_the_kernel_remembers() -> None:
    book = sealed()
    assert book.observe(kernel(NOW), NOW + 5, down={"lsl11"}) == [KEY]
    assert book.state(book.records[KEY], NOW + 5) is LinkState.STALE
    assert book.peer_links(NOW + 5)["n2"].provoke == {(1, 1)}
    book.observe(kernel(NOW), NOW + 6)
    assert book.records[KEY].handshake_at is None
    assert book.records[KEY].provoke


def test_a_slot_that_had_another_key_has_no_session_either() -> None:
    book = sealed()
    devices = kernel(NOW)
    devices["lsl11"] = replace(devices["lsl11"], public_key=public_key("other", 9))
    assert book.observe(devices, NOW + 5) == [KEY]
    book.observe(kernel(NOW), NOW + 6)
    assert book.state(book.records[KEY], NOW + 6) is LinkState.STALE


def test_a_lost_session_is_told_once_however_long_it_lasts() -> None:
    book = sealed()
    found = [book.observe(kernel(NOW), NOW + second, down={"lsl11"}) for second in range(5, 9)]
    assert found == [[KEY], [], [], []]


def test_a_handshake_after_the_loss_and_a_new_proof_seal_the_link_again() -> None:
    book = sealed()
    book.observe(kernel(NOW), NOW + 5, down={"lsl11"})
    book.observe(kernel(NOW + 6), NOW + 7)
    assert not book.records[KEY].provoke
    assert book.state(book.records[KEY], NOW + 7) is LinkState.STALE
    book.proved(KEY, NOW + 7, 1420, None)
    assert book.state(book.records[KEY], NOW + 7) is LinkState.SEALED


def test_where_the_peer_was_heard_last_is_kept_for_a_while_after_the_loss() -> None:
    book = sealed()
    book.observe(kernel(NOW), NOW + 50, down={"lsl11"})
    assert book.peer_links(NOW + 50)["n2"].set_endpoint == frozenset()
    assert book.peer_links(NOW + 51 + ENDPOINT_PATIENCE)["n2"].set_endpoint == {(1, 1)}


def test_the_link_that_carries_traffic_is_provoked_once_its_session_is_known_to_be_gone() -> None:
    book = sealed()
    assert book.provocations(NOW + 300) == []
    book.observe(kernel(NOW), NOW + 5, down={"lsl11"})
    book.observe(kernel(NOW), NOW + 6)
    due = [book.provocations(NOW + 6), book.provocations(NOW + 7.5)]
    assert KEY in due[0] + due[1]

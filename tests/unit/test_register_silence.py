"""Silence removes nothing, deletions in numbers are held, and the disk gives back what was accepted."""

from __future__ import annotations

from datetime import timedelta

import pytest
from linkseal.keys import codes
from linkseal.keys.grant import SignedGrant
from linkseal.tunnels.register import NodeDocuments, Refresh, Register, Snapshot
from unit.keys.cluster import GOOD, NOW, TWO, Node, altered, fresh, nodes, see, told, trust


def without(count: int, *, of: int) -> Refresh:
    docs = {node.name: NodeDocuments(None, node.grant()) for node in nodes(of)}
    gone = {f"n{i}" for i in range(2, 2 + count)}
    return see(fresh(docs), {n: d for n, d in docs.items() if n not in gone}, gone)


def test_silence_removes_nothing() -> None:
    after = see(fresh(), {"n1": GOOD["n1"]})
    assert (told(after), set(after.register.peers)) == ([], {"n1", "n2", "n3"})


@pytest.mark.parametrize(("count", "of", "held"), [(1, 2, False), (2, 3, False), (3, 30, True), (3, 31, False)])
def test_many_deletions_at_once_are_held(count: int, of: int, held: bool) -> None:  # noqa: FBT001
    after = without(count, of=of)
    assert told(after) == ([(codes.DELETIONS_HELD, "n1", None)] if held else [])
    assert len(after.register.peers) == (of if held else of - count)
    assert after.changed == (frozenset() if held else {f"n{i}" for i in range(2, 2 + count)})


def test_ones_own_absence_holds_every_deletion() -> None:
    after = see(fresh(), {"n3": GOOD["n3"]}, {"n2"})
    assert told(after) == [(codes.OWN_DOCUMENTS, "n1", None), (codes.DELETIONS_HELD, "n1", None)]
    assert set(after.register.peers) == {"n1", "n2", "n3"}


REST = {"n1": GOOD["n1"], "n3": GOOD["n3"]}


def look(register: Register, *, word: float | None = None, docs: object = None, lost: bool = True) -> Refresh:
    """n2 is gone, with an older state of the directory if `lost`; `word`: minutes since the operator's."""
    snapshot = Snapshot("c1", docs or REST, frozenset({"n2"}), frozenset({"n2"} if lost else ()))  # type: ignore[arg-type]
    said = None if word is None else NOW - timedelta(minutes=word)
    return register.refresh(snapshot, trust(), NOW, said)


def test_who_went_with_an_older_state_that_was_put_back_is_kept_until_the_operator_s_word() -> None:
    held = look(fresh())
    assert told(held) == [(codes.DELETIONS_HELD, "n1", None)]
    assert "older state" in held.findings[0].message
    assert set(held.register.peers) == {"n1", "n2", "n3"}
    after = look(held.register, word=1)
    assert (told(after), set(after.register.peers)) == ([], {"n1", "n3"})


@pytest.mark.parametrize(("minutes", "counts"), [(59, True), (61, False), (-4, True), (-6, False)])
def test_the_operator_s_word_counts_for_an_hour(minutes: float, counts: bool) -> None:  # noqa: FBT001
    assert (look(fresh(), word=minutes).changed == {"n2"}) is counts


def test_many_deletions_are_carried_out_at_the_operator_s_word_and_ones_own_absence_is_not_overruled() -> None:
    docs = {node.name: NodeDocuments(None, node.grant()) for node in nodes(9)}
    gone = {f"n{i}" for i in range(2, 7)}
    rest = {name: found for name, found in docs.items() if name not in gone}
    register = fresh(docs)
    assert see(register, rest, gone).changed == set()
    assert register.refresh(Snapshot("c1", rest, frozenset(gone)), trust(), NOW, NOW).changed == gone
    alone = {"n3": GOOD["n3"]}
    assert look(fresh(), word=1, docs=alone).changed == set()


def test_a_deletion_beside_those_of_an_older_state_is_carried_out() -> None:
    docs = {node.name: NodeDocuments(None, node.grant()) for node in nodes(9)}
    rest = {name: found for name, found in docs.items() if name not in {"n2", "n3"}}
    after = fresh(docs).refresh(Snapshot("c1", rest, frozenset({"n2", "n3"}), frozenset({"n3"})), trust(), NOW)
    assert after.changed == {"n2"}
    assert told(after) == [(codes.DELETIONS_HELD, "n1", None)]


def test_who_is_held_for_their_number_alone_keeps_nothing_from_those_who_are_there() -> None:
    """Three nodes are scaled down, and the next one gets an index and a network of theirs."""
    docs = {node.name: node.documents() for node in nodes(9)}
    gone = {"n2", "n3", "n4"}
    rest = {name: found for name, found in docs.items() if name not in gone}
    held = see(fresh(docs), rest, gone)
    assert told(held) == [(codes.DELETIONS_HELD, "n1", None)]
    new = Node("n10", "uid-10", 3)
    later = new.documents(issued=NOW + timedelta(minutes=1))
    both = see(held.register, {**rest, "n10": later}, gone)
    peer = both.register.peers["n10"]
    assert peer.announcement is not None
    assert (peer.grant.index, [str(one) for one in peer.grant.prefixes]) == (3, ["10.244.3.0/24"])
    loser = both.register.peers["n3"]
    assert (loser.announcement, loser.grant.prefixes, loser.grant.addresses) == (None, (), ())
    assert both.register.peers["n2"].announcement is not None, "who loses nothing keeps it"
    back = see(both.register, {**rest, "n10": later, "n3": docs["n3"]}, gone - {"n3"})
    assert back.register.peers["n10"].announcement is None, "of two that are there the earlier grant counts"


def test_those_that_are_held_do_not_hold_what_goes_later() -> None:
    docs = {node.name: node.documents() for node in nodes(9)}
    gone = {"n2", "n3", "n4"}
    rest = {name: found for name, found in docs.items() if name not in gone}
    held = see(fresh(docs), rest, gone)
    after = see(held.register, {n: d for n, d in rest.items() if n != "n5"}, {*gone, "n5"})
    assert (after.changed, told(after)) == ({"n5"}, [(codes.DELETIONS_HELD, "n1", None)])
    many = {"n6", "n7", "n8"}
    more = see(after.register, {n: d for n, d in rest.items() if n not in {*many, "n5"}}, {*gone, *many, "n5"})
    assert (more.changed, more.register.held) == (set(), {*gone, *many})


@pytest.mark.parametrize("cluster_uid", ["c2", ""])
def test_another_cluster_holds_every_deletion(cluster_uid: str) -> None:
    after = see(fresh(), {"n1": GOOD["n1"], "n3": GOOD["n3"]}, {"n2"}, cluster_uid=cluster_uid)
    assert told(after) == [(codes.CLUSTER_CHANGED, "n1", None)]
    assert set(after.register.peers) == {"n1", "n2", "n3"}
    assert after.register.cluster_uid == "c1"


def test_a_removed_node_comes_back_but_its_old_documents_do_not() -> None:
    register = fresh({**GOOD, "n2": TWO.documents(serial=5)})
    rest = {"n1": GOOD["n1"], "n3": GOOD["n3"]}
    removed = see(register, rest, {"n2"}).register
    assert set(removed.peers) == {"n1", "n3"}
    replayed = see(removed, GOOD)
    assert told(replayed) == [(codes.SERIAL_REPLAYED, "n2", None)]
    assert replayed.register.peers["n2"].announcement is None
    back = see(removed, {**rest, "n2": register.peers["n2"].documents})
    assert told(back) == []
    assert back.register.peers == register.peers


def test_own_documents_altered_in_the_directory_are_told() -> None:
    after = see(fresh(), {**GOOD, "n1": altered(GOOD["n1"], signature="AAAA")})
    assert told(after) == [(codes.SIGNATURE_INVALID, "n1", None), (codes.OWN_DOCUMENTS, "n1", None)]
    absent = see(fresh(), {**GOOD, "n1": NodeDocuments(None, GOOD["n1"].grant)})
    assert told(absent) == [(codes.OWN_DOCUMENTS, "n1", None)]


# --- last known good --------------------------------------------------------------------------------------------------


def test_a_register_is_rebuilt_from_disk_years_later() -> None:
    register = fresh()
    kept = {name: peer.documents for name, peer in register.peers.items()}
    rebuilt = Register.from_known_good("n1", "c1", kept, trust())
    assert rebuilt.findings == ()
    assert rebuilt.register.peers == register.peers
    again = see(rebuilt.register, kept)
    assert (again.changed, again.findings) == (frozenset(), ())


def test_a_damaged_file_on_disk_costs_that_node_alone() -> None:
    damaged = {**GOOD, "n2": NodeDocuments(None, SignedGrant("{", "AAAA"))}
    rebuilt = Register.from_known_good("n1", "c1", damaged, trust())
    assert told(rebuilt) == [(codes.GRANT_SIGNATURE_INVALID, "n2", None)]
    assert set(rebuilt.register.peers) == {"n1", "n3"}

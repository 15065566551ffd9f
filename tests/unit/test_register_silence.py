"""Silence removes nothing, deletions in numbers are held, and the disk gives back what was accepted."""

from __future__ import annotations

import pytest
from linkseal.keys import codes
from linkseal.keys.grant import SignedGrant
from linkseal.tunnels.register import NodeDocuments, Refresh, Register
from unit.keys.cluster import GOOD, TWO, altered, fresh, nodes, see, told, trust


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

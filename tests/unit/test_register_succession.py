"""A cluster that goes on from another: nodes get new UIDs, and keep their links until each has said so itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys import codes
from linkseal.tunnels.register import NodeDocuments, Refresh, Register, Snapshot
from unit.keys.cluster import GOOD, NOW, THREE, TWO, Node, altered, fresh, see, told, trust

LATER = NOW + timedelta(hours=1)
FORMER = frozenset({"uid-1", "uid-2", "uid-3"})
NEW = {name: Node(name, f"new-{i}", i) for i, name in enumerate(GOOD, 1)}
"""The same machines, as the new cluster knows them: with their indexes, for which each waits (`agent.succession`)."""
WITHOUT = {name: NodeDocuments(None, node.grant(issued=LATER)) for name, node in NEW.items()}
WHOLE = {name: node.documents(issued=LATER) for name, node in NEW.items()}


def crossed() -> Register:
    """Node n1's register, rebuilt from its disk as one of the new cluster."""
    kept = {name: peer.documents for name, peer in fresh().peers.items()}
    return Register.from_known_good("n1", "c2", kept, trust(), FORMER).register


def seen(
    register: Register, docs: Mapping[str, NodeDocuments], gone: set[str] | None = None, **more: object
) -> Refresh:
    return see(register, dict(docs), gone, cluster_uid="c2", now=LATER, **more)


def test_of_another_cluster_nothing_is_taken() -> None:
    """Signed by the same CA: its store was lost, and nobody has said yet what the new cluster is to this one."""
    register = fresh()
    for docs in (WITHOUT, WHOLE, {}):
        after = register.refresh(Snapshot("c2", docs, frozenset(GOOD)), trust(), LATER)
        assert (told(after), after.changed) == ([(codes.CLUSTER_CHANGED, "n1", None)], frozenset())
        assert after.register.peers == register.peers


def test_a_peer_is_as_it_was_until_its_new_uid_has_announced_itself() -> None:
    after = seen(crossed(), WITHOUT)
    assert (told(after), after.changed) == ([(codes.OWN_DOCUMENTS, "n1", None)], frozenset())
    assert {peer.uid for peer in after.register.peers.values()} == FORMER
    after = seen(after.register, WITHOUT | {"n2": WHOLE["n2"]})
    assert after.changed == {"n2"}
    assert after.register.peers["n2"].uid == "new-2"
    assert after.register.peers["n2"].announcement is not None
    after = seen(after.register, WHOLE)
    assert told(after) == []
    assert {peer.uid for peer in after.register.peers.values()} == {node.uid for node in NEW.values()}


def test_its_documents_go_together_on_the_disk() -> None:
    """A grant of one UID beside the announcement of another could not be read back: the link would be gone at boot."""
    peers = seen(crossed(), WITHOUT).register.peers
    kept = {name: peer.documents for name, peer in peers.items()}
    again = Register.from_known_good("n1", "c2", kept, trust(), FORMER)
    assert (again.findings, again.register.peers) == ((), peers)


def test_an_announcement_that_is_not_good_does_not_take_the_old_one_s_place() -> None:
    bad = altered(WHOLE["n2"], signature="AAAA")
    after = seen(crossed(), WHOLE | {"n2": bad})
    assert told(after) == [(codes.SIGNATURE_INVALID, "n2", None)]
    assert after.register.peers["n2"].uid == TWO.uid
    assert seen(after.register, WHOLE).register.peers["n2"].uid == "new-2"


def test_who_did_not_come_over_is_kept_until_the_operator_s_word() -> None:
    rest = {name: found for name, found in WHOLE.items() if name != "n3"}
    after = seen(crossed(), rest, {"n3"})
    assert told(after) == [(codes.DELETIONS_HELD, "n1", None)]
    assert after.register.peers["n3"].uid == THREE.uid
    gone = after.register.refresh(Snapshot("c2", rest, frozenset({"n3"})), trust(), LATER, LATER)
    assert (gone.changed, set(gone.register.peers)) == ({"n3"}, {"n1", "n2"})


def test_who_came_over_is_like_any_other() -> None:
    """Deleted it goes; made anew it has no say as what it was before."""
    register = seen(crossed(), WHOLE).register
    rest = {name: found for name, found in WHOLE.items() if name != "n3"}
    assert seen(register, rest, {"n3"}).changed == {"n3"}
    anew = replace(NEW["n3"], uid="newest-3").grant(issued=LATER + timedelta(hours=1))
    after = seen(register, {**rest, "n3": NodeDocuments(None, anew)})
    assert (after.register.peers["n3"].uid, after.register.peers["n3"].announcement) == ("newest-3", None)


@given(
    st.lists(st.dictionaries(st.sampled_from(sorted(GOOD)), st.sampled_from(("nothing", "grant", "all"))), max_size=6)
)
def test_whatever_the_new_directory_says_in_what_order_no_peer_is_ever_without_keys(
    order: list[dict[str, str]],
) -> None:
    register, over = crossed(), set[str]()
    for step in order:
        docs = {name: (WHOLE if what == "all" else WITHOUT)[name] for name, what in step.items() if what != "nothing"}
        over |= {name for name, what in step.items() if what == "all"}
        register = seen(register, docs, {name for name in GOOD if name not in docs and name not in over}).register
        assert set(register.peers) == set(GOOD)
        for peer in register.peers.values():
            assert peer.announcement is not None
            assert peer.announcement.uid == peer.uid

"""Which CAs a node trusts: the first, and those that one of them vouches for, until a later one retires it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from linkseal.keys import codes as documents
from linkseal.keys import policydoc
from linkseal.keys.errors import HostError
from linkseal.keys.policydoc import PolicyDocument, SignedPolicy
from linkseal.keys.store import KeyStore
from linkseal.tunnels import codes
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.register import NodeDocuments, Snapshot
from unit.agent.test_knowledge import TIME, Node, start
from unit.keys.cluster import NOW, ONE, TWO, authority

OLD, NEW, NEWEST, EVIL = "lab", "next", "newest", "evil"


def name(ca: str) -> str:
    return authority(ca).fingerprint


def crosses(*pairs: tuple[str, str]) -> str:
    return "".join(authority(by).cross_sign(authority(of).certificate) for by, of in pairs)


def signed(serial: int, *cas: str) -> SignedPolicy:
    """A policy by the first of these CAs, which names them all."""
    return policydoc.sign(
        authority(cas[0]), PolicyDocument("c1", serial, NOW, {"stage": "prefer"}, tuple(map(name, cas)))
    )


def documents_by(*cas: str, serial: int = 1) -> dict[str, NodeDocuments]:
    """Of two nodes, each by the CA of its place."""
    return {
        node.name: NodeDocuments(
            node.announce(serial, certificate=node.certificate(ca=ca)), node.grant(serial=serial, ca=ca)
        )
        for node, ca in zip((ONE, TWO), cas, strict=True)
    }


BY_OLD = documents_by(OLD, OLD)


def view(
    cas: Sequence[str], policy: SignedPolicy, cross: str = "", found: dict[str, NodeDocuments] | None = None
) -> DirectoryView:
    bundle = "".join(authority(ca).certificate_pem() for ca in cas)
    return DirectoryView(Snapshot("c1", BY_OLD if found is None else found), policy, bundle, cross_certificates=cross)


def trusted(node: Node) -> tuple[str, ...]:
    assert node.knowledge.trust is not None
    return node.knowledge.trust.fingerprints


def told(node: Node) -> list[str]:
    return [code for code, _ in node.shown()]


def peers(node: Node) -> dict[str, int]:
    """Names and serials of what is accepted."""
    assert node.knowledge.register is not None
    return {n: p.announcement.serial for n, p in node.knowledge.register.peers.items() if p.announcement}


def rotated(folder: Path) -> Node:
    """A node that has seen a rotation from beginning to end, and has it all on disk."""
    node = start(folder)
    node.knowledge.learn(view([OLD], signed(1, OLD)), TIME)
    cross = crosses((OLD, NEW))
    node.knowledge.learn(view([OLD, NEW], signed(2, OLD, NEW), cross), TIME)
    assert trusted(node) == (name(OLD), name(NEW))
    mixed = documents_by(NEW, NEW, serial=2) | {"n2": BY_OLD["n2"]}
    node.knowledge.learn(view([OLD, NEW], signed(3, NEW, OLD), cross, mixed), TIME)
    assert (trusted(node), node.knowledge.anchors.signing) == ((name(OLD), name(NEW)), name(NEW))
    node.knowledge.learn(view([NEW], signed(4, NEW), cross, mixed), TIME)
    assert told(node) == []
    return node


def test_a_rotation_ends_with_the_new_ca_alone_and_what_the_old_one_signed_stays(tmp_path: Path) -> None:
    node = rotated(tmp_path / "state")
    for found in (node, start(tmp_path / "state")):
        assert trusted(found) == (name(NEW),)
        assert found.knowledge.anchors.signing == name(NEW)
        assert peers(found) == {"n1": 2, "n2": 1}, "of one that was away its old announcement counts"
        assert told(found) == []
        found.knowledge.learn(view([NEW], signed(4, NEW), crosses((OLD, NEW)), documents_by(NEW, NEW, serial=3)), TIME)
        assert peers(found) == {"n1": 3, "n2": 3}, "when it is back it speaks by the new one"


def test_what_a_retired_ca_signs_is_new_to_nobody(tmp_path: Path) -> None:
    node = rotated(tmp_path / "state")
    for found in (node, start(tmp_path / "state")):
        stolen = documents_by(OLD, OLD, serial=9)
        found.knowledge.learn(view([OLD, NEW], signed(9, OLD), crosses((OLD, NEW), (OLD, EVIL)), stolen), TIME)
        assert trusted(found) == (name(NEW),)
        assert peers(found) == {"n1": 2, "n2": 1}
        assert found.knowledge.policy_serial == 4
        assert set(told(found)) >= {documents.UNTRUSTED_CERTIFICATE, documents.GRANT_SIGNATURE_INVALID}
        assert codes.POLICY_UNSIGNED in told(found)
        found.knowledge.learn(view([NEW, EVIL], signed(9, EVIL), crosses((OLD, NEW), (OLD, EVIL))), TIME)
        assert trusted(found) == (name(NEW),), "nor can it vouch for one any more"
        assert documents.CA_NOT_VOUCHED in told(found)


def test_who_slept_through_a_rotation_or_two_follows_the_cross_certificates(tmp_path: Path) -> None:
    start(tmp_path / "state").knowledge.learn(view([OLD], signed(1, OLD)), TIME)
    node = start(tmp_path / "state")
    cross = crosses((OLD, NEW), (NEW, NEWEST))
    node.knowledge.learn(view([NEWEST], signed(7, NEWEST), cross, documents_by(NEWEST, NEWEST, serial=2)), TIME)
    assert trusted(node) == (name(NEWEST),)
    assert (node.knowledge.policy_serial, peers(node), told(node)) == (7, {"n1": 2, "n2": 2}, [])
    assert trusted(start(tmp_path / "state")) == (name(NEWEST),)


def test_what_came_before_its_cross_certificate_is_taken_when_that_is_there(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view([OLD], signed(1, OLD)), TIME)
    found, policy = documents_by(NEW, NEW, serial=2), signed(7, NEW)
    for _ in range(2):
        node.knowledge.learn(view([NEW], policy, "", found), TIME)
        assert node.knowledge.policy_serial == 1
        assert {documents.CA_NOT_VOUCHED, codes.POLICY_UNSIGNED} <= set(told(node))
    node.knowledge.learn(view([NEW], policy, crosses((OLD, NEW)), found), TIME)
    assert (node.knowledge.policy_serial, peers(node), told(node)) == (7, {"n1": 2, "n2": 2}, [])


def test_a_new_node_trusts_what_it_finds_and_needs_no_cross_certificate(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    found = documents_by(NEW, NEW)
    node.knowledge.learn(view([NEW], signed(7, NEW), crosses((OLD, NEW), (EVIL, OLD)), found), TIME)
    assert trusted(node) == (name(NEW),), "cross certificates vouch, they are trusted for nothing"
    assert told(node) == []


@pytest.mark.parametrize(
    ("bundle", "cross"),
    [
        ([EVIL], ""),
        ([OLD, EVIL], ""),
        ([EVIL], crosses((EVIL, OLD))),
        ([OLD, EVIL], crosses((NEW, EVIL), (EVIL, NEW))),
    ],
)
def test_a_swapped_bundle_changes_nothing_and_is_told(tmp_path: Path, bundle: list[str], cross: str) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view([OLD], signed(1, OLD)), TIME)
    for _ in range(2):
        stolen = documents_by(EVIL, EVIL, serial=2)
        node.knowledge.learn(view(bundle, signed(9, EVIL), cross, stolen), TIME)
        assert trusted(node) == (name(OLD),)
        assert documents.CA_NOT_VOUCHED in told(node)
        assert (node.knowledge.policy_serial, peers(node)) == (1, {"n1": 1, "n2": 1})
        assert trusted(start(tmp_path / "state")) == (name(OLD),)
    node.knowledge.learn(view([OLD], signed(1, OLD)), TIME)
    assert told(node) == []


def test_a_bundle_that_only_lacks_the_ca_takes_nothing_away(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view([OLD, NEW], signed(2, OLD, NEW), crosses((OLD, NEW))), TIME)
    node.knowledge.learn(view([NEW], signed(2, OLD, NEW)), TIME)
    assert trusted(node) == (name(OLD), name(NEW)), "that is for a policy by the later CA to say"


def test_an_earlier_ca_retires_no_later_one(tmp_path: Path) -> None:
    """A second controller may sign with the old CA for a moment: it must not put the new one out of force."""
    node = start(tmp_path / "state")
    node.knowledge.learn(view([OLD, NEW], signed(2, OLD, NEW), crosses((OLD, NEW))), TIME)
    node.knowledge.learn(view([OLD, NEW], signed(3, OLD), crosses((OLD, NEW))), TIME)
    assert trusted(node) == (name(OLD), name(NEW))
    node.knowledge.learn(view([NEW], signed(4, NEW), crosses((OLD, NEW))), TIME)
    assert trusted(node) == (name(NEW),)


def test_a_ca_that_cannot_be_kept_does_not_count_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view([OLD], signed(1, OLD)), TIME)
    keyring = node.knowledge.anchors._keyring

    def full(_: str) -> None:
        raise HostError("no space left")

    more = view([OLD, NEW], signed(2, OLD, NEW), crosses((OLD, NEW)))
    with monkeypatch.context() as patch:
        patch.setattr(keyring, "save_ca_bundle", full)
        node.knowledge.learn(more, TIME)
        assert trusted(node) == (name(OLD),)
        assert codes.STATE_NOT_SAVED in told(node)
        assert node.knowledge.unsaved
    node.knowledge.learn(more, TIME)
    assert trusted(node) == (name(OLD), name(NEW))
    assert (told(node), node.knowledge.unsaved) == ([], False)


def test_a_policy_that_retires_is_kept_only_after_what_it_retired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a restart would find it in force already, and the old CA trusted for good."""
    node = start(tmp_path / "state")
    cross = crosses((OLD, NEW))
    node.knowledge.learn(view([OLD, NEW], signed(2, OLD, NEW), cross), TIME)
    keyring = node.knowledge.anchors._keyring
    ending = view([NEW], signed(3, NEW), cross)

    def full(_: str) -> None:
        raise HostError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(keyring, "save_retired_cas", full)
        node.knowledge.learn(ending, TIME)
        assert node.knowledge.unsaved
        again = start(tmp_path / "state")
        assert (trusted(again), again.knowledge.policy_serial) == ((name(OLD), name(NEW)), 2)
    again.knowledge.learn(ending, TIME)
    assert trusted(again) == (name(NEW),)
    assert trusted(start(tmp_path / "state")) == (name(NEW),)


def test_what_else_is_lost_of_the_disk_the_ca_is_not_given_away(tmp_path: Path) -> None:
    start(tmp_path / "state").knowledge.learn(view([OLD], signed(1, OLD)), TIME)
    (tmp_path / "state" / "cluster.json").write_text("damaged")
    node = start(tmp_path / "state")
    node.knowledge.learn(replace(view([EVIL], signed(9, EVIL)), policy=signed(9, EVIL)), TIME)
    assert trusted(node) == (name(OLD),)
    assert documents.CA_NOT_VOUCHED in told(node)


def test_retired_cas_that_cannot_be_read_stop_no_start(tmp_path: Path) -> None:
    rotated(tmp_path / "state")
    (tmp_path / "state" / "ca-retired.crt").write_text("damaged")
    node = start(tmp_path / "state")
    assert trusted(node) == (name(NEW),)
    assert "n1" in peers(node)


# --- where the key is lost, and nobody can vouch for the next ---------------------------------------------------------


def lost(folder: Path) -> tuple[Node, DirectoryView]:
    """A node that trusts the old CA, and a directory where all is signed by a new one that nobody vouches for."""
    node = start(folder)
    node.knowledge.learn(view([OLD], signed(1, OLD)), TIME)
    anew = view([NEW], signed(7, NEW), "", documents_by(NEW, NEW, serial=2))
    node.knowledge.learn(anew, TIME)
    assert (trusted(node), node.knowledge.policy_serial, peers(node)) == ((name(OLD),), 1, {"n1": 1, "n2": 1})
    assert documents.CA_NOT_VOUCHED in told(node)
    return node, anew


def test_one_that_root_on_the_host_names_is_trusted_and_retires_the_one_before(tmp_path: Path) -> None:
    node, anew = lost(tmp_path / "state")
    KeyStore(tmp_path / "state").save_named_ca(name(NEW))
    node.knowledge.learn(anew, TIME)
    for found in (node, start(tmp_path / "state")):
        assert trusted(found) == (name(NEW),)
        assert (found.knowledge.policy_serial, peers(found), told(found)) == (7, {"n1": 2, "n2": 2}, [])
    assert KeyStore(tmp_path / "state").load_named_ca() is None, "the word counts once"


def test_a_name_is_no_word_for_another_ca_and_waits_for_its_own(tmp_path: Path) -> None:
    node, anew = lost(tmp_path / "state")
    KeyStore(tmp_path / "state").save_named_ca(name(NEWEST))
    for bundle in (anew.ca_bundle, "no PEM"):
        node.knowledge.learn(replace(anew, ca_bundle=bundle), TIME)
        assert (trusted(node), node.knowledge.policy_serial) == ((name(OLD),), 1)
    assert KeyStore(tmp_path / "state").load_named_ca() == name(NEWEST)


def test_it_is_not_used_up_while_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, anew = lost(tmp_path / "state")
    KeyStore(tmp_path / "state").save_named_ca(name(NEW))
    with monkeypatch.context() as broken:
        broken.setattr(KeyStore, "save_ca_bundle", full)
        node.knowledge.learn(anew, TIME)
        assert trusted(node) == (name(OLD),)
    node.knowledge.learn(anew, TIME)
    assert trusted(node) == (name(NEW),)


@pytest.mark.parametrize("method", ["load_named_ca", "forget_named_ca"])
def test_a_disk_that_refuses_there_too_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    node, anew = lost(tmp_path / "state")
    KeyStore(tmp_path / "state").save_named_ca(name(NEW))
    for view_ in (anew, replace(anew, snapshot=replace(anew.snapshot, cluster_uid="c2"))):
        with monkeypatch.context() as broken:
            broken.setattr(KeyStore, method, full)
            node.knowledge.learn(view_, TIME)
            assert codes.STATE_NOT_SAVED in told(node)
    node.knowledge.learn(anew, TIME)
    assert (trusted(node), node.knowledge.policy_serial) == ((name(NEW),), 7)


def test_in_another_cluster_s_directory_a_retired_one_is_told_too(tmp_path: Path) -> None:
    """The copy that was kept is older than the last replacement: root can name it, if its fingerprint is told."""
    node = rotated(tmp_path / "state")
    found = replace(view([OLD], signed(9, OLD)), snapshot=Snapshot("c2", BY_OLD))
    node.knowledge.learn(found, TIME)
    assert name(OLD) in dict(node.shown())[documents.CA_NOT_VOUCHED]


def test_to_name_a_retired_one_that_does_not_come_forgets_nothing(tmp_path: Path) -> None:
    node = rotated(tmp_path / "state")
    KeyStore(tmp_path / "state").save_named_ca(name(OLD))
    cross = crosses((NEW, NEWEST))
    node.knowledge.learn(view([NEW, NEWEST], signed(5, NEW, NEWEST), cross), TIME)
    node.knowledge.learn(view([NEWEST], signed(6, NEWEST), cross), TIME)
    assert peers(start(tmp_path / "state")) == {"n1": 2, "n2": 1}, "what it signed is still known by it"


def full(*_: object) -> None:
    raise HostError("no space left")


def test_in_another_cluster_s_directory_it_counts_for_that_cluster_s_word(tmp_path: Path) -> None:
    node, anew = lost(tmp_path / "state")
    KeyStore(tmp_path / "state").save_named_ca(name(NEW))
    spec = {"stage": "prefer", "formerClusters": ["c1"]}
    later = PolicyDocument("c2", 9, NOW + timedelta(hours=1), spec, (name(NEW),))
    other = replace(anew, snapshot=replace(anew.snapshot, cluster_uid="c2"))
    node.knowledge.learn(replace(other, policy=policydoc.sign(authority(EVIL), later)), TIME)
    assert node.knowledge.succession is None
    node.knowledge.learn(replace(other, policy=policydoc.sign(authority(NEW), later)), TIME)
    assert node.knowledge.succession is not None

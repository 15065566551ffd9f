"""A node of a cluster whose directory was lost becomes one of the cluster that goes on from it, at its CA's word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from linkseal.keys import codes as documents
from linkseal.keys.errors import HostError
from linkseal.keys.grant import SignedGrant
from linkseal.keys.policydoc import SignedPolicy
from linkseal.keys.store import KeyStore
from linkseal.tunnels import codes
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.agent.succession import cross
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.model import Stage
from linkseal.tunnels.register import NodeDocuments, Snapshot
from linkseal.tunnels.statusparts import FormerStatus
from unit.keys.cluster import GOOD, NOW, THREE, TWO, authority, policy
from unit.keys.cluster import ONE as FIRST
from unit.test_register_succession import FORMER, NEW, WHOLE, WITHOUT

TIME = NOW.timestamp()
LATER = NOW + timedelta(hours=1)
ONE = NEW["n1"].uid
OLD = {node.name: node for node in (FIRST, TWO, THREE)}


def of_c2(
    stage: str = "enforce", former: tuple[str, ...] = ("c1",), ca: str = "lab", *, minutes: float = 60, **spec: object
) -> SignedPolicy:
    issued = NOW + timedelta(minutes=minutes)
    return policy(99, "c2", ca, 0, issued, stage=stage, formerClusters=list(former), **spec)


def offered(signed: SignedPolicy | None, **other: object) -> DirectoryView:
    """What the new cluster's directory says to n1."""
    view = DirectoryView(Snapshot("c2", WITHOUT), signed, authority().certificate_pem(), uid=ONE)
    return replace(view, **other)  # type: ignore[arg-type]


@dataclass
class Node:
    """n1 with its state directory, as a node of c1 at stage enforce unless it says otherwise."""

    folder: Path
    knowledge: Knowledge
    findings: ActiveFindings

    def shown(self) -> list[tuple[str, str]]:
        return [(f.code, f.message) for f in self.findings.shown(LATER.timestamp() + 60)]

    def learn(self, view: DirectoryView) -> None:
        assert self.knowledge.learn(view, LATER.timestamp()) == frozenset()

    def cross(self) -> Node:
        """Do what the agent does then, and begin anew."""
        assert self.knowledge.succession is not None
        assert self.knowledge.register is not None
        cross(self.folder, "n1", self.knowledge.succession, self.knowledge.register)
        return begun(self.folder)


def begun(folder: Path) -> Node:
    keyring, disk, findings = Keyring(folder, "n1"), KnownGood(folder), ActiveFindings()
    saved = disk.cluster()
    owner = KeyStore(folder).owner()
    keyring.open("uid-1" if owner is None else owner.uid, "c1" if saved is None else saved.uid)
    knowledge = Knowledge("n1", keyring, disk, findings)
    knowledge.recall()
    knowledge.held = True
    return Node(folder, knowledge, findings)


def node(folder: Path, **spec: object) -> Node:
    made = begun(folder)
    signed = policy(5, stage=spec.pop("stage", "enforce"), **spec)
    made.knowledge.learn(DirectoryView(Snapshot("c1", GOOD), signed, authority().certificate_pem()), TIME)
    KeyStore(folder).save_certificate(NEW["n1"].certificate())
    return made


def test_it_takes_nothing_and_becomes_nobody_s_without_that_word(tmp_path: Path) -> None:
    made = node(tmp_path / "state")
    strangers = (None, of_c2(former=()), of_c2(former=("c0", "c7")), of_c2(ca="other"), policy(99, stage="off"))
    for signed in strangers:
        made.learn(offered(signed, ca_bundle=authority("other").certificate_pem()))
        assert [code for code, _ in made.shown()] == [documents.CLUSTER_CHANGED, documents.CA_NOT_VOUCHED]
        assert authority("other").fingerprint in dict(made.shown())[documents.CA_NOT_VOUCHED]
        assert made.knowledge.succession is None
    assert made.knowledge.policy_serial == 5
    assert made.knowledge.trust is not None
    assert made.knowledge.trust.fingerprints == (authority().fingerprint,)


def test_at_its_ca_s_word_it_is_a_node_of_the_new_cluster_with_keys_and_peers(tmp_path: Path) -> None:
    made = node(tmp_path / "state")
    signed = of_c2(former=("c0", "c1"))
    made.learn(offered(signed))
    assert made.knowledge.succession is not None
    after = made.cross()
    assert KeyStore(made.folder).owner() == KeyStore(made.folder).open("n1", ONE, "c2")
    assert KeyStore(made.folder).load_certificate() is None, "nothing is announced with one for the UID before"
    knowledge = after.knowledge
    assert knowledge.policy is not None
    assert (knowledge.policy.stage, knowledge.policy_serial, knowledge.over) == (Stage.ENFORCE, 99, False)
    assert knowledge.register is not None
    assert {peer.uid for peer in knowledge.register.peers.values()} == FORMER
    after.learn(offered(signed))
    assert [code for code, _ in after.shown()] == [documents.OWN_DOCUMENTS], "it is to announce itself there"
    changed = knowledge.learn(offered(signed, snapshot=Snapshot("c2", WHOLE)), LATER.timestamp())
    assert changed == set(GOOD)
    again = begun(made.folder).knowledge.register
    assert again is not None
    assert {peer.uid for peer in again.peers.values()} == {one.uid for one in NEW.values()}


def test_what_another_directory_said_is_over_when_its_own_is_back(tmp_path: Path) -> None:
    made = node(tmp_path / "state")
    made.learn(offered(of_c2()))
    assert made.knowledge.succession is not None
    made.knowledge.learn(DirectoryView(Snapshot("c1", GOOD), None, authority().certificate_pem()), LATER.timestamp())
    assert made.knowledge.succession is None
    made.knowledge.cross(made.folder, LATER.timestamp())
    assert not made.knowledge.over


def test_it_waits_until_it_is_registered_there(tmp_path: Path) -> None:
    made = node(tmp_path / "state")
    made.learn(offered(of_c2(), snapshot=Snapshot("c2", {"n2": WHOLE["n2"]}), uid=None))
    assert made.knowledge.succession is None


@pytest.mark.parametrize(
    ("signed", "words"),
    [
        (of_c2("prefer", protectedCIDRs=["10.244.0.0/16"]), "has this node at stage prefer, where it is at enforce"),
        (of_c2("enforce", minutes=-1), "was signed before the policy in force here"),
        (of_c2("enforce", wireguard={"port": 40000}), "changes wireguard.port"),
        (of_c2("enforce", scope="transparent"), "changes scope"),
        (of_c2("prefer", pool={"stage": "enforce", "nodes": ["n1"]}), "has the traffic with n2 at stage prefer"),
        (of_c2("off", pool={"stage": "enforce", "nodes": ["n1", "n2"]}), "has the traffic with n3 at stage off"),
        (of_c2("enforce", protectedCIDRs=["10.245.0.0/16"]), "leaves 10.244.0.0/16 out of protectedCIDRs"),
    ],
)
def test_what_would_lower_or_break_something_is_refused_and_told(
    tmp_path: Path, signed: SignedPolicy, words: str
) -> None:
    made = node(tmp_path / "state", protectedCIDRs=["10.244.0.0/16"])
    made.learn(offered(signed))
    assert made.knowledge.succession is None
    assert made.knowledge.policy_serial == 5
    found = dict(made.shown())
    assert set(found) == {documents.CLUSTER_CHANGED, codes.POLICY_REFUSED}
    assert words in found[codes.POLICY_REFUSED]


@pytest.mark.parametrize("granted", [None, NEW["n1"].grant(index=2), GOOD["n1"].grant, NEW["n1"].grant(ca="other")])
def test_it_waits_for_a_grant_of_its_index(tmp_path: Path, granted: SignedGrant | None) -> None:
    """Peers that have not come over yet know its probe addresses by that."""
    made = node(tmp_path / "state")
    there = {**WITHOUT, "n1": NodeDocuments(None, granted)}
    made.learn(offered(of_c2(), snapshot=Snapshot("c2", there)))
    assert made.knowledge.succession is None
    assert "has granted n1 the index 1 there too" in dict(made.shown())[codes.POLICY_REFUSED]
    made.learn(offered(of_c2()))
    assert made.knowledge.succession is not None


def test_what_could_not_be_written_before_is_written_before_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a peer would be lost on the way: begun anew, it knows what is on the disk."""
    made = node(tmp_path / "state")
    newer = {**GOOD, "n3": NodeDocuments(THREE.announce(2), GOOD["n3"].grant)}
    with monkeypatch.context() as broken:
        broken.setattr(KnownGood, "save_peer", fails)
        made.knowledge.learn(DirectoryView(Snapshot("c1", newer), policy(5), authority().certificate_pem()), TIME)
        made.learn(offered(of_c2()))
        assert made.knowledge.succession is None
        assert codes.STATE_NOT_SAVED in dict(made.shown())
    made.learn(offered(of_c2()))
    assert codes.STATE_NOT_SAVED not in dict(made.shown())
    register = made.cross().knowledge.register
    assert register is not None
    peer = register.peers["n3"].announcement
    assert peer is not None
    assert peer.serial == 2


def test_it_says_from_where_it_comes_before_and_after(tmp_path: Path) -> None:
    made = node(tmp_path / "state")
    assert made.knowledge.former() is None
    made.learn(offered(of_c2()))
    assert made.knowledge.former() == FormerStatus("c1", 1, over=False)
    assert made.cross().knowledge.former() == FormerStatus("c1", 1, over=True)


def test_where_the_directory_has_no_say_in_uids_they_stay_and_nobody_is_held_for_them(tmp_path: Path) -> None:
    """In a folder of files: who is deleted after that goes as ever."""
    made = node(tmp_path / "state")
    signed = of_c2()
    kept = {name: NodeDocuments(GOOD[name].announcement, one.grant(serial=2)) for name, one in OLD.items()}
    made.learn(offered(signed, snapshot=Snapshot("c2", kept), uid=None))
    after = made.cross()
    assert KeyStore(made.folder).owner() == KeyStore(made.folder).open("n1", "uid-1", "c2")
    rest = {name: found for name, found in kept.items() if name != "n3"}
    view = offered(signed, snapshot=Snapshot("c2", rest, frozenset({"n3"})), uid=None)
    assert "n3" in after.knowledge.learn(view, LATER.timestamp())
    assert after.knowledge.register is not None
    assert set(after.knowledge.register.peers) == {"n1", "n2"}


def test_at_stage_off_ports_and_tables_may_be_others(tmp_path: Path) -> None:
    made = node(tmp_path / "state", stage="off")
    made.learn(offered(of_c2("off", wireguard={"port": 40000})))
    assert made.knowledge.succession is not None


def test_whatever_was_written_before_a_crash_it_comes_over_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step fails once; the node comes up from its disk each time, with its peers."""
    made = node(tmp_path / "state")
    for step in ((KnownGood, "save_former"), (KeyStore, "_save_owner"), (KnownGood, "save_cluster")):
        made.learn(offered(of_c2()))
        with monkeypatch.context() as broken:
            broken.setattr(*step, fails)
            with pytest.raises(HostError):
                made.cross()
        made = begun(made.folder)
        assert made.knowledge.register is not None
        assert (set(made.knowledge.register.peers), made.knowledge.policy_serial) == (set(GOOD), 5)
    made.learn(offered(of_c2()))
    assert made.cross().knowledge.policy_serial == 99


def fails(*_: object) -> None:
    raise HostError("no space left")

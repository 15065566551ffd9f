"""A Node that was deleted and registered again is a new one at its grant's word: other keys, all else as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from linkseal.keys import codes as keys
from linkseal.keys import store
from linkseal.keys.errors import ConfigError, HostError
from linkseal.keys.grant import SignedGrant
from linkseal.keys.store import KeyStore, StoreOwner
from linkseal.tunnels import codes
from linkseal.tunnels.agent.keyring import Keyring, Statement
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.registration import begin_again
from linkseal.tunnels.agent.state import KnownGood, SavedCluster, SavedFormer
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.register import NodeDocuments, Snapshot
from unit.keys.cluster import GOOD, NOW, ONE, Node, authority, policy

LATER = NOW + timedelta(hours=1)
AGAIN = Node("n1", "uid-again", 1)
GRANTED = AGAIN.grant(issued=LATER)


def begun(folder: Path, findings: ActiveFindings | None = None) -> tuple[Keyring, Knowledge]:
    """What an agent takes up from the disk, as `agent.main` does."""
    keyring = Keyring(folder, "n1")
    keyring.open(keyring.uid_in("c1") or ONE.uid, "c1")
    knowledge = Knowledge("n1", keyring, KnownGood(folder), findings or ActiveFindings())
    knowledge.recall()
    return keyring, knowledge


def node(folder: Path) -> tuple[Keyring, Knowledge]:
    """n1 at work, with a certificate and generation 1 announced."""
    keyring, knowledge = begun(folder)
    knowledge.learn(view(), NOW.timestamp())
    keyring.ensure(None, NOW)
    certificate = authority().sign_csr(keyring.csr(), "n1", ONE.uid, NOW, timedelta(days=9))
    keyring.save_certificate(certificate)
    keyring.sign(Statement(), certificate, (1,), 0, NOW)
    keyring.announced()
    assert knowledge.new_uid is None
    return keyring, knowledge


def view(uid: str | None = ONE.uid, grant: SignedGrant | None = None, cluster: str = "c1") -> DirectoryView:
    nodes = GOOD if grant is None else {**GOOD, "n1": NodeDocuments(None, grant)}
    return DirectoryView(Snapshot(cluster, nodes), policy(5, stage="enforce"), authority().certificate_pem(), uid=uid)


def test_it_has_new_keys_and_the_rest_is_as_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    before, knowledge = node(folder)
    identity, (old,) = KeyStore(folder).load_identity(), before.own_keys()
    knowledge.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())
    assert (knowledge.new_uid, knowledge.over) == (AGAIN.uid, False)
    with caplog.at_level(logging.WARNING):
        knowledge.cross(folder, LATER.timestamp())
    assert knowledge.over
    assert "its UID was uid-1 and is uid-again; this node has new keys, generation 2" in caplog.text
    after, recalled = begun(folder)
    assert KeyStore(folder).owner() == StoreOwner("n1", AGAIN.uid, "c1")
    (new,) = after.own_keys()
    assert (new.number, new.public_key != old.public_key) == (2, True)
    assert KeyStore(folder).key_numbers() == (2,)
    now = KeyStore(folder).load_identity()
    assert now is not None
    assert identity is not None
    assert now.public_key() != identity.public_key()
    assert after.certificate() is None, "the one for the UID before says nothing of this one"
    assert recalled.policy == knowledge.policy
    assert recalled.register is not None
    assert set(recalled.register.peers) == set(GOOD)
    recalled.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())
    assert (recalled.new_uid, recalled.over) == (None, False)
    certificate = authority().sign_csr(after.csr(), "n1", AGAIN.uid, NOW, timedelta(days=9))
    assert after.statement_differs(Statement(), certificate, (2,))
    signed = after.sign(Statement(), certificate, (2,), 0, LATER)
    documents = {**GOOD, "n1": NodeDocuments(signed, GRANTED)}
    recalled.learn(replace(view(AGAIN.uid), snapshot=Snapshot("c1", documents)), LATER.timestamp())
    assert recalled.published_serial() == 2


@pytest.mark.parametrize(
    "offered",
    [
        view(AGAIN.uid),  # nothing is granted yet
        view(AGAIN.uid, AGAIN.grant(issued=NOW - timedelta(days=1))),  # one from before
        view(AGAIN.uid, AGAIN.grant(issued=LATER, ca="other")),
        view(AGAIN.uid, Node("n1", "uid-else", 1).grant(issued=LATER)),  # for a third
        view(ONE.uid, GRANTED),  # the directory does not say so itself
        view(None, GRANTED),  # nor has this kind a say in it
        view(AGAIN.uid, GRANTED, cluster="c2"),
    ],
)
def test_without_a_newer_grant_for_that_uid_nothing_happens(tmp_path: Path, offered: DirectoryView) -> None:
    folder = tmp_path / "state"
    keyring, knowledge = node(folder)
    knowledge.learn(offered, LATER.timestamp())
    knowledge.cross(folder, LATER.timestamp())
    assert not knowledge.over
    assert begun(folder)[0].own_keys() == keyring.own_keys()


def test_numbers_go_on_above_all_that_were_given(tmp_path: Path) -> None:
    """Also above one that was taken back, of which no key is left."""
    folder = tmp_path / "state"
    keyring, _ = node(folder)
    keyring.raise_generation(NOW)
    keyring.abort()
    assert keyring.withdrawing() == frozenset()
    begin_again(folder, "n1", AGAIN.uid, LATER)
    assert [key.number for key in begun(folder)[0].own_keys()] == [3]


def refuse(*_: object) -> None:
    raise HostError("the disk is full")


class Disk:
    """Files are written and erased; each is an operation, and the one numbered `fails` is refused."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: int) -> None:
        self.done, self.fails = 0, fails
        for name in ("atomic_write", "erase_file"):
            patch.setattr(store, name, self._counting(getattr(store, name)))

    def _counting(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.done += 1
            if self.done == self.fails:
                refuse()
            return real(*arguments)

        return call


def complete(folder: Path) -> bool:
    """Whether `agent restore` finds the keys of all generations."""
    keyring = Keyring(folder, "n1")
    return keyring.open_existing() and not keyring.damage and keyring.generations is not None


@pytest.mark.parametrize("fails", range(1, 10))
def test_interrupted_anywhere_it_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    """And the disk is at any time that of a node which `agent restore` brings back, whatever the agent does still."""
    folder = tmp_path / "state"
    keyring, knowledge = node(folder)
    knowledge.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())
    with monkeypatch.context() as patch:
        disk = Disk(patch, fails)
        knowledge.cross(folder, LATER.timestamp())
    assert disk.done >= min(fails, 8), "each of them is tried"
    refused = fails < 8  # after that it is the Node's of now, and what is left to do is to erase
    assert (knowledge.over, knowledge.unsaved) == (not refused, refused)
    assert complete(folder)
    with pytest.raises(ConfigError, match="registered again"):
        keyring.raise_generation(LATER)
    with pytest.raises(ConfigError, match="registered again"):
        keyring.sign(Statement(), "", (), 0, LATER)
    with pytest.raises(ConfigError, match="registered again"):
        keyring.save_certificate("")
    assert complete(folder)
    knowledge.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())
    knowledge.cross(folder, LATER.timestamp())
    assert knowledge.over
    after, _ = begun(folder)
    assert (after.uid, [key.number for key in after.own_keys()]) == (AGAIN.uid, [2]), "no try makes another key"
    assert KeyStore(folder).key_numbers() == (2,)
    assert not after.superseded


@pytest.mark.parametrize("damaged", ["keys/gen-1.key", "generations.json", "identity.key"])
def test_keys_that_cannot_be_read_are_replaced_like_others(tmp_path: Path, damaged: str) -> None:
    folder = tmp_path / "state"
    node(folder)
    (folder / damaged).write_text("damaged\n")
    begin_again(folder, "n1", AGAIN.uid, LATER)
    after, _ = begun(folder)
    assert (after.uid, [key.number for key in after.own_keys()]) == (AGAIN.uid, [2])
    assert complete(folder)


def test_a_key_that_was_announced_at_the_very_end_is_not_taken_up_again(tmp_path: Path) -> None:
    """Its agent was killed before it noted that."""
    folder = tmp_path / "state"
    keyring, _ = begun(folder)
    keyring.ensure(None, NOW)
    keyring.sign(Statement(), "certificate", (1,), 0, NOW)
    begin_again(folder, "n1", AGAIN.uid, LATER)
    assert [key.number for key in begun(folder)[0].own_keys()] == [2]


def test_what_the_disk_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, findings = tmp_path / "state", ActiveFindings()
    node(folder)
    _, knowledge = begun(folder, findings)
    knowledge.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())

    monkeypatch.setattr(KeyStore, "move", refuse)
    knowledge.cross(folder, LATER.timestamp())
    shown = [(f.code, f.message) for f in findings.shown(LATER.timestamp())]
    assert (codes.STATE_NOT_SAVED, "the disk is full") in shown


def test_back_under_the_uid_before_it_begins_anew_from_what_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store of the API server was put back while the disk refused: what is in memory is not what is there."""
    folder = tmp_path / "state"
    _, knowledge = node(folder)
    knowledge.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())
    with monkeypatch.context() as patch:
        Disk(patch, 4)
        knowledge.cross(folder, LATER.timestamp())
    assert not knowledge.over
    knowledge.learn(view(), LATER.timestamp())
    assert knowledge.over


def test_a_grant_that_is_not_on_the_disk_does_not_count_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agent would begin anew without: a reboot just then would bring back nothing that peers agree with."""
    folder = tmp_path / "state"
    _, knowledge = node(folder)

    with monkeypatch.context() as patch:
        patch.setattr(KnownGood, "save_peer", refuse)
        knowledge.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())
        assert (knowledge.unsaved, knowledge.new_uid) == (True, None)
    knowledge.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())
    assert knowledge.new_uid == AGAIN.uid


def test_it_says_what_it_waits_for(tmp_path: Path) -> None:
    folder, findings = tmp_path / "state", ActiveFindings()
    node(folder)
    _, knowledge = begun(folder, findings)
    for seconds in (0, 30, 60):  # a directory that changes makes it no younger
        knowledge.learn(view(AGAIN.uid), LATER.timestamp() + seconds)
    said = {f.code: f.message for f in findings.shown(LATER.timestamp() + 60)}
    assert "by the UID uid-again, and by uid-1 before: registered again, it waits for a grant" in said[keys.NO_GRANT]
    knowledge.learn(view(AGAIN.uid, GRANTED), LATER.timestamp())
    assert keys.NO_GRANT not in {f.code for f in findings.shown(LATER.timestamp() + 60)}


def test_registered_again_in_a_cluster_that_it_has_just_come_over_to(tmp_path: Path) -> None:
    """Before it announced itself there: what it had accepted is still of the former cluster."""
    folder = tmp_path / "state"
    node(folder)
    there = Node("n1", "new-1", 1)
    known = KnownGood(folder)
    known.save_former(SavedFormer("c1", 1, frozenset({"uid-1", "uid-2", "uid-3"})))
    KeyStore(folder).move("n1", there.uid, "c2")
    known.save_cluster(SavedCluster("c2", policy(6, "c2", stage="enforce")))
    keyring = Keyring(folder, "n1")
    keyring.open(keyring.uid_in("c2"), "c2")
    knowledge = Knowledge("n1", keyring, known, ActiveFindings())
    knowledge.recall()
    here = view(AGAIN.uid, GRANTED, cluster="c2")
    knowledge.learn(replace(here, policy=policy(6, "c2", stage="enforce")), LATER.timestamp())
    assert knowledge.grant is not None
    assert (knowledge.grant.uid, knowledge.new_uid) == ("uid-1", AGAIN.uid)


def test_a_store_that_belongs_to_nobody_is_not_renewed(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="belongs to no node"):
        Keyring(tmp_path, "n1").renew(AGAIN.uid, LATER)

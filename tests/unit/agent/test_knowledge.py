"""What a node knows: what of the directory cannot be used changes nothing, and what is learnt comes to be on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from linkseal.keys.codes import UNKNOWN_FORMAT
from linkseal.keys.documents import format_time
from linkseal.keys.errors import HostError
from linkseal.keys.policydoc import SignedPolicy
from linkseal.tunnels import codes
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import parse_policy
from linkseal.tunnels.register import NodeDocuments, Snapshot
from unit.keys.cluster import GOOD, NOW, authority, policy

TIME = NOW.timestamp()
BUNDLE = authority().certificate_pem()


def view(bundle: str = BUNDLE, serial: int = 1, after: int | None = None, **spec: object) -> DirectoryView:
    return DirectoryView(Snapshot("c1", GOOD), policy(serial, after=after, **spec), bundle)


class Disk(KnownGood):
    """The state directory, which refuses to write what is named in `full`."""

    full: frozenset[str] = frozenset()

    def save_peer(self, name: str, documents: NodeDocuments) -> bool:
        if name in self.full:
            raise HostError("no space left")
        return super().save_peer(name, documents)


@dataclass
class Node:
    knowledge: Knowledge
    disk: Disk
    findings: ActiveFindings

    def shown(self) -> list[tuple[str, str]]:
        return [(f.code, f.message) for f in self.findings.shown(TIME + 60)]


def start(folder: Path) -> Node:
    keyring, disk, findings = Keyring(folder, "n1"), Disk(folder), ActiveFindings()
    keyring.open("uid-1", "c1")
    knowledge = Knowledge("n1", keyring, disk, findings)
    knowledge.recall()
    return Node(knowledge, disk, findings)


def test_what_could_not_be_written_is_written_later_though_nothing_changed_since(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.disk.full = frozenset({"n1", "n2"})
    assert node.knowledge.learn(view(), TIME) == set(GOOD)
    assert set(node.disk.peers()) == {"n3"}
    assert node.shown() == [(codes.STATE_NOT_SAVED, "no space left (and 1 more)")]
    node.disk.full = frozenset({"n2"})
    assert node.knowledge.learn(view(), TIME) == set()
    assert node.shown() == [(codes.STATE_NOT_SAVED, "no space left")]
    assert node.knowledge.unsaved
    node.disk.full = frozenset()
    node.knowledge.learn(view(), TIME)
    assert set(node.disk.peers()) == set(GOOD)
    assert not node.knowledge.unsaved
    assert node.shown() == []


@pytest.mark.parametrize("bundle", ["no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_broken_bundle_is_told_and_changes_nothing(tmp_path: Path, bundle: str) -> None:
    node = start(tmp_path / "state")
    assert node.knowledge.learn(view(bundle), TIME) == set()
    assert node.knowledge.trust is None
    assert [code for code, _ in node.shown()] == [codes.DIRECTORY_UNREADABLE]
    assert node.knowledge.learn(view(), TIME) == set(GOOD)
    assert node.shown() == []
    trusted = node.knowledge.trust
    node.knowledge.learn(view(bundle), TIME)
    assert node.knowledge.trust is trusted
    assert [code for code, _ in node.shown()] == [codes.DIRECTORY_UNREADABLE]
    assert start(tmp_path / "state").knowledge.trust == trusted


def test_a_policy_on_disk_that_cannot_be_used_stops_no_start_and_the_directory_fills_it_in(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view(), TIME)
    path = tmp_path / "state" / "cluster.json"
    path.write_text(path.read_text().replace("prefer", "perfect"))
    again = start(tmp_path / "state")
    assert again.knowledge.policy is None
    assert again.knowledge.register is not None
    assert set(again.knowledge.register.peers) == set(GOOD)
    again.knowledge.learn(view(), TIME)
    assert again.knowledge.policy is not None
    assert start(tmp_path / "state").knowledge.policy == again.knowledge.policy


def test_an_older_policy_or_another_of_the_same_serial_is_told_and_changes_nothing(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view(serial=5, stage="prefer"), TIME)
    for older, words in (
        (view(serial=4, stage="off"), "has serial 4"),
        (view(serial=5, stage="off"), "something else"),
    ):
        node.knowledge.learn(older, TIME)
        ((code, message),) = node.shown()
        assert (code, words in message) == (codes.POLICY_OLDER, True)
        assert node.knowledge.policy is not None
        assert (node.knowledge.policy.stage, node.knowledge.policy_serial) == (Stage.PREFER, 5)
    node.knowledge.learn(view(serial=6, stage="prepare"), TIME)
    assert node.shown() == []
    assert start(tmp_path / "state").knowledge.policy_serial == 6


def test_a_policy_that_does_not_follow_the_one_in_force_waits_for_the_operators_word(tmp_path: Path) -> None:
    """Its controller's memory was put back to an older state; by its serial, which follows the clock, it is newer."""
    node = start(tmp_path / "state")
    node.knowledge.learn(view(serial=5, stage="enforce"), TIME)
    stale = {"restoredAt": format_time(NOW)}
    for offered in (view(serial=9, after=3), view(serial=10, after=0), view(serial=11, after=4, **stale)):
        for known in (node, start(tmp_path / "state")):
            known.knowledge.learn(offered, TIME)
            ((code, _),) = known.shown()
            assert (code, known.knowledge.policy_serial) == (codes.POLICY_OLDER, 5)
            assert known.knowledge.policy is not None
            assert known.knowledge.policy.stage is Stage.ENFORCE
    word = {"restoredAt": format_time(NOW + timedelta(seconds=1))}
    node.knowledge.learn(view(serial=12, after=4, **word), TIME)
    assert (node.shown(), node.knowledge.policy_serial) == ([], 12)
    for serial, after in ((13, 12), (20, 17), (21, None)):  # some in between it has not seen; by an older version
        node.knowledge.learn(view(serial=serial, after=after), TIME)
        assert (node.shown(), node.knowledge.policy_serial) == ([], serial)


@pytest.mark.parametrize(
    "forged",
    [
        policy(9, ca="other", stage="off"),
        policy(9, cluster="c2", stage="off"),
        SignedPolicy(policy(9, stage="off").text, policy(9).signature),
        SignedPolicy(policy(9, stage="off").text, authority().sign_grant(policy(9, stage="off").text)),
    ],
)
def test_a_policy_that_no_trusted_ca_signed_for_this_cluster_is_told_and_changes_nothing(
    tmp_path: Path, forged: SignedPolicy
) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view(), TIME)
    node.knowledge.learn(replace(view(), policy=forged), TIME)
    assert [code for code, _ in node.shown()] == [codes.POLICY_UNSIGNED]
    assert node.knowledge.policy_serial == 1


def test_what_is_on_disk_is_verified_as_well(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view(serial=7), TIME)
    saved = tmp_path / "state/cluster.json"
    saved.write_text(saved.read_text().replace("prefer", "off"))
    assert start(tmp_path / "state").knowledge.policy is None


@pytest.mark.parametrize("held", [False, True])
def test_numbers_do_not_change_while_anything_stands_on_them(tmp_path: Path, *, held: bool) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view(stage="prefer"), TIME)
    node.knowledge.held = held
    node.knowledge.learn(view(serial=2, stage="prefer", wireguard={"port": 51900}), TIME)
    assert node.knowledge.policy is not None
    assert (node.knowledge.policy.wireguard.port, node.knowledge.policy_serial) == (51820, 1)
    [(code, message)] = node.shown()
    assert code == codes.POLICY_REFUSED
    assert "wireguard.port (51820 → 51900) changes only at stage off" in message
    assert not node.knowledge.outgrown


def test_a_node_that_was_away_when_they_changed_goes_off_with_its_own_and_begins_anew(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view(stage="enforce"), TIME)
    node.knowledge.held = True
    new = view(serial=5, stage="off", wireguard={"port": 51900})
    node.knowledge.learn(new, TIME)
    assert node.shown() == []
    assert node.knowledge.policy == parse_policy({"stage": "off"}), "this pass takes down what stands on the old ones"
    assert (node.knowledge.outgrown, node.knowledge.policy_serial) == (True, 1)
    again = start(tmp_path / "state")
    again.knowledge.leave()
    again.knowledge.learn(new, TIME)
    assert again.knowledge.policy == parse_policy({"stage": "off", "wireguard": {"port": 51900}})
    assert (again.knowledge.outgrown, again.knowledge.policy_serial) == (False, 5)


def test_a_node_that_missed_the_whole_change_begins_anew_with_its_guard_in_place(tmp_path: Path) -> None:
    """It was off, or cut off, while the cluster went to stage off and up again: nobody uses its numbers any more."""
    node = start(tmp_path / "state")
    node.knowledge.learn(view(serial=1, stage="enforce"), TIME)
    node.knowledge.held = True
    new = view(serial=9, after=8, stage="enforce", wireguard={"port": 51900})
    node.knowledge.learn(new, TIME)
    assert node.shown() == []
    assert node.knowledge.policy == parse_policy({"stage": "enforce"}), "what drops plaintext stays until the new is in"
    assert node.knowledge.outgrown
    again = start(tmp_path / "state")
    again.knowledge.leave()
    again.knowledge.learn(new, TIME)
    assert again.knowledge.policy == parse_policy({"stage": "enforce", "wireguard": {"port": 51900}})


def test_what_was_seen_and_refused_is_nothing_that_was_missed(tmp_path: Path) -> None:
    """A controller of an earlier version signs other numbers though nodes stand on the old ones, and goes on."""
    node = start(tmp_path / "state")
    node.knowledge.learn(view(serial=1, stage="enforce"), TIME)
    node.knowledge.held = True
    for serial in (2, 3, 4):
        node.knowledge.learn(view(serial=serial, after=serial - 1, stage="enforce", wireguard={"port": 51900}), TIME)
        assert [code for code, _ in node.shown()] == [codes.POLICY_REFUSED]
        assert not node.knowledge.outgrown
    again = start(tmp_path / "state")
    again.knowledge.held = True
    again.knowledge.learn(view(serial=4, after=3, stage="enforce", wireguard={"port": 51900}), TIME)
    assert not again.knowledge.outgrown, "nor after a restart"
    node.knowledge.learn(view(serial=5, after=4, stage="enforce"), TIME)
    assert (node.shown(), node.knowledge.policy_serial) == ([], 5), "taken back"


def test_what_is_deferred_is_written_with_the_rest(tmp_path: Path) -> None:
    """By the numbers on the disk one knows what to remove: they stay until that is done."""
    node = start(tmp_path / "state")
    node.knowledge.learn(view(stage="off"), TIME)
    new = view(serial=2, stage="off", wireguard={"port": 51900})
    node.knowledge.deferred = True
    node.knowledge.learn(new, TIME)
    assert node.knowledge.policy_serial == 2
    assert start(tmp_path / "state").knowledge.policy_serial == 1
    node.knowledge.write(new, TIME)
    assert start(tmp_path / "state").knowledge.policy_serial == 2


def test_at_stage_off_an_agent_takes_other_numbers_up_or_is_outgrown_by_them(tmp_path: Path) -> None:
    """It stands on them itself: whoever runs it begins anew, and takes them up before it stands on any."""
    new = view(serial=2, stage="prepare", wireguard={"port": 51900})
    running, fresh = start(tmp_path / "running"), start(tmp_path / "fresh")
    for node in (running, fresh):
        node.knowledge.learn(view(stage="off"), TIME)
    running.knowledge.held = True
    for node in (running, fresh):
        node.knowledge.learn(new, TIME)
        assert node.shown() == []
    assert (running.knowledge.outgrown, running.knowledge.policy_serial) == (True, 1)
    assert (fresh.knowledge.outgrown, fresh.knowledge.policy_serial) == (False, 2)
    again = start(tmp_path / "running")
    again.knowledge.learn(new, TIME)
    assert (again.knowledge.outgrown, again.knowledge.policy_serial) == (False, 2)


def test_the_scope_is_taken_up_at_stage_off_as_it_is(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view(stage="off"), TIME)
    node.knowledge.held = True
    node.knowledge.learn(view(serial=2, stage="off", scope="transparent"), TIME)
    assert (node.knowledge.outgrown, node.knowledge.policy_serial) == (False, 2)


NARROWED = {
    "name": "ssh", "protocol": "tcp", "port": 22, "cidr": "192.0.2.0/24", "owner": "ops", "reason": "rescue",
    "expires": "2027-01-01T00:00:00Z", "direction": "in",
}  # fmt: skip


def test_of_a_newer_controller_s_policy_all_is_done_that_is_known_and_the_rest_is_told(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    newer = view(serial=5, stage="enforce", exemptions=[NARROWED], fresh={"x": 1})
    said = (codes.POLICY_NEWER, "passed over, as only a newer version knows them: exemptions.0, fresh")
    for _ in range(2):
        node.knowledge.learn(newer, TIME)
        assert node.shown() == [said]
    again = start(tmp_path / "state")
    for one in (node, again):
        assert one.knowledge.policy is not None
        assert (one.knowledge.policy.stage, one.knowledge.policy.exemptions) == (Stage.ENFORCE, ())
    again.knowledge.learn(newer, TIME)
    assert again.shown() == [said]
    again.knowledge.learn(view(serial=6, stage="enforce"), TIME)
    assert again.shown() == []


def test_a_policy_of_the_next_format_is_told_and_the_last_one_stays(tmp_path: Path) -> None:
    node = start(tmp_path / "state")
    node.knowledge.learn(view(serial=5), TIME)
    text = policy(6, stage="off").text.replace('"format":1', '"format":2')
    node.knowledge.learn(replace(view(), policy=SignedPolicy(text, authority().sign_policy(text))), TIME)
    ((code, message),) = node.shown()
    assert code == UNKNOWN_FORMAT
    assert "has format 2, this version reads [1]: upgrade Linkseal here; the last good one stays" in message
    for one in (node, start(tmp_path / "state")):
        assert one.knowledge.policy is not None
        assert (one.knowledge.policy.stage, one.knowledge.policy_serial) == (Stage.PREFER, 5)

"""What the register accepts, and that each refusal is its own finding and touches nobody else."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from linkseal.keys import announcement as announcements
from linkseal.keys import codes
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.ca import Trust
from linkseal.tunnels.register import NodeDocuments, Refresh, Register
from unit.keys.cluster import GOOD, NOW, THREE, TWO, YEAR, Node, altered, authority, fresh, see, told

HOUR = timedelta(hours=1)


def refused(change: NodeDocuments, code: str, **other: object) -> Refresh:
    """Show `change` as n2's documents to a register that knows three nodes; it must stay as it was."""
    before = fresh()
    after = see(before, {**GOOD, "n2": change}, **other)
    assert told(after) == [(code, "n2", None)]
    assert after.register.peers == before.peers
    assert after.changed == frozenset()
    return after


def test_accepted_documents_become_peers() -> None:
    refresh = see(Register("n1"), GOOD)
    assert told(refresh) == []
    assert refresh.changed == {"n1", "n2", "n3"}
    peer = refresh.register.peers["n2"]
    assert (peer.uid, peer.grant.prefixes, peer.documents) == ("uid-2", ("10.244.2.0/24",), GOOD["n2"])
    assert peer.announcement is not None
    assert [g.number for g in peer.announcement.generations] == [1]


def test_the_same_again_changes_nothing() -> None:
    register = fresh()
    again = see(register, {n: replace(d) for n, d in GOOD.items()})
    assert (told(again), again.changed) == ([], frozenset())
    assert all(again.register.peers[n] is register.peers[n] for n in GOOD)


def test_a_higher_serial_replaces_and_names_what_changed() -> None:
    newer = NodeDocuments(TWO.announce(2, (1, 2)), GOOD["n2"].grant)
    after = see(fresh(), {**GOOD, "n2": newer})
    assert (told(after), after.changed) == ([], {"n2"})
    announcement = after.register.peers["n2"].announcement
    assert announcement is not None
    assert announcement.serial == 2


def test_a_node_without_agent_is_a_peer_by_its_grant() -> None:
    refresh = see(Register("n1"), {**GOOD, "n2": NodeDocuments(None, GOOD["n2"].grant)})
    assert told(refresh) == []
    assert refresh.register.peers["n2"].announcement is None


def test_a_renewed_certificate_is_taken_though_the_text_is_the_same() -> None:
    old = GOOD["n2"].announcement
    assert old is not None
    renewed = replace(old, certificate=TWO.certificate(until=NOW + 2 * YEAR))
    after = see(fresh(), {**GOOD, "n2": NodeDocuments(renewed, GOOD["n2"].grant)})
    assert (told(after), after.changed) == ([], {"n2"})
    assert after.register.peers["n2"].documents.announcement == renewed
    assert told(see(after.register, GOOD | {"n2": after.register.peers["n2"].documents}, now=NOW + YEAR + HOUR)) == [
        (codes.ACCEPTED_EXPIRED, "n1", None),
        (codes.ACCEPTED_EXPIRED, "n3", None),
    ]


# --- refusals: each its own finding, the last good document stays, others are untouched -------------------------------


def resigned(node: Node, text: str) -> NodeDocuments:
    signed = SignedAnnouncement(text, announcements.sign(node.identity, text), node.certificate())
    return NodeDocuments(signed, GOOD[node.name].grant)


def text_of(docs: NodeDocuments) -> str:
    assert docs.announcement is not None
    return docs.announcement.text


def test_altered_bytes() -> None:
    text = text_of(GOOD["n2"]).replace("192.0.2.2", "192.0.2.9")
    refused(altered(GOOD["n2"], text=text), codes.SIGNATURE_INVALID)


def test_a_foreign_ca() -> None:
    refused(NodeDocuments(TWO.announce(2, certificate=TWO.certificate(ca="evil"))), codes.UNTRUSTED_CERTIFICATE)


def test_another_nodes_announcement() -> None:
    refused(NodeDocuments(GOOD["n3"].announcement), codes.WRONG_IDENTITY)


def test_a_wrong_uid() -> None:
    imposter = Node("n2", "uid-other", 2)
    refused(NodeDocuments(imposter.announce(9)), codes.WRONG_IDENTITY)


def test_an_expired_certificate_refuses_what_is_new() -> None:
    late = NodeDocuments(TWO.announce(2, certificate=TWO.certificate(until=NOW - HOUR)))
    refused(late, codes.CERTIFICATE_EXPIRED)


def test_a_replayed_serial() -> None:
    register = fresh({**GOOD, "n2": TWO.documents(serial=5)})
    after = see(register, {**GOOD, "n2": NodeDocuments(TWO.announce(4))})
    assert told(after) == [(codes.SERIAL_REPLAYED, "n2", None)]
    assert after.register.peers == register.peers


def test_one_serial_with_two_contents() -> None:
    refused(NodeDocuments(TWO.announce(1, (3,))), codes.EQUIVOCATION)


def test_a_malformed_document() -> None:
    refused(resigned(TWO, text_of(GOOD["n2"])[:-1] + ',"serial":2}'), codes.MALFORMED)


def test_an_oversized_document() -> None:
    refused(resigned(TWO, text_of(GOOD["n2"])[:-1] + ',"x":"' + "x" * 20_000 + '"}'), codes.TOO_LARGE)


def test_a_format_of_the_future() -> None:
    refused(resigned(TWO, text_of(GOOD["n2"]).replace('"format":1', '"format":2')), codes.UNKNOWN_FORMAT)


def test_a_copied_key_harms_the_copier_alone() -> None:
    owner = json.loads(text_of(GOOD["n3"]))
    copied = json.loads(text_of(GOOD["n2"]))
    copied |= {"serial": 2, "generations": owner["generations"]}
    refused(resigned(TWO, json.dumps(copied)), codes.POSSESSION_NOT_PROVEN)


def test_a_grant_by_nobody() -> None:
    refused(NodeDocuments(None, TWO.grant(2, ca="evil")), codes.GRANT_SIGNATURE_INVALID)


def test_another_nodes_grant() -> None:
    before = fresh()
    after = see(before, {**GOOD, "n2": NodeDocuments(None, THREE.grant(2))})
    assert told(after) == [(codes.GRANT_WRONG_NODE, "n2", "n3")]
    assert after.register.peers == before.peers


@pytest.mark.parametrize("serial", [4, 5])
def test_a_replayed_or_contradicting_grant(serial: int) -> None:
    register = fresh({**GOOD, "n2": NodeDocuments(GOOD["n2"].announcement, TWO.grant(5))})
    after = see(register, {**GOOD, "n2": NodeDocuments(None, TWO.grant(serial, prefixes=()))})
    assert told(after) == [(codes.GRANT_REPLAYED, "n2", None)]
    assert after.register.peers == register.peers


def test_an_announcement_without_grant_is_not_a_peer_until_the_grant_comes() -> None:
    announced = NodeDocuments(GOOD["n2"].announcement)
    without = see(Register("n1"), {**GOOD, "n2": announced})
    assert told(without) == [(codes.NO_GRANT, "n2", None)]
    assert set(without.register.peers) == {"n1", "n3"}
    assert told(see(without.register, {**GOOD, "n2": announced})) == [(codes.NO_GRANT, "n2", None)], "told while true"
    after = see(without.register, GOOD)
    assert (told(after), after.changed) == ([], {"n2"})


def test_a_withdrawn_number_or_key_does_not_come_back() -> None:
    register = fresh({**GOOD, "n2": NodeDocuments(TWO.announce(2, (1, 2)), GOOD["n2"].grant)})
    register = see(register, {"n2": NodeDocuments(TWO.announce(3, (2,)))}).register
    for reused in (
        TWO.announce(4, (1, 2)),
        TWO.announce(4, (2, 3), keys={3: "n2/uid-2/1"}),
        TWO.announce(4, (2,), keys={2: "another key"}),
    ):
        after = see(register, {**GOOD, "n2": NodeDocuments(reused)})
        assert told(after) == [(codes.GENERATION_REUSED, "n2", None)]
        assert after.register.peers == register.peers
    assert told(see(register, {**GOOD, "n2": NodeDocuments(TWO.announce(4, (2, 3)))})) == []


def test_a_capability_that_disappears_is_told_and_accepted() -> None:
    register = fresh({**GOOD, "n2": NodeDocuments(TWO.announce(1, capabilities=("door", "pq")), GOOD["n2"].grant)})
    less = {**GOOD, "n2": NodeDocuments(TWO.announce(2, capabilities=("door",)), GOOD["n2"].grant)}
    after = see(register, less)
    assert told(after) == [(codes.CAPABILITY_LOST, "n2", None)]
    assert "pq" in after.findings[0].message
    assert after.changed == {"n2"}
    assert told(see(after.register, less)) == [(codes.CAPABILITY_LOST, "n2", None)]


def test_a_hostile_name_is_a_finding() -> None:
    after = see(fresh(), {**GOOD, "../etc\n": GOOD["n2"]})
    assert told(after) == [(codes.MALFORMED, "../etc\n", None)]
    assert "\n" not in after.findings[0].message


# --- time -------------------------------------------------------------------------------------------------------------


def test_expiry_keeps_what_was_accepted_and_tells() -> None:
    register = fresh()
    after = see(register, GOOD, now=NOW + 2 * YEAR)
    assert told(after) == [(codes.ACCEPTED_EXPIRED, name, None) for name in ("n1", "n2", "n3")]
    assert after.register.peers == register.peers


def test_a_certificate_not_valid_yet_is_judged_again_when_it_is() -> None:
    early = NodeDocuments(TWO.announce(2, certificate=TWO.certificate(since=NOW + HOUR)), GOOD["n2"].grant)
    before = see(fresh(), {**GOOD, "n2": early})
    assert told(before) == [(codes.CERTIFICATE_EXPIRED, "n2", None)]
    after = see(before.register, {**GOOD, "n2": early}, now=NOW + 2 * HOUR)
    assert (told(after), after.changed) == ([], {"n2"})


def test_a_new_ca_has_refused_documents_judged_again() -> None:
    other = {"n2": NodeDocuments(TWO.announce(2, certificate=TWO.certificate(ca="next")), TWO.grant(2, ca="next"))}
    before = see(fresh(), {**GOOD, **other})
    assert {f.code for f in before.findings} == {codes.GRANT_SIGNATURE_INVALID, codes.UNTRUSTED_CERTIFICATE}
    both = Trust.from_pem(authority().certificate_pem() + authority("next").certificate_pem())
    after = see(before.register, {**GOOD, **other}, trust=both)
    assert (told(after), after.changed) == ([], {"n2"})


# --- a node made anew -------------------------------------------------------------------------------------------------


def test_a_new_uid_needs_a_newer_grant_that_carries_it() -> None:
    anew = Node("n2", "uid-new", 2)
    register = fresh()
    refused(NodeDocuments(anew.announce(1), GOOD["n2"].grant), codes.WRONG_IDENTITY)
    old = see(register, {**GOOD, "n2": NodeDocuments(None, anew.grant(9, issued=NOW))})
    assert told(old) == [(codes.GRANT_WRONG_NODE, "n2", None)]
    both = NodeDocuments(anew.announce(1), anew.grant(1, issued=NOW + HOUR))
    after = see(register, {**GOOD, "n2": both})
    assert told(after) == []
    peer = after.register.peers["n2"]
    assert peer.announcement is not None
    assert (peer.uid, peer.announcement.uid) == ("uid-new", "uid-new")
    replayed = see(after.register, GOOD)
    assert {f.code for f in replayed.findings} == {codes.GRANT_WRONG_NODE, codes.WRONG_IDENTITY}
    assert replayed.register.peers["n2"] == peer


# --- conflicts --------------------------------------------------------------------------------------------------------


def clash(two: NodeDocuments, three: NodeDocuments) -> Refresh:
    return see(Register("n1"), {"n1": GOOD["n1"], "n2": two, "n3": three})


def numbers(refresh: Refresh, name: str) -> list[int]:
    announcement = refresh.register.peers[name].announcement
    return [g.number for g in announcement.generations] if announcement else []


def test_a_key_that_two_nodes_hold_stays_with_the_lower_index() -> None:
    copy = NodeDocuments(THREE.announce(1, (4, 5), keys={5: "n2/uid-2/1"}), GOOD["n3"].grant)
    refresh = clash(GOOD["n2"], copy)
    assert told(refresh) == [(codes.DUPLICATE_KEY, "n3", "n2")]
    assert (numbers(refresh, "n1"), numbers(refresh, "n2"), numbers(refresh, "n3")) == ([1], [1], [4])


def test_an_index_given_twice_stays_with_the_earlier_grant() -> None:
    later = NodeDocuments(GOOD["n2"].announcement, TWO.grant(index=3, issued=NOW + HOUR))
    refresh = clash(later, GOOD["n3"])
    assert told(refresh) == [(codes.DUPLICATE_INDEX, "n2", "n3")]
    assert (numbers(refresh, "n1"), numbers(refresh, "n2"), numbers(refresh, "n3")) == ([1], [], [1])
    assert refresh.register.peers["n2"].grant.prefixes == ("10.244.2.0/24",), "its property stays protected"


@pytest.mark.parametrize("contested", ["10.244.3.0/24", "10.244.3.128/25", "10.244.0.0/16", "192.0.2.3/32"])
def test_an_overlapping_prefix_stays_with_the_earlier_grant_and_the_rest_stands(contested: str) -> None:
    mine = ("10.99.0.0/24", contested)
    later = NodeDocuments(GOOD["n2"].announcement, TWO.grant(issued=NOW + HOUR, prefixes=mine))
    refresh = see(Register("n1"), {"n2": later, "n3": GOOD["n3"]})
    assert told(refresh) == [(codes.GRANTS_OVERLAP, "n2", "n3")]
    assert contested in refresh.findings[0].message
    assert refresh.register.peers["n2"].grant.prefixes == ("10.99.0.0/24",)
    assert refresh.register.peers["n2"].grant.addresses == ("192.0.2.2",)
    assert refresh.register.peers["n3"].grant.prefixes == ("10.244.3.0/24",)
    assert refresh.register.peers["n2"].documents == later, "on disk the documents stay as received"


def test_an_address_granted_twice_is_lost_by_the_later() -> None:
    later = NodeDocuments(GOOD["n2"].announcement, TWO.grant(issued=NOW + HOUR, addresses=("192.0.2.3",)))
    refresh = clash(later, GOOD["n3"])
    assert told(refresh) == [(codes.GRANTS_OVERLAP, "n2", "n3")]
    assert refresh.register.peers["n2"].grant.addresses == ()
    assert refresh.register.peers["n3"].grant.addresses == ("192.0.2.3",)


def test_nested_property_of_one_node_is_no_conflict() -> None:
    nested = TWO.grant(prefixes=("10.244.2.0/24", "10.244.2.0/26", "192.0.2.2/32"))
    assert told(clash(NodeDocuments(GOOD["n2"].announcement, nested), GOOD["n3"])) == []


def test_a_settled_conflict_gives_back_what_was_lost() -> None:
    later = NodeDocuments(GOOD["n2"].announcement, TWO.grant(1, issued=NOW + HOUR, prefixes=("10.244.3.0/24",)))
    refresh = clash(later, GOOD["n3"])
    settled = see(refresh.register, {"n3": NodeDocuments(None, THREE.grant(2, prefixes=("10.9.0.0/24",)))})
    assert settled.register.peers["n2"].grant.prefixes == ("10.244.3.0/24",)
    assert {f.code for f in settled.findings} <= {codes.OWN_DOCUMENTS}
    assert settled.changed == {"n2", "n3"}

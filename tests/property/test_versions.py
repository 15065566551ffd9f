"""Versions side by side: what a newer one writes is read as far as it is known, what the one before wrote as a whole.

What is not known is passed over and covered by the signature; a document of a format of the future is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys import announcement as announcements
from linkseal.keys import codes, documents, policydoc
from linkseal.keys import grant as grants
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.ca import Trust
from linkseal.keys.errors import ConfigError, PeerError
from linkseal.keys.grant import SignedGrant
from linkseal.keys.policydoc import SignedPolicy
from linkseal.tunnels.model import Scope, Stage
from linkseal.tunnels.policy import parse_policy, read_signed
from linkseal.tunnels.register import NodeDocuments, Register
from linkseal.tunnels.status import parse_report, to_json
from unit.keys.cluster import GOOD, NOW, TWO, authority, fresh, policy, see, told, trust
from unit.test_status import status

OLD = json.loads((Path(__file__).parents[1] / "golden" / "format1.json").read_text(encoding="utf-8"))
"""As version 0.1.0 wrote them; that this file never changes is the point of it."""

ANNOUNCEMENT = TWO.announce(3, (2, 3), capabilities=("door",))
GRANT = TWO.grant(2)
POLICY = policy(2)
REPORT = to_json("n1", status())

EXEMPTION = {
    "name": "ssh", "protocol": "tcp", "port": 22, "cidr": "192.0.2.0/24", "owner": "ops", "reason": "rescue",
    "expires": "2027-01-01T00:00:00Z",
}  # fmt: skip

Path_ = tuple[int | str, ...]

names = st.from_regex(r"x[A-Za-z]{0,8}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def objects(value: object, at: Path_ = ()) -> Iterator[Path_]:
    """Where there is an object in a document."""
    if isinstance(value, dict):
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from objects(part, (*at, key))


def grown(draw: st.DrawFn, text: str, *, beyond: Callable[[Path_], bool] = lambda _: True) -> str:
    """A document to which a newer version has added fields, anywhere."""
    document = json.loads(text)
    places = [place for place in objects(document) if beyond(place)]
    for _ in range(draw(st.integers(1, 4))):
        place: Any = document
        for part in draw(st.sampled_from(places)):
            place = place[part]
        place[draw(names)] = draw(values)
    return documents.write_object(document)


@st.composite
def announced(draw: st.DrawFn) -> SignedAnnouncement:
    text = grown(draw, ANNOUNCEMENT.text)
    return SignedAnnouncement(text, announcements.sign(TWO.identity, text), ANNOUNCEMENT.certificate)


@st.composite
def granted(draw: st.DrawFn) -> SignedGrant:
    text = grown(draw, GRANT.text)
    return SignedGrant(text, authority().sign_grant(text))


@st.composite
def decided(draw: st.DrawFn) -> SignedPolicy:
    text = grown(draw, POLICY.text, beyond=lambda place: place[:1] != ("spec",))
    return SignedPolicy(text, authority().sign_policy(text))


# --- a newer version's, of the same format


@given(announced())
def test_an_announcement_is_read_without_what_is_not_known(signed: SignedAnnouncement) -> None:
    read = announcements.verify(signed, trust(), node="n2", uid="uid-2", now=NOW)
    assert read == announcements.parse(ANNOUNCEMENT.text, node="n2")
    refresh = see(fresh(), {**GOOD, "n2": NodeDocuments(signed, GRANT)})
    assert told(refresh) == []
    assert refresh.register.peers["n2"].documents.announcement == signed, "kept as it was signed"


@given(granted())
def test_a_grant_is_read_without_what_is_not_known(signed: SignedGrant) -> None:
    assert grants.verify(signed, trust(), node="n2") == grants.parse(GRANT.text, node="n2")
    wrapped = json.dumps({**json.loads(grants.wrap(signed)), "more": 1})
    assert grants.unwrap(wrapped, node="n2") == signed


@given(decided())
def test_a_policy_is_read_without_what_is_not_known(signed: SignedPolicy) -> None:
    assert policydoc.verify(signed, trust(), cluster="c1") == policydoc.parse(POLICY.text)


@given(st.data())
def test_a_report_is_read_without_what_is_not_known(data: st.DataObject) -> None:
    requests = ("status", "requests")
    text = data.draw(st.composite(lambda draw: grown(draw, REPORT, beyond=lambda place: place != requests))())
    assert parse_report(text, "n1") == parse_report(REPORT, "n1")


@given(st.data())
def test_what_is_not_known_is_covered_by_the_signature(data: st.DataObject) -> None:
    signed = data.draw(announced())
    fields = json.loads(signed.text)
    fields["xAltered"] = 1
    altered = replace(signed, text=documents.write_object(fields))
    with pytest.raises(PeerError) as caught:
        announcements.verify(altered, trust(), node="n2", uid="uid-2", now=NOW)
    assert caught.value.code == codes.SIGNATURE_INVALID


# --- what a policy says


SPEC = {
    "scope": "transparent", "stage": "enforce", "wireguard": {"port": 51000}, "exemptions": [EXEMPTION],
    "guard": {"passThrough": ["br0"]}, "pool": {"stage": "enforce", "nodes": ["n1"]},
}  # fmt: skip


@given(st.data())
def test_of_a_policy_all_is_done_that_is_known(data: st.DataObject) -> None:
    def grow(draw: st.DrawFn) -> str:
        return grown(draw, json.dumps(SPEC), beyond=lambda place: place[:1] != ("exemptions",))

    spec = json.loads(data.draw(st.composite(grow)()))
    read, strange = read_signed(spec)
    assert read == parse_policy(SPEC)
    assert strange
    with pytest.raises(ConfigError, match="unknown key"):
        parse_policy(spec)  # whoever writes it is told


def test_an_exemption_that_says_more_than_is_known_is_not_in_force() -> None:
    narrowed = [{**EXEMPTION, "name": f"e{n}", **({"direction": "in"} if n in (1, 3) else {})} for n in range(5)]
    read, strange = read_signed({"stage": "enforce", "exemptions": narrowed, "fresh": {}})
    assert [one.name for one in read.exemptions] == ["e0", "e2", "e4"]
    assert strange == ("exemptions.1", "exemptions.3", "fresh")
    assert read.stage is Stage.ENFORCE


def test_a_value_that_is_not_known_is_refused_and_not_passed_over() -> None:
    for spec in ({"stage": "further"}, {"stage": "enforce", "scope": "wider", "fresh": 1}):
        with pytest.raises(ConfigError, match="must be"):
            read_signed(spec)


def test_a_policy_without_news_is_the_same_either_way() -> None:
    assert read_signed(SPEC) == (parse_policy(SPEC), ())
    assert read_signed({}) == (parse_policy({}), ())


# --- other formats


def formatted(text: str, number: int) -> str:
    return documents.write_object({**json.loads(text), "format": number, "novelty": True})


def read_all(number: int) -> set[str]:
    """The codes by which announcement, grant and policy of a format are refused; empty: they are read."""
    said, given_, decided_ = (formatted(one.text, number) for one in (ANNOUNCEMENT, GRANT, POLICY))
    signed = SignedAnnouncement(said, announcements.sign(TWO.identity, said), ANNOUNCEMENT.certificate)
    ways: tuple[Callable[[], object], ...] = (
        lambda: announcements.verify(signed, trust(), node="n2", uid="uid-2", now=NOW),
        lambda: grants.verify(SignedGrant(given_, authority().sign_grant(given_)), trust(), node="n2"),
        lambda: policydoc.verify(SignedPolicy(decided_, authority().sign_policy(decided_)), trust(), cluster="c1"),
    )
    refused, words = set(), set()
    for way in ways:
        try:
            way()
        except PeerError as error:
            refused.add(error.code)
            words.add(f"has format {number}" in str(error) and "upgrade Linkseal here" in str(error))
    assert words <= {True}
    return refused


def test_the_next_format_is_refused_by_name_and_the_one_before_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As this version does it, and as the next two will by the same rule."""
    assert read_all(documents.FORMAT) == set()
    assert read_all(documents.FORMAT + 1) == {codes.UNKNOWN_FORMAT}
    for future in (2, 3):
        monkeypatch.setattr(documents, "READABLE", documents.readable(future))
        assert [read_all(number) for number in (future - 1, future)] == [set(), set()]
        assert read_all(future + 1) == {codes.UNKNOWN_FORMAT}
    assert read_all(1) == {codes.UNKNOWN_FORMAT}, "two formats apart"


@pytest.mark.parametrize("what", ["announcement", "grant"])
def test_what_was_accepted_last_stays_where_a_peer_has_gone_ahead(what: str) -> None:
    text = formatted(TWO.announce(9).text, 2), formatted(TWO.grant(9).text, 2)
    newer = NodeDocuments(
        SignedAnnouncement(text[0], announcements.sign(TWO.identity, text[0]), ANNOUNCEMENT.certificate)
        if what == "announcement"
        else GOOD["n2"].announcement,
        SignedGrant(text[1], authority().sign_grant(text[1])) if what == "grant" else GOOD["n2"].grant,
    )
    before = fresh()
    after = see(before, {**GOOD, "n2": newer})
    assert told(after) == [(codes.UNKNOWN_FORMAT, "n2", None)]
    assert after.register.peers == before.peers
    again = see(after.register, GOOD)
    assert told(again) == []


# --- what the first version wrote


def test_what_version_0_1_0_wrote_is_read() -> None:
    anchor, now = Trust.from_pem(OLD["ca"]), datetime.fromisoformat(OLD["now"])
    said = SignedAnnouncement(**OLD["announcement"])
    read = announcements.verify(said, anchor, node="n1", uid="uid-1", now=now)
    assert [(one.number, one.protocol) for one in read.generations] == [(3, "wireguard"), (4, "wireguard")]
    assert (read.serial, read.capabilities, [one.port for one in read.endpoints]) == (7, ("door",), [51820])
    grant = grants.verify(grants.unwrap(OLD["grant"], node="n1"), anchor, node="n1")
    assert (grant.index, grant.serial, grant.addresses, grant.prefixes, grant.opted_out) == (
        1, 3, ("192.0.2.1",), ("10.244.1.0/24",), False,
    )  # fmt: skip
    signed = policydoc.verify(SignedPolicy(**OLD["policy"]), anchor, cluster="c1")
    found, strange = read_signed(signed.spec)
    assert (found.stage, found.scope, [one.name for one in found.exemptions]) == (
        Stage.ENFORCE, Scope.TRANSPARENT, ["ssh"],
    )  # fmt: skip
    assert strange == ()
    report = parse_report(OLD["report"], "n1").status
    assert report is not None
    assert (report.links.sealed, report.pairs[0].peer, report.guard.unguarded) == (1, "n2", None)
    documents_ = NodeDocuments(said, grants.unwrap(OLD["grant"], node="n1"))
    assert told(see(Register("n2"), {"n1": documents_}, trust=anchor, now=now)) == []

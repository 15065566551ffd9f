"""How the CA of a cluster is replaced: each step on evidence, what is added before what is removed."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linkseal.keys.ca import CertificateAuthority, Trust
from linkseal.keys.cabundle import fingerprint_of, read_bundle, vouched
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller.carotation import (
    NAME,
    SILENT,
    Authorities,
    Phase,
    Seen,
    Wish,
    advanced,
    begun,
    brought,
    data_of,
    ends,
    holds,
    read_data,
    wish,
)
from linkseal.tunnels.statusparts import AppliedStatus
from unit.keys.cluster import NOW, YEAR, authority
from unit.test_status import status

STEADY = Authorities(authority("a"))
TRUSTING = begun(STEADY, authority("b"), "2026-11", NOW, made=True)
SIGNING = advanced(TRUSTING, NOW)
ENDED = advanced(SIGNING, NOW)
A, B = authority("a").fingerprint, authority("b").fingerprint
T = NOW.timestamp()


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def seen(
    trust: tuple[str, ...] = (A, B), granted: str = B, certified: str = B, *, serial: int = 7, at: float = T
) -> Seen:
    report = status(trust=trust, policy=AppliedStatus(serial, applied=True), observed_at=at)
    return Seen("n1", announced=True, report=report, granted_by=granted, certified_by=certified)


# --- the phases


def test_who_signs_and_who_is_in_force() -> None:
    assert [one.signer.fingerprint for one in (STEADY, TRUSTING, SIGNING, ENDED)] == [A, A, B, B]
    assert [one.in_force for one in (STEADY, TRUSTING, SIGNING, ENDED)] == [(A,), (A, B), (B, A), (B,)]
    assert [one.trust().fingerprints for one in (STEADY, TRUSTING, SIGNING, ENDED)] == [(A,), (A, B), (A, B), (B,)]
    assert (ENDED.phase, ENDED.coming, ENDED.asked, ENDED.done) == (Phase.STEADY, None, "2026-11", ("2026-11",))
    assert ends(ENDED) == authority("b").certificate.not_valid_after_utc.timestamp()


def test_the_cross_certificate_is_there_from_the_first_step_and_for_good() -> None:
    for found in (TRUSTING, SIGNING, ENDED):
        (cross,) = read_bundle(found.published()["cross.crt"])
        assert vouched([authority("a").certificate], [authority("b").certificate], [cross])[1] == ()
    assert "cross.crt" not in STEADY.published()
    again = advanced(advanced(begun(ENDED, authority("c"), "next", NOW, made=True), NOW), NOW)
    assert len(again.crosses) == 2
    good, _ = vouched(
        [authority("a").certificate], read_bundle(again.published()["ca.crt"]), read_bundle("".join(again.crosses))
    )
    assert [fingerprint_of(one) for one in good] == [authority("c").fingerprint]


def test_the_same_key_is_no_other_ca() -> None:
    with pytest.raises(ConfigError, match="make a new key"):
        begun(STEADY, authority("a"), "x", NOW, made=False)


# --- the Secret


@pytest.mark.parametrize("found", [STEADY, TRUSTING, SIGNING, ENDED, replace(ENDED, made=False)])
def test_what_is_written_is_read(found: Authorities) -> None:
    data = data_of(found)
    again = read_data(data, "it", NOW)
    assert data_of(again) == data
    assert (again.in_force, again.phase, again.crosses, again.asked, again.since, again.done, again.made) == (
        found.in_force, found.phase, found.crosses, found.asked, found.since, found.done, found.made,
    )  # fmt: skip


def test_the_old_key_is_gone_at_the_end_and_the_next_one_in_no_place_twice() -> None:
    keys = {ca: authority(ca).key_pem() for ca in ("a", "b")}
    held = [{ca for ca, key in keys.items() if key in map(b64decode, data_of(one).values())} for one in (
        STEADY, TRUSTING, SIGNING, ENDED,
    )]  # fmt: skip
    assert held == [{"a"}, {"a", "b"}, {"a", "b"}, {"b"}]


def encoded(**raw: bytes) -> dict[str, str]:
    return {key.replace("_", "."): b64encode(value).decode() for key, value in raw.items()}


@cache
def own(name: str, days: float = 9, age: float = 1) -> CertificateAuthority:
    return CertificateAuthority.create(name, NOW - timedelta(days=age), timedelta(days=days))


def secret_of(found: CertificateAuthority) -> dict[str, str]:
    return encoded(tls_key=found.key_pem(), tls_crt=found.certificate_pem().encode())


def test_one_without_a_state_was_made_here_by_its_name_or_brought() -> None:
    assert read_data(secret_of(own(NAME)), "it", NOW).made
    assert not read_data(secret_of(own("Example CA")), "it", NOW).made
    assert read_data(secret_of(own(NAME, age=90)), "it", NOW).made, "it has been in use"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "as tls.key and tls.crt"),
        (encoded(tls_key=b"x"), "as tls.key and tls.crt"),
        ({"tls.key": "?", "tls.crt": "?"}, "damaged"),
        (encoded(tls_key=b"x", tls_crt=b"x"), "both are PEM"),
        ({**secret_of(own("Example CA")), **encoded(tls_key=own("other").key_pem())}, "does not belong"),
        (secret_of(own("Example CA", age=10)), "issue it anew"),
        (secret_of(own("Example CA", age=-1)), "issue it anew"),
        ({**data_of(STEADY), **encoded(state_json=b"{}")}, "damaged"),
        ({key: value for key, value in data_of(SIGNING).items() if key != "next.key"}, "damaged"),
        ({**data_of(SIGNING), **encoded(cross_crt=b"x")}, "CA bundle"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_to_do(data: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_data(data, "the Secret x/y", NOW)
    assert str(caught.value).startswith("the Secret x/y")


def test_a_next_one_that_is_brought_is_a_ca_of_now_and_its_state_is_nobodys() -> None:
    good = own("Example CA")
    assert brought({**secret_of(good), **encoded(state_json=b"{}")}, "it", NOW).fingerprint == good.fingerprint
    for late in (own(NAME, age=10), own("Example CA", age=10)):
        with pytest.raises(ConfigError, match="it: the CA's certificate is valid"):
            brought(secret_of(late), "it", NOW)


# --- when it begins


def test_a_new_value_asks_once() -> None:
    assert wish(STEADY, "", NOW) == Wish()
    assert wish(STEADY, "2026-11", NOW) == Wish("2026-11")
    assert wish(ENDED, "2026-11", NOW) == Wish(), "it is done"
    assert wish(ENDED, "2027", NOW) == Wish("2027")
    for found in (TRUSTING, SIGNING):
        assert wish(found, "2027", NOW + 9 * YEAR) == Wish(), "one at a time"


def test_with_a_third_of_its_life_left_our_own_is_replaced_and_a_brought_one_is_told() -> None:
    made = Authorities(own(NAME, days=300, age=0))
    assert wish(made, "", NOW + timedelta(days=199)) == Wish()
    assert wish(made, "", NOW + timedelta(days=201)).asked.startswith("auto-20")
    told = wish(replace(made, made=False), "", NOW + timedelta(days=201))
    assert told.asked == ""
    assert "linkseal-ca-next" in told.problem


# --- what holds it


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (seen(), None),
        (seen((A,)), "does not trust"),
        (seen(()), "does not trust"),
        (seen((A,), at=T - 10 * SILENT), "does not trust"),
        (replace_report := seen()._replace(report=None), "does not report"),
        (replace_report._replace(announced=False), None),
    ],
)
def test_the_next_ca_signs_when_every_live_agent_trusts_it(node: Seen, why: str | None) -> None:
    found = holds(TRUSTING, [node], ((A, B), 7), NOW)
    assert (why is None) is (found == ())
    assert why is None or found == (f"n1: its agent {why}{found[0].partition(why)[2]}",)
    assert holds(TRUSTING, [node], ((A, B), 7), later(SILENT)) == () or node.report, "silence holds for a while only"


@pytest.mark.parametrize(
    ("node", "policy", "why"),
    [
        (seen(), ((B, A), 7), ""),
        (seen(), ((A, B), 7), "the policy is not signed"),
        (seen(), ((), 0), "the policy is not signed"),
        (seen(granted=A), ((B, A), 7), "n1: its grant"),
        (seen(certified=A), ((B, A), 7), "n1: its certificate"),
        (seen(certified=""), ((B, A), 7), "n1: its certificate"),
        (seen((A,)), ((B, A), 7), "n1: its agent does not trust"),
        (seen(serial=6), ((B, A), 7), "n1: its agent has not taken the policy"),
        (seen()._replace(report=None), ((B, A), 7), "n1: its agent does not report"),
        (Seen("n1", announced=False, report=None), ((B, A), 7), ""),
        (Seen("n1", announced=False, report=None, granted_by=A), ((B, A), 7), "n1: its grant"),
    ],
)
def test_the_old_ca_goes_when_all_is_under_the_next(node: Seen, policy: tuple[tuple[str, ...], int], why: str) -> None:
    found = holds(SIGNING, [node], policy, NOW)
    assert [one.startswith(why) for one in found] == ([True] if why else [])


def test_a_node_that_is_silent_holds_each_phase_for_as_long_as_a_report_counts() -> None:
    gone = seen((A,), certified=A, at=T - 5)
    for found in (TRUSTING, SIGNING):
        assert holds(found, [gone], ((B, A), 7), later(SILENT - 1))
        assert holds(found, [gone], ((B, A), 7), later(SILENT)) == ()
        talks = gone._replace(report=status(trust=(A,), observed_at=T + SILENT))
        assert holds(found, [talks], ((B, A), 7), later(SILENT + 1)), "one that is heard holds for good"
        ahead = gone._replace(report=status(trust=(A,), observed_at=T + 1e9))
        assert holds(found, [ahead], ((B, A), 7), later(SILENT + 1)), "by a clock that is ahead, too"


# --- whatever happens


@dataclass
class Agent:
    """An agent as a rotation sees it: what it has on disk, and what it has published."""

    trust: Trust = field(default_factory=lambda: Trust([authority("a").certificate]))
    up: bool = True
    certificate: str = A
    heard: float = T
    reported: tuple[str, ...] = (A,)
    serial: int = 1

    def do(self, what: str, found: Authorities, serial: int, now: float) -> None:
        """Do it, or be down."""
        if what in ("down", "up"):
            self.up = what == "up"
        elif self.up and what == "learn":
            self.learn(found, serial)
        elif self.up and what == "report":
            self.heard, self.reported = now, self.trust.fingerprints
        elif self.up and what == "renew" and found.signer.fingerprint in self.trust.fingerprints:
            self.certificate = found.signer.fingerprint

    def learn(self, found: Authorities, serial: int) -> None:
        """See what is published, and the policy."""
        published = found.published()
        crosses = read_bundle(published["cross.crt"]) if "cross.crt" in published else ()
        good, strangers = vouched(self.trust.roots, read_bundle(published["ca.crt"]), crosses)
        assert strangers == (), "somebody cannot follow"
        self.trust = Trust((*self.trust.roots, *good))
        signer = found.in_force[0]
        earlier = self.trust.fingerprints[: self.trust.fingerprints.index(signer)]
        self.trust = Trust(
            root for root in self.trust.roots if fingerprint_of(root) not in set(earlier) - set(found.in_force)
        )
        self.serial = serial


@dataclass
class Controller:
    """What it has in its Secret, and the policy it has signed."""

    keys: Authorities = STEADY
    now: float = T
    policy: tuple[str, ...] = STEADY.in_force
    serial: int = 1
    upcoming: list[str] = field(default_factory=lambda: ["d", "c", "b"])

    def step(self, agents: list[Agent]) -> None:
        """One pass, by another controller each time."""
        before, at = self.keys, datetime.fromtimestamp(self.now, NOW.tzinfo)
        if before.phase is not Phase.STEADY:
            if not holds(before, [self._seen(agent) for agent in agents], (self.policy, self.serial), at):
                self.keys = advanced(before, at)
                talking = [agent for agent in agents if self.now - max(agent.heard, before.since) < SILENT]
                assert all(self.keys.signer.fingerprint in agent.trust.fingerprints for agent in talking)
        elif self.upcoming:
            name = self.upcoming.pop()
            self.keys = begun(before, authority(name), name, at, made=True)
        if self.policy != self.keys.in_force:
            self.policy, self.serial = self.keys.in_force, self.serial + 1
        self.keys = read_data(data_of(self.keys), "it", NOW)

    def _seen(self, agent: Agent) -> Seen:
        report = status(trust=agent.reported, policy=AppliedStatus(agent.serial), observed_at=agent.heard)
        mine = self.keys.signer.fingerprint
        return Seen("n", announced=True, report=report, granted_by=mine, certified_by=agent.certificate)


EVENTS = st.tuples(st.sampled_from(["learn", "report", "renew", "down", "up", "wait", "pass"]), st.integers(0, 2))


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=120))
def test_whatever_order_things_happen_in_no_live_agent_is_cut_off(events: list[tuple[str, int]]) -> None:
    controller, agents = Controller(), [Agent() for _ in range(3)]
    for what, who in events:
        if what == "wait":
            controller.now += SILENT / 2
        elif what == "pass":
            controller.step(agents)
        else:
            agents[who].do(what, controller.keys, controller.serial, controller.now)
    for agent in agents:
        agent.learn(controller.keys, controller.serial)
        assert controller.keys.signer.fingerprint in agent.trust.fingerprints, "whoever comes back finds its way"

"""How a node gets its certificate, and another one when another CA signs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from linkseal.keys.ca import make_csr
from linkseal.keys.errors import CertificateRefusedError, DirectoryError
from linkseal.tunnels.agent import enrolment
from linkseal.tunnels.agent.enrolment import CHECK, Enrolment
from linkseal.tunnels.agent.keyring import Keyring
from unit.agent.test_anchors import NEW, OLD, crosses, name, signed, view
from unit.agent.test_knowledge import TIME, start
from unit.keys.cluster import NOW, authority

LIFETIME = timedelta(days=90)
RENEWED = timedelta(days=60)


@dataclass
class Signer:
    """The directory, as far as certificates go; `ca` signs. `trouble`: it does not answer, and says this. `denies`: it
    denies each request, once.
    """

    ca: str = OLD
    now: datetime = NOW
    trouble: str = ""
    silent: bool = False
    denies: bool = False
    asked: list[str] = field(default_factory=list)
    issued: str | None = None

    def unix_now(self) -> float:
        return self.now.timestamp()

    async def certificate(self, _: str) -> str | None:
        self._answer()
        if self.denies and self.asked:
            raise CertificateRefusedError(f"the certificate request {len(self.asked)} was refused: no such pod")
        return self.issued

    async def request_certificate(self, node: str, csr: str) -> None:
        self._answer()
        self.asked.append(csr)
        if not self.silent and not self.denies:
            self.issued = authority(self.ca).sign_csr(csr, node, "uid-1", self.now, LIFETIME)

    def _answer(self) -> None:
        if self.trouble:
            raise DirectoryError(self.trouble)


@dataclass
class Site:
    signer: Signer
    enrolment: Enrolment
    clock: list[float]
    warned: list[str]

    def certificate(self) -> str:
        pem = self.enrolment._keyring.certificate()
        assert pem is not None
        return pem

    def issuer(self) -> str:
        trust = self.enrolment._knowledge.trust
        assert trust is not None
        return trust.verify_certificate(self.certificate(), "n1", "uid-1", self.signer.now).issuer

    def learn(self, serial: int, *cas: str) -> None:
        found = view([OLD, NEW], signed(serial, *cas), crosses((OLD, NEW)))
        self.enrolment._knowledge.learn(found, TIME)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    clock, warned = [1000.0], list[str]()
    monkeypatch.setattr(enrolment, "steady_now", lambda: clock[0])
    monkeypatch.setattr(enrolment, "TURN", 60.0)
    node, signer = start(tmp_path / "state"), Signer()
    monkeypatch.setattr(enrolment, "unix_now", signer.unix_now)
    keyring = node.knowledge.anchors._keyring
    made = Site(signer, Enrolment(keyring, node.knowledge, signer, warned.append), clock, warned)  # type: ignore[arg-type]
    made.learn(1, OLD, NEW)
    assert made.enrolment.soon() > 0
    assert made.enrolment.soon() == 0.0
    assert await made.enrolment.step() > 0
    assert CHECK / 2 <= await made.enrolment.step() <= CHECK
    assert made.issuer() == name(OLD)
    return made


async def test_when_another_ca_signs_a_node_asks_it_in_its_turn(site: Site) -> None:
    site.learn(2, NEW, OLD)
    site.signer.ca = NEW
    assert 0 < site.enrolment.soon() < 1, "a pass has learnt it; the next look comes soon"
    turn = await site.enrolment.step()
    assert 0 < turn <= 180, "two nodes and itself, each a minute"
    assert len(site.signer.asked) == 1, "not all at once"
    site.clock[0] += turn / 2
    assert await site.enrolment.step() == pytest.approx(turn / 2)
    site.clock[0] += turn
    assert await site.enrolment.step() > 0
    assert len(site.signer.asked) == 2
    assert CHECK / 2 <= await site.enrolment.step() <= CHECK
    assert site.issuer() == name(NEW)
    site.clock[0] += 1000
    assert CHECK / 2 <= await site.enrolment.step() <= CHECK
    assert (len(site.signer.asked), site.warned) == (2, [])


async def test_a_certificate_by_the_ca_that_was_just_replaced_is_taken_and_asked_for_anew(site: Site) -> None:
    """Of two controllers one may not know yet."""
    site.learn(2, NEW, OLD)
    site.clock[0] += 1000
    await site.enrolment.step()
    site.clock[0] += 1000
    await site.enrolment.step()  # asked; the answer is by the old one
    assert await site.enrolment.step() > 0
    assert site.issuer() == name(OLD)
    site.signer.ca = NEW
    await site.enrolment.step()
    assert CHECK / 2 <= await site.enrolment.step() <= CHECK
    assert site.issuer() == name(NEW)


async def test_one_whose_ca_is_out_of_force_asks_at_once(site: Site) -> None:
    site.learn(2, NEW)
    site.signer.ca = NEW
    await site.enrolment.step()
    assert len(site.signer.asked) == 2
    assert CHECK / 2 <= await site.enrolment.step() <= CHECK
    assert site.issuer() == name(NEW)


async def test_a_certificate_for_another_key_or_by_a_stranger_is_not_taken(site: Site) -> None:
    site.learn(2, NEW, OLD)
    site.clock[0] += 1000
    await site.enrolment.step()
    site.clock[0] += 1000
    request = make_csr(authority("evil")._key, "n1", "uid-1")
    for ca, words in ((NEW, "another key"), ("evil", "refused")):
        site.signer.issued = authority(ca).sign_csr(request, "n1", "uid-1", NOW, LIFETIME)
        assert await site.enrolment.step() > 0
        assert words in site.warned[-1]
    assert site.issuer() == name(OLD)


async def test_a_certificate_for_a_key_that_is_gone_is_asked_for_anew(site: Site, tmp_path: Path) -> None:
    """The one for the key before goes with it: what is announced with that is refused by all."""
    folder = tmp_path / "state"
    before = site.certificate()
    (folder / "identity.key").unlink()
    keyring = Keyring(folder, "n1")
    keyring.open("uid-1", "c1")
    assert keyring.certificate() is None
    keyring.save_certificate(before)  # as an agent left it that was of another opinion
    site.enrolment._keyring = keyring
    assert await site.enrolment.step() > 0
    assert CHECK / 2 <= await site.enrolment.step() <= CHECK
    assert len(site.signer.asked) == 2
    assert site.certificate() != before


async def test_a_certificate_is_renewed_at_two_thirds_of_its_life_and_not_before(site: Site) -> None:
    for count in (1, 2, 3):
        before, issued = site.certificate(), site.signer.now
        site.signer.now = issued + RENEWED - timedelta(seconds=1)
        assert CHECK / 2 <= await site.enrolment.step() <= CHECK
        assert (len(site.signer.asked), site.certificate() == before) == (count, True)
        site.signer.now = issued + RENEWED
        assert await site.enrolment.step() > 0
        assert (len(site.signer.asked), site.certificate() == before) == (count + 1, True)
        assert CHECK / 2 <= await site.enrolment.step() <= CHECK
        assert (len(site.signer.asked), site.certificate() == before) == (count + 1, False)
    assert site.warned == []


async def test_the_old_certificate_stays_while_the_signer_is_away_refuses_or_is_silent(site: Site) -> None:
    """Past its end too: there is nothing better."""
    old = site.certificate()
    for days, trouble in ((60, "connection refused"), (80, "the request was refused"), (89, ""), (91, "")):
        site.signer.now, site.signer.trouble, site.signer.silent = NOW + timedelta(days=days), trouble, True
        assert await site.enrolment.step() > 0
        assert site.certificate() == old
    assert len(site.signer.asked) == 2, "once while it was silent"
    assert [await site.enrolment.step() for _ in range(4)] == [16.0, 32.0, 60.0, 60.0]
    assert (site.certificate(), site.warned) == (old, [])


async def test_a_renewal_that_failed_goes_on_as_soon_as_the_signer_is_back(site: Site) -> None:
    old, site.signer.now, site.signer.trouble = site.certificate(), NOW + RENEWED, "connection refused"
    assert [await site.enrolment.step() for _ in range(3)] == [1.0, 2.0, 4.0]
    site.signer.trouble = ""
    assert await site.enrolment.step() > 0
    assert site.certificate() == old, "asked, not answered yet"
    assert CHECK / 2 <= await site.enrolment.step() <= CHECK
    assert site.certificate() == site.signer.issued != old


async def test_what_cannot_be_verified_replaces_no_certificate_that_is_to_be_renewed(site: Site) -> None:
    old, site.signer.now, site.signer.silent = site.certificate(), NOW + RENEWED, True
    await site.enrolment.step()
    csr = site.signer.asked[-1]
    for offered in (
        "no PEM",
        authority(OLD).sign_csr(csr, "n1", "uid-1", NOW - LIFETIME, LIFETIME),
        authority("evil").sign_csr(csr, "n1", "uid-1", NOW, LIFETIME),
    ):
        site.signer.issued = offered
        assert await site.enrolment.step() > 0
        assert "the certificate offered is refused" in site.warned[-1]
        assert site.certificate() == old


async def test_after_a_refusal_another_request_is_made_in_a_while_and_less_and_less_often(site: Site) -> None:
    """However often the directory is looked at meanwhile. The reason is told each time."""
    site.signer.now, site.signer.denies, site.signer.issued = NOW + RENEWED, True, None
    site.signer.asked.clear()
    assert await site.enrolment.step() > 0
    for pause in (15.0, 30.0, 60.0):
        count = len(site.signer.asked)
        assert await site.enrolment.step() == pause
        assert "no such pod" in site.warned[-1]
        for _ in range(3):
            assert 0 < await site.enrolment.step() <= pause
        assert len(site.signer.asked) == count, "not before its time"
        site.clock[0] += pause
        site.signer.denies = False  # a directory has forgotten a request that it told the refusal of
        assert await site.enrolment.step() > 0
        assert len(site.signer.asked) == count + 1
        site.signer.denies, site.signer.issued = True, None
    assert len(site.warned) == 3

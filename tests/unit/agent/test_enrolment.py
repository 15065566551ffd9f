"""How a node gets its certificate, and another one when another CA signs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from linkseal.keys.ca import make_csr
from linkseal.tunnels.agent import enrolment
from linkseal.tunnels.agent.enrolment import Enrolment
from unit.agent.test_anchors import NEW, OLD, crosses, name, signed, view
from unit.agent.test_knowledge import TIME, start
from unit.keys.cluster import authority


@dataclass
class Signer:
    """The directory, as far as certificates go; `ca` signs."""

    ca: str = OLD
    asked: list[str] = field(default_factory=list)
    issued: str | None = None

    async def certificate(self, _: str) -> str | None:
        return self.issued

    async def request_certificate(self, node: str, csr: str) -> None:
        self.asked.append(csr)
        now = datetime.now(UTC)
        self.issued = authority(self.ca).sign_csr(csr, node, "uid-1", now, timedelta(days=90))


@dataclass
class Site:
    signer: Signer
    enrolment: Enrolment
    clock: list[float]
    warned: list[str]

    def issuer(self) -> str:
        knowledge = self.enrolment._knowledge
        pem = self.enrolment._keyring.certificate()
        assert pem is not None
        assert knowledge.trust is not None
        return knowledge.trust.verify_certificate(pem, "n1", "uid-1", datetime.now(UTC)).issuer

    def learn(self, serial: int, *cas: str) -> None:
        found = view([OLD, NEW], signed(serial, *cas), crosses((OLD, NEW)))
        self.enrolment._knowledge.learn(found, TIME)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    clock, warned = [1000.0], list[str]()
    monkeypatch.setattr(enrolment, "steady_now", lambda: clock[0])
    monkeypatch.setattr(enrolment, "TURN", 60.0)
    node, signer = start(tmp_path / "state"), Signer()
    keyring = node.knowledge.anchors._keyring
    made = Site(signer, Enrolment(keyring, node.knowledge, signer, warned.append), clock, warned)  # type: ignore[arg-type]
    made.learn(1, OLD, NEW)
    assert made.enrolment.soon() > 0
    assert made.enrolment.soon() == 0.0
    assert await made.enrolment.step() > 0
    assert await made.enrolment.step() == 0.0
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
    assert await site.enrolment.step() == 0.0
    assert site.issuer() == name(NEW)
    site.clock[0] += 1000
    assert await site.enrolment.step() == 0.0
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
    assert await site.enrolment.step() == 0.0
    assert site.issuer() == name(NEW)


async def test_one_whose_ca_is_out_of_force_asks_at_once(site: Site) -> None:
    site.learn(2, NEW)
    site.signer.ca = NEW
    await site.enrolment.step()
    assert len(site.signer.asked) == 2
    assert await site.enrolment.step() == 0.0
    assert site.issuer() == name(NEW)


async def test_a_certificate_for_another_key_or_by_a_stranger_is_not_taken(site: Site) -> None:
    site.learn(2, NEW, OLD)
    site.clock[0] += 1000
    await site.enrolment.step()
    site.clock[0] += 1000
    request = make_csr(authority("evil")._key, "n1", "uid-1")
    now = datetime.now(UTC)
    for ca, words in ((NEW, "another key"), ("evil", "refused")):
        site.signer.issued = authority(ca).sign_csr(request, "n1", "uid-1", now, timedelta(days=90))
        assert await site.enrolment.step() > 0
        assert words in site.warned[-1]
    assert site.issuer() == name(OLD)

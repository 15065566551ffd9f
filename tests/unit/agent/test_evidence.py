"""Which outcomes of probes wake the agent."""

from __future__ import annotations

from linkseal.tunnels import codes
from linkseal.tunnels.agent.evidence import News
from linkseal.tunnels.model import V4, LinkKey
from linkseal.tunnels.probe.outcomes import Diagnosis, Lost, Proof, Target, Way

KEY = LinkKey("n2", 1, 1)
PROOF = Proof(KEY, 1.0, {V4: 1440}, 0.01, (1, 1))


def test_a_proof_that_repeats_the_last_one_is_no_news() -> None:
    news = News()
    assert news.brought_by(PROOF)
    assert not news.brought_by(PROOF._replace(at=61.0, rtt=0.02))
    assert news.brought_by(PROOF._replace(key=LinkKey("n3", 1, 1)))


def test_another_size_another_pair_in_use_and_every_failure_are_news() -> None:
    news = News()
    news.brought_by(PROOF)
    assert news.brought_by(PROOF._replace(sizes={V4: 1340}))
    assert news.brought_by(PROOF._replace(sizes={V4: 1340}, uses=(2, 1)))
    lost = Lost(KEY, Diagnosis(KEY, codes.NOTHING_CROSSES, "…"))
    assert [news.brought_by(lost), news.brought_by(lost), news.brought_by(PROOF)] == [True, True, True]


def test_a_proof_after_the_session_or_the_link_was_gone_is_news() -> None:
    for between in ({}, {KEY: Target(2, handshake=False, ways={V4: Way(1440)})}):
        news = News()
        news.brought_by(PROOF)
        news.keep({KEY: Target(2, handshake=True, ways={V4: Way(1440)})})
        assert not news.brought_by(PROOF)
        news.keep(between)
        assert news.brought_by(PROOF)

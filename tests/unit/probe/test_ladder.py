"""One link against a simulated network and clock: which faults give which diagnosis, and what is never proven."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from linkseal.tunnels.codes import MTU_HOLE, NO_HANDSHAKE, NOT_FORWARDED, NOTHING_CROSSES, PREFIX_NOT_CARRIED
from linkseal.tunnels.model import Family, LinkKey
from linkseal.tunnels.probe.climb import Answer, Ask
from linkseal.tunnels.probe.ladder import Ladder
from linkseal.tunnels.probe.outcomes import Diagnosis, Lost, Outcome, Proof, Source, Target, Way
from linkseal.tunnels.probe.packet import PROBE_SLOT, Rung

KEY = LinkKey("node-b", 4, 7)
SOURCES = (Source("10.244.1.5", "10.244.1.0/24"), Source("192.0.2.1", "192.0.2.1/32"))
WAY4 = Way(1420, SOURCES)
WAY6 = Way(1420, (Source("fd00:1::5", "fd00:1::/64"),))
TARGET = Target(2, handshake=True, ways={4: WAY4, 6: WAY6})
ONLY4 = replace(TARGET, ways={4: WAY4})


@dataclass
class Network:
    """Answers the asks that its faults let through, `rtt` seconds later."""

    ladder: Ladder
    crosses: Callable[[Ask], bool] = lambda _: True
    rtt: float = 0.001
    peer_offers: int = 2
    masquerades: bool = False
    now: float = 0.0
    sent: list[tuple[float, Ask]] = field(default_factory=list)
    outcomes: list[tuple[float, Outcome]] = field(default_factory=list)
    _flying: list[tuple[float, float, Ask]] = field(default_factory=list)

    def run(self, until: float) -> list[Outcome]:
        """Go on to that time; return what came out on the way."""
        first = len(self.outcomes)
        while True:
            arrival = min((at for at, _, _ in self._flying), default=float("inf"))
            at = min(self.ladder.due, arrival)
            if at > until:
                self.now = until
                return [outcome for _, outcome in self.outcomes[first:]]
            self.now = max(at, self.now)
            self._deliver()
            beat = self.ladder.tick(self.now, 0.5)
            for ask in beat.asks:
                self.sent.append((self.now, ask))
                if self.crosses(ask):
                    self._flying.append((self.now + self.rtt, self.now, ask))
            if beat.outcome is not None:
                self.outcomes.append((self.now, beat.outcome))

    def _deliver(self) -> None:
        arrived = [one for one in self._flying if one[0] <= self.now]
        self._flying = [one for one in self._flying if one[0] > self.now]
        for _, sent, ask in arrived:
            self.ladder.answer(ask, self._answer(ask, self.now - sent), self.now)

    def _answer(self, ask: Ask, rtt: float) -> Answer:
        named = f"10.244.2.{ask.slot}" if ask.slot < self.peer_offers else None
        sources = self.ladder.target.ways[ask.family].sources
        sent_from = sources[ask.source].address if ask.source != PROBE_SLOT else "198.18.0.8"
        saw = "192.0.2.77" if self.masquerades else sent_from
        slot = ask.slot if named and ask.rung is not Rung.NAME else PROBE_SLOT
        source = named if named and slot != PROBE_SLOT else "198.18.0.16"
        return Answer(source, slot, saw, named, (7, 4), self.peer_offers, rtt)


def network(target: Target = TARGET, crosses: Callable[[Ask], bool] = lambda _: True, **more: object) -> Network:
    return Network(Ladder(KEY, target, 0.0), crosses, **more)  # type: ignore[arg-type]  # test convenience


def test_a_whole_path_is_proven_in_both_families_with_size_and_what_the_peer_uses() -> None:
    net = network()
    (proof,) = net.run(5)
    assert isinstance(proof, Proof)
    assert (proof.key, proof.sizes, proof.uses, proof.rewritten) == (KEY, {4: 1420, 6: 1420}, (7, 4), frozenset())
    assert proof.rtt == pytest.approx(0.001)
    assert proof.at == pytest.approx(0.003)  # three rungs, three round trips


def test_each_rung_is_asked_only_after_the_one_below_has_crossed() -> None:
    net = network(ONLY4)
    net.run(5)
    assert [(ask.rung, ask.source, ask.slot, ask.size) for _, ask in net.sent] == [
        (Rung.SMALL, 0, 0, 400),
        (Rung.FULL, 0, 0, 1420),
        (Rung.SOURCE, 1, 0, 400),
        (Rung.SOURCE, 0, 1, 400),
    ]


def test_a_proven_link_is_proven_again_after_the_interval_by_full_size_alone() -> None:
    net = network(ONLY4)
    net.run(5)
    first = len(net.sent)
    assert [type(one) for one in net.run(65)] == [Proof]
    assert [ask.rung for _, ask in net.sent[first:]] == [Rung.FULL, Rung.SOURCE, Rung.SOURCE]
    assert net.sent[first][0] == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize(("spread", "due"), [(0.0, 54.0), (0.5, 60.0), (0.999, 66.0)])
def test_the_callers_randomness_spreads_the_rounds(spread: float, due: float) -> None:
    ladder = Ladder(KEY, replace(TARGET, ways={6: WAY6}), 0.0)
    for _ in range(3):
        for ask in ladder.tick(0.0, spread).asks:
            ladder.answer(ask, Answer("x", 0, None, None, None, 1, 0.0), 0.0)
    assert ladder.due == pytest.approx(due, abs=0.1)


def test_nothing_is_sent_before_the_handshake_and_its_absence_is_told_after_patience() -> None:
    net = network(replace(TARGET, handshake=False))
    assert net.run(14.9) == []
    (told,) = net.run(16)
    assert isinstance(told, Diagnosis)
    assert told.code == NO_HANDSHAKE
    net.run(4000)
    assert net.sent == []
    assert all(isinstance(one, Diagnosis) and one.code == NO_HANDSHAKE for _, one in net.outcomes)
    assert len(net.outcomes) < 4000 / 60 + 6


def test_a_handshake_starts_the_round_at_once() -> None:
    net = network(replace(TARGET, handshake=False))
    net.run(100)
    net.ladder.retarget(TARGET, 100.0)
    assert [type(one) for one in net.run(101)] == [Proof]


def small_only(ask: Ask) -> bool:
    return max(ask.size, ask.reply_size) <= 1300


def from_first(ask: Ask) -> bool:
    """The peer lets nothing from our first prefix in."""
    return ask.source != 0


def to_first(ask: Ask) -> bool:
    """We let nothing from the peer's first address in."""
    return ask.slot != 0 or ask.rung is Rung.NAME


FAULTS: dict[str, tuple[Callable[[Ask], bool], str, str]] = {
    "nothing crosses": (lambda _: False, NOTHING_CROSSES, "not even host to host"),
    "forward drop at both": (lambda ask: ask.rung is Rung.LOCAL, NOT_FORWARDED, "FORWARD policy here first"),
    "forward drop at peer": (
        lambda ask: ask.rung in (Rung.LOCAL, Rung.HALF),
        NOT_FORWARDED,
        "FORWARD policy at node-b",
    ),
    "hole both ways": (small_only, MTU_HOLE, "to node-b, the largest seen to cross has 1300"),
    "hole back": (lambda ask: ask.reply_size <= 1300, MTU_HOLE, "from node-b to here, the largest .* 1300"),
    "hole below any": (lambda ask: ask.size <= 500, MTU_HOLE, "the largest seen to cross has 400"),
    "our first prefix": (from_first, PREFIX_NOT_CARRIED, r"10\.244\.1\.0/24 .* not let in at node-b"),
    "their first prefix": (to_first, PREFIX_NOT_CARRIED, r"10\.244\.2\.0 of node-b are not let in here"),
    "our second prefix": (lambda ask: ask.source != 1, PREFIX_NOT_CARRIED, r"192\.0\.2\.1/32 .* not let in at node-b"),
    "their second": (
        lambda ask: ask.slot != 1 or ask.rung is Rung.NAME,
        PREFIX_NOT_CARRIED,
        r"10\.244\.2\.1 of node-b",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_gives_its_own_diagnosis_and_never_a_proof(fault: str) -> None:
    crosses, code, pattern = FAULTS[fault]
    net = network(ONLY4, crosses)
    told = net.run(400)
    assert len(told) > 3
    for one in told:
        assert isinstance(one, Diagnosis)
        assert one.code == code
        assert re.search(pattern, one.detail), one.detail


def test_the_bisection_is_short_and_as_exact_as_wireguards_padding() -> None:
    for limit in range(576, 1420, 7):
        net = network(ONLY4, lambda ask, limit=limit: max(ask.size, ask.reply_size) <= limit)  # type: ignore[misc]
        told = net.run(40)[0]
        assert isinstance(told, Diagnosis)
        assert told.size is not None
        assert limit - 16 <= told.size <= limit
        first_round = [ask.size for at, ask in net.sent if at <= net.outcomes[0][0]]
        assert len(set(first_round)) <= 10


def test_one_family_that_fails_keeps_the_link_unproven_and_is_named() -> None:
    told = network(TARGET, lambda ask: ask.family == 4).run(30)
    assert told
    for one in told:
        assert isinstance(one, Diagnosis)
        assert "IPv6" in one.detail
        assert "IPv4" not in one.detail


def test_two_faults_give_the_code_of_the_more_basic_one_and_both_details() -> None:
    told = network(TARGET, lambda ask: ask.family == 6 and ask.size <= 1300).run(60)[0]
    assert isinstance(told, Diagnosis)
    assert told.code == NOTHING_CROSSES
    assert "IPv4: there is a handshake" in told.detail
    assert "IPv6: packets of 1420 bytes" in told.detail


def test_a_proven_link_is_lost_only_after_three_failed_rounds() -> None:
    net = network(ONLY4)
    net.run(5)
    net.crosses = lambda _: False
    told = net.run(400)
    assert isinstance(told[0], Lost)
    assert told[0].diagnosis.code == NOTHING_CROSSES
    assert all(isinstance(one, Diagnosis) for one in told[1:])
    lost_at = net.outcomes[1][0]
    assert 60 + 3 * 6.2 < lost_at < 60 + 70
    full = [at for at, ask in net.sent if ask.rung is Rung.FULL and 5 < at <= lost_at]
    assert len(full) == 3 * 5


def test_two_failed_rounds_are_forgotten_by_one_that_passes() -> None:
    net = network(ONLY4)
    net.run(5)
    for _ in range(4):
        begin = net.ladder.due
        net.crosses = lambda _: False
        net.run(begin + 40)  # two rounds of 13.8 s fail, 5 s apart; the third begins 10 s later
        net.crosses = lambda _: True
        net.run(begin + 50)
    assert [type(one) for _, one in net.outcomes] == [Proof] * 5
    assert len([ask for _, ask in net.sent if ask.rung is Rung.LOCAL]) == 4 * 2 * 3


def test_losing_the_handshake_of_a_proven_link_is_three_rounds_too() -> None:
    net = network()
    net.run(5)
    net.ladder.retarget(replace(TARGET, handshake=False), 5.0)
    sent = len(net.sent)
    told = net.run(200)
    assert isinstance(told[0], Lost)
    assert told[0].diagnosis.code == NO_HANDSHAKE
    assert len(net.sent) == sent


def test_a_dead_link_costs_a_bounded_number_of_packets_and_outcomes() -> None:
    net = network(ONLY4, lambda _: False)
    net.run(600)
    early, early_told = len(net.sent), len(net.outcomes)
    net.run(600 + 3600)
    per_round = 5 + 5 * 3
    assert len(net.sent) - early <= per_round * 3600 / 60
    assert len(net.outcomes) - early_told <= 3600 / 60


def test_a_slow_path_is_proven_though_answers_come_after_the_repetition() -> None:
    net = network(ONLY4, rtt=1.5)
    assert [type(one) for one in net.run(20)] == [Proof]


def test_on_a_slow_path_the_hole_is_still_measured() -> None:
    net = network(ONLY4, small_only, rtt=1.5)
    told = net.run(150)[0]
    assert isinstance(told, Diagnosis)
    assert told.size is not None
    assert 1284 <= told.size <= 1300


def test_one_lost_packet_is_repeated_and_fails_nothing() -> None:
    lost: set[Ask] = set()

    def once(ask: Ask) -> bool:
        first = ask not in lost
        lost.add(ask)
        return not first

    net = network(TARGET, once)
    assert [type(one) for one in net.run(10)] == [Proof]


def test_many_sources_are_proven_in_turns_of_sixteen_and_all_in_time() -> None:
    way = Way(1420, tuple(Source(f"10.0.{n}.1", f"10.0.{n}.0/24") for n in range(40)))
    net = network(replace(TARGET, ways={4: way}), peer_offers=20)
    asked: set[tuple[int, int]] = set()
    for turn in range(5):
        begin = len(net.sent)
        net.run(5 + 61 * turn)
        pairs = [(ask.source, ask.slot) for _, ask in net.sent[begin:] if ask.rung is Rung.SOURCE]
        assert len(pairs) == 16
        asked.update(pairs)
    assert asked == {(own, 0) for own in range(1, 40)} | {(0, slot) for slot in range(1, 20)}


def test_a_masqueraded_source_is_told() -> None:
    (proof,) = network(ONLY4, masquerades=True).run(5)
    assert isinstance(proof, Proof)
    assert proof.rewritten == {"10.244.1.5", "192.0.2.1"}


def test_a_peer_without_protected_addresses_is_proven_by_its_probe_address() -> None:
    net = network(replace(TARGET, ways={6: Way(1420)}), peer_offers=0)
    assert [type(one) for one in net.run(5)] == [Proof]


def test_a_poke_proves_again_at_once_but_not_without_handshake() -> None:
    net = network()
    net.run(5)
    net.ladder.poke(5.0)
    assert [type(one) for one in net.run(6)] == [Proof]
    silent = Ladder(KEY, replace(TARGET, handshake=False), 0.0)
    silent.poke(1.0)
    assert silent.due > 10


def test_an_equal_target_changes_nothing_and_another_one_is_proven_at_once() -> None:
    net = network()
    net.run(5)
    net.ladder.retarget(replace(TARGET), 5.0)
    assert net.run(20) == []
    net.ladder.retarget(replace(TARGET, ways={4: Way(1300, SOURCES)}), 20.0)
    (proof,) = net.run(21)
    assert isinstance(proof, Proof)
    assert proof.sizes == {4: 1300}


def test_an_answer_to_another_question_proves_nothing() -> None:
    ladder = Ladder(KEY, ONLY4, 0.0)
    (small,) = ladder.tick(0.0, 0.5).asks
    answer = Answer("10.244.2.0", 0, "10.244.1.5", "10.244.2.0", None, 1, 0.001)
    ladder.answer(small._replace(size=1420, rung=Rung.FULL), answer, 0.01)
    ladder.answer(small._replace(family=6), answer, 0.01)
    assert ladder.tick(0.01, 0.5).asks == ()
    ladder.answer(small, answer, 0.02)
    assert [ask.rung for ask in ladder.tick(0.02, 0.5).asks] == [Rung.FULL]


def test_a_restart_sends_again_what_may_never_have_left() -> None:
    ladder = Ladder(KEY, ONLY4, 0.0)
    first = ladder.tick(0.0, 0.5).asks
    ladder.restart(3.0)
    assert ladder.tick(3.0, 0.5).asks == first


@pytest.mark.parametrize(
    "ways", [{}, {4: Way(575)}, {6: Way(1279)}, {4: Way(65536)}], ids=["none", "small4", "small6", "large"]
)
def test_a_target_that_could_prove_nothing_is_refused(ways: dict[Family, Way]) -> None:
    with pytest.raises(ValueError, match="proven"):
        Target(1, handshake=True, ways=ways)

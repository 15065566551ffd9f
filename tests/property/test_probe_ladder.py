"""Laws of the ladder under any pattern of loss: proofs only for what crossed, and never a standstill or a storm."""

from hypothesis import given, settings
from hypothesis import strategies as st
from linkseal.tunnels.model import LinkKey
from linkseal.tunnels.probe.climb import Answer, Ask
from linkseal.tunnels.probe.ladder import Ladder
from linkseal.tunnels.probe.outcomes import Proof, Source, Target, Way
from linkseal.tunnels.probe.packet import Rung

KEY = LinkKey("b", 1, 2)
WAY = Way(1400, (Source("10.0.0.1", "10.0.0.0/24"), Source("10.0.1.1", "10.0.1.0/24")))
TARGET = Target(3, handshake=True, ways={4: WAY, 6: WAY})


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.floats(0, 3), st.floats(0, 0.999))
def test_a_proof_has_every_rung_of_every_family_answered_in_its_round(
    pattern: list[bool], rtt: float, spread: float
) -> None:
    ladder, now, sent = Ladder(KEY, TARGET, 0.0), 0.0, 0
    answered: set[Ask] = set()
    flying: list[tuple[float, Ask]] = []
    while now < 300:
        now = max(now, min([ladder.due, *(at for at, _ in flying)]))
        for at, ask in [one for one in flying if one[0] <= now]:
            flying.remove((at, ask))
            answered.add(ask)
            ladder.answer(ask, Answer("10.9.0.1", 0, None, None, None, 1, rtt), now)
        beat = ladder.tick(now, spread)
        for ask in beat.asks:
            if pattern[sent % len(pattern)]:
                flying.append((now + rtt, ask))
            sent += 1
        if beat.outcome is not None:
            if isinstance(beat.outcome, Proof):
                assert {(ask.family, ask.size) for ask in answered if ask.rung is Rung.FULL} >= {(4, 1400), (6, 1400)}
                assert {(ask.family, ask.source) for ask in answered if ask.rung is Rung.SOURCE} == {(4, 1), (6, 1)}
            answered.clear()
        assert ladder.due > now or beat.outcome is None
    assert sent < 2000

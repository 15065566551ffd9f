"""Sessions over a wire that loses, doubles, delays and reorders; messages that nobody of ours wrote. Always an end,
never more than is bounded, and never a proof without evidence."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st
from linkseal.tunnels.verify.frames import Place, Sieve, Tunnel
from linkseal.tunnels.verify.judge import Evidence, Way, enough, judge
from linkseal.tunnels.verify.packet import Answer, Arm, Armed, End, Message, Report, Seen, encode, parse, tokens
from linkseal.tunnels.verify.session import DEADLINE, MAX_SESSIONS, Begin, Look, Source, Stop, Target, Volley

WAYS = (Way(Place.SLOT, "a"), Way(Place.PROBE, "b"))
ARM = Arm(b"s" * 16, "n1", b"x" * 32, len(WAYS))


@dataclass
class World:
    """A source and a target, and what lies between them."""

    chance: random.Random
    loss: float
    leak: bool
    control: bool
    carries: bool
    clock: float = 0.0
    wire: list[tuple[float, int, bool, Message]] = field(default_factory=list)
    number: int = 0
    watching: bool = False
    own: list[int] = field(default_factory=lambda: [0, 0, 0])
    far: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Clear, control, arrived."""

    def run(self) -> tuple[str, Source, Target]:
        source = Source(ARM, 0.0, lambda far: enough(WAYS, self.own_end(), far))
        target = Target("n2")
        while not source.over:
            at = min([source.due, *(due for due, *_ in self.wire[:1])])
            assert at >= self.clock - 1e-9
            self.clock = max(self.clock, at)
            while self.wire and self.wire[0][0] <= self.clock:
                _, _, to_source, message = heapq.heappop(self.wire)
                actions = source.receive(message, self.clock) if to_source else self.serve(target, message)
                self.send(actions)
            self.send(source.tick(self.clock))
            assert self.clock <= DEADLINE + 1e-6
        verdict = judge(Evidence("n1", "n2", WAYS, self.own_end(), source.report))
        return verdict.result, source, target

    def serve(self, target: Target, message: Message) -> tuple[object, ...]:
        for order in target.receive(message, self.clock):
            if isinstance(order, Begin):
                self.watching = True
                self.put(Armed(ARM.session, "n2", Answer.READY), to_source=True)
            elif isinstance(order, Look):
                self.put(Report(ARM.session, "n2", order.ask.number, self.far_end()), to_source=True)
            elif isinstance(order, Stop):
                self.watching = False
            else:
                self.put(order, to_source=True)
        return ()

    def send(self, actions: tuple[object, ...]) -> None:
        for action in actions:
            if not isinstance(action, Volley):
                self.put(action, to_source=False)  # type: ignore[arg-type]
                continue
            self.own[0] += self.leak
            self.own[1] += 1
            if self.watching and self.chance.random() >= self.loss:
                self.far[0] += self.leak
                self.far[1] += self.control
                self.far[2] += self.carries

    def put(self, message: Message, *, to_source: bool) -> None:
        for _ in range(self.chance.choice((1, 1, 2))):
            if self.chance.random() >= self.loss:
                self.number += 1
                heapq.heappush(self.wire, (self.clock + self.chance.uniform(0, 0.5), self.number, to_source, message))

    def own_end(self) -> End:
        return End(1, 0, self.own[1], self.own[1], (Seen(clear=self.own[0]), Seen()))

    def far_end(self) -> End:
        arrived = self.far[2]
        return End(1, 0, self.far[1], arrived, (Seen(self.far[0], arrived), Seen(0, arrived, arrived)))


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    loss=st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]),
    leak=st.booleans(),
    control=st.booleans(),
    carries=st.booleans(),
)
@example(seed=0, loss=0.0, leak=False, control=True, carries=True)
def test_a_session_ends_in_time_and_is_right_about_what_it_saw(
    *, seed: int, loss: float, leak: bool, control: bool, carries: bool
) -> None:
    world = World(random.Random(seed), loss, leak, control, carries)
    result, source, target = world.run()
    assert source.over
    assert len(target._guests) <= 1
    if leak:
        assert result == "leaked", "seen at the own end, whatever is lost"
    else:
        assert result != "leaked"
    if result == "proven":
        assert control
        assert carries
    if loss == 0.0 and not leak:
        assert result == ("blind" if not control else "proven" if carries else "unreachable")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_break_the_parser_and_what_it_reads_is_what_is_written(payload: bytes) -> None:
    message = parse(payload)
    assert message is None or encode(message) == payload


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from(["arm", "armed", "report"]))
def test_one_changed_byte_is_another_message_or_none(at: int, value: int, kind: str) -> None:
    whole = {
        "arm": encode(ARM),
        "armed": encode(Armed(ARM.session, "n2", Answer.UNABLE, "why not")),
        "report": encode(Report(ARM.session, "n2", 1, End(1, 2, 3, 4, (Seen(1, 2, 3), Seen())))),
    }[kind]
    changed = bytearray(whole)
    changed[at % len(whole)] = value
    message = parse(bytes(changed))
    assert message is None or encode(message) == bytes(changed)


MESSAGES = st.builds(
    lambda session, node, kind, number: [
        Arm(session, node, bytes(32), number % 16 + 1),
        Armed(session, node, Answer(number % 3)),
        Report(session, node, number, End(0, 0, 0, 0, ())),
        *([message] if (message := parse(encode(Arm(session, node, bytes(32), 1)))) else []),
    ][kind],
    st.sampled_from([bytes([n]) * 16 for n in range(6)]),
    st.sampled_from(["n1", "n3", "n4"]),
    st.integers(0, 3),
    st.integers(0, 255),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(MESSAGES, st.floats(0, 5)), max_size=60))
def test_whatever_peers_say_a_target_keeps_to_its_bounds(steps: list[tuple[Message, float]]) -> None:
    target, now, watching = Target("n2"), 0.0, set[bytes]()
    for message, pause in steps:
        now += pause
        for order in (*target.tick(now), *target.receive(message, now)):
            if isinstance(order, Begin):
                assert order.arm.session not in watching
                watching.add(order.arm.session)
            elif isinstance(order, Stop):
                watching.remove(order.session)
        assert len(watching) <= MAX_SESSIONS
        assert watching == set(target._guests)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=900), st.sampled_from(list(Place)))
def test_no_packet_breaks_the_sieve(packet: bytes, place: Place) -> None:
    wanted = tokens(b"x" * 32, 2)
    sieve = Sieve(wanted, Tunnel(range(51820, 51824)))
    sieve.look(packet, place)
    sieve.look(packet[:50] + wanted.marker + packet[50:], place)
    end = sieve.end(1, 0)
    assert (end.control, sum(map(sum, end.canaries))) == (0, 0)

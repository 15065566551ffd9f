"""The rule of keys/generations.py holds after any sequence of steps, losses of the store included."""

from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from linkseal.keys import generations as machine
from linkseal.keys.generations import Generations, State

NOW = datetime(2026, 11, 2, tzinfo=UTC)


class Life(RuleBasedStateMachine):
    gens: Generations

    @initialize(published=st.lists(st.integers(1, 50), max_size=2))
    def start(self, published: list[int]) -> None:
        self.given: set[int] = set(published)
        self.published: set[int] = set(published)
        self.gens = machine.recover(published, NOW)
        self.note_new()

    def note_new(self) -> None:
        number = self.gens.newest.number
        assert number not in self.given, "a number is given once"
        assert number > max(self.given, default=0), "numbers only rise"
        self.given.add(number)

    def can(self, *states: State) -> bool:
        return tuple(g.state for g in self.gens.live) == states

    @precondition(lambda self: self.can(State.LIVE))
    @rule()
    def raise_one(self) -> None:
        self.gens = machine.raise_(self.gens, NOW)
        self.note_new()

    @precondition(lambda self: self.gens.newest.state is State.GENERATED)
    @rule()
    def announce(self) -> None:
        self.gens = machine.announced(self.gens, self.gens.newest.number)
        self.published = {g.number for g in self.gens.announced}

    @precondition(lambda self: self.gens.leaving is not None)
    @rule()
    def retire(self) -> None:
        self.gens = machine.retire(self.gens)
        self.published = {g.number for g in self.gens.announced}

    @precondition(lambda self: len(self.gens.live) > 1 and not self.can(State.LIVE, State.WITHDRAWING))
    @rule()
    def abort(self) -> None:
        self.gens = machine.abort_new(self.gens)
        self.published = {g.number for g in self.gens.announced}

    @precondition(lambda self: self.published and max(self.given) == max(self.published))
    @rule()
    def lose_the_store(self) -> None:
        self.gens = machine.recover(self.published, NOW)
        self.note_new()

    @invariant()
    def at_most_two_of_different_parity(self) -> None:
        numbers = self.gens.numbers
        assert len(numbers) in (1, 2)
        assert len({n % 2 for n in numbers}) == len(numbers)
        assert list(numbers) == sorted(numbers)
        assert self.gens.highest == max(self.given)

    @invariant()
    def every_state_survives_the_disk(self) -> None:
        assert machine.decode(machine.encode(self.gens)) == self.gens


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)

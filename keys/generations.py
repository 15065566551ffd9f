"""The generations of a node's key material.

    A number is given once. At most two generations are live, never of equal parity; the newer has the higher number.
    Every change goes through `_TRANSITIONS`; what is not in that table is a GenerationError.

A change of key raises a new generation beside the old one; when every link uses the new one, the old one is retired:

    number 4   LIVE ─────────────────────── RETIRING ──────────── WITHDRAWN
    number 5          (raise) GENERATED ─── LIVE ──────────────────────────── …
                              key on disk   announced  links move  all proven

An aborted one goes the same way back: announced no more, links move to the older, then it is withdrawn.

No I/O here: the caller stores each new value before it acts on it, and a key before the generation that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Annotated, Final, Literal

from linkseal.keys.documents import format_time, parse_time
from linkseal.keys.errors import ConfigError
from linkseal.keys.values import MAX_NUMBER, Protocol
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class GenerationError(ConfigError):
    """The step asked for is not possible in the present state; says why and what to do."""


class State(Enum):
    """Where one generation is in its life."""

    ABSENT = "absent"
    """Not raised yet: the number was never given."""
    GENERATED = "generated"
    """Its key is on disk; nobody else knows of it."""
    LIVE = "live"
    """Announced, and the newest."""
    RETIRING = "retiring"
    """Announced, and the older of two."""
    WITHDRAWING = "withdrawing"
    """Aborted: announced no more; it goes when every peer has gone back to the older."""
    WITHDRAWN = "withdrawn"
    """Gone; its number is burnt."""


class Event(Enum):
    """What happens to one generation."""

    RAISED = "raised"
    ANNOUNCED = "announced"
    SUPERSEDED = "superseded"
    """A newer one was announced."""
    REINSTATED = "reinstated"
    """The newer one was aborted."""
    RETIRED = "retired"
    ABORTED = "aborted"


_TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.ABSENT: {Event.RAISED: State.GENERATED},
    State.GENERATED: {Event.ANNOUNCED: State.LIVE, Event.ABORTED: State.WITHDRAWN},
    State.LIVE: {Event.SUPERSEDED: State.RETIRING, Event.ABORTED: State.WITHDRAWING},
    State.RETIRING: {Event.REINSTATED: State.LIVE, Event.RETIRED: State.WITHDRAWN},
    State.WITHDRAWING: {Event.RETIRED: State.WITHDRAWN},
    State.WITHDRAWN: {},
}


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation that is not withdrawn."""

    number: int
    state: State
    protocol: Protocol
    raised: datetime


@dataclass(frozen=True, slots=True)
class Generations:
    """What is not withdrawn, one or two, the older first; and the highest number ever given."""

    live: tuple[Generation, ...]
    highest: int

    @property
    def newest(self) -> Generation:
        """The generation with the highest number that is not withdrawn."""
        return self.live[-1]

    @property
    def announced(self) -> tuple[Generation, ...]:
        """Those that belong into the announcement."""
        return tuple(g for g in self.live if g.state in (State.LIVE, State.RETIRING))

    @property
    def leaving(self) -> Generation | None:
        """The one of two that goes when no peer needs it any more; None: there is one only, or the newer is not out."""
        return next((g for g in self.live if g.state in (State.RETIRING, State.WITHDRAWING)), None)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers whose keys must be on disk."""
        return tuple(g.number for g in self.live)


def first(now: datetime, protocol: Protocol = "wireguard") -> Generations:
    """Return a node's very first generation, number 1."""
    return recover((), now, protocol)


def recover(published: Iterable[int], now: datetime, protocol: Protocol = "wireguard") -> Generations:
    """Return the state of a node whose store is lost: one new generation above every number found published.

    The number right above the highest has the other parity than it, so peers keep the slot they still have for it.
    """
    highest = max(published, default=0)
    return Generations((_raised(highest + 1, now, protocol),), highest + 1)


def raise_(gens: Generations, now: datetime, protocol: Protocol = "wireguard") -> Generations:
    """Return `gens` with a new generation in state GENERATED. Raises GenerationError unless one is live."""
    if len(gens.live) > 1:
        old, new = gens.live
        raise GenerationError(
            f"generations {old.number} and {new.number} are both live: "
            "wait until the old one is retired, or abort the new one"
        )
    if gens.newest.state is State.GENERATED:
        raise GenerationError(f"generation {gens.newest.number} is not announced yet: a newer one would change nothing")
    number = gens.highest + 1
    if number % 2 == gens.newest.number % 2:  # an aborted one took the number between
        number += 1
    return Generations((*gens.live, _raised(number, now, protocol)), number)


def announced(gens: Generations, number: int) -> Generations:
    """Return `gens` after generation `number` was published; the older one, if any, is now RETIRING."""
    if number not in gens.numbers:
        raise GenerationError(f"there is no generation {number} to announce; there are {_list(gens)}")
    if gens.newest.number != number:
        raise GenerationError(f"generation {number} is announced already; {gens.newest.number} is newer")
    older = tuple(_step(g, Event.SUPERSEDED) for g in gens.live[:-1])
    return replace(gens, live=(*older, _step(gens.newest, Event.ANNOUNCED)))


def retire(gens: Generations) -> Generations:
    """Return `gens` without the one of two that is left; for when every living link is proven on the other."""
    leaving = gens.leaving
    if leaving is None:
        raise GenerationError(f"there is no generation to retire; there is only {_list(gens)}")
    _step(leaving, Event.RETIRED)
    return replace(gens, live=tuple(g for g in gens.live if g is not leaving))


def abort_new(gens: Generations) -> Generations:
    """Return `gens` with the newer of two on its way out, its number never given again; the older is LIVE.

    One that nobody has heard of yet is gone at once; else `retire` follows when every living link is back on the older.
    """
    if len(gens.live) < 2:  # noqa: PLR2004 - the pair this is about
        raise GenerationError(f"there is no new generation to abort; there is only {_list(gens)}")
    old, new = gens.live
    aborted = _step(new, Event.ABORTED)
    reinstated = _step(old, Event.REINSTATED) if old.state is State.RETIRING else old
    return replace(gens, live=(reinstated,) if aborted.state is State.WITHDRAWN else (reinstated, aborted))


def _raised(number: int, now: datetime, protocol: Protocol) -> Generation:
    if number > MAX_NUMBER:
        raise GenerationError("the numbers of generations are used up: this node needs a new UID")
    return _step(Generation(number, State.ABSENT, protocol, now), Event.RAISED)


def _step(generation: Generation, event: Event) -> Generation:
    target = _TRANSITIONS[generation.state].get(event)
    if target is None:
        raise GenerationError(
            f"generation {generation.number} is {generation.state.value} and cannot be {event.value}; possible: "
            + (", ".join(e.value for e in _TRANSITIONS[generation.state]) or "nothing")
        )
    return replace(generation, state=target)


def _list(gens: Generations) -> str:
    return " and ".join(f"{g.number} ({g.state.value})" for g in gens.live)


def diagram() -> str:
    """Return the transition table as a Mermaid state diagram; docs/generations.md holds this text."""
    lines = ["stateDiagram-v2"]
    for state, events in _TRANSITIONS.items():
        source = "[*]" if state is State.ABSENT else state.value
        for event, target in events.items():
            lines.append(f"    {source} --> {'[*]' if target is State.WITHDRAWN else target.value}: {event.value}")
    return "\n".join(lines)


class _GenerationFields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    number: Annotated[int, Field(ge=1, le=MAX_NUMBER)]
    state: Literal["generated", "live", "retiring", "withdrawing"]
    protocol: Protocol
    raised: str


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    format: Literal[1]
    highest: Annotated[int, Field(ge=1, le=MAX_NUMBER)]
    generations: Annotated[list[_GenerationFields], Field(min_length=1, max_length=2)]


def encode(gens: Generations) -> str:
    """Return `gens` as JSON text. Same value, same bytes."""
    fields = [
        _GenerationFields.model_construct(
            number=g.number, state=g.state.value, protocol=g.protocol, raised=format_time(g.raised)
        )
        for g in gens.live
    ]
    return _Fields.model_construct(format=1, highest=gens.highest, generations=fields).model_dump_json(indent=1) + "\n"


def decode(text: str) -> Generations:
    """Return what `encode` wrote. Raises ConfigError if it cannot have been written by it."""
    try:
        fields = _Fields.model_validate_json(text)
        live = tuple(Generation(g.number, State(g.state), g.protocol, parse_time(g.raised)) for g in fields.generations)
    except (ValidationError, ValueError):
        raise ConfigError("the record of generations is damaged") from None
    states = tuple(g.state for g in live)
    numbers = tuple(g.number for g in live)
    possible = states in _POSSIBLE and fields.highest >= numbers[-1]
    if len(numbers) > 1:
        possible = possible and numbers[0] < numbers[1] and numbers[0] % 2 != numbers[1] % 2
    if not possible:
        raise ConfigError("the record of generations holds a state that cannot be")
    return Generations(live, fields.highest)


_POSSIBLE: Final = frozenset(
    {
        (State.GENERATED,),
        (State.LIVE,),
        (State.LIVE, State.GENERATED),
        (State.RETIRING, State.LIVE),
        (State.LIVE, State.WITHDRAWING),
    }
)
"""The states of one or two generations, the older first, that the functions above can produce."""

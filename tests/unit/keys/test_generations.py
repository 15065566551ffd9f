"""Steps of the generation machine that the rule allows, and precise errors for the others."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.keys.generations import (
    GenerationError,
    Generations,
    State,
    abort_new,
    announced,
    decode,
    diagram,
    encode,
    first,
    raise_,
    recover,
    retire,
)

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)


def states(gens: Generations) -> dict[int, str]:
    return {g.number: g.state.value for g in gens.live}


def rotating() -> Generations:
    return announced(raise_(announced(first(NOW), 1), NOW), 2)


def test_a_rotation_from_first_key_to_retired_old_one() -> None:
    gens = first(NOW)
    assert states(gens) == {1: "generated"}
    gens = announced(gens, 1)
    assert states(gens) == {1: "live"}
    gens = raise_(gens, NOW)
    assert states(gens) == {1: "live", 2: "generated"}
    assert [g.number for g in gens.announced] == [1]
    gens = announced(gens, 2)
    assert states(gens) == {1: "retiring", 2: "live"}
    assert [g.number for g in gens.announced] == [1, 2]
    assert states(retire(gens)) == {2: "live"}


def test_raising_is_refused_while_two_are_live_and_says_what_to_do() -> None:
    with pytest.raises(GenerationError, match=r"1 and 2 are both live.*abort"):
        raise_(rotating(), NOW)


def test_an_aborted_number_is_skipped_so_that_parity_still_differs() -> None:
    gens = retire(abort_new(rotating()))
    assert states(gens) == {1: "live"}
    assert states(raise_(gens, NOW)) == {1: "live", 4: "generated"}


def test_an_announced_generation_is_aborted_in_two_steps_announced_no_more_and_then_gone() -> None:
    gens = abort_new(rotating())
    assert states(gens) == {1: "live", 2: "withdrawing"}
    assert [g.number for g in gens.announced] == [1]
    assert gens.leaving is gens.live[1]
    assert states(retire(gens)) == {1: "live"}
    with pytest.raises(GenerationError, match="2 is withdrawing and cannot be aborted"):
        abort_new(gens)
    with pytest.raises(GenerationError, match="1 and 2 are both live"):
        raise_(gens, NOW)


def test_an_unannounced_generation_is_aborted_without_touching_the_live_one() -> None:
    gens = abort_new(raise_(announced(first(NOW), 1), NOW))
    assert states(gens) == {1: "live"}
    assert gens.highest == 2


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda: raise_(first(NOW), NOW), "1 is not announced yet"),
        (lambda: retire(first(NOW)), "no generation to retire"),
        (lambda: abort_new(first(NOW)), "no new generation to abort"),
        (lambda: announced(first(NOW), 2), "no generation 2 to announce"),
        (lambda: announced(announced(first(NOW), 1), 1), "1 is live and cannot be announced; possible: superseded"),
        (lambda: announced(rotating(), 1), "2 is newer"),
        (lambda: retire(raise_(announced(first(NOW), 1), NOW)), "no generation to retire"),
        (lambda: recover([2**53 - 1], NOW), "used up"),
    ],
)
def test_an_illegal_step_names_generation_state_and_what_is_possible(step: Callable[[], object], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        step()


@pytest.mark.parametrize(("published", "number"), [([], 1), ([4], 5), ([4, 5], 6), ([5, 8], 9)])
def test_a_lost_store_starts_above_what_is_published_in_the_other_parity(published: list[int], number: int) -> None:
    gens = recover(published, NOW)
    assert states(gens) == {number: "generated"}


def test_a_store_lost_before_its_first_announcement_recovers_and_rotates() -> None:
    assert states(raise_(announced(recover([4], NOW), 5), NOW)) == {5: "live", 6: "generated"}


@pytest.mark.parametrize("gens", [first(NOW), rotating(), abort_new(rotating()), recover([4, 5], NOW)])
def test_a_state_survives_the_disk(gens: Generations) -> None:
    assert decode(encode(gens)) == gens


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"highest":2', '"highest":1'),
        ('"number":1', '"number":2'),
        ('"number":1', '"number":0'),
        ('"number":1', '"number":"1"'),
        ('"number":1', '"number":3'),
        ('"retiring"', '"live"'),
        ('"retiring"', '"withdrawn"'),
        ('"format":1', '"format":2'),
        ("2026-11-02", "2026-13-02"),
        ("{", "{{"),
    ],
)
def test_a_damaged_record_is_refused(old: str, new: str) -> None:
    text = encode(rotating()).replace(": ", ":")
    assert decode(text) == rotating()
    assert old in text
    with pytest.raises(ConfigError, match="record of generations"):
        decode(text.replace(old, new, 1))


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "generations.md"
    assert diagram() in page.read_text("utf-8")
    assert State.RETIRING.value in diagram()

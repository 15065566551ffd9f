"""When a report is written: by a clock that does not jump, and at once when the wall's did."""

from __future__ import annotations

from dataclasses import replace

import pytest
from linkseal.tunnels.agent.cadence import REFRESH, Cadence
from linkseal.tunnels.model import Stage
from linkseal.tunnels.status import NodeStatus
from unit.test_status import T, status

STEADY = 5000.0
EVERY = 10.0


def made(*, after: float = 0.0, set_by: float = 0.0) -> NodeStatus:
    """A report so many seconds after T by a wall clock that is that many ahead."""
    return status(observed_at=T + after + set_by)


@pytest.fixture
def cadence() -> Cadence:
    found = Cadence(EVERY)
    assert found.wait(made(), STEADY) == 0.0, "the first one is due at once"
    found.written(made(), STEADY)
    return found


def test_what_says_nothing_new_waits_five_minutes(cadence: Cadence) -> None:
    assert cadence.wait(made(after=60), STEADY + 60) > 0.9 * REFRESH - 60 - 1
    assert cadence.wait(made(after=1.2 * REFRESH), STEADY + 1.2 * REFRESH) == 0.0


def test_before_the_interval_is_over_no_report_need_be_made(cadence: Cadence) -> None:
    assert cadence.early(STEADY + 3) == pytest.approx(EVERY - 3)
    assert cadence.early(STEADY + EVERY) == 0.0
    assert Cadence(EVERY).early(STEADY) == 0.0


def test_what_was_lost_on_the_way_is_due_after_the_interval(cadence: Cadence) -> None:
    cadence.lost()
    assert cadence.wait(made(after=3), STEADY + 3) == pytest.approx(EVERY - 3)
    assert cadence.wait(made(after=EVERY), STEADY + EVERY) == 0.0


def test_what_is_new_waits_for_the_interval_alone(cadence: Cadence) -> None:
    new = replace(made(after=3), stage=Stage.ENFORCE)
    assert cadence.wait(new, STEADY + 3) == pytest.approx(EVERY - 3)
    assert cadence.wait(new, STEADY + EVERY) == 0.0


def test_a_clock_that_was_an_hour_ahead_keeps_nothing_back(cadence: Cadence) -> None:
    ahead = made(after=20, set_by=3600)
    assert cadence.wait(ahead, STEADY + 20) == 0.0, "the report that stands is dated an hour too early"
    cadence.written(ahead, STEADY + 20)
    assert cadence.wait(made(after=40, set_by=3600), STEADY + 40) > EVERY
    assert cadence.wait(made(after=40), STEADY + 40) == 0.0, "the one that stands is from the future"
    new = replace(made(after=25), stage=Stage.ENFORCE)
    assert cadence.wait(new, STEADY + 25) == pytest.approx(EVERY - 5)


def test_a_clock_that_is_set_by_a_second_is_no_news(cadence: Cadence) -> None:
    assert cadence.wait(made(after=20, set_by=-1), STEADY + 20) > EVERY

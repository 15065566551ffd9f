"""Keys are replaced by the policy's schedule: one node after the other, never later than it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import parse_policy
from linkseal.tunnels.rotation import SPREAD, due_after
from unit.agent.pair import Node, T, sealed_pair

DAY = 86400.0


def scheduled(folder: Path, interval: float = DAY, stage: Stage = Stage.PREFER) -> Node:
    a, _ = sealed_pair(folder)
    assert a.knowledge.policy is not None
    a.knowledge.policy = replace(a.knowledge.policy, rotation=int(interval), stage=stage)
    return a


def live(a: Node) -> tuple[int, ...]:
    assert a.keyring.generations is not None
    return a.keyring.generations.numbers


def test_a_key_is_replaced_when_it_is_due_and_not_before(tmp_path: Path) -> None:
    a = scheduled(tmp_path)
    due = due_after("n1", DAY)
    a.run(T + due - 5)
    assert live(a) == (1,)
    a.run(T + due + 5)
    assert live(a) == (1, 2)
    a.run(T + 5 * DAY)
    assert live(a) == (1, 2), "none while two are live"
    a.published()
    a.keyring.retire()
    a.run(T + due + 60)
    assert live(a) == (2,), "by the age of the new one"


@pytest.mark.parametrize(("interval", "stage"), [(0, Stage.PREFER), (DAY, Stage.OFF)])
def test_without_a_schedule_or_tunnels_none_is_made(tmp_path: Path, interval: float, stage: Stage) -> None:
    a = scheduled(tmp_path, interval, stage)
    a.run(T + 1)  # at stage off the tunnels go first
    a.run(T + 900 * DAY)
    assert live(a) == (1,)


def test_one_that_was_aborted_is_not_made_again_at_once(tmp_path: Path) -> None:
    a = scheduled(tmp_path)
    a.run(T + DAY)
    assert a.worker.speaker.request_abort() == 2
    for later in (1, 60, SPREAD * DAY - 60):
        a.run(T + DAY + later)
        assert live(a) == (1,)
    a.run(T + DAY + SPREAD * DAY + 2)
    assert len(live(a)) == 2


def test_nodes_have_their_turns_in_the_last_tenth_of_the_time() -> None:
    ages = sorted(due_after(f"n{number}", DAY) for number in range(500))
    assert ages[0] > DAY * (1 - SPREAD)
    assert ages[-1] <= DAY
    hundredths = {int((age - DAY * 0.9) / (DAY * 0.001)) for age in ages}
    assert len(hundredths) > 90, "spread over all of it"
    assert due_after("n1", DAY) == due_after("n1", DAY)


@pytest.mark.parametrize(("said", "seconds"), [("30d", 2_592_000), ("720h", 2_592_000), (3600, 3600), (0, 0)])
def test_the_interval_is_read(said: object, seconds: int) -> None:
    assert parse_policy({"scope": "overlay", "rotation": {"interval": said}}).rotation == seconds


def test_so_is_the_longest_time_between_two_verifications() -> None:
    """It has more digits as a number of seconds than as text."""
    assert parse_policy({"scope": "overlay", "verify": {"interval": "720h"}}).verify.interval == 2_592_000


@pytest.mark.parametrize("said", ["59m", "800d", "monthly", -1])
def test_an_interval_that_makes_no_sense_is_refused(said: object) -> None:
    with pytest.raises(ConfigError, match=r"rotation\.interval"):
        parse_policy({"scope": "overlay", "rotation": {"interval": said}})

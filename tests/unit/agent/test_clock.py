"""A clock that is set back while the agent runs: a new key, since peers refuse what is dated before what they had."""

from __future__ import annotations

from pathlib import Path

import pytest
from linkseal.tunnels.agent.worker import Result
from unit.agent.pair import Node, T, sealed_pair

HOUR = 3600.0


def live(node: Node) -> list[int]:
    assert node.keyring.generations is not None
    return list(node.keyring.generations.numbers)


def codes(node: Node, wall: float) -> list[str]:
    return [finding.code for finding in node.findings.shown(wall)]


def at(node: Node, elapsed: float, set_by: float = 0.0) -> Result:
    """A pass `elapsed` seconds after T, with a clock that is that many seconds too far ahead."""
    return node.run(T + elapsed + set_by, steady=T + elapsed)


def test_a_clock_that_steps_back_raises_a_generation_and_says_so(tmp_path: Path) -> None:
    """It had been ahead by two hours, so that nothing this node ever signed is from the future."""
    a, _ = sealed_pair(tmp_path)
    at(a, 10, set_by=2 * HOUR)
    assert live(a) == [1], "peers take what is dated later"
    at(a, 20, set_by=HOUR)
    assert live(a) == [1, 2]
    assert "LS3016" in codes(a, T + 20 + HOUR)
    at(a, 30, set_by=HOUR)
    assert live(a) == [1, 2], "once"


@pytest.mark.parametrize("step", [-1.0, -59.0, 30.0, HOUR])
def test_steps_that_peers_do_not_notice_raise_nothing(tmp_path: Path, step: float) -> None:
    a, _ = sealed_pair(tmp_path)
    at(a, 10)
    at(a, 20, set_by=step)
    assert live(a) == [1]
    assert "LS3016" not in codes(a, T + 20 + step)


def test_many_small_steps_back_count_together(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    raised = [at(a, 10.0 * turn, set_by=2 * HOUR - 25 * turn) and live(a) for turn in range(4)]
    assert raised == [[1], [1], [1], [1, 2]]


def test_a_step_during_a_rotation_raises_one_when_that_is_over(tmp_path: Path) -> None:
    """The key that is coming was used with the clock of before, too."""
    a, _ = sealed_pair(tmp_path)
    at(a, 0, set_by=2 * HOUR)
    a.worker.speaker.request_rotation(T)
    at(a, 10, set_by=HOUR)
    a.published()
    assert live(a) == [1, 2]
    a.keyring.retire()
    at(a, 20, set_by=HOUR)
    assert live(a) == [2, 3]


def test_a_clock_behind_what_was_signed_before_a_restart_raises_one(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    restarted = Node(tmp_path / "a", 1, host=a.host)
    at(restarted, 0, set_by=-HOUR)
    assert live(restarted) == [1, 2]


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_step_makes_no_dead_link_alive_and_no_living_one_dead(tmp_path: Path, step: float) -> None:
    """WireGuard dates handshakes by the wall clock; how old one is is measured by another."""
    a, _ = sealed_pair(tmp_path)
    for elapsed, sealed in ((10.0, 1), (170.0, 1), (190.0, 0)):
        at(a, elapsed, set_by=step)
        assert a.status(T + elapsed + step).links.sealed == sealed

"""The fault matrix. In stage enforce nothing crosses the wire in clear, whatever breaks; and all heals by itself.

`make test` walks a fixed part, `make matrix` the whole (docs/matrix.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ground import quick
from ground.cases import CELLS, CONTROLS, FAST, FIXED, LEAKS, LONG, WHOLE
from ground.matrix import Case, Cell, Walk, chosen, table


def walked(cell: Cell, cases: Sequence[Case], policy: dict[str, Any] | None = None, *, strict: bool = True) -> Walk:
    """Walk the cases, each on another node than the one before; print what was seen.

    Not `strict`: the seconds of a recovery are printed and not judged, since other tests may run beside.
    """
    with Walk(cell, policy, strict=strict) as walk:
        for number, case in enumerate(chosen(cases)):
            walk.run(case, number % 2)
    print("\n" + table(walk.rows))
    return walk


def assert_good(walk: Walk) -> None:
    assert [f"{row.fault}: {row.problem}" for row in walk.rows if row.problem] == []


def marked(cells: Sequence[Cell], *more: pytest.MarkDecorator) -> list[Any]:
    """A parameter for each cell, with the marker of what it needs."""
    return [pytest.param(cell, id=str(cell), marks=[getattr(pytest.mark, cell.driver), *more]) for cell in cells]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", marked([Cell("kernel", "transparent", "46"), Cell("userspace", "overlay", "46")]))
def test_in_enforce_nothing_is_in_clear_whatever_breaks(cell: Cell) -> None:
    assert_good(walked(cell, FIXED, strict=False))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", marked([Cell("kernel", "overlay", "4", "prefer")]))
def test_without_guard_the_same_faults_are_seen_to_leak(cell: Cell) -> None:
    walk = walked(cell, LEAKS, strict=False)
    leaks = {row.fault: row.plaintext for row in walk.rows}
    assert all(leaks.values()), leaks
    assert sum(leaks.values()) > 50, leaks


@pytest.mark.matrix
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cell", marked(CELLS))
def test_the_whole_matrix(cell: Cell) -> None:
    assert_good(walked(cell, WHOLE))


@pytest.mark.matrix
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cell", marked(CONTROLS))
def test_the_whole_matrix_without_guard_leaks(cell: Cell) -> None:
    walk = walked(cell, WHOLE)
    assert sum(row.plaintext for row in walk.rows) > 1000


@pytest.mark.matrix
@pytest.mark.fast
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("cell", marked(FAST))
def test_past_the_end_of_every_session(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the kernel whose WireGuard timers are divided by ten."""
    quick.quicken(monkeypatch)
    assert_good(walked(cell, LONG, quick.POLICY))

"""What is remembered of tables: until anybody changes the ruleset, and for a moment what we wrote ourselves."""

from __future__ import annotations

import pytest
from linkseal.tunnels.host import nftcache
from linkseal.tunnels.host.nftcache import GRANTED, Remembered


class Kernel:
    """A table with a number in it, and the ruleset's generation."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.generation: int | None = 7
        self.value, self.reads, self.now = 1, 0, 100.0
        patch.setattr(nftcache, "generation", lambda: self.generation)
        patch.setattr(nftcache, "monotonic", lambda: self.now)
        self.table: Remembered[int] = Remembered()

    def read(self) -> int:
        self.reads += 1
        return self.value

    def look(self, interfaces: object = "eth0") -> int:
        return self.table.get(interfaces, self.read)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(monkeypatch)
    assert made.look() == 1
    return made


def test_it_is_read_again_when_anything_has_changed(kernel: Kernel) -> None:
    assert (kernel.look(), kernel.reads) == (1, 1)
    kernel.generation = 8
    assert (kernel.look(), kernel.reads) == (1, 2)
    assert (kernel.look("eth1"), kernel.reads) == (1, 3)
    kernel.generation = None
    assert (kernel.look("eth1"), kernel.reads) == (1, 4)
    assert (kernel.look("eth1"), kernel.reads) == (1, 5)


def test_what_was_written_is_taken_for_granted_and_read_soon_after(kernel: Kernel) -> None:
    """However much is written meanwhile: time counts from the first of what was not read."""
    kernel.table.becomes(7, 8, lambda value: value + 1)
    kernel.generation, kernel.value = 8, 9  # the kernel made something else of it
    assert (kernel.look(), kernel.reads, kernel.table.is_granted) == (2, 1, True)
    kernel.now += GRANTED
    kernel.table.becomes(8, 9, lambda value: value + 1)
    kernel.generation = 9
    assert (kernel.look(), kernel.reads) == (3, 1)
    kernel.now += 0.1
    kernel.table.becomes(9, 10, lambda value: value + 1)
    kernel.generation = 10
    assert (kernel.look(), kernel.reads, kernel.table.is_granted) == (9, 2, False)
    kernel.value, kernel.now = 4, kernel.now + 2 * GRANTED
    assert (kernel.look(), kernel.reads) == (9, 2), "what was read stays"


@pytest.mark.parametrize(("before", "after", "seen"), [(7, 9, 9), (6, 7, 7), (None, 8, 8), (7, None, 8), (7, 8, 9)])
def test_what_somebody_else_did_as_well_is_read_at_once(
    kernel: Kernel, before: int | None, after: int | None, seen: int
) -> None:
    kernel.table.becomes(before, after, lambda value: value + 10)
    kernel.generation = seen
    assert (kernel.look(), kernel.reads, kernel.table.is_granted) == (1, 2, False)


def test_what_cannot_be_told_is_read(kernel: Kernel) -> None:
    kernel.table.becomes(7, 8, lambda _: None)
    kernel.generation = 8
    assert (kernel.look(), kernel.reads) == (1, 2)
    kernel.table.becomes(8, 9, lambda value: value)
    kernel.table.forget()
    kernel.generation = 9
    assert (kernel.look(), kernel.reads, kernel.table.is_granted) == (1, 3, False)

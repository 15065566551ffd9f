"""What is needed of `random.Random`, so that randomness is an argument here. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Chance(Protocol):
    """A source of choices."""

    def choice(self, seq: Sequence[str], /) -> str:
        """Return one of them."""

    def sample(self, population: Sequence[str], k: int) -> list[str]:
        """Return `k` of them, no one twice, in any order."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between the two."""

"""How lists are said to people: the first few, and how many more. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NAMED: Final = 5
"""Of a list's words that a message names."""


def listed(words: Sequence[str], named: int = NAMED) -> str:
    """Return the first words of a list and how many more there are.

    >>> listed(["n1", "n2", "n3"], 2)
    'n1, n2 and 1 more'
    """
    more = f" and {len(words) - named} more" if len(words) > named else ""
    return ", ".join(words[:named]) + more

"""How results look: tables as kubectl prints them, ages, sizes, JSON and YAML; stdout and stderr.

Text from other nodes (messages, versions) is printed without control characters: a report must not steer a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import click
from linkseal.keys.errors import Refused

GAP: Final = 3
"""Spaces between columns, as kubectl has them."""

NONE: Final = "-"
"""What an empty cell shows."""


class Tone(Enum):
    """What a piece of text means; its colour follows."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    DIM = "dim"
    STRONG = "strong"


_STYLES: Final[Mapping[Tone, Mapping[str, Any]]] = {
    Tone.PLAIN: {},
    Tone.GOOD: {"fg": "green"},
    Tone.WARN: {"fg": "yellow"},
    Tone.BAD: {"fg": "red", "bold": True},
    Tone.DIM: {"dim": True},
    Tone.STRONG: {"bold": True},
}


class Cell(NamedTuple):
    """Text with a meaning."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Paint:
    """Colours text, or does not."""

    colour: bool = False

    def __call__(self, text: str, tone: Tone) -> str:
        """Return `text` (one line) without control characters, in the colour of `tone`."""
        text = clean(text)
        return click.style(text, **_STYLES[tone]) if self.colour and _STYLES[tone] else text

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str | Cell]], indent: int = 0) -> list[str]:
        """Return the lines of a table: upper-case headers, columns apart by three spaces, no boxes."""
        cells = [[Cell(clean(c)) if isinstance(c, str) else Cell(clean(c.text), c.tone) for c in row] for row in rows]
        lines = [[Cell(header) for header in headers], *cells]
        widths = [max(len(line[column].text) for line in lines) for column in range(len(headers))]
        return [" " * indent + self._line(line, widths) for line in lines]

    def _line(self, line: Sequence[Cell], widths: Sequence[int]) -> str:
        parts = []
        for position, (cell, width) in enumerate(zip(line, widths, strict=True)):
            text = cell.text or NONE
            last = position == len(widths) - 1
            padding = "" if last else " " * (width - len(text) + GAP)
            parts.append(self(text, cell.tone) + padding)
        return "".join(parts)


def clean(text: str) -> str:
    """Return `text` with every character that is not printable (escapes, line ends, bidi marks) replaced."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def age(seconds: float) -> str:
    """Return a duration as kubectl shows it: `42s`, `3m12s`, `25m`, `3h5m`, `2d4h`, `40d`; below 0 is `0s`.

    Bounds are those of HumanDuration in k8s.io/apimachinery: two units while the second still tells something.
    """
    total = max(0, int(seconds))
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:  # noqa: PLR2004
        return f"{total}s"
    if minutes < 10:  # noqa: PLR2004
        return _two(minutes, "m", total % 60, "s")
    if hours < 3:  # noqa: PLR2004
        return f"{minutes}m"
    if hours < 8:  # noqa: PLR2004
        return _two(hours, "h", minutes % 60, "m")
    if days < 2:  # noqa: PLR2004
        return f"{hours}h"
    return _two(days, "d", hours % 24, "h") if days < 8 else f"{days}d"  # noqa: PLR2004


def _two(first: int, first_unit: str, second: int, second_unit: str) -> str:
    return f"{first}{first_unit}{second}{second_unit}" if second else f"{first}{first_unit}"


def since(moment: float | None, now: float) -> str:
    """Return how long ago `moment` (Unix seconds) was; `-` for never."""
    return NONE if moment is None else age(now - moment)


def size(count: int) -> str:
    """Return bytes for people: `0 B`, `640 B`, `1.5 KiB`, `20 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":  # noqa: PLR2004 - IEC units
            return f"{value:.1f} {unit}" if unit != "B" and value < 10 else f"{value:.0f} {unit}"  # noqa: PLR2004
        value /= 1024
    raise AssertionError


def plural(count: int, noun: str) -> str:
    """Return `1 link`, `2 links`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def structured(value: Mapping[str, Any], output: str) -> str:
    """Return `value` as JSON or YAML text, keys in the order given."""
    if output == "json":
        return json.dumps(value, indent=2)
    import yaml  # noqa: PLC0415 - JSON and tables do without

    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=1000).rstrip("\n")


def emit(text: str) -> bool:
    """Print data. Returns False once nobody reads it any more (`| head`): that is no failure, and not said."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        return False
    return True


def silence_stdout() -> None:
    """Point stdout at nothing, so that Python's own flush at exit has no broken pipe to complain about."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def note(text: str) -> None:
    """Print what is not data: progress, advice, errors."""
    click.echo(text, err=True)


def confirm(question: str) -> None:
    """Ask on the terminal. Raises Refused if there is none, or the answer is no."""
    if not sys.stdin.isatty():
        raise Refused(f"{question} There is no terminal to ask on: give --yes if it is meant")
    if not click.confirm(question, err=True):
        raise Refused("nothing was changed")

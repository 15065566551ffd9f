"""What the demonstration prints: numbered steps, what was seen, and claims that held or did not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from linkseal.tunnels.cli.output import Paint, Tone, emit
from linkseal.tunnels.lab.lab import View


@dataclass(frozen=True, slots=True)
class Claim:
    """What was to be shown, and whether it was."""

    text: str
    held: bool


@dataclass(slots=True)
class Stage:
    """Prints numbered steps with their time, and remembers claims."""

    paint: Paint
    claims: list[Claim] = field(default_factory=list)
    steps: int = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Number a step and say how long it took."""
        self.steps += 1
        self.line("")
        emit(self.paint(f"{self.steps}  {title}", Tone.STRONG))
        began = time.monotonic()
        yield
        self.line(f"({time.monotonic() - began:.1f} s)", Tone.DIM)

    def line(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """Print one line of a step."""
        emit(f"   {self.paint(text, tone)}" if text else "")

    def block(self, text: str) -> None:
        """Print what a command prints, as it is (its colours are its own)."""
        for line in text.splitlines():
            emit(f"   │ {line}")

    def views(self, views: Iterable[View]) -> None:
        """Print commands and what they printed."""
        for view in views:
            for line in f"$ {view.command}".splitlines():
                self.line(line, Tone.DIM)
            self.block(view.output)

    def claim(self, text: str, held: bool, otherwise: str = "") -> None:  # noqa: FBT001 - the answer
        """Say whether something held; `otherwise`: what was seen instead."""
        self.claims.append(Claim(text, held))
        if held:
            self.line(f"✓ {text}", Tone.GOOD)
        else:
            self.line(f"✗ NOT TRUE: {text}{f' ({otherwise})' if otherwise else ''}", Tone.BAD)

    def verdict(self, seconds: float) -> bool:
        """Print the last line; whether every claim held."""
        failed = [claim.text for claim in self.claims if not claim.held]
        self.line("")
        if failed or not self.claims:
            emit(self.paint(f"FAILED after {seconds:.0f} s: {'; '.join(failed) or 'nothing was shown'}", Tone.BAD))
            return False
        emit(self.paint(f"All {len(self.claims)} claims held; {seconds:.0f} s in all.", Tone.GOOD))
        return True

"""What a bench prints: a line a figure, with its target and whether it is met; ratios of one run wherever it can be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


def best(run: Callable[[], object], times: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Milliseconds of the fastest of several runs: what else the machine does only adds."""
    found = []
    for _ in range(times):
        start = clock()
        run()
        found.append((clock() - start) * 1000)
    return min(found)


@dataclass
class Figures:
    """Collects the verdict; `status` is the exit status of the bench."""

    status: int = 0

    def at_most(self, name: str, value: float, target: float, unit: str = "") -> None:
        """A figure that should be `target` or less."""
        self._show(name, value, unit, f"<= {target:g}", met=value <= target)

    def at_least(self, name: str, value: float, target: float, unit: str = "") -> None:
        """A figure that should be `target` or more."""
        self._show(name, value, unit, f">= {target:g}", met=value >= target)

    def told(self, name: str, value: float, unit: str = "") -> None:
        """A figure without target."""
        print(f"{name:<62} {value:10.2f} {unit}".rstrip(), flush=True)

    def _show(self, name: str, value: float, unit: str, target: str, *, met: bool) -> None:
        verdict = "PASS" if met else "FAIL"
        print(f"{name:<62} {value:10.2f} {unit:<4} target {target} {verdict}", flush=True)
        if not met:
            self.status = 1

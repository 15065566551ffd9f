"""Reverse path filters of foreign interfaces that we loosened: what they were, and putting it back in stage off."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.model import Observed, SetRpFilter, Stage, Step

LOOSE: Final = 2


class Loosened:
    """The record, in memory and on disk. `values`: interface → the filter it had before we changed it."""

    def __init__(self, known: KnownGood, findings: ActiveFindings) -> None:
        self.values: Mapping[str, int] = known.changed_rp_filter()
        self._off = False
        self._known = known
        self._findings = findings

    def due(self, stage: Stage, observed: Observed) -> tuple[Step, ...]:
        """Return the steps that put filters back: in stage off, where they are still as we set them."""
        self._off = stage is Stage.OFF
        if not self._off:
            return ()
        here = observed.interfaces
        return tuple(
            SetRpFilter(name, was, LOOSE)
            for name, was in sorted(self.values.items())
            if name in here and here[name].rp_filter == LOOSE != was
        )

    def before(self, steps: Iterable[Step], now: float) -> None:
        """Record, before they are carried out, what interfaces have that are to be loosened."""
        changes = {step.interface: step.was for step in steps if isinstance(step, SetRpFilter) and step.value == LOOSE}
        self._keep({**changes, **self.values}, now)  # what an interface had before the first change

    def after(self, steps: Iterable[Step], failed: Collection[int], now: float) -> None:
        """Forget what was put back (`failed`: ids of steps that were refused)."""
        if self._off:
            back = {step.interface for step in steps if isinstance(step, SetRpFilter) and id(step) not in failed}
            self._keep({name: was for name, was in self.values.items() if name not in back}, now)

    def _keep(self, values: Mapping[str, int], now: float) -> None:
        if values == self.values:
            return
        self.values = values
        try:
            self._known.save_changed_rp_filter(values)
        except HostError as error:
            self._findings.raise_(codes.STATE_NOT_SAVED, HOST_SUBJECT, str(error), now)

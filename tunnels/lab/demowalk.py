"""`linkseal enable` beside the demonstration: a thread that stays attached to the controller and keeps what it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Self

from linkseal.keys.errors import LinksealError
from linkseal.tunnels.lab.lab import Lab


class WalkUp:
    """A walk to enforce. A context manager: a walk not done at its end is taken back by the controller."""

    def __init__(self, lab: Lab) -> None:
        self._lines: list[str] = []
        self._told = 0
        self._closed = threading.Event()
        self.good = False
        self._error: LinksealError | None = None
        self._thread = threading.Thread(target=self._look_on, args=(lab,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Look on no longer."""
        self._closed.set()

    def news(self) -> Iterator[str]:
        """Yield what was said since the last call."""
        while self._told < len(self._lines):
            yield self._lines[self._told]
            self._told += 1

    def checked(self) -> bool:
        """Return True; raise what the walk failed with."""
        if self._error is not None:
            raise self._error
        return True

    def ended(self) -> bool:
        """Whether the walk is over. Raises what it failed with."""
        return self.checked() and not self._thread.is_alive()

    def _look_on(self, lab: Lab) -> None:
        try:
            for told in lab.walk_up():
                self._lines.append(told.text)
                if told.good is not None:
                    self.good = told.good
                    return
                if self._closed.is_set():
                    return
        except LinksealError as error:
            self._error = error

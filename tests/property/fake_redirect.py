"""Programs on NICs in memory, stricter than the kernel: refuses what changes nothing, and programs without entries."""

from __future__ import annotations

from linkseal.tunnels.redirect.model import (
    AttachRedirect,
    DetachRedirect,
    Entry,
    Foreign,
    ForgetRedirect,
    Hook,
    RedirectState,
    RedirectStep,
    SetRedirect,
    Table,
)
from unit.wireguard.fake_device import Misuse


class FakeRedirect:
    """What `Redirector` keeps; open to tests that spoil it."""

    def __init__(self) -> None:
        self.entries: dict[Entry, int] = {}
        self.standing: set[Hook] = set()
        self.strays: set[Hook] = set()
        self.foreign: list[Foreign] = []

    def observe(self) -> RedirectState:
        tables: dict[Table, dict[str, int]] = {}
        for (table, key), value in self.entries.items():
            tables.setdefault(table, {})[key] = value
        return RedirectState(tables, frozenset(self.standing), frozenset(self.strays), tuple(self.foreign))

    def apply(self, step: RedirectStep) -> None:
        match step:
            case SetRedirect(entries):
                for entry, value in entries:
                    _need(self.entries.get(entry) != value, f"sets {entry} again")
                    self.entries[entry] = value
            case ForgetRedirect(entries):
                for entry in entries:
                    _need(entry in self.entries, f"removes the absent {entry}")
                    del self.entries[entry]
            case AttachRedirect(hook):
                _need(self.entries, "a program without entries")
                _need(hook not in self.standing or hook in self.strays, f"attaches to {hook} again")
                self.strays.discard(hook)
                self.standing.add(hook)
            case DetachRedirect(hook):
                _need(hook in self.standing | self.strays, f"nothing of ours at {hook}")
                self.standing.discard(hook)
                self.strays.discard(hook)


def _need(condition: object, message: str) -> None:
    if not condition:
        raise Misuse(message)

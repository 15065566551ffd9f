"""What the collector of garbage looks through, and what is given back."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
from linkseal.tunnels.agent import memory
from linkseal.tunnels.agent.memory import give_back, settle


class Node:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_what_stays_is_not_looked_through_again_and_what_is_new_is() -> None:
    try:
        stays = Node()
        settle()
        new = Node()
        seen = [weakref.ref(stays), weakref.ref(new)]
        del stays, new
        gc.collect()
        assert [one() is None for one in seen] == [False, True]
    finally:
        gc.unfreeze()


def test_pages_are_given_back_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    trimming = SimpleNamespace(malloc_trim=lambda pad: calls.append(f"trim {pad}"))
    monkeypatch.setattr(memory, "settle", lambda: calls.append("settle"))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: trimming)
    give_back()
    assert calls == ["settle", "trim 0"]

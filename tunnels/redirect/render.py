"""Steps as the `bpftool` and `tc` lines that would do the same, keys and values as readable text. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from linkseal.tunnels.redirect.model import (
    LET_THROUGH,
    AttachRedirect,
    DetachRedirect,
    Entry,
    ForgetRedirect,
    Hook,
    RedirectStep,
    SetRedirect,
)
from linkseal.tunnels.redirect.program import PREFIX, Way, name_of
from linkseal.tunnels.redirect.reasons import REASONS

_WAYS: Final[dict[Way, str]] = {"out": "egress", "in": "ingress"}


def render_redirect(step: RedirectStep) -> Iterator[str]:
    """Yield the lines of a step, at least one."""
    match step:
        case SetRedirect(entries):
            for entry, value in entries:
                yield f"bpftool map update {_key(entry)} value {_value(entry, value)}"
        case ForgetRedirect(forgotten):
            for entry in forgotten:
                yield f"bpftool map delete {_key(entry)}"
        case AttachRedirect(hook):
            yield f"tc filter add {_hook(hook)} pref 1 bpf direct-action name {name_of(hook.way)}  # tcx if there is"
        case DetachRedirect(hook):
            yield f"tc filter del {_hook(hook)} pref 1"


def _key(entry: Entry) -> str:
    return f"name {PREFIX}{entry.table} key {entry.key}"


def _value(entry: Entry, value: int) -> str:
    low, high = value & 0xFFFFFFFF, value >> 32
    if entry.table == "number":
        return f"{low:#x}/{high:#x}" if entry.key == "mark" else f"{low}-{high}"
    if entry.table in ("out", "in"):
        return "pass" if value == LET_THROUGH else f"drop  # {REASONS.get(value, value)}"
    return str(value)


def _hook(hook: Hook) -> str:
    return f"dev {hook.device} {_WAYS[hook.way]}"

"""CA/stage.json: where the cluster is, the walk under way, and every change of stage with who, when and why.

{"stage": "prefer", "pool": null, "serial": 1793613600, "pinned": {"scope": "overlay", "wireguard.port": 51820, …},
"seen": {"stage": "prefer", "lowerTo": null, "pool": null}, "asked": "", "ended": "", "former": [], "walk": null,
"history": [{"at": "2026-11-02T10:00:00Z", "from": "prepare", "to": "prefer", "who": "root@ops", "why": "enable"}]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from linkseal.keys.errors import ConfigError
from linkseal.keys.files import SECRET, atomic_write, read_file
from linkseal.tunnels.controller.aims import PoolAim
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.stages import Position, Walk
from linkseal.tunnels.statustypes import format_time
from pydantic import BaseModel, ConfigDict, Field, ValidationError

FILE: Final = "stage.json"

MAX_HISTORY: Final = 500
"""Changes that are kept, the latest."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of stage."""

    at: str
    old: str
    new: str
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Saved:
    """The file. `seen`: stage and lowerTo of the inventory that were acted upon last; None: none were yet."""

    position: Position = field(default_factory=Position)
    walk: Walk | None = None
    seen: tuple[Stage, Stage | None] | None = None
    seen_pool: PoolAim | None = None
    """The pool that was acted upon last, as it was asked for."""
    asked: str = ""
    """`Aim.asked` that was acted upon last."""
    ended: str = ""
    """Why the last walk ended before its target; empty: it did not, or another has begun."""
    serial: int = 0
    """Of the policy signed last: a directory that was rolled back is overtaken."""
    pinned: Mapping[str, str | int] | None = None
    """What stays while the cluster is not off, by the path of its field (`linkseal.tunnels.policy.standing`)."""
    history: tuple[Change, ...] = field(default=())
    former: tuple[str, ...] = ()
    """The clusters from which this one goes on, of which some nodes have come."""

    def moved(self, position: Position, now: float, who: str, why: str) -> Saved:
        """Return it after a change of stage."""
        change = Change(format_time(now), str(self.position), str(position), who, why)
        return replace(self, position=position, history=(*self.history, change)[-MAX_HISTORY:])


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Pool(_Strict):
    stage: Stage
    nodes: list[str] = Field(min_length=1)


class _Place(_Strict):
    stage: Stage
    pool: _Pool | None = None


class _SeenPool(_Pool):
    lower_to: Stage | None = Field(default=None, alias="lowerTo")


class _Walk(_Strict):
    target: Stage
    up: bool
    who: str
    began: float
    since: float
    before: _Place | None = None
    nodes: list[str] | None = None
    timeout: float
    attached: bool


class _Change(BaseModel):
    at: str
    old: str = Field(alias="from")
    new: str = Field(alias="to")
    who: str
    why: str


class _Seen(_Strict):
    stage: Stage
    lower_to: Stage | None = Field(default=None, alias="lowerTo")
    pool: _SeenPool | None = None


class _File(_Place):
    serial: int = 0
    asked: str = ""
    ended: str = ""
    former: list[str] = Field(default_factory=list)
    seen: _Seen | None = None
    pinned: dict[str, str | int] | None = None
    walk: _Walk | None = None
    history: list[_Change] = Field(default_factory=list)


class Store(Protocol):
    """Where the text is kept. `where` names it in errors."""

    where: str

    def read(self) -> bytes | None:
        """Return the text, None if there is none yet."""

    def write(self, text: bytes) -> bool:
        """Keep the text; whether it differs from what was there."""


class FileStore:
    """The file in a folder. Its methods raise HostError."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self.where = str(self._path)

    def read(self) -> bytes | None:
        """Return the text, None if there is no file."""
        return read_file(self._path, secret=True)

    def write(self, text: bytes) -> bool:
        """Write the file, if that changes it."""
        return atomic_write(self._path, text, SECRET)


def load(store: Store) -> Saved | None:
    """Read what is kept, None if nothing is. Raises ConfigError if it is damaged: guessing could lower the stage."""
    data = store.read()
    if data is None:
        return None
    try:
        found = _File.model_validate_json(data)
    except ValidationError as error:
        raise ConfigError(
            f"{store.where} cannot be read ({error.error_count()} errors): put it back from a copy, or remove it: the "
            "stage is then taken from the policy in the directory"
        ) from None
    walk, seen = found.walk, found.seen
    return Saved(
        _position(found),
        None
        if walk is None
        else Walk(
            walk.target,
            walk.up,
            walk.who,
            walk.began,
            walk.since,
            None if walk.before is None else _position(walk.before),
            None if walk.nodes is None else frozenset(walk.nodes),
            walk.timeout,
            walk.attached,
        ),
        None if seen is None else (seen.stage, seen.lower_to),
        None if seen is None or seen.pool is None else _pool_aim(seen.pool),
        found.asked,
        found.ended,
        found.serial,
        found.pinned,
        tuple(Change(one.at, one.old, one.new, one.who, one.why) for one in found.history),
        tuple(found.former),
    )


def save(store: Store, saved: Saved) -> bool:
    """Keep it; whether anything changed."""
    fields = {
        **place(saved.position),
        "serial": saved.serial,
        "pinned": None if saved.pinned is None else dict(saved.pinned),
        "seen": _seen(saved),
        "asked": saved.asked,
        "ended": saved.ended,
        "former": list(saved.former),
        "walk": None if saved.walk is None else _walk(saved.walk),
        "history": [
            {"at": one.at, "from": one.old, "to": one.new, "who": one.who, "why": one.why} for one in saved.history
        ],
    }
    return store.write(json.dumps(fields, indent=1).encode() + b"\n")


def _seen(saved: Saved) -> dict[str, Any] | None:
    if saved.seen is None:
        return None
    (stage, lower), pool = saved.seen, saved.seen_pool
    seen_pool = None if pool is None else {**_asked(pool.stage, pool.lower_to), "nodes": sorted(pool.nodes)}
    return {**_asked(stage, lower), "pool": seen_pool}


def _asked(stage: Stage, lower: Stage | None) -> dict[str, str | None]:
    return {"stage": stage.value, "lowerTo": None if lower is None else lower.value}


def _pool_aim(found: _SeenPool) -> PoolAim:
    return PoolAim(found.stage, frozenset(found.nodes), found.lower_to)


def place(position: Position) -> dict[str, Any]:
    """Return a position as plain values: `stage` and `pool`, as the policy has them."""
    pool = position.pool
    pool_fields = None if pool is None else {"stage": pool.stage.value, "nodes": sorted(pool.nodes)}
    return {"stage": position.stage.value, "pool": pool_fields}


def _position(found: _Place) -> Position:
    pool = found.pool
    return Position(found.stage, None if pool is None else Pool(pool.stage, frozenset(pool.nodes)))


def _walk(walk: Walk) -> dict[str, Any]:
    return {
        "target": walk.target.value,
        "up": walk.up,
        "who": walk.who,
        "began": walk.began,
        "since": walk.since,
        "before": None if walk.before is None else place(walk.before),
        "nodes": None if walk.nodes is None else sorted(walk.nodes),
        "timeout": walk.timeout,
        "attached": walk.attached,
    }

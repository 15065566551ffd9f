"""Asks for a stage in the ClusterEncryption and looks on, for `linkseal enable` and `disable` on a cluster.

The wish is an object: the controller goes on although nobody looks on. Who breaks off asks for the stage where the
cluster is, and it stays there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from math import ceil
from typing import Any, Final, NamedTuple

from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller.aims import check, lowest, picked
from linkseal.tunnels.controller.clusterstatus import ACCEPTED, BOUNDED, GRANTED, MISFIT, NOT_SIGNED, REACHED
from linkseal.tunnels.controller.outlook import outlook
from linkseal.tunnels.directory.kube import NODE_ENCRYPTIONS, NODES
from linkseal.tunnels.directory.kubeapi import METADATA_LIST, ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import (
    CLUSTER_ENCRYPTIONS,
    DEFAULT,
    opt_out_labels,
    opted_out,
    read_report,
    report_text,
    restricted_labels,
)
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.stages import Evidence, Position, Walk, with_pool
from linkseal.tunnels.world import STAGES

MANAGER: Final = "linkseal-cli"
"""Field manager of what the command asks for."""

PATH: Final = f"{CLUSTER_ENCRYPTIONS}/{DEFAULT}"
LOOK: Final = 0.5
"""Seconds between two looks."""

_ADMISSION: Final = "ValidatingAdmissionPolicy"
"""In the words of a refusal by an admission policy, which like a missing right is a 403."""

ANSWER: Final = 60.0
"""Seconds in which a controller must have seen a wish."""


SPENT: Final = 10.0
"""Seconds that a command waits for a lowered stage to be taken up, before it takes `lowerTo` out."""


LABELS: Final = frozenset("=(")
"""By these a selector of labels is told from names and globs: `key=value`, `key in (a, b)`."""


class Target(NamedTuple):
    """Where to go; scope and protocol: as the object says, unless they are named.

    `nodes`: a pool goes alone; None: all. `timeout`: seconds for one step; None: the default.
    """

    stage: Stage
    up: bool
    scope: str | None = None
    protocol: str | None = None
    nodes: frozenset[str] | None = None
    timeout: float | None = None


class Shown(NamedTuple):
    """A look at the walk. `good`: it is at its target; None: it goes on."""

    text: str
    good: bool | None = None


async def chosen(api: KubeApi, selector: str) -> frozenset[str]:
    """Return the nodes in scope that are meant: names and globs, or a selector of labels, such as `pool=first`.

    Labels are looked at now and not again: who may label nodes could else put them into a pool later. Raises ApiError,
    ConfigError.
    """
    found = await api.find(PATH) or {}
    pool = _position(found.get("status") or {}).pool  # one that is gone belongs to its pool all the same
    names = _names(await api.get(NODE_ENCRYPTIONS)) - await _out(api, found)
    names |= frozenset() if pool is None else pool.nodes
    if not LABELS & set(selector):
        return picked(selector, names)
    try:
        listed = await api.get(NODES, {"labelSelector": selector}, accept=METADATA_LIST)
    except ApiError as error:
        if error.status == HTTPStatus.BAD_REQUEST:
            raise ConfigError(f"--nodes {selector}: {error}") from error
        raise
    nodes = names & _names(listed)
    if not nodes:
        raise ConfigError(f"--nodes {selector}: no node in scope has these labels")
    return nodes


async def preview(api: KubeApi, target: Target) -> dict[str, Any]:
    """Return the outlook of a walk from where the cluster is. Raises ApiError, ConfigError."""
    found = await api.find(PATH) or {}
    _require_same(found, target)
    listed = await api.get(NODE_ENCRYPTIONS)
    out = await _out(api, found)
    names = {str(item["metadata"].get("name", "")): item for item in listed.get("items") or ()}
    reports = {name: read_report(report_text(item), name) for name, item in names.items() if name not in out}
    status, now = found.get("status") or {}, time.time()
    said = {str(one.get("type")): one for one in status.get("conditions") or ()}
    granted, bounded = said.get(GRANTED, {}), said.get(BOUNDED, {})
    misfits = (str(granted.get("message", "")),) if granted.get("reason") == MISFIT else ()
    unbounded = (str(bounded.get("message", "")),) if bounded.get("status") == "False" else ()
    evidence = Evidence(int(status.get("policySerial", 0)), reports, tuple(sorted(out)), misfits, unbounded)
    walk = Walk(target.stage, target.up, "", now, now, nodes=target.nodes)
    check(_position(status), walk)
    return outlook(_position(status), walk, evidence, now)


async def ask(api: KubeApi, target: Target) -> int:
    """Ask for the stage; returns the generation of the object. Raises ConfigError (refused), ApiError.

    The object is made if there is none.
    """
    found = await api.find(PATH) or {}
    _require_same(found, target)
    spec = _kept(found) | (_for_all(found, target) if target.nodes is None else _for_pool(found, target, target.nodes))
    spec |= {name: value for name, value in (("scope", target.scope), ("protocol", target.protocol)) if value}
    if target.timeout is not None:
        spec["stepTimeout"] = f"{ceil(target.timeout)}s"
    spec["askedAt"] = datetime.now(UTC).isoformat(timespec="milliseconds")  # what was taken back is begun again
    return await _apply(api, spec)


def _require_same(found: Mapping[str, Any], target: Target) -> None:
    """Raise ConfigError if the object says another scope or protocol: it may be set there on purpose."""
    for name, value in (("scope", target.scope), ("protocol", target.protocol)):
        said = (found.get("spec") or {}).get(name, value)
        if value and said != value:
            raise ConfigError(
                f"--{name} {value}: the ClusterEncryption says {name} {said}: leave --{name} out, or change it there, "
                f"at stage off: kubectl patch clusterencryption {DEFAULT} --type=merge "
                f'-p \'{{"spec":{{"{name}":"{value}"}}}}\''
            )


def _for_all(found: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """What is asked for, for all nodes. Raises ConfigError: that would be the other way."""
    position, wished = _position(found.get("status") or {}), _wished(found)
    _require_way(position, wished, target, max(position.stage, wished, key=_order))
    present, asked = _plain_of(position.pool), _pool_wish(found)
    if not target.up:  # and what somebody asked of a pool: it would be ahead again
        down = {"stage": target.stage.value, "lowerTo": target.stage.value}
        nodes = present["nodes"] if present is not None else [] if asked is None else list(asked["nodes"])[:1]
        return {**down, "pool": {"nodes": nodes, **down}} if nodes else down
    pool = _staying(present, asked)
    ahead = pool is not None and _order(Stage(pool["stage"])) > _order(target.stage)
    return {"stage": target.stage.value, **({"pool": pool} if ahead else {})}


def _staying(present: dict[str, Any] | None, asked: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the pool as all go up: the one that is there, asked for or not, where it is or is to go."""
    if asked is None or "lowerTo" in asked:
        return present
    return _plain(asked) if present is None or sorted(asked["nodes"]) == present["nodes"] else present


def _for_pool(found: Mapping[str, Any], target: Target, nodes: frozenset[str]) -> dict[str, Any]:
    """What is asked for, for a pool. Raises ConfigError: it cannot go there from here."""
    position, wished, pool = _position(found.get("status") or {}), _wished(found), _pool_wish(found)
    check(position, Walk(target.stage, target.up, "", 0.0, 0.0, nodes=nodes))
    if wished is not position.stage:
        raise ConfigError(
            f"all nodes were asked to go from stage {position.stage.value} to {wished.value}, and are not there: wait "
            f"for it, or take that back (`linkseal disable --to {position.stage.value}`)"
        )
    here = lowest(position, nodes)
    asked = Stage(pool["stage"]) if pool is not None and frozenset(pool["nodes"]) == nodes else here
    _require_way(position, asked, target, max(here, asked, key=_order))
    stage = target.stage.value
    lower = {} if target.up else {"lowerTo": stage}
    return {"stage": wished.value, "pool": {"stage": stage, "nodes": sorted(nodes), **lower}}


def _require_way(position: Position, asked: Stage, target: Target, furthest: Stage) -> None:
    way = _order(target.stage) - _order(furthest)
    if (way < 0) if target.up else (way > 0):
        raise ConfigError(
            f"the cluster is at stage {position} and was asked to go to {asked.value}: "
            + ("use `linkseal disable` to go back" if target.up else "use `linkseal enable` to go on")
        )


async def stay(api: KubeApi) -> Position | None:
    """Ask for the stage where the cluster is, and return it; None: no controller has said yet where that is.

    Raises ApiError, ConfigError. What it asks for is asked for with `lowerTo`: a step that was taken meanwhile is taken
    back.
    """
    found = await api.get(PATH)
    status = found.get("status") or {}
    if not status.get("observedGeneration"):
        return None
    here, wished, asked = _position(status), _wished(found), _pool_wish(found)
    spec: dict[str, Any] = {**_kept(found), "stage": here.stage.value}
    if _order(here.stage) < _order(wished):
        spec["lowerTo"] = here.stage.value
    pool = _plain_of(here.pool) or (None if asked is None else {**_plain(asked), "stage": here.stage.value})
    if pool is not None:
        spec["pool"] = {**pool, "lowerTo": pool["stage"]}
    generation = await _apply(api, spec)
    if pool is not None or "lowerTo" in spec:
        await spent(api, generation)
    return here


async def spent(api: KubeApi, generation: int) -> None:
    """Take `lowerTo` out of the object once the controller has acted upon it. Raises ApiError, ConfigError.

    Left there, a copy of the object that is applied again one day would lower the stage. If nobody takes it up in a
    moment it stays: a wish that is not seen must not be lost.
    """
    deadline = time.monotonic() + SPENT
    while time.monotonic() < deadline:
        found = await api.get(PATH)
        if int(found["metadata"].get("generation", 0)) != generation:
            return  # somebody asks for something else
        if int((found.get("status") or {}).get("observedGeneration", 0)) >= generation:
            version = str(found["metadata"].get("resourceVersion", ""))
            try:
                await _apply(api, _unlowered(found), version)
            except ConfigError:  # it stays: whoever looks sees what was asked for
                return
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:  # a status was written, or somebody asks for something else
                    raise
            else:
                return
        await asyncio.sleep(LOOK)


def _unlowered(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked for without `lowerTo`, and without a pool that has come back to the others."""
    wished, pool = _wished(found), _pool_wish(found)
    ahead = pool is not None and _order(Stage(pool["stage"])) > _order(wished)
    kept = {"pool": _plain(pool)} if ahead and pool is not None else {}
    return {**_kept(found), "stage": wished.value, **kept}


async def look_on(api: KubeApi, generation: int) -> AsyncIterator[Shown]:
    """Yield what is new of the walk until it has ended. Raises ApiError, ConfigError (no controller answers)."""
    deadline, last = time.monotonic() + ANSWER, None
    while True:
        status = (await api.get(PATH)).get("status") or {}
        if int(status.get("observedGeneration", 0)) >= generation:
            shown = _shown(status)
            if shown != last:
                last = shown
                yield shown
            if shown.good is not None:
                return
        elif time.monotonic() > deadline:
            raise ConfigError(
                f"no controller has taken this up in {ANSWER:.0f} s: see the pods of linkseal-controller"
                "; the wish stands"
            )
        await asyncio.sleep(LOOK)


def _kept(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an earlier command may have asked for: what its manager no longer applies goes to its default."""
    spec = found.get("spec") or {}
    return {name: spec[name] for name in ("scope", "protocol", "stepTimeout") if name in spec}


async def _apply(api: KubeApi, spec: Mapping[str, Any], version: str = "") -> int:
    """Apply the spec, of the object as it was in `version` if one is given; returns its generation."""
    metadata = {"name": DEFAULT, **({"resourceVersion": version} if version else {})}
    body = {"apiVersion": "linkseal.io/v1alpha1", "kind": "ClusterEncryption", "metadata": metadata}
    try:
        found = await api.apply(PATH, {**body, "spec": spec}, manager=MANAGER)
    except ApiError as error:
        if error.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY) or _ADMISSION in str(error):
            raise ConfigError(f"the API server refuses this: {error}") from error
        raise
    return int(found["metadata"].get("generation", 0))


def _shown(status: Mapping[str, Any]) -> Shown:
    conditions = {str(one.get("type")): one for one in status.get("conditions") or ()}
    accepted, reached = conditions.get(ACCEPTED, {}), conditions.get(REACHED, {})
    walks = reached.get("reason") in ("Walking", "Waiting")  # what is refused besides comes after
    if accepted.get("status") == "False" and not walks:
        return Shown(str(accepted.get("message", "")), good=None if accepted.get("reason") == NOT_SIGNED else False)
    links = status.get("links") or {}
    text = f"stage {status.get('position', '?')}, {links.get('sealed', 0)}/{links.get('total', 0)} links sealed"
    if reached.get("status") == "True":
        return Shown(f"the cluster is at stage {_position(status)}", good=True)
    if reached.get("reason") in ("TakenBack", "NotAsked"):
        return Shown(str(reached.get("message", "")), good=False)
    waiting = "; ".join(map(str, status.get("blockers") or ()))
    return Shown(f"{text}; waiting: {waiting}" if waiting else text)


_order: Final = STAGES.index


def _names(listed: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(item["metadata"].get("name", "")) for item in listed.get("items") or ())


async def _out(api: KubeApi, found: Mapping[str, Any]) -> frozenset[str]:
    """Return the nodes that take no part; Nodes are only asked for where labels say it. Raises ApiError."""
    spec, labels = found.get("spec") or {}, {}
    if opt_out_labels(spec):
        listed = await api.get(NODES, accept=METADATA_LIST)
        labels = {str(one["metadata"].get("name", "")): restricted_labels(one["metadata"]) for one in listed["items"]}
    return opted_out(spec, labels)


def _pool_wish(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    pool: Mapping[str, Any] | None = (found.get("spec") or {}).get("pool")
    return pool


def _plain(pool: Mapping[str, Any]) -> dict[str, Any]:
    return {"stage": pool["stage"], "nodes": list(pool["nodes"])}


def _plain_of(pool: Pool | None) -> dict[str, Any] | None:
    return None if pool is None else {"stage": pool.stage.value, "nodes": sorted(pool.nodes)}


def _position(status: Mapping[str, Any]) -> Position:
    """Where the cluster is; nowhere yet without status."""
    pool = status.get("pool")
    found = None if not pool else Pool(Stage(pool["stage"]), frozenset(pool["nodes"]))
    return with_pool(Stage(status.get("stage", "off")), found)


def _wished(encryption: Mapping[str, Any]) -> Stage:
    return Stage((encryption.get("spec") or {}).get("stage", "off"))

"""Asks for a stage in the ClusterEncryption and looks on, for `linkseal enable` and `disable` on a cluster.

The wish is an object: the controller goes on although nobody looks on. Who breaks off asks for the stage where the
cluster is, and it stays there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller.clusterstatus import ACCEPTED, GRANTED, MISFIT, NOT_SIGNED, REACHED
from linkseal.tunnels.controller.outlook import outlook
from linkseal.tunnels.directory.kube import NODE_ENCRYPTIONS
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import CLUSTER_ENCRYPTIONS, DEFAULT, opted_out, read_report, report_text
from linkseal.tunnels.model import Stage
from linkseal.tunnels.stages import Evidence, Position, Walk
from linkseal.tunnels.world import STAGES

MANAGER: Final = "linkseal-cli"
"""Field manager of what the command asks for."""

PATH: Final = f"{CLUSTER_ENCRYPTIONS}/{DEFAULT}"
LOOK: Final = 0.5
"""Seconds between two looks."""

ANSWER: Final = 60.0
"""Seconds in which a controller must have seen a wish."""


SPENT: Final = 10.0
"""Seconds that a command waits for a lowered stage to be taken up, before it takes `lowerTo` out."""


class Target(NamedTuple):
    """Where to go; scope and protocol: as the object says, unless they are named."""

    stage: Stage
    up: bool
    scope: str | None = None
    protocol: str | None = None


class Shown(NamedTuple):
    """A look at the walk. `good`: it is at its target; None: it goes on."""

    text: str
    good: bool | None = None


async def preview(api: KubeApi, target: Target) -> dict[str, Any]:
    """Return the outlook of a walk from where the cluster is. Raises ApiError, ConfigError."""
    found = await api.find(PATH) or {}
    listed = await api.get(NODE_ENCRYPTIONS)
    out = opted_out(found.get("spec") or {})
    names = {str(item["metadata"].get("name", "")): item for item in listed.get("items") or ()}
    reports = {name: read_report(report_text(item), name) for name, item in names.items() if name not in out}
    status, now = found.get("status") or {}, time.time()
    granted: Mapping[str, Any] = next((one for one in status.get("conditions") or () if one.get("type") == GRANTED), {})
    misfits = (str(granted.get("message", "")),) if granted.get("reason") == MISFIT else ()
    evidence = Evidence(int(status.get("policySerial", 0)), reports, tuple(sorted(out)), misfits)
    walk = Walk(target.stage, target.up, "", now, now)
    return outlook(Position(_stage(status)), walk, evidence, now)


async def ask(api: KubeApi, target: Target) -> int:
    """Ask for the stage; returns the generation of the object. Raises ConfigError (refused), ApiError.

    The object is made if there is none.
    """
    found = await api.find(PATH) or {}
    here = _stage(found.get("status") or {})
    wished = _wished(found)
    way = _order(target.stage) - max(_order(here), _order(wished))
    if (way < 0) if target.up else (way > 0):
        raise ConfigError(
            f"the cluster is at stage {here.value} and was asked to go to {wished.value}: "
            + ("use `linkseal disable` to go back" if target.up else "use `linkseal enable` to go on")
        )
    spec: dict[str, Any] = {**_kept(found), "stage": target.stage.value}
    spec |= {name: value for name, value in (("scope", target.scope), ("protocol", target.protocol)) if value}
    return await _apply(api, spec if target.up else {**spec, "lowerTo": target.stage.value})


async def stay(api: KubeApi) -> Stage:
    """Ask for the stage where the cluster is, and return it. Raises ApiError, ConfigError."""
    found = await api.get(PATH)
    here = _stage(found.get("status") or {})
    lower = {"lowerTo": here.value} if _order(here) < _order(_wished(found)) else {}
    generation = await _apply(api, {**_kept(found), "stage": here.value, **lower})
    if lower:
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
                await _apply(api, {**_kept(found), "stage": _wished(found).value}, version)
            except ConfigError:  # it stays: whoever looks sees what was asked for
                return
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:  # a status was written, or somebody asks for something else
                    raise
            else:
                return
        await asyncio.sleep(LOOK)


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
    return {name: spec[name] for name in ("scope", "protocol") if name in spec}


async def _apply(api: KubeApi, spec: Mapping[str, Any], version: str = "") -> int:
    """Apply the spec, of the object as it was in `version` if one is given; returns its generation."""
    metadata = {"name": DEFAULT, **({"resourceVersion": version} if version else {})}
    body = {"apiVersion": "linkseal.io/v1alpha1", "kind": "ClusterEncryption", "metadata": metadata}
    try:
        found = await api.apply(PATH, {**body, "spec": spec}, manager=MANAGER)
    except ApiError as error:
        if error.status in (400, 403, 422):
            raise ConfigError(f"the API server refuses this: {error}") from error
        raise
    return int(found["metadata"].get("generation", 0))


def _shown(status: Mapping[str, Any]) -> Shown:
    conditions = {str(one.get("type")): one for one in status.get("conditions") or ()}
    accepted, reached = conditions.get(ACCEPTED, {}), conditions.get(REACHED, {})
    if accepted.get("status") == "False":
        return Shown(str(accepted.get("message", "")), good=None if accepted.get("reason") == NOT_SIGNED else False)
    links = status.get("links") or {}
    text = f"stage {status.get('position', '?')}, {links.get('sealed', 0)}/{links.get('total', 0)} links sealed"
    if reached.get("status") == "True":
        return Shown(f"the cluster is at stage {status.get('stage')}", good=True)
    if reached.get("reason") in ("TakenBack", "NotAsked"):
        return Shown(str(reached.get("message", "")), good=False)
    waiting = "; ".join(map(str, status.get("blockers") or ()))
    return Shown(f"{text}; waiting: {waiting}" if waiting else text)


_order: Final = STAGES.index


def _wished(encryption: Mapping[str, Any]) -> Stage:
    return _stage(encryption.get("spec") or {})


def _stage(status: Mapping[str, Any]) -> Stage:
    return Stage(status.get("stage", "off"))

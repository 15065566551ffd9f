"""`linkseal enable` and `disable` on a Kubernetes cluster: the wish is an object there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import ceil
from typing import Any, TypeVar

from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.output import age, clean, note
from linkseal.tunnels.clusterobject import WalkSpec
from linkseal.tunnels.controller.clusterwalk import Shown, Target, ask, look_on, preview, spent, stay
from linkseal.tunnels.controller.clusterwalk import chosen as select
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.stages import Position
from linkseal.tunnels.validation import validate

ResultT = TypeVar("ResultT")
Answered = Callable[[dict[str, Any]], None]


def require_timeout(seconds: float | None) -> None:
    """Raise ConfigError for a time that the controller would refuse."""
    if seconds is not None:
        validate(WalkSpec, {"stepTimeout": ceil(seconds)}, "--timeout")


def chosen(access: Access, selector: str) -> frozenset[str]:
    """Return the nodes that go first. Raises ApiError, ConfigError."""
    return with_api(access, lambda api: select(api, selector))


def rehearse(access: Access, target: Target) -> dict[str, Any]:
    """Return the outlook. Raises ApiError, ConfigError."""
    return with_api(access, lambda api: preview(api, target))


def walk(access: Access, target: Target, options: dict[str, Any], tell: Answered) -> int:
    """Ask, and look on until the end; `tell` is given the last answer. Returns the exit code."""

    async def act(api: KubeApi) -> int:
        generation = await ask(api, target)
        if options["detach"]:
            tell({"event": "detached", "text": "the controller walks on by itself"})
            return ExitCode.FINE
        code = await _attended(api, generation, options["wait"] or None, tell)
        if code == ExitCode.FINE and not target.up:
            await spent(api, generation)
        return code

    return with_api(access, act)


async def _attended(api: KubeApi, generation: int, patience: float | None, tell: Answered) -> int:
    try:
        async with asyncio.timeout(patience):
            last = Shown("")
            async for last in look_on(api, generation):
                if last.good is None:
                    note(clean(last.text))
            tell({"event": "end", "good": last.good, "text": clean(last.text)})
            return ExitCode.FINE if last.good else ExitCode.FOUND
    except TimeoutError:
        note(f"{age(patience or 0)} are over; {_stays(await stay(api))}")
        return ExitCode.WAITED
    except asyncio.CancelledError:
        note(f"broken off; {_stays(await stay(api))}")
        raise


def _stays(here: Position | None) -> str:
    if here is None:
        return "no controller has said yet where the cluster is: what was asked for stands"
    return f"the cluster stays at stage {here}"


def with_api(access: Access, action: Callable[[KubeApi], Awaitable[ResultT]]) -> ResultT:
    """Return what `action` makes of the cluster's API. Raises ConfigError, what `action` raises."""

    async def act() -> ResultT:
        api = KubeApi(access)
        try:
            return await action(api)
        finally:
            await api.close()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(act())

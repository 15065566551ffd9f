"""`linkseal remove` on a Kubernetes cluster: whom to ask, and what is taken from its API after an uninstall."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from functools import partial
from typing import Final

from linkseal.keys.errors import ConfigError
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.output import clean, confirm, emit, note
from linkseal.tunnels.cli.remove import Nodes
from linkseal.tunnels.cli.stagescluster import with_api
from linkseal.tunnels.controller import leave
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.leaving import (
    Traces,
    can_answer,
    elsewhere,
    has_arrived,
    in_the_way,
    kept,
    left_on_nodes,
    not_off,
)

SETTLING: Final = 30.0
"""Seconds that nodes have to report that they are at stage off: a report alone may take ten."""

LOOK: Final = 1.0
"""Seconds between two looks at what has to end before."""

NAMED: Final = 20
"""Reasons in an error."""

ADVICE: Final = (
    "a node whose agent is silent: `/var/lib/linkseal/boot/linkseal agent cleanup --keep-directory` there, then "
    "`linkseal remove --objects --cleaned NODE`; one that is gone: delete its Node"
)


def nodes(access: Access, namespace: str, timeout: float) -> tuple[Nodes | None, str]:
    """Return who is to be asked; or None, and why nobody may be. Raises ApiError, ConfigError.

    Nodes that have not reported stage off yet are waited for, half of `timeout` at most: one that acts by an older
    policy would refuse, and then its agent is taken away. While one says that it is at another stage nobody is asked.
    """
    deadline = time.monotonic() + min(SETTLING, timeout / 2)
    found = with_api(access, partial(_settled, namespace=namespace, deadline=deadline))
    left = left_on_nodes(found)
    asked = _askable(found)
    if why := not_off(found) or elsewhere(found, asked):
        return None, why
    gone = [name for name, one in sorted(found.nodes.items()) if name not in left and one.reported]
    return Nodes(asked, gone, [name for name in left if name not in asked]), ""


async def _settled(api: KubeApi, *, namespace: str, deadline: float) -> Traces:
    """Return what is there once every node that can be asked has arrived at stage off, or the time is over."""
    while True:
        found = await leave.traces(api, namespace)
        late = [name for name in _askable(found) if not has_arrived(found.nodes[name], found.serial)]
        if not late or not_off(found) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(LOOK)


def _askable(found: Traces) -> list[str]:
    """Who may have something of ours, and reports."""
    now = time.time()
    return [name for name in left_on_nodes(found) if can_answer(found.nodes[name], now)]


def forget(
    access: Access, namespace: str, cleaned: Collection[str], timeout: float, *, yes: bool, uninstalling: bool
) -> int:
    """Take what is ours from the API if nothing is in the way; returns the exit code. Raises ApiError, ConfigError."""
    found, why = _looked(access, namespace, cleaned, timeout)
    if strange := sorted(set(cleaned) - found.nodes.keys()):
        raise ConfigError(f"--cleaned: there is no Node {clean(strange[0])}")
    if not why and not yes:
        confirm("This deletes the policy, both CRDs with their objects, and the CA if it was made here. Delete them?")
        found, why = _looked(access, namespace, cleaned, timeout)  # the answer may have taken long
    advice = "" if not_off(found) or found.installed else f" ({ADVICE})"
    if why and not uninstalling:
        more = f"; and {len(why) - NAMED} more" if len(why) > NAMED else ""
        raise ConfigError(f"{clean('; '.join(why[:NAMED]))}{more}{advice}")
    if why:
        for line in why:
            emit(clean(line))
        note(f"all is left as it is in the API, CRDs too: a chart that is installed again takes over{advice}")
        return ExitCode.FINE
    deadline, stays = time.monotonic() + timeout, kept(found, uninstalling=uninstalling)

    async def act(api: KubeApi) -> None:
        async for line in leave.forget(api, namespace, deadline, stays):
            emit(line)

    with_api(access, act)
    for what, reason in stays.items():
        note(f"{what} is not touched: {reason}")
    rest = "nothing else" if stays else "nothing"
    note(f"{rest} of Linkseal is left in the API; the namespace {namespace} is yours, and what you put there")
    return ExitCode.FINE


def _looked(access: Access, namespace: str, cleaned: Collection[str], timeout: float) -> tuple[Traces, list[str]]:
    """Return what is there when nothing is about to end any more, and what is in the way."""
    deadline = time.monotonic() + timeout
    found = with_api(access, partial(_ended, namespace=namespace, cleaned=cleaned, deadline=deadline))
    return found, list(in_the_way(found, cleaned)) or [f"{one} has not ended" for one in found.ending]


async def _ended(api: KubeApi, *, namespace: str, cleaned: Collection[str], deadline: float) -> Traces:
    """Return what is there once nobody of us writes any more, something else is in the way, or the time is over."""
    while True:
        found = await leave.traces(api, namespace, workloads=True)
        if not found.ending or any(in_the_way(found, cleaned)) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(LOOK)

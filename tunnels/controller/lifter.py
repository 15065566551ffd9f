"""Lifts the taint `linkseal.io/not-sealed` from Nodes whose links are sealed (`taint.py` says when)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from linkseal.keys.errors import ConfigError
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.controller.kubeevents import About, Events, News
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.taint import TAINT, liftable, removal
from linkseal.tunnels.directory.kube import NODES
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.policy import read_signed
from linkseal.tunnels.stages import Evidence, Position

LOOK: Final = 5.0
"""Seconds between two looks: with many nodes there are many links to look at."""


CHANGED: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY})
"""The Node is gone, or its taints are not what they were (a `test` of the patch failed)."""


def position_of(policy: PolicyDocument | None) -> Position | None:
    """Return where a signed policy puts the cluster; without one it is off. None: it says nothing we can read."""
    if policy is None:
        return Position()
    try:
        found, _ = read_signed(policy.spec)
    except ConfigError:
        return None
    return Position(found.stage, found.pool)


class Lifter:
    """Lifts it, if that was asked for (`--lift-taint`)."""

    def __init__(self, api: KubeApi, events: Events, *, wanted: bool) -> None:
        self._api, self._events, self._wanted = api, events, wanted
        self._looked = float("-inf")

    async def step(
        self, nodes: Mapping[str, NodeFacts], look: Callable[[], tuple[Position, Evidence] | None]
    ) -> tuple[str, ...]:
        """Lift what may be lifted now; returns what stood in the way. `look`: where the cluster is, None: unknown.

        Raises ApiError where the API server does not answer. A Node that has changed meanwhile is for the next look.
        """
        tainted = {name: facts for name, facts in nodes.items() if facts.taints} if self._wanted else {}
        if not tainted or time.monotonic() - self._looked < LOOK:
            return ()
        self._looked = time.monotonic()
        seen = look()
        problems: list[str] = []
        for name, why in () if seen is None else liftable(tainted, *seen, time.time()):
            facts = tainted[name]
            try:
                await self._api.patch(f"{NODES}/{name}", removal(facts.uid, facts.taints))
            except ApiError as error:
                if error.status in CHANGED:
                    continue
                if not error.status:
                    raise
                problems.append(f"the taint {TAINT} of {name} cannot be lifted: {error}")
            else:
                self._events.tell(About("v1", "Node", name, facts.uid), News("TaintLifted", f"{TAINT}: {why}"))
        return tuple(problems)

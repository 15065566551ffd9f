"""When the taint `linkseal.io/not-sealed` of a Node may go: its traffic to the others is encrypted. Pure.

    kubelet --register-with-taints=linkseal.io/not-sealed=:NoSchedule

The kubelet sets it, the controller lifts it, and nobody of us sets it again: a node that loses a link keeps its pods.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from linkseal.tunnels.cluster import CLOCK_AHEAD, STALE_AFTER, directed_states
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.stages import Evidence, Position, live, status_of
from linkseal.tunnels.status import NodeStatus

TAINT: Final = "linkseal.io/not-sealed"


class PlacedTaint(NamedTuple):
    """A taint of ours as it stands in `spec.taints`. `text`: all of it, as JSON."""

    place: int
    text: str


def placed_taints(spec: Mapping[str, Any]) -> tuple[PlacedTaint, ...]:
    """Return the taints of ours in a Node's spec: there is one for each effect that somebody gave it."""
    listed = spec.get("taints")
    found = enumerate(listed if isinstance(listed, list) else ())
    return tuple(
        PlacedTaint(index, json.dumps(taint, sort_keys=True))
        for index, taint in found
        if isinstance(taint, dict) and taint.get("key") == TAINT
    )


def removal(uid: str, taints: Collection[PlacedTaint]) -> list[dict[str, Any]]:
    """Return the JSON patch that takes just these from the Node of that UID, or fails if they have changed."""
    patch: list[dict[str, Any]] = [{"op": "test", "path": "/metadata/uid", "value": uid}]
    for taint in sorted(taints, reverse=True):  # the last first: those before it keep their places
        path = f"/spec/taints/{taint.place}"
        patch += [{"op": "test", "path": path, "value": json.loads(taint.text)}, {"op": "remove", "path": path}]
    return patch


def liftable(tainted: Collection[str], position: Position, evidence: Evidence, now: float) -> Iterator[tuple[str, str]]:
    """Yield those of `tainted` that need not wait any more, and why.

    At the stages off and prepare nothing is encrypted, and an opted-out node never is: there is nothing to wait for.
    Else a node's own report must say, lately, that the present stage is applied there, and every link with a live node
    must be sealed at both ends. Nodes of which nothing is heard hold nobody up, as they hold no stage: what goes to
    them is no plaintext at stage enforce, and before it the taint promises no more than the stage does.
    """
    waiting: list[str] = []
    for name in sorted(tainted):
        stage = position.of(name)
        if name in evidence.out:
            yield name, "it is opted out"
        elif stage in (Stage.OFF, Stage.PREPARE):
            yield name, f"at stage {stage.value} nothing is encrypted"
        elif name in evidence.reports and _ready(status_of(evidence, name), evidence.serial, now):
            waiting.append(name)
    if waiting:
        yield from _sealed(waiting, evidence, now)


def _ready(status: NodeStatus | None, serial: int, now: float) -> bool:
    """Whether a node has reported lately that it has applied the present stage."""
    if status is None or not -CLOCK_AHEAD <= now - status.observed_at <= STALE_AFTER:
        return False
    return status.policy.applied and status.policy.serial >= serial


def _sealed(waiting: Sequence[str], evidence: Evidence, now: float) -> Iterator[tuple[str, str]]:
    counted = set(live(evidence, now))
    links: dict[str, list[bool]] = {name: [] for name in waiting}
    for source, target, state in directed_states(evidence.reports, now, frozenset(waiting)):
        if source in counted and target in counted:
            for name in {source, target} & links.keys():
                links[name].append(state is LinkState.SEALED)
    for name, found in links.items():
        if len(evidence.reports) == 1:
            yield name, "there is no other node in scope"
        elif found and all(found):
            yield name, f"sealed at both ends with every live node: {len(found) // 2}"

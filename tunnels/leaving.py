"""Whether a cluster can be left for good: what is still ours on its nodes, as its API tells it. Pure.

What counts is each agent's own last word: it reports that it has removed everything, and then says nothing any more
(`linkseal.tunnels.agent.removal`). No mark is kept beside these reports that could be out of date: an agent that begins
anew, since the chart was installed again or its pod was restarted, reports anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from linkseal.tunnels.cluster import CLOCK_AHEAD, STALE_AFTER
from linkseal.tunnels.controller.taint import placed_taints, removal
from linkseal.tunnels.directory.kubedocs import ANNOUNCEMENT, CERTIFICATE, GRANT, SIGNATURE, read_report, report_text
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.status import NodeStatus, is_removed
from linkseal.tunnels.wording import listed

ANNOTATIONS: Final = (ANNOUNCEMENT, SIGNATURE, CERTIFICATE, GRANT)
"""Ours, of a Node."""

SECRET: Final = "Secret linkseal-ca-key"  # noqa: S105 - the name of the object, not what is in it
ENCRYPTIONS: Final = "CRD clusterencryptions.linkseal.io"
"""What may be an operator's, as `kept` names it."""

_BY_AGENT: Final = frozenset({ANNOUNCEMENT, SIGNATURE, CERTIFICATE})

_OS: Final = "kubernetes.io/os"


@dataclass(frozen=True, slots=True)
class Trace:
    """What the API has of a Node and its agent."""

    announces: bool = False
    reported: bool = False
    status: NodeStatus | None = None
    """Its last report; None: there is none, or it cannot be read."""
    fits: bool = True
    """Agents run on Linux alone."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What the API has of us. `unread`: why the policy says nothing, though there is one."""

    nodes: Mapping[str, Trace]
    policy: Policy | None = None
    unread: str = ""
    serial: int = 0
    """Of the policy."""
    encryption: Mapping[str, Any] = field(default_factory=dict)
    """The ClusterEncryption; empty: there is none."""
    installed: tuple[str, ...] = ()
    """What the chart has made, and nobody has asked to end."""
    ending: tuple[str, ...] = ()
    """Pods of agents and controllers, and what makes them, that are about to end."""


def trace(node: Mapping[str, Any], encryption: Mapping[str, Any] | None) -> Trace:
    """Return what is there of a Node; `encryption`: the NodeEncryption of its name.

    One that belongs to an earlier Node of that name says nothing of this one: it goes a moment later.
    """
    meta = node["metadata"]
    own = encryption if encryption is not None and _belongs(encryption["metadata"], meta) else {}
    status = None
    if reported := bool(own.get("status")):
        found = read_report(report_text(own), str(meta["name"]))
        status = None if found is None else found.status
    return Trace(
        announces=not _BY_AGENT.isdisjoint(meta.get("annotations") or {}),
        reported=reported,
        status=status,
        fits=(meta.get("labels") or {}).get(_OS, "linux") == "linux",
    )


def _belongs(encryption: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether a NodeEncryption was made for this very Node; both by their metadata."""
    owners = encryption.get("ownerReferences") or ()
    return any((one.get("kind"), one.get("uid")) == ("Node", node.get("uid")) for one in owners)


def not_off(found: Traces) -> str:
    """Return why the cluster is not at stage off, or was asked to leave it; empty: it is. Without a policy it is off.

    What the policy says counts; the ClusterEncryption too, since its controller says there where the cluster is.
    """
    if found.unread:
        return found.unread
    if (policy := found.policy) is not None:
        stages = [policy.stage, Stage.OFF if policy.pool is None else policy.pool.stage]
        if on := [stage.value for stage in stages if stage is not Stage.OFF]:
            return f"the cluster is at stage {on[0]}: run `linkseal disable` first"
    for part, words in (("status", "the cluster is at stage"), ("spec", "the cluster is asked to go to stage")):
        said = found.encryption.get(part) or {}
        for stage in (said.get("stage"), (said.get("pool") or {}).get("stage")):
            if stage not in (None, Stage.OFF.value):
                return f"{words} {str(stage)[:20]}: run `linkseal disable` first"
    return ""


def can_answer(one: Trace, now: float) -> bool:
    """Whether a node's agent has reported lately, so that it is worth asking. `now`: Unix seconds."""
    return one.status is not None and -CLOCK_AHEAD <= now - one.status.observed_at <= STALE_AFTER


def has_arrived(one: Trace, serial: int) -> bool:
    """Whether a node says that it is at stage off, and has applied the policy of this serial."""
    if one.status is None or one.status.stage is not Stage.OFF:
        return False
    return one.status.policy.applied and one.status.policy.serial >= serial


def elsewhere(found: Traces, names: Iterable[str]) -> str:
    """Return why these nodes may not be asked: some say that they are at another stage than off. Empty: none."""
    stages = [(name, one.status.stage) for name in names if (one := found.nodes[name]).status is not None]
    on = [f"{name} ({stage.value})" for name, stage in stages if stage is not Stage.OFF]
    return f"the policy says stage off, which has not reached {listed(on)}" if on else ""


def left_on_nodes(found: Traces, cleaned: Collection[str] = ()) -> dict[str, str]:
    """Return the nodes that may have something of ours, and why. `cleaned`: those that somebody cleaned by hand.

    Without a policy agents begin nothing, so that one which never reported has nothing on its node.
    """
    why = {name: _left(one, begun=found.policy is not None) for name, one in found.nodes.items()}
    return {name: words for name, words in sorted(why.items()) if words and name not in cleaned}


def _left(one: Trace, *, begun: bool) -> str:
    if one.status is not None and is_removed(one.status) and not one.announces:
        return ""
    if one.reported:
        return "its agent has not said that it removed everything"
    if one.announces:
        return "it is announced, and its agent does not report"
    return "its agent has never reported" if begun and one.fits else ""


def in_the_way(found: Traces, cleaned: Collection[str] = ()) -> Iterator[str]:
    """Yield why the API must keep what it has of us; nothing: it may go."""
    if problem := not_off(found):
        yield problem
        return
    if found.installed:
        yield f"{', '.join(found.installed)}: the chart is installed, so uninstall it first"
        return
    for name, why in left_on_nodes(found, cleaned).items():
        yield f"{name}: {why}"


def kept(found: Traces, *, uninstalling: bool) -> dict[str, str]:
    """Return what stays in the API though the rest goes, and why.

    A CA is taken only where the controller says that it made it. Where there never was a policy, an uninstall may be a
    first install that failed and is tried again: what an operator had put there before stays.
    """
    ca = (found.encryption.get("status") or {}).get("ca") or {}
    if uninstalling and found.policy is None:
        why = "there never was a policy, so this may be an install that is tried again"
        return {SECRET: why, **({ENCRYPTIONS: why} if found.encryption else {})}
    return {} if ca.get("made") is True else {SECRET: "the controller does not say that it made this CA"}


def forgotten(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the JSON patch that takes our annotations and taints from a Node; empty: there are none."""
    meta = node["metadata"]
    taints = placed_taints(node.get("spec") or {})
    present = [key for key in ANNOTATIONS if key in (meta.get("annotations") or {})]
    if not taints and not present:
        return []
    paths = [f"/metadata/annotations/{key.replace('/', '~1')}" for key in present]
    return [*removal(str(meta["uid"]), taints), *({"op": "remove", "path": path} for path in paths)]

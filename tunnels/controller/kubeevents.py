"""Events: what happened, on the Node or the ClusterEncryption it happened to, for `kubectl describe`.

Only changes are told; what a controller finds when it starts is no news. They are a help for people and no record: one
that the API server does not take is lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from linkseal.tunnels.clusterobject import CaStatus, ClusterStatus
from linkseal.tunnels.controller.clusterstatus import ACCEPTED, BOUNDED, GRANTED, NOT_SIGNED, REACHED, SEALED
from linkseal.tunnels.controller.csrs import Asker
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.model import Stage
from linkseal.tunnels.stages import LIVE
from linkseal.tunnels.status import NodeEncryption, NodeStatus
from linkseal.tunnels.wording import listed

_LOG: Final = logging.getLogger("linkseal.controller")

PATH: Final = "/apis/events.k8s.io/v1/namespaces/default/events"
"""Events about objects without a namespace are kept in `default`."""

CONTROLLER: Final = "linkseal.io/controller"
MAX_NOTE: Final = 1024
"""Bytes: the API server takes no longer note."""

_BEGUN: Final = (None, False)
"""Links are about to be sealed, as every change to stage prefer begins."""

_CA_PHASES: Final = {"trusting": "CATrusting", "signing": "CASigning", "steady": "CARotated"}
"""Reason of the Event when the CA's replacement comes to a phase."""

_WALKS: Final = {"Walking": "StageWalking", "Waiting": "StageWaiting"}
"""Reason of the Event when a walk begins or goes on, and when something holds it."""

_ANSWERS: Final = {"done": "RequestDone", "failed": "RequestFailed", "refused": "RequestRefused"}
"""Reason of the Event when an agent has answered a request."""

MAX_WAITING: Final = 200
"""Events kept until they can be written; a cluster in trouble must not be flooded with news of it."""


class About(NamedTuple):
    """The object an event is about."""

    api_version: str
    kind: str
    name: str
    uid: str


class News(NamedTuple):
    """What happened. `reason`: one word for programs."""

    reason: str
    note: str
    warning: bool = False


def of_cluster(before: ClusterStatus | None, after: ClusterStatus) -> Iterator[News]:
    """Yield what has changed of the cluster; nothing at first."""
    if before is None:
        return
    if (before.stage, before.pool) != (after.stage, after.pool):
        yield News("StageChanged", f"stage {before.at} → {after.at}")
    old = {one.type: one for one in before.conditions}
    for one in after.conditions:
        was = old.get(one.type)
        if was is not None and (was.status, was.reason) == (one.status, one.reason):
            continue
        if one.type == REACHED and one.reason in _WALKS:
            yield News(_WALKS[one.reason], one.message)
        elif one.type == REACHED and one.reason in ("AtTarget", "TakenBack"):
            yield News("StageReached" if one.status == "True" else "StageTakenBack", one.message, one.status != "True")
        elif one.type == ACCEPTED and was is not None and one.reason != NOT_SIGNED:
            if was.reason == NOT_SIGNED and one.status == "True":
                continue  # it was accepted before
            yield News("SpecAccepted" if one.status == "True" else "SpecRefused", one.message, one.status != "True")
        elif one.type == GRANTED and (one.status != "True" or was is not None):
            yield News("AllGranted" if one.status == "True" else "NotGranted", one.message, one.status != "True")
        elif one.type == BOUNDED and was is not None:
            yield News("Bounded" if one.status == "True" else "NotBounded", one.message, one.status != "True")
        elif one.type == SEALED and was is not None and was.status != one.status:
            left = one.status != "True" and after.stage is Stage.ENFORCE
            yield News("Sealed" if one.status == "True" else "NotSealed", one.message, left)
    yield from _of_ca(before.ca, after.ca)


def _of_ca(before: CaStatus, after: CaStatus) -> Iterator[News]:
    if before.phase != after.phase:
        yield News(
            _CA_PHASES[after.phase], f"{after.fingerprint} signs" + (f", then {after.next}" if after.next else "")
        )
    if after.unsigned and not before.unsigned:
        yield News("CANotSigning", after.unsigned, warning=True)
    if before.unsigned and not after.unsigned:
        yield News("CASignsAgain", f"{after.fingerprint} signs")
    if after.problem and not before.problem:
        yield News("CARotationRefused", after.problem, warning=True)


def of_node(before: NodeEncryption | None, after: NodeEncryption | None) -> Iterator[News]:
    """Yield what has changed of a node by its reports; None: it had, or has, not reported."""
    was, now = (None if one is None else one.status for one in (before, after))
    if now is None:
        return
    if now.guard.unguarded is not None and (was is None or was.guard.unguarded is None):
        yield News("GuardedSince", f"first guard {now.guard.unguarded} s after the node was registered")
    if was is not None:
        yield from _of_links(before, after, now)
        yield from _of_guard(was, now)
        yield from _of_host(was, now)
        yield from _of_findings(was, now)
        yield from _of_requests(was, now)


def _of_links(before: NodeEncryption | None, after: NodeEncryption | None, now: NodeStatus) -> Iterator[News]:
    old, new = _sealed(before), _sealed(after)
    if new is None or old == new or (old, new) == _BEGUN:
        return
    named = ", ".join(f"{one.name} {one.state.value} {one.code or ''}".strip() for one in now.unsealed[:5])
    note = f"{now.links.sealed} of {now.links.total} links are sealed" + (f": {named}" if named else "")
    yield News("LinksSealed" if new else "LinksNotSealed", note, not new)


def _of_guard(was: NodeStatus, now: NodeStatus) -> Iterator[News]:
    if now.guard.broken_glass is not None and was.guard.broken_glass is None:
        yield News("BreakGlass", f"the guard is lifted: {now.guard.broken_glass}", warning=True)
    if was.guard.broken_glass is not None and now.guard.broken_glass is None:
        yield News("BreakGlassEnded", "the guard is no longer lifted")
    if was.guard.whole != now.guard.whole and now.stage is not Stage.OFF:
        note = "all of the guard is in the kernel" if now.guard.whole else "a part of the guard is not in the kernel"
        yield News("GuardWhole" if now.guard.whole else "GuardNotWhole", note, not now.guard.whole)
    leaks = {one.peer for one in now.verified if one.result == "leaked"}
    if new := sorted(leaks - {one.peer for one in was.verified if one.result == "leaked"}):
        yield News("PlaintextSeen", f"verify saw plaintext to {listed(new)} on the wire", warning=True)


def _of_host(was: NodeStatus, now: NodeStatus) -> Iterator[News]:
    if was.stage is not now.stage:
        yield News("StageEntered", f"acts at stage {now.stage.value}, before at {was.stage.value}")
    newest = max((one.number for one in now.generations), default=0)
    if was.generations and newest > max(one.number for one in was.generations):
        yield News("KeyMade", f"generation {newest} is to replace the one before")
    old, new = _live(was), _live(now)
    if old is not None and new is not None and old != new:
        yield News("KeyChanged", f"generation {new} carries its traffic, before it did {old}")
    if was.boot.state != now.boot.state:
        failed = now.boot.state == "failed"
        yield News("BootUnitFailed" if failed else "BootUnit", now.boot.reason or f"it is {now.boot.state}", failed)


def _of_findings(was: NodeStatus, now: NodeStatus) -> Iterator[News]:
    """One of each code, whatever it is about: a node that lost its peers must not tell it of each."""
    old, new = {one.code for one in was.findings}, {one.code for one in now.findings}
    for code in sorted(new - old):
        entry = CATALOGUE.get(code)
        if entry is None or entry.severity != "info":
            about = [f"{one.subject}: {one.message}" for one in now.findings if one.code == code]
            title = f"{code} ({entry.title})" if entry is not None else code
            yield News("Found", f"{title}: {listed(about, 2)}", warning=True)
    for code in sorted(old - new):
        if code not in CATALOGUE or CATALOGUE[code].severity != "info":
            yield News("FoundNoMore", f"{code} is over")


def _of_requests(was: NodeStatus, now: NodeStatus) -> Iterator[News]:
    for request, state in now.requests.items():
        before = was.requests.get(request)
        if state.state in _ANSWERS and (before is None or before.state != state.state):
            said = f": {state.message}" if state.message else ""
            yield News(_ANSWERS[state.state], f"{state.type} ({request}){said}", state.state != "done")


def _live(status: NodeStatus) -> int | None:
    return next((one.number for one in status.generations if one.state == "live"), None)


def _sealed(report: NodeEncryption | None) -> bool | None:
    """Whether all links of a node are sealed; None: that cannot be told, or is not wanted at its stage."""
    status = None if report is None else report.status
    if status is None or status.stage in (Stage.OFF, Stage.PREPARE) or not status.links.total:
        return None
    return status.links.sealed == status.links.total


class Events:
    """Collects events, and writes them while `run` runs: no pass waits for a slow API server because of them."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._waiting: list[dict[str, Any]] = []
        self._told = asyncio.Event()
        self._instance = f"{socket.gethostname()}-{os.getpid()}"[:128]

    def tell(self, about: About, news: News) -> None:
        """Have something told of an object."""
        if len(self._waiting) >= MAX_WAITING and news.warning:  # rather than that all went well
            usual = next((one for one in self._waiting if one["type"] == "Normal"), None)
            if usual is not None:
                self._waiting.remove(usual)
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(self._event(about, news))
            self._told.set()

    async def run(self) -> None:
        """Write what is told, until cancelled."""
        while True:
            await self._told.wait()
            self._told.clear()
            await self.write()

    async def write(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            try:
                await self._api.create(PATH, event)
            except ApiError as error:
                _LOG.debug("an event could not be written: %s", error)
                if error.status in (0, 429):  # none of the others would be taken now
                    return

    def _event(self, about: About, news: News) -> dict[str, Any]:
        note = news.note.encode()[:MAX_NOTE].decode(errors="ignore")
        regarding: Mapping[str, str] = {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "name": about.name,
            "uid": about.uid,
        }
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": "linkseal-", "namespace": "default"},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": news.reason,
            "reason": news.reason,
            "regarding": regarding,
            "note": note,
            "type": "Warning" if news.warning else "Normal",
        }


class NodeNews:
    """Has what happened to nodes told in Events on them."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._reports: dict[str, tuple[str, NodeEncryption | None]] = {}
        """Of every node its Node's UID, and the last."""
        self._silent: frozenset[str] | None = None

    def tell(
        self,
        uids: Mapping[str, str],
        granted: Sequence[str],
        askers: Sequence[Asker],
        reports: Mapping[str, NodeEncryption | None],
        denied: Sequence[tuple[Asker, str]] = (),
        now: float = 0.0,
    ) -> None:
        """Tell of grants, of certificates (by whom they were asked for) and denials, and of what reports say newly.

        And of agents that report no more by `now`, in Unix seconds, or again.
        """
        happened = [(name, News("Granted", "its addresses and prefixes were signed")) for name in granted]
        happened += [(one.node, News("Certified", f"by request of pod {one.pod}")) for one in askers]
        happened += [(one.node, News("CertificateDenied", why, warning=True)) for one, why in denied]
        before, self._reports = self._reports, {name: (uids.get(name, ""), one) for name, one in reports.items()}
        for name, (uid, report) in self._reports.items():
            if name in before and before[name][0] == uid:  # what one of that name said before is no news of this one
                happened += [(name, news) for news in of_node(before[name][1], report)]
        happened += self._of_silence(now)
        for name, news in happened:
            if name in uids:
                self._events.tell(About("v1", "Node", name, uids[name]), news)

    def _of_silence(self, now: float) -> Iterator[tuple[str, News]]:
        said = {
            name: one.status.observed_at for name, (_, one) in self._reports.items() if one is not None and one.status
        }
        silent = frozenset(name for name, at in said.items() if now - at > LIVE)
        before, self._silent = self._silent, silent
        for name in () if before is None else sorted(silent - before):
            yield name, News("AgentSilent", f"no report for {LIVE / 60:.0f} minutes", warning=True)
        for name in () if before is None else sorted(before & said.keys() - silent):
            yield name, News("AgentReports", "its agent reports again")

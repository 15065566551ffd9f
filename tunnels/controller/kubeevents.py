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
from linkseal.tunnels.controller.clusterstatus import ACCEPTED, GRANTED, NOT_SIGNED, REACHED, SEALED
from linkseal.tunnels.controller.csrs import Asker
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.model import Stage
from linkseal.tunnels.status import NodeEncryption

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
    if before.stage is not after.stage:
        yield News("StageChanged", f"stage {before.stage.value} → {after.stage.value}")
    old = {one.type: one for one in before.conditions}
    for one in after.conditions:
        was = old.get(one.type)
        if was is not None and (was.status, was.reason) == (one.status, one.reason):
            continue
        if one.type == REACHED and one.reason in ("AtTarget", "TakenBack"):
            yield News("StageReached" if one.status == "True" else "StageTakenBack", one.message, one.status != "True")
        elif one.type == ACCEPTED and was is not None and one.reason != NOT_SIGNED:
            if was.reason == NOT_SIGNED and one.status == "True":
                continue  # it was accepted before
            yield News("SpecAccepted" if one.status == "True" else "SpecRefused", one.message, one.status != "True")
        elif one.type == GRANTED and (one.status != "True" or was is not None):
            yield News("AllGranted" if one.status == "True" else "NotGranted", one.message, one.status != "True")
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
    """Yield what has changed of a node by its reports."""
    waited = _unguarded(after)
    if before is not None and waited is not None and _unguarded(before) is None:
        yield News("GuardedSince", f"first guard {waited} s after the node was registered")
    was, now = _sealed(before), _sealed(after)
    if before is None or after is None or after.status is None or now is None or was == now or (was, now) == _BEGUN:
        return
    links = after.status.links
    named = ", ".join(f"{one.name} {one.state.value} {one.code or ''}".strip() for one in after.status.unsealed[:5])
    note = f"{links.sealed} of {links.total} links are sealed" + (f": {named}" if named else "")
    yield News("LinksSealed" if now else "LinksNotSealed", note, not now)


def _unguarded(report: NodeEncryption | None) -> int | None:
    return None if report is None or report.status is None else report.status.guard.unguarded


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
        self._reports: dict[str, NodeEncryption | None] = {}

    def tell(
        self,
        uids: Mapping[str, str],
        granted: Sequence[str],
        askers: Sequence[Asker | None],
        reports: Mapping[str, NodeEncryption | None],
    ) -> None:
        """Tell of grants, of certificates (by whom they were asked for), and of what reports say newly."""
        happened = [(name, News("Granted", "its addresses and prefixes were signed")) for name in granted]
        happened += [(one.node, News("Certified", f"by request of pod {one.pod}")) for one in askers if one is not None]
        for name, report in reports.items():
            happened += [(name, news) for news in of_node(self._reports.get(name), report)]
            self._reports[name] = report
        for name, news in happened:
            if name in uids:
                self._events.tell(About("v1", "Node", name, uids[name]), news)

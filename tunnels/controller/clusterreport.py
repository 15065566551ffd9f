"""Tells of the cluster: the ClusterEncryption's status, and Events about it."""

from __future__ import annotations

import json
import time
from typing import Final

from linkseal.tunnels.clusterobject import ClusterStatus, status_object
from linkseal.tunnels.controller.clusterstatus import Standing, build
from linkseal.tunnels.controller.kubecopies import Wanted
from linkseal.tunnels.controller.kubeevents import About, Events, of_cluster
from linkseal.tunnels.controller.kubesigner import MANAGER
from linkseal.tunnels.directory.kubeapi import METADATA, ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import CLUSTER_ENCRYPTIONS, DEFAULT
from linkseal.tunnels.stages import Evidence

API_VERSION: Final = "linkseal.io/v1alpha1"
KIND: Final = "ClusterEncryption"

JUDGE: Final = 5.0
"""Seconds between two counts of all links while nothing else changes: there are as many as nodes squared."""


class ClusterReport:
    """What was told last of one cluster."""

    def __init__(self, api: KubeApi, events: Events) -> None:
        self._api, self._events = api, events
        self._status: ClusterStatus | None = None
        self._judged: tuple[Standing, float] | None = None

    async def tell(self, standing: Standing, evidence: Evidence, wanted: Wanted) -> str:
        """Say where the cluster is and what holds it, unless that is there; returns why it cannot be said, or empty."""
        now = time.monotonic()
        if self._judged is not None and self._judged[0] == standing and now - self._judged[1] < JUDGE:
            return ""
        self._judged = (standing, now)
        built = build(standing, evidence, wanted.status, time.time())
        for news in of_cluster(self._status, built):
            self._events.tell(About(API_VERSION, KIND, DEFAULT, wanted.uid), news)
        self._status, status = built, status_object(built)
        if json.dumps(status, sort_keys=True) == wanted.status:
            return ""
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": DEFAULT}, "status": status}
        try:
            await self._api.apply(f"{CLUSTER_ENCRYPTIONS}/{DEFAULT}/status", body, manager=MANAGER, accept=METADATA)
        except ApiError as error:
            return f"the status of the ClusterEncryption cannot be written: {error}"
        return ""

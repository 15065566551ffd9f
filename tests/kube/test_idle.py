"""An idle cluster: what its agents and its controller ask of the API server while nothing changes (law 8)."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from ground.charts import NAMESPACE, NODE_ENCRYPTIONS
from ground.charts import until as until_now
from ground.controlplane import ControlPlane
from ground.kubefiles import Request
from ground.kubemesh import deployed
from ground.kubeobjects import heartbeat
from ground.net import Cluster
from linkseal.tunnels.cli.main import main

pytestmark = [pytest.mark.kube, pytest.mark.timeout(700)]

SECONDS = 20.0
"""Of one look; there are two, and NodeEncryptions are refreshed 270 s after they were written at the earliest."""

LONG = 330.0
"""Of the one look that `make long` takes besides."""

LEASE = ("update", "coordination.k8s.io/leases")
READS = frozenset({"get", "list", "watch"})
OURS = f"system:serviceaccount:{NAMESPACE}:"


def asked(plane: ControlPlane, since: int) -> list[Request]:
    """By our accounts."""
    return [one for one in plane.requests(since=since) if one.user.startswith(OURS)]


def reported(plane: ControlPlane) -> list[str]:
    return [str(one.get("status", {}).get("observedAt")) for one in plane.admin.get(NODE_ENCRYPTIONS)["items"]]


def test_it_writes_nothing_but_its_lease_and_reads_no_more_than_before(cluster: Cluster, tmp_path: Path) -> None:
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        linkseal.to_prefer(at)
        linkseal.until(lambda: all(linkseal.status(n).boot.state == "installed" for n in cluster), "boot units")
        mark = [plane.audit_mark()]

        def quiet() -> bool:
            """Ten seconds without a write: what the walk has set going is over."""
            before, mark[0] = mark[0], plane.audit_mark()
            time.sleep(10)
            return all(one.verb in READS or (one.verb, one.resource) == LEASE for one in asked(plane, before))

        until_now(quiet)
        looks, before = [], reported(plane)
        for _ in range(2):
            since = plane.audit_mark()
            for node in cluster:
                heartbeat(plane.admin, node.name)  # kubelets go on
            time.sleep(SECONDS)
            looks.append(asked(plane, since))
        writes = Counter((one.verb, one.resource) for look in looks for one in look if one.verb not in READS)
        assert set(writes) == {LEASE}, writes
        assert writes[LEASE] <= SECONDS + 4, "one every two seconds"
        assert reported(plane) == before
        reads = [Counter((one.verb, one.resource) for one in look if one.verb in READS) for look in looks]
        lease = ("get", LEASE[1])
        for counted in reads:
            assert 0 < counted.pop(lease) <= SECONDS / 2 + 2, "one a renewal"
            assert {verb for verb, _ in counted} <= {"watch"}, "nothing is read again, only watches go on"
            assert counted.total() <= 4 * len(cluster) + 6, "and these are made anew every four minutes"
        if os.environ.get("LINKSEAL_LONG"):
            refreshed(plane, len(cluster))
        assert main([*at, "status"]) == 0


def refreshed(plane: ControlPlane, nodes: int) -> None:
    """For longer than a report may be old: each agent writes it once more, twice at the most, and nothing else."""
    since = plane.audit_mark()
    time.sleep(LONG)
    writes = Counter((one.verb, one.resource) for one in asked(plane, since) if one.verb not in READS)
    assert nodes <= writes.pop(("patch", "linkseal.io/nodeencryptions/status")) <= 2 * nodes
    assert 0 < writes.pop(LEASE) <= LONG / 2 + 4
    assert writes == Counter()

"""The API server away for long, and its store lost or put back: nothing is removed, nothing is lost on the way.

The long form of the outage, ten minutes as in a bad night, is for a machine with time:

    make long
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from ground.charts import AGENT, NAMESPACE
from ground.controlplane import ControlPlane
from ground.kubemesh import KubeDeployment, assert_encrypted, deployed
from ground.net import Cluster
from ground.probes import loss_probe

LONG = bool(os.environ.get("LINKSEAL_LONG"))
OUTAGE = 600.0 if LONG else 45.0
"""Seconds. What an agent does after that long is what it does after ten minutes: its longest pauses are over
(tests/unit/agent/test_retry.py and tests/unit/directory/test_pauses.py count them with clocks of their own)."""

COUNTED = 130.0 if LONG else 20.0
"""Seconds after it in which requests are counted. To be sure each copy lists all once, at random within two minutes
(`mirror.AFTER_OUTAGE`): the long form sees all of that, and tests/unit/directory/test_pauses.py that it is spread."""

pytestmark = [pytest.mark.kube, pytest.mark.timeout(400 + OUTAGE + COUNTED)]

COPIES = 4
"""Collections that an agent watches."""


def asked_by_agents(plane: ControlPlane, since: int) -> Counter[tuple[str, str]]:
    user = f"system:serviceaccount:{NAMESPACE}:{AGENT}"
    return Counter((one.verb, one.resource) for one in plane.requests(user=user, since=since))


def all_known(linkseal: KubeDeployment) -> bool:
    """Whether every agent still has its links to all others, sealed, and their documents on its disk."""
    return linkseal.all_sealed() and all(
        len(list((linkseal.state(node) / "peers").glob("*.json"))) == len(linkseal.cluster) for node in linkseal.cluster
    )


def test_a_long_outage_loses_nothing_and_its_end_is_no_storm(cluster: Cluster, tmp_path: Path) -> None:
    """Agents that are restarted or killed meanwhile come back encrypted, from their disks."""
    a, b, c = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        linkseal.to_prefer(at)
        linkseal.to_enforce(at)
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=100) as loss:
            plane.stop_api(kill=True)
            began = time.monotonic()
            linkseal.until(lambda: "LS4001" in linkseal.all_codes(), "a finding")
            linkseal.stop(c)
            linkseal.start(c)
            linkseal.stop(b, signal.SIGKILL)
            linkseal.start(b)
            linkseal.wait_sealed(60)
            time.sleep(max(0.0, began + OUTAGE - time.monotonic()))
            assert all_known(linkseal), linkseal.report()
            assert_encrypted(cluster, 1)
            mark = plane.audit_mark()
            plane.start_api()
            linkseal.until(lambda: "LS4001" not in linkseal.all_codes(), "no finding about the directory", 60)
            time.sleep(COUNTED)
            asked = asked_by_agents(plane, mark)
        assert all_known(linkseal), linkseal.report()
    assert loss.lost == [], loss
    assert loss.sent > OUTAGE * 50
    # Each copy asks how far the server is, watches, and lists once to be sure; twice if the server was not ready. Each
    # agent reports, and again that nothing is wrong any more; those that started anew ask for more of their own.
    most = {"list": 3 * COPIES, "watch": 2 * COPIES, "get": 6, "patch": 6}
    assert {verb for verb, _ in asked} <= set(most), asked
    for verb, count in most.items():
        assert sum(n for (v, _), n in asked.items() if v == verb) <= count * len(cluster), asked
    assert asked["patch", "nodes"] <= 2, "only who started anew, and knew not yet that the server has it"

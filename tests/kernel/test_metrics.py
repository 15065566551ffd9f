"""A real agent is scraped: what it serves is what its status says, and counts what happened."""

from __future__ import annotations

import http.client

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node
from linkseal.tunnels.metrics import METRICS
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.kernel

PORT = 9586


def get(node: Node, path: str) -> tuple[int, str]:
    """Ask the agent of a node."""
    with node.entered():
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        connection.connect()
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def scrape(node: Node) -> dict[str, float]:
    """Name and label values → value."""
    status, text = get(node, "/metrics")
    assert status == 200
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_running_agent_is_scraped(nodes: Nodes) -> None:
    cluster = nodes(2)
    a, _ = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start(metrics={"listen": f"127.0.0.1:{PORT}"})
        linkseal.wait_sealed()
        linkseal.until(lambda: scrape(a)["linkseal_links sealed"] == 1, "scraped as sealed")
        found = scrape(a)
        assert found["linkseal_links_expected"] == 1
        assert found["linkseal_stage prefer"] == 1
        assert found["linkseal_ready"] == 1
        assert 0 <= found["linkseal_oldest_handshake_age_seconds"] < 180
        assert found["linkseal_kernel_writes_total"] > 10
        assert found["linkseal_reconcile_duration_seconds_count"] >= 3
        names = {key.split(" ")[0] for key in found}
        assert names <= {m.exposed for m in METRICS} | {f"linkseal_reconcile_duration_seconds_{end}" for end in ("bucket", "count", "sum")}  # fmt: skip  # noqa: E501
        assert [get(a, path)[0] for path in ("/healthz", "/readyz", "/x")] == [200, 200, 404]
        healed = found["linkseal_drift_healed_total"]
        a.run("ip route flush table 51820")
        linkseal.until(lambda: scrape(a)["linkseal_drift_healed_total"] > healed, "healed and counted")
        assert not [n for n in linkseal.status(a).findings if n.code == "LS4014"]

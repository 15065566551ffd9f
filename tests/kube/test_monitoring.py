"""What the chart gives to Prometheus and Grafana: rendered by Helm, judged by Prometheus' own engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from ground.charts import AGENT, CHART, CONTROLLER, NAMESPACE
from ground.controlplane import ControlPlane
from ground.daemons import DaemonError
from ground.kubeapi import Object
from ground.promtool import Series, alerts, promtool

pytestmark = pytest.mark.kube

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")

ALL = (
    "--set", "monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true",
    "--set", "monitoring.grafanaDashboard.enabled=true,monitoring.grafanaDashboard.annotations.grafana_folder=Nodes",
    "--set", "agent.metrics.address=0.0.0.0",
)  # fmt: skip

N1 = 'node="n1",instance="192.0.2.1:9586"'

HEALTHY: Series = {
    f"linkseal_links_expected{{{N1}}}": "2x60",
    f'linkseal_links{{{N1},state="sealed"}}': "2x60",
    f'linkseal_plaintext_packets_total{{{N1},reason="bypass",direction="out",verdict="dropped"}}': "0x60",
    f'linkseal_verify_results{{{N1},result="leaked"}}': "0x60",
    f"linkseal_break_glass{{{N1}}}": "0x60",
    f"linkseal_guard_whole{{{N1}}}": "1x60",
    f'linkseal_findings{{{N1},severity="warning",code="LS3007"}}': "1x60",
    f"linkseal_report_time_seconds{{{N1}}}": "0+60x60",
    f'up{{{N1},job="linkseal/linkseal-agent"}}': "1x60",
}

TROUBLES = {
    "LinksealNotAllSealed": (f'linkseal_links{{{N1},state="sealed"}}', "2x40 1x20"),
    "LinksealPlaintext": (next(one for one in HEALTHY if "plaintext" in one), "0x57 1x3"),
    "LinksealLeak": (f'linkseal_verify_results{{{N1},result="leaked"}}', "0x58 1x2"),
    "LinksealBreakGlass": (f"linkseal_break_glass{{{N1}}}", "0x58 1x2"),
    "LinksealGuardNotWhole": (f"linkseal_guard_whole{{{N1}}}", "1x50 0x10"),
    "LinksealFindings": (f'linkseal_findings{{{N1},severity="error",code="LS2001"}}', "_x50 3x10"),
    "LinksealSilent": (f"linkseal_report_time_seconds{{{N1}}}", "0+60x40 2400x20"),
    "LinksealDown": (f'up{{{N1},job="linkseal/linkseal-agent"}}', "1x50 0x10"),
}
"""What each alert is for, in an hour by the minute."""


def rendered(plane: ControlPlane, *options: str) -> dict[tuple[str, str], Object]:
    text = plane.helm("template", "linkseal", str(CHART), "--namespace", NAMESPACE, *options)
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}


@pytest.fixture(scope="module")
def rules(plane: ControlPlane) -> Object:
    spec: Object = rendered(plane, *ALL)["PrometheusRule", "linkseal"]["spec"]
    return spec


def test_it_is_there_if_asked_for(plane: ControlPlane) -> None:
    without = rendered(plane)
    assert not {kind for kind, _ in without} & {"PodMonitor", "PrometheusRule"}
    assert ("ConfigMap", "linkseal-dashboard") not in without
    found = rendered(plane, *ALL)
    labels = found["PodMonitor", AGENT]["spec"]["selector"]["matchLabels"].items()
    assert labels <= found["DaemonSet", AGENT]["spec"]["template"]["metadata"]["labels"].items()
    assert not labels <= found["Deployment", CONTROLLER]["spec"]["template"]["metadata"]["labels"].items()


def test_the_dashboard_arrives_as_it_is(plane: ControlPlane) -> None:
    found = rendered(plane, *ALL)["ConfigMap", "linkseal-dashboard"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Nodes"}
    file = CHART / "dashboards" / "linkseal.json"
    assert json.loads(found["data"]["linkseal.json"]) == json.loads(file.read_text(encoding="utf-8"))
    with plane.recorder() as recorder:
        maps = "/api/v1/namespaces/default/configmaps"
        recorder.post(maps, {**found, "metadata": {"name": "linkseal-dashboard"}})
        recorder.delete(f"{maps}/linkseal-dashboard")
    with pytest.raises(DaemonError, match="grafanaDashbord"):
        rendered(plane, "--set", "monitoring.grafanaDashbord.enabled=true")


def test_the_alerts_are_valid_and_those_of_the_documentation(rules: Object, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(rules), encoding="utf-8")
    assert promtool("check", "rules", str(file))[0] == 0
    named = {rule["alert"]: rule["expr"] for rule in rules["groups"][0]["rules"]}
    own = named.pop("LinksealDown")
    assert own == f'up{{job="{NAMESPACE}/{AGENT}"}} == 0'
    documented = [
        re.split(r"\s+#", line.strip())[0] for line in DOCUMENTED.split("Alerts to begin with:")[1].splitlines()
    ]
    assert sorted(named.values()) == sorted(filter(None, documented))


def test_no_alert_fires_where_all_is_well(rules: Object) -> None:
    names = {rule["alert"] for rule in rules["groups"][0]["rules"]}
    assert names == set(TROUBLES)
    assert alerts(HEALTHY, rules, names, "60m") == {name: [] for name in names}


@pytest.mark.parametrize("name", TROUBLES)
def test_each_alert_fires_for_what_it_is_for_and_names_the_node(rules: Object, name: str) -> None:
    series, values = TROUBLES[name]
    (summary,) = alerts({**HEALTHY, series: values}, rules, [name], "60m")[name]
    assert "n1" in summary

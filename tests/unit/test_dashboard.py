"""The dashboard: generated, asks for what there is, and what it shows. LINKSEAL_UPDATE_GOLDEN=1 writes that anew."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from ground.pictures import PICTURE, registry
from ground.promtool import ask
from linkseal.tunnels.metrics import METRICS, Picture
from linkseal.tunnels.model import Stage
from linkseal.tunnels.status import LinkCounts
from linkseal.tunnels.statusparts import AppliedStatus, GuardStatus
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "dashboard.txt"

SILENT_SINCE = 90
MINUTES = 120


def healthy() -> Picture:
    """A node at enforce where all is as it should be."""
    assert PICTURE.status is not None
    status = replace(
        PICTURE.status, stage=Stage.ENFORCE, links=LinkCounts(total=2, sealed=2), findings=(), verified=(),
        guard=GuardStatus("drop"), policy=AppliedStatus(13, applied=True),
    )  # fmt: skip
    return replace(PICTURE, status=status)


@pytest.fixture(scope="module")
def dashboard() -> ModuleType:
    spec = importlib.util.spec_from_file_location("charts_dashboard", ROOT / "charts" / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def served(picture: Picture, node: str, until: int) -> dict[str, str]:
    """Two hours of a node's scrapes: counters that were not 0 rise by as much every minute, the report by a minute."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry(picture)).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={json.dumps(value)}" for name, value in {**sample.labels, "node": node}.items())
            rises = family.type in {"counter", "histogram"}
            value = f"{sample.value:g}+{sample.value if rises else 0:g}x{until}"
            if sample.name == "linkseal_report_time_seconds":
                value = f"0+60x{until}"
            elif sample.name.endswith("_age_seconds"):
                value = f"60x{until}"  # else of the moment of the test
            found[f"{sample.name}{{{labels}}}"] = value + (f" _x{MINUTES - until}" if until < MINUTES else "")
    return found


@pytest.fixture(scope="module")
def shown(dashboard: ModuleType) -> dict[str, list[str]]:
    """What each question comes to with a node in trouble, a healthy one, and one that fell silent half an hour ago."""
    series = {
        **served(PICTURE, "n1", MINUTES),
        **served(healthy(), "n2", MINUTES),
        **served(healthy(), "n3", SILENT_SINCE),
    }
    questions = {title: filled(expr) for title, expr in dashboard.questions().items()}
    answers = ask(series, questions.values(), f"{MINUTES}m")
    return {title: answers[expr] for title, expr in questions.items()}


def filled(expr: str) -> str:
    """As Grafana asks it, with all nodes."""
    return expr.replace("$node", ".*").replace("$__rate_interval", "4m")


def test_the_file_is_what_the_script_writes(dashboard: ModuleType) -> None:
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.text(), "run: python charts/dashboard.py"


def test_it_asks_for_metrics_and_labels_that_there_are(dashboard: ModuleType) -> None:
    labels = {metric.exposed: {*metric.labels, "node"} for metric in METRICS}
    for expr in dashboard.questions().values():
        for name, matchers in re.findall(r"(linkseal_\w+)\{([^}]*)\}", expr):
            asked = set(re.findall(r"(\w+)[!=~]+\"", matchers))
            assert asked <= labels[name.removesuffix("_bucket")], expr
        assert expr.count("linkseal_") == expr.count('node=~"$node"'), "the choice of nodes holds in every panel"


def test_every_panel_has_its_place_and_says_what_it_shows(dashboard: ModuleType) -> None:
    panels = json.loads(dashboard.text())["panels"]
    places = {(p["gridPos"]["x"] + x, p["gridPos"]["y"] + y) for p in panels for x in range(p["gridPos"]["w"]) for y in range(p["gridPos"]["h"])}  # fmt: skip  # noqa: E501
    assert len(places) == sum(p["gridPos"]["w"] * p["gridPos"]["h"] for p in panels)
    assert max(x for x, _ in places) < dashboard.WIDTH
    assert [p["title"] for p in panels if p["type"] != "row" and not p["description"]] == []


def test_what_the_panels_show(shown: dict[str, list[str]]) -> None:
    text = "".join(f"{title}\n" + "".join(f"    {line}\n" for line in lines) for title, lines in shown.items())
    if os.environ.get("LINKSEAL_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")
    assert [title for title, lines in shown.items() if not lines] == [], "what can never be seen is no panel"


def test_where_nothing_is_known_nothing_looks_good(dashboard: ModuleType) -> None:
    questions = [filled(one.expr) for one in dashboard.AT_A_GLANCE]
    assert set(map(len, ask({"up": "1x120"}, questions, "2h").values())) == {0}

"""The catalogue of metrics and their values: documented, valid for promtool, bounded, and nothing made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ground.pictures import LOOP, PICTURE, STATUS, registry
from ground.promtool import promtool
from linkseal.tunnels.metrics import METRICS, PLAINTEXT, Picture, markdown, samples
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.statusparts import GuardStatus
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def values(picture: Picture, now: float = 1600.0, steady: float = 100.0) -> dict[str, float]:
    return {
        f"{s.metric.name}{{{','.join(s.labels)}}}" if s.labels else s.metric.name: s.value
        for s in samples(picture, now, steady)
    }


def served(picture: Picture) -> dict[str, float]:
    """What Prometheus reads, by name and labels."""
    text = generate_latest(registry(picture)).decode()
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_documentation_is_the_catalogue() -> None:
    assert DOCS.read_text(encoding="utf-8") == markdown(), "run `python docs/metrics.py`"


def test_names_are_unique_and_have_our_prefix() -> None:
    assert len({metric.exposed for metric in METRICS}) == len(METRICS)
    assert [metric.name for metric in METRICS if not metric.name.startswith("linkseal_")] == []


def test_every_metric_of_the_catalogue_has_a_value_and_every_label_too() -> None:
    found = list(samples(PICTURE, 1600.0, 100.0))
    assert {s.metric for s in found} == {m for m in METRICS if m.kind != "histogram"}
    assert [s for s in found if len(s.labels) != len(s.metric.labels)] == []


def test_values_are_those_of_the_report() -> None:
    found = values(PICTURE)
    assert found["linkseal_links_expected"] == 5
    assert [found[f"linkseal_links{{{state.value}}}"] for state in LinkState] == [0, 0, 0, 3, 2, 0]
    assert [found[f"linkseal_stage{{{stage.value}}}"] for stage in Stage] == [0, 0, 1, 0]
    assert found["linkseal_key_age_seconds{4,live}"] == 1200
    assert found["linkseal_oldest_handshake_age_seconds"] == 60
    assert found["linkseal_peer_handshake_age_seconds{n3}"] == 10
    assert found["linkseal_links_without_handshake"] == 1
    assert found["linkseal_plaintext_packets{out,unproven,dropped}"] == 3
    assert found["linkseal_plaintext_bytes{out,unproven,dropped}"] == 180
    assert (found["linkseal_exemption_packets{in}"], found["linkseal_exemption_packets{out}"]) == (4, 0)
    assert (found["linkseal_guard_mode{drop}"], found["linkseal_guard_mode{none}"]) == (1, 0)
    assert (found["linkseal_guard_whole"], found["linkseal_break_glass"]) == (0, 1)
    assert (found["linkseal_verify_results{leaked}"], found["linkseal_verify_results{blind}"]) == (1, 0)
    assert found["linkseal_verify_last_time_seconds"] == 950
    assert found["linkseal_findings{LS2001,error}"] == 2
    assert found["linkseal_findings{LS9999,unknown}"] == 1
    assert (found["linkseal_policy_serial"], found["linkseal_policy_applied"]) == (12, 1)
    assert found["linkseal_announcement_serial{published}"] == 6
    assert found["linkseal_masqueraded_connections"] == 9
    assert found["linkseal_drift_healed"] == 3
    assert found["linkseal_kernel_writes"] == 4
    assert (found["linkseal_reconcile_errors{failed}"], found["linkseal_reconcile_errors{refused}"]) == (1, 2)


def test_what_is_not_known_is_absent_and_no_zero() -> None:
    unknown = replace(STATUS, guard=GuardStatus(), verified=(), findings=())
    found = values(Picture(LOOP, unknown))
    for name in ("masqueraded_connections", "verify_last_time_seconds", "oldest_handshake_age_seconds"):
        assert f"linkseal_{name}" not in found
    before = values(Picture())
    assert "linkseal_links_expected" not in before
    assert before["linkseal_ready"] == 0


def test_counters_of_plaintext_are_there_before_the_first_packet() -> None:
    """To Prometheus a counter that first appears with what it counts has not increased: no alert would come."""
    found = values(Picture(LOOP, replace(STATUS, guard=GuardStatus("drop"))))
    series = [",".join(labels) for labels in PLAINTEXT]
    assert {"in,bypass,dropped", "out,bypass,counted", "out,unknown,dropped", "in,exempt,counted"} <= set(series)
    for kind in ("packets", "bytes"):
        assert [found[f"linkseal_plaintext_{kind}{{{labels}}}"] for labels in series] == [0] * len(series)
    assert found["linkseal_exemption_packets{in}"] == 0
    nobody = values(Picture(LOOP, replace(STATUS, guard=GuardStatus())))
    assert not {name for name in nobody if "plaintext" in name}, "without a guard nobody counts"


def test_the_histogram_is_cumulated() -> None:
    found = served(PICTURE)
    name = "linkseal_reconcile_duration_seconds"
    assert [found[f"{name}_bucket[('le', '{le}')]"] for le in ("0.01", "0.025", "10.0", "30.0", "+Inf")] == [1, 3, 4, 5, 6]  # fmt: skip  # noqa: E501
    assert (found[f"{name}_count[]"], found[f"{name}_sum[]"]) == (6, 12.5)


def test_labels_survive_whatever_they_hold() -> None:
    text = generate_latest(registry(PICTURE)).decode()
    build = next(f for f in text_string_to_metric_families(text) if f.name.startswith("linkseal_build"))
    assert build.samples[0].labels["kernel"] == STATUS.kernel
    assert build.samples[0].name == "linkseal_build_info"


@pytest.mark.parametrize("picture", [PICTURE, Picture()], ids=["full", "empty"])
def test_promtool_finds_nothing_to_say(picture: Picture) -> None:
    assert promtool("check", "metrics", stdin=generate_latest(registry(picture))) == (0, "")


def test_promtool_would_find_something() -> None:
    """The check above can fail."""
    text = generate_latest(registry(PICTURE)).replace(b"linkseal_drift_healed_total", b"linkseal_drift_healed")
    assert promtool("check", "metrics", stdin=text)[0] != 0


def test_openmetrics_is_served_whole() -> None:
    assert generate_openmetrics(registry(PICTURE)).endswith(b"# EOF\n")

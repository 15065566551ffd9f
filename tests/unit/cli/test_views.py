"""`status` and `links` as text, objects and pictures, against goldens and their own rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from linkseal.tunnels.cli import linksview, statusview
from linkseal.tunnels.cli.graph import STATES, Direction, Graph, dot, edges_of, mermaid
from linkseal.tunnels.cli.load import Said, Seen, with_said
from linkseal.tunnels.cli.output import Paint, structured
from linkseal.tunnels.cli.svg import _PALETTE, svg
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.status import MAX_PAIRS, FindingStatus
from linkseal.tunnels.statusparts import GuardStatus

from .samples import NOW, healthy, names, pair, report, seen, troubled

Golden = Callable[[str, str], None]
PLAIN = Paint(colour=False)


@pytest.mark.parametrize("name", ["healthy", "troubled"])
def test_status_as_text_and_object_is_as_agreed(golden: Golden, name: str) -> None:
    cluster = healthy(3) if name == "healthy" else troubled()
    golden(f"status-{name}.txt", statusview.text(cluster, PLAIN))
    golden(f"status-{name}-wide.txt", statusview.text(cluster, PLAIN, wide=True))
    golden(f"status-{name}.json", structured(statusview.as_object(cluster), "json"))


@pytest.mark.parametrize("name", ["healthy", "troubled"])
def test_links_in_every_form_are_as_agreed(golden: Golden, name: str) -> None:
    cluster = healthy(3) if name == "healthy" else troubled()
    golden(f"links-{name}.txt", linksview.table(cluster, PLAIN))
    golden(f"links-{name}-wide.txt", linksview.table(cluster, PLAIN, wide=True))
    golden(f"links-{name}.json", structured(linksview.as_object(cluster), "json"))
    golden(f"links-{name}.dot", dot(linksview.graph(cluster)))
    golden(f"links-{name}.mmd", mermaid(linksview.graph(cluster)))
    golden(f"links-{name}.svg", svg(linksview.graph(cluster)))


def test_the_first_line_is_the_verdict() -> None:
    good = statusview.text(healthy(4), PLAIN).splitlines()[0]
    assert good == "everything in scope is encrypted: 6 of 6 links sealed at both ends"
    assert statusview.text(troubled(), PLAIN).startswith(
        "NOT everything is encrypted: 2 of 6 links sealed at both ends;"
    )


@pytest.mark.parametrize("state", [state for state in LinkState if state is not LinkState.SEALED])
def test_one_direction_that_is_not_sealed_is_enough_for_a_no(state: LinkState) -> None:
    everybody = names(3)
    cluster = seen({name: report(name, everybody, {("n1", "n2"): (state, None)}) for name in everybody})
    assert not statusview.verdict(cluster).good
    assert not statusview.verdict(cluster, "n2").good
    assert statusview.verdict(cluster, "n3").good
    assert "2 of 3 links" in statusview.verdict(cluster).text


def test_a_node_that_was_new_says_how_long_it_had_no_guard() -> None:
    def guarded(at: float | None, unguarded: int | None) -> Seen:
        found = report("n1", names(2), {})
        assert found.status is not None
        status = replace(found.status, guard=GuardStatus(first_loaded_at=at, unguarded=unguarded))
        return seen({"n1": replace(found, status=status), "n2": report("n2", names(2), {})})

    late = guarded(NOW - 7200, 12)
    line = "First guard: 120m ago, 12 s after the node was registered (at stage enforce)"
    assert line in statusview.text(late, PLAIN, node="n1").splitlines()
    assert "First guard" not in statusview.text(late, PLAIN, node="n2")
    assert "First guard" not in statusview.text(late, PLAIN)
    assert " 12 s " in statusview.text(late, PLAIN, wide=True)
    shown = statusview.as_object(late, "n1")["nodes"][0]
    assert (shown["guardedSince"], shown["unguardedSeconds"]) == ("2026-11-05T08:00:00Z", 12)
    assert "First guard: 120m ago" in statusview.text(guarded(NOW - 7200, None), PLAIN, node="n1").splitlines()
    assert "First guard" not in statusview.text(guarded(None, None), PLAIN, node="n1")


def test_an_old_report_is_no_evidence() -> None:
    everybody = names(2)
    cluster = seen({name: report(name, everybody, {}, age=3600 if name == "n2" else 5) for name in everybody})
    assert not statusview.verdict(cluster).good
    assert statusview.verdict(cluster, "n2").text.startswith(
        "it is NOT known whether n2 is encrypted: 60m ago, too old"
    )
    assert {row.word for row in linksview.rows(cluster) if row.source == "n2"} == {"unknown"}
    assert "LS4007" in {row.code for row in statusview.findings(cluster.status, None)}


@pytest.mark.parametrize("stage", [Stage.OFF, Stage.PREPARE])
def test_a_stage_without_encryption_is_a_no_for_cluster_and_node(stage: Stage) -> None:
    everybody = names(2)
    cluster = seen({name: report(name, everybody, {}, stage=stage) for name in everybody}, stage=stage)
    assert not statusview.verdict(cluster).good
    assert not statusview.verdict(cluster, "n1").good


def test_a_node_that_is_opted_out_is_not_called_encrypted() -> None:
    answer = statusview.verdict(troubled(), "n5")
    assert (answer.good, answer.text) == (False, "n5 is NOT encrypted: it is opted out")


def test_scope_and_stage_say_what_is_not_covered() -> None:
    cluster = healthy(2)
    assert [what for what, _ in statusview.not_covered(cluster)] == ["host traffic", "plaintext", "other networks"]


def test_what_another_node_reports_cannot_steer_the_terminal() -> None:
    everybody = names(2)
    evil = FindingStatus("LS2001", "n2", "\x1b[2J\x1b]0;owned\x07 gone\nLS0000 error", NOW)
    cluster = seen({name: report(name, everybody, {}, findings=(evil,)) for name in everybody})
    for text in (statusview.text(cluster, Paint(colour=False)), structured(statusview.as_object(cluster), "json")):
        assert all(character.isprintable() or character == "\n" for character in text)
        assert not any(line.strip().startswith("LS0000") for line in text.splitlines())


def test_both_links_of_a_rotation_are_shown_and_the_carrying_one_is_marked() -> None:
    one = report("n1", names(2), {})
    assert one.status is not None
    new = replace(pair("n2", LinkState.PENDING, None, own=4), carries=False)
    both = replace(one, status=replace(one.status, pairs=(*one.status.pairs, new)))
    cluster = seen({"n1": both, "n2": report("n2", names(2), {})})
    table = linksview.table(cluster, PLAIN)
    assert "3/2*" in table
    assert "4/2 " in table
    assert [edge.there.state for edge in linksview.graph(cluster).edges] == ["sealed"]


def test_more_links_than_a_report_lists_are_counted_and_not_guessed() -> None:
    everybody = names(3)
    whole = report("n1", everybody, {})
    assert whole.status is not None
    reports = {name: report(name, everybody, {}) for name in everybody}
    cut = replace(whole, status=replace(whole.status, pairs=whole.status.pairs[:1] * MAX_PAIRS))
    rows = linksview.rows(seen({**reports, "n1": cut}))
    assert [row.word for row in rows if (row.source, row.target) == ("n1", "n3")] == ["sealed"]
    miscounted = replace(cut, status=replace(cut.status, links=replace(whole.status.links, total=9)))  # type: ignore[arg-type]
    rows = linksview.rows(seen({**reports, "n1": miscounted}))
    assert [row.word for row in rows if (row.source, row.target) == ("n1", "n3")] == ["unknown"]


# --- pictures ------------------------------------------------------------------------------------------------------


def drawn(cluster: Seen) -> ET.Element:
    return ET.fromstring(svg(linksview.graph(cluster)))  # noqa: S314 - we wrote it


def inside(root: ET.Element) -> bool:
    """Whether every circle, pill and text begins within the picture."""
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter():
        for name, limit in (("x", width), ("y", height), ("cx", width), ("cy", height)):
            value = element.attrib.get(name)
            if value is not None and "transform" not in element.attrib and not 0 <= float(value) <= limit:
                return False
    return True


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 8, 12, 13, 40, 120])
def test_a_picture_of_any_size_is_well_formed_and_holds_every_node(count: int) -> None:
    root = drawn(healthy(count))
    text = "".join(root.itertext())
    assert inside(root)
    assert all(name in text for name in names(count))
    assert root.attrib["role"] == "img"
    assert [child.tag.rpartition("}")[2] for child in root][:2] == ["title", "desc"]


def test_no_state_is_told_by_colour_alone() -> None:
    dashes = {values[2] for values in _PALETTE.values()}
    assert len(dashes) == len(STATES) == len(_PALETTE)
    words = "".join(drawn(troubled()).itertext())
    assert all(word in words for word in ("sealed 4", "pending 1", "stale 1", "absent 3", "unknown 3"))


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("position", "ground"), [(0, "#ffffff"), (1, "#11161d")])
def test_every_colour_can_be_read_on_its_ground(position: int, ground: str) -> None:
    for state, values in _PALETTE.items():
        light, dark = sorted((luminance(str(values[position])), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, state


def test_hostile_names_are_text_in_every_picture() -> None:
    name = 'a"]</text><script>alert(1)</script>\\'
    graph = Graph("x", good=True, nodes=(name, "b"), edges=edges_of([Direction(name, "b", "stale")]), taken_at="now")
    assert ET.fromstring(svg(graph)).find(".//{*}script") is None  # noqa: S314 - we wrote it
    assert "<script>" not in mermaid(graph)
    assert '"a\\"]</text><script>alert(1)</script>\\\\" -- "b"' in dot(graph)


def test_a_direction_nobody_reports_is_unknown() -> None:
    (edge,) = edges_of([Direction("a", "b", "sealed")])
    assert (edge.there.state, edge.back.state, edge.sealed) == ("sealed", "unknown", False)


def test_the_object_of_links_has_the_agreed_shape() -> None:
    value = json.loads(structured(linksview.as_object(troubled()), "json"))
    assert (value["apiVersion"], value["kind"]) == ("linkseal.io/v1alpha1", "LinkList")
    assert {frozenset(item) for item in value["items"]} == {frozenset(value["items"][0])}
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", item["since"] or value["takenAt"]) for item in value["items"]
    )


def test_what_is_in_no_grant_is_not_encrypted_whatever_links_say() -> None:
    said = (
        Said("Granted", "ProviderMisfit", "Nodes have no podCIDRs (n3)"),
        Said("CASteady", "NotSigning", "the SSH agent is gone"),
    )
    found = with_said(healthy(3), said)
    assert statusview.verdict(healthy(3)).good
    answer = statusview.verdict(found)
    assert (answer.good, "not all is granted: Nodes have no podCIDRs (n3)" in answer.text) == (False, True)
    assert "not all is granted" in statusview.verdict(found, "n1").text
    assert not statusview.verdict(found, "n1").good
    shown = statusview.text(found, PLAIN)
    assert re.search(
        r"The controller says:\n +Granted +ProviderMisfit +Nodes have .*\n +CASteady +NotSigning +the SSH", shown
    )
    assert statusview.as_object(found)["conditions"][1] == {
        "type": "CASteady", "reason": "NotSigning", "message": "the SSH agent is gone",
    }  # fmt: skip
    assert statusview.verdict(with_said(healthy(3), said[1:])).good, "what was signed stays"

"""A node's report: its JSON, what is refused of others', and what is worth a write."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys.errors import PeerError
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.status import (
    MAX_FINDINGS,
    MAX_PAIRS,
    MAX_REPORT,
    MAX_UNSEALED,
    FindingStatus,
    GenerationStatus,
    LinkCounts,
    NodeStatus,
    PairStatus,
    Request,
    RequestStatus,
    UnsealedPeer,
    bounded,
    parse_report,
    parse_requests,
    report_schema,
    requests_json,
    significant,
    to_json,
)
from linkseal.tunnels.statusparts import (
    MAX_PLAN,
    MAX_PLAN_LINES,
    MAX_VERIFIED,
    GuardStatus,
    PlanStatus,
    Verification,
    plan_status,
)
from linkseal.tunnels.statustypes import MAX_LINE, format_time, parse_time

T = 1793613600.0  # 2026-11-02T10:00:00Z


def pair(peer: str, state: LinkState = LinkState.SEALED, **more: Any) -> PairStatus:
    return PairStatus(peer, 1, 2, "lsl10", state, T, **more)


def status(**more: Any) -> NodeStatus:
    base = NodeStatus(
        observed_at=T,
        stage=Stage.PREFER,
        scope=Scope.OVERLAY,
        protocol="wireguard",
        driver="kernel",
        door=True,
        version="0.1.0",
        kernel="6.1.0",
        mtu=1420,
        serial=7,
        announced_serial=7,
        generations=(GenerationStatus(1, "active", "0123456789abcdef", T),),
        links=LinkCounts(total=2, sealed=1, stale=1),
        unsealed=(UnsealedPeer("n3", LinkState.STALE, "LS2001"),),
        pairs=(
            pair("n2", last_handshake=T, last_proof=T, rx_bytes=5, tx_bytes=6, endpoint="192.0.2.2:1", carries=True),
            pair("n3", LinkState.STALE, code="LS2001"),
        ),
        findings=(FindingStatus("LS2001", "n3", "no answer", T),),
        requests={"r1": RequestStatus("rotate", "done", "generation 2")},
    )
    return replace(base, **more)


def altered(path: list[str | int], value: object) -> str:
    data = json.loads(to_json("n1", status()))
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return json.dumps(data)


def test_the_json_has_the_documented_shape_in_a_stable_order() -> None:
    text = to_json("n1", status())
    data = json.loads(text)
    assert list(data) == ["apiVersion", "kind", "metadata", "status"]
    assert (data["apiVersion"], data["kind"], data["metadata"]) == (
        "linkseal.io/v1alpha1",
        "NodeEncryption",
        {"name": "n1"},
    )
    assert list(data["status"]) == [
        *("observedAt", "stage", "scope", "protocol", "driver", "door", "version", "kernel", "mtu", "serial"),
        *("announcedSerial", "generations", "links", "unsealed", "pairs", "findings", "requests"),
        *("policy", "guard", "verified", "trust", "boot", "conditions", "plan", "former"),
    ]
    assert data["status"]["observedAt"] == "2026-11-02T10:00:00Z"
    assert data["status"]["generations"] == [
        {"number": 1, "state": "active", "fingerprint": "0123456789abcdef", "createdAt": "2026-11-02T10:00:00Z"}
    ]
    assert data["status"]["pairs"][0] == {
        "peer": "n2",
        "own": 1,
        "remote": 2,
        "slot": "lsl10",
        "state": "sealed",
        "since": "2026-11-02T10:00:00Z",
        "lastHandshake": "2026-11-02T10:00:00Z",
        "lastProof": "2026-11-02T10:00:00Z",
        "rxBytes": 5,
        "txBytes": 6,
        "endpoint": "192.0.2.2:1",
        "pathMtu": None,
        "carries": True,
        "code": None,
    }
    assert data["status"]["requests"] == {"r1": {"type": "rotate", "state": "done", "message": "generation 2"}}
    assert to_json("n1", status()) == text


def test_a_report_is_read_as_it_was_written() -> None:
    assert parse_report(to_json("n1", status()), "n1").status == status()


def test_the_order_in_which_things_were_found_does_not_show() -> None:
    turned = status(pairs=status().pairs[::-1])
    assert to_json("n1", turned) == to_json("n1", status())


def test_unknown_fields_are_ignored() -> None:
    assert parse_report(altered(["status", "later"], {"x": 1}), "n1").status == status()
    assert parse_report(altered(["status", "pairs", 0, "later"], 1), "n1").status == status()


def test_an_object_without_status_is_a_node_that_has_not_reported() -> None:
    assert parse_report('{"metadata": {"name": "n1", "uid": "x"}}', "n1").status is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["kind"], "Node"),
        (["apiVersion"], "linkseal.io/v2"),
        (["metadata", "name"], "../n1"),
        (["metadata", "name"], "n2"),
        (["status", "observedAt"], 5),
        (["status", "observedAt"], "2026-11-02T10:00:00"),
        (["status", "observedAt"], "yesterday"),
        (["status", "stage"], "on"),
        (["status", "serial"], "7"),
        (["status", "serial"], True),
        (["status", "serial"], 2**53),
        (["status", "mtu"], -1),
        (["status", "driver"], "x" * 129),
        (["status", "driver"], "\x1b[2J"),
        (["status", "pairs"], [json.loads(to_json("n1", status()))["status"]["pairs"][0]] * (MAX_PAIRS + 1)),
        (["status", "pairs", 0, "state"], "fine"),
        (["status", "pairs", 0, "code"], "LS1"),
        (["status", "findings", 0, "message"], "two\nlines"),
        (["status", "links", "total"], 1.5),
        (["status", "door"], 1),
    ],
)
def test_a_wrong_field_is_refused_with_its_node(path: list[str | int], value: object) -> None:
    with pytest.raises(PeerError) as caught:
        parse_report(altered(path, value), "n1")
    assert (caught.value.code, caught.value.node) == ("LS1007", "n1")
    assert str(caught.value).isprintable()


def test_a_report_above_the_limit_is_not_parsed() -> None:
    with pytest.raises(PeerError) as caught:
        parse_report(" " * (MAX_REPORT + 1), "n1")
    assert caught.value.code == "LS1008"


@given(st.text() | st.binary())
def test_any_bytes_are_a_report_or_a_peer_error(text: str | bytes) -> None:
    with pytest.raises(PeerError):
        parse_report(text, "n1")


def test_the_largest_report_we_write_can_be_read() -> None:
    name = "n" * 253
    wide = "\N{CUNEIFORM SIGN A}"  # four bytes
    one = PairStatus(
        peer=name,
        own=2**53 - 1,
        remote=2**53 - 1,
        slot=wide * 128,
        state=LinkState.REFUSED,
        since=T,
        last_handshake=T,
        last_proof=T,
        rx_bytes=2**64,
        tx_bytes=2**64,
        endpoint=wide * 128,
        path_mtu=1_000_000,
        carries=False,
        code="LS2001",
    )
    huge = status(
        pairs=(one,) * 1000,
        unsealed=(UnsealedPeer(name, LinkState.STALE, "LS2001"),) * 1000,
        findings=tuple(FindingStatus("LS2001", f"{i}{wide * 300}", wide * 1000, T) for i in range(1000)),
        requests={f"r{i}": RequestStatus("rotate", "failed", wide * 1000) for i in range(100)},
        plan=plan_status("p", T, ['"' * 1000] * 3000, [wide * 1000] * 3000),
    )
    text = to_json("n1", huge)
    assert len(text.encode()) <= MAX_REPORT
    read = parse_report(text, "n1").status
    assert read is not None
    assert (len(read.pairs), len(read.unsealed), len(read.findings)) == (MAX_PAIRS, MAX_UNSEALED, MAX_FINDINGS)


def test_of_too_many_pairs_the_worst_are_kept() -> None:
    sealed = [pair(f"n{i}") for i in range(MAX_PAIRS)]
    kept = bounded(status(pairs=(*sealed, pair("z1", LinkState.STALE), pair("z2", LinkState.REFUSED)))).pairs
    assert len(kept) == MAX_PAIRS
    assert {"z1", "z2"} <= {p.peer for p in kept}


def test_of_too_many_findings_errors_are_kept() -> None:
    infos = [FindingStatus("LS1017", f"n{i}", "", T) for i in range(MAX_FINDINGS)]
    kept = bounded(status(findings=(*infos, FindingStatus("LS3004", "", "", T)))).findings
    assert len(kept) == MAX_FINDINGS
    assert "LS3004" in {f.code for f in kept}


def test_what_changes_all_the_time_is_not_significant() -> None:
    later = status(
        observed_at=T + 60,
        pairs=(
            replace(status().pairs[0], last_handshake=T + 50, last_proof=T + 55, rx_bytes=99, tx_bytes=99),
            status().pairs[1],
        ),
    )
    assert significant(later) == significant(status())


@pytest.mark.parametrize(
    "change",
    [
        {"stage": Stage.PREPARE},
        {"serial": 8},
        {"announced_serial": 6},
        {"links": LinkCounts(total=2, sealed=2)},
        {"findings": ()},
        {"pairs": (replace(status().pairs[0], carries=False), status().pairs[1])},
        {"pairs": (replace(status().pairs[0], state=LinkState.STALE), status().pairs[1])},
        {"pairs": (replace(status().pairs[0], endpoint="192.0.2.9:1"), status().pairs[1])},
        {"requests": {}},
    ],
)
def test_a_real_change_is_significant(change: dict[str, Any]) -> None:
    assert significant(status(**change)) != significant(status())


def test_requests_are_read_as_they_were_written() -> None:
    requests = (Request("a-1", "rotate", T), Request("b", "verify", T), Request("c", "verify", T, ("n2", "n3")))
    assert parse_requests(requests_json(requests), "n1") == requests


def test_requests_of_before_there_were_peers_are_read() -> None:
    old = '{"requests": [{"id": "v", "type": "verify", "requestedAt": "2026-11-02T10:00:00Z"}]}'
    assert parse_requests(old, "n1") == (Request("v", "verify", T),)


def test_of_too_many_verifications_the_worst_are_kept() -> None:
    results = [Verification(f"n{n:04}", "proven", T) for n in range(MAX_VERIFIED + 50)]
    results[-1] = replace(results[-1], result="leaked")
    kept = bounded(status(verified=tuple(results))).verified
    assert len(kept) == MAX_VERIFIED
    assert results[-1] in kept
    read = parse_report(to_json("n1", status(verified=tuple(results))), "n1").status
    assert read is not None
    assert read.verified == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"requests": [{"id": "../x", "type": "rotate", "requestedAt": "2026-11-02T10:00:00Z"}]}',
        '{"requests": [{"id": "x", "type": "rotate"}]}',
    ],
)
def test_wrong_requests_are_refused(text: str) -> None:
    with pytest.raises(PeerError):
        parse_requests(text, "n1")


def test_what_another_version_asks_or_answers_does_not_hide_the_rest() -> None:
    asked = '{"requests": [{"id": "x", "type": "format", "requestedAt": "2026-11-02T10:00:00Z"}]}'
    assert [one.type for one in parse_requests(asked, "n1")] == ["format"]
    text = to_json("n1", status(requests={"x": RequestStatus("format", "done")}))
    read = parse_report(text, "n1").status
    assert read is not None
    assert read.requests["x"].type == "format"


def test_of_a_plan_that_is_too_long_the_first_lines_are_kept_and_steps_rather_than_the_rest() -> None:
    short = plan_status("p", T, ["one"], ["a", "b"])
    assert short == PlanStatus("p", T, ("one",), ("a", "b"))
    steps = [f"{number:0900}" for number in range(MAX_PLAN // 1000)]
    long = plan_status("p", T, steps, [f"{number:0999}" for number in range(3000)])
    assert long.steps == tuple(steps)
    assert 0 < len(long.desired) < 3000
    assert (long.steps_omitted, long.desired_omitted) == (0, 3000 - len(long.desired))
    assert len(json.dumps([*long.steps, *long.desired], separators=(",", ":"))) <= MAX_PLAN
    cut = plan_status("p", T, ["a", "x" * (MAX_LINE + 1), "b"], ["c"])
    assert (cut.steps, cut.steps_omitted, cut.desired, cut.desired_omitted) == (("a",), 2, (), 1), "no part of a line"
    many = plan_status("p", T, ["x"] * 9000, [])
    assert (len(many.steps), many.steps_omitted) == (MAX_PLAN_LINES, 9000 - MAX_PLAN_LINES)
    assert plan_status("p", T, ["\x1b[31m"], []).steps == (" [31m",)


@given(st.integers(min_value=0, max_value=4_000_000_000))
def test_times_are_read_as_they_were_written(seconds: int) -> None:
    assert parse_time(format_time(float(seconds))) == seconds


def test_times_of_other_zones_are_understood() -> None:
    assert parse_time("2026-11-02T11:00:00.25+01:00") == T + 0.25


def test_the_object_can_be_described_as_json_schema() -> None:
    schema = report_schema()
    assert schema["$defs"]["NodeStatus"]["properties"]["observedAt"]["type"] == "string"


def test_that_plaintext_begins_and_ends_is_worth_a_report_and_each_packet_is_not() -> None:
    def seen(last: float | None) -> NodeStatus:
        return significant(status(observed_at=1000.0, guard=GuardStatus(mode="count", last_plaintext=last)))

    assert seen(1000.0) == seen(980.0) != seen(970.0) == seen(None)

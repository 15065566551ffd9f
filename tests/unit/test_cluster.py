"""The verdict over all nodes: nothing unknown passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from linkseal.tunnels import codes
from linkseal.tunnels.cluster import STALE_AFTER, ClusterStatus, cluster_status, pair_state
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.status import (
    MAX_PAIRS,
    FindingStatus,
    LinkCounts,
    Metadata,
    NodeEncryption,
    NodeStatus,
    PairStatus,
    UnsealedPeer,
)

NOW = 1793613600.0
POLICY = Policy(stage=Stage.PREFER)
SEALED = LinkState.SEALED


def link(peer: str, state: LinkState = SEALED, *, carries: bool = True, own: int = 1) -> PairStatus:
    return PairStatus(peer, own, 1, "lsl11", state, NOW, carries=carries)


def node(name: str, pairs: Iterable[PairStatus] = (), **more: Any) -> NodeEncryption:
    pairs = tuple(pairs)
    base = NodeStatus(
        observed_at=NOW,
        stage=Stage.PREFER,
        scope=Scope.OVERLAY,
        protocol="wireguard",
        driver="kernel",
        door=True,
        version="0",
        kernel="6",
        mtu=1420,
        serial=1,
        announced_serial=1,
        pairs=pairs,
    )
    return NodeEncryption(Metadata(name), status=replace(base, **more))


def mesh(names: Iterable[str]) -> dict[str, NodeEncryption | None]:
    names = list(names)
    return {name: node(name, [link(peer) for peer in names if peer != name]) for name in names}


def judged(reports: dict[str, NodeEncryption | None], **more: Any) -> ClusterStatus:
    return cluster_status(reports, more.pop("policy", POLICY), NOW, **more)


def test_a_mesh_sealed_at_both_ends_passes() -> None:
    result = judged(mesh("abc"))
    assert result.everything_sealed
    assert result.reasons == ()
    assert (result.pairs, result.sealed_both_ends, result.directed[SEALED]) == (3, 3, 6)
    assert result.unsealed == ()


def test_a_pair_sealed_at_one_end_only_fails() -> None:
    reports = mesh("ab")
    reports["b"] = node("b", [link("a", LinkState.PROVEN)])
    result = judged(reports)
    assert not result.everything_sealed
    assert result.sealed_both_ends == 0
    assert [(p.source, p.target, p.state) for p in result.unsealed] == [("b", "a", LinkState.PROVEN)]
    assert result.reasons == ("1 directed pair is proven",)


def test_a_report_that_is_old_or_missing_or_unreadable_makes_its_pairs_unknown() -> None:
    for report in (None, node("b", [link("a")], observed_at=NOW - STALE_AFTER - 1)):
        reports = mesh("ab") | {"b": report}
        result = judged(reports)
        assert not result.everything_sealed
        assert result.directed[None] == 1
        assert result.sealed_both_ends == 0
    at_the_edge = mesh("ab") | {"b": node("b", [link("a")], observed_at=NOW - STALE_AFTER)}
    assert judged(at_the_edge).everything_sealed


def test_a_report_from_the_future_is_no_evidence() -> None:
    result = judged(mesh("ab") | {"b": node("b", [link("a")], observed_at=NOW + 3600)})
    assert not result.everything_sealed
    assert "clock is ahead" in result.reasons[0]


def test_a_known_node_without_report_is_not_covered_and_fails() -> None:
    result = judged(mesh("ab"), nodes=["a", "b", "c"])
    assert not result.everything_sealed
    assert [n.node for n in result.not_covered] == ["c"]
    assert result.directed[None] == 4


def test_an_opted_out_node_is_not_covered_and_out_of_scope() -> None:
    result = judged(mesh("ab"), nodes=["a", "b", "c"], opted_out=["c"])
    assert result.everything_sealed
    assert [(n.node, n.reason) for n in result.not_covered] == [("c", "opted out")]


def test_reports_of_nodes_the_cluster_no_longer_knows_do_not_count() -> None:
    reports = mesh("abc")
    assert judged(reports, nodes=["a", "b"]).directed[SEALED] == 2


def test_an_empty_cluster_does_not_pass() -> None:
    assert judged({}).reasons == ("no node is known",)


def test_a_stage_that_encrypts_nothing_does_not_pass() -> None:
    reports: dict[str, NodeEncryption | None] = {
        name: replace(report, status=replace(report.status, stage=Stage.PREPARE))
        for name, report in mesh("ab").items()
        if report and report.status
    }
    assert "stage is prepare" in judged(reports, policy=Policy(stage=Stage.PREPARE)).reasons[0]


def test_a_node_at_another_stage_or_scope_does_not_pass() -> None:
    result = judged(mesh("ab"), policy=Policy(stage=Stage.PREFER, scope=Scope.TRANSPARENT))
    assert result.reasons == ("the cluster's stage, scope or protocol is not applied yet on a, b",)


def test_a_link_being_proven_beside_the_one_that_carries_takes_nothing_from_it() -> None:
    assert pair_state([link("b"), link("b", LinkState.PENDING, carries=False, own=2)])[0] is SEALED


def test_of_links_that_carry_the_worst_counts() -> None:
    assert pair_state([link("b"), link("b", LinkState.STALE, own=2)])[0] is LinkState.STALE


def test_a_link_that_carries_nothing_is_not_sealed_whatever_it_says() -> None:
    assert pair_state([link("b", carries=False)])[0] is LinkState.PROVEN


def test_the_list_of_unsealed_peers_wins_over_a_sealed_link() -> None:
    reports = mesh("ab")
    reports["a"] = node("a", [link("b")], unsealed=(UnsealedPeer("b", LinkState.STALE, "LS2001"),))
    assert judged(reports).directed[LinkState.STALE] == 1


def test_peers_beyond_the_listed_links_are_sealed_only_if_the_counts_leave_nothing_else() -> None:
    names = ["a", *(f"n{number:03}" for number in range(MAX_PAIRS + 2))]
    others = len(names) - 1

    def counted(links: LinkCounts, pairs: int = MAX_PAIRS, **more: Any) -> Mapping[LinkState | None, int]:
        first = node("a", [link(peer) for peer in names[1 : pairs + 1]], links=links, **more)
        return judged({"a": first}, nodes=names).directed

    full = LinkCounts(total=others, sealed=others - 1, stale=1)
    unknown = others * others  # of all others nothing is known
    named = (UnsealedPeer(names[-1], LinkState.STALE),)
    assert counted(full, unsealed=named) == counted(full) | {SEALED: others - 1, LinkState.STALE: 1, None: unknown}
    assert counted(full)[None] == unknown + 2  # one is stale and is not named
    less = LinkCounts(total=others - 1, sealed=others - 1)  # it does not know of all
    assert counted(less)[None] == unknown + 2


def test_a_peer_that_a_node_has_never_heard_of_is_unknown_though_its_counts_match() -> None:
    reports = mesh("abc")
    reports["a"] = node("a", [link("b"), link("gone")], links=LinkCounts(total=2, sealed=2))
    result = judged(reports)
    assert not result.everything_sealed
    assert [(p.source, p.target, p.state) for p in result.unsealed] == [("a", "c", None)]


def test_what_is_broken_on_a_host_stands_against_everything_is_sealed() -> None:
    def with_finding(code: str) -> tuple[str, ...]:
        found = FindingStatus(code, "", "it is so", NOW)
        return judged(mesh("ab") | {"b": node("b", [link("a")], findings=(found,))}).reasons

    assert with_finding(codes.FOREIGN_RULE) == ("LS3018 (a foreign rule comes before ours) on b",)
    assert with_finding(codes.VERIFY_LEAKED) == ("LS5201 (verify saw plaintext on the wire) on b",)
    assert with_finding(codes.VERIFY_BLIND) == with_finding(codes.VERIFY_UNREACHABLE) == ()
    assert with_finding("LS3999") == ("LS3999 (unknown) on b",)  # of a newer version: not known to be harmless
    assert with_finding(codes.DRIFT_HEALED) == with_finding(codes.ROTATION_HELD) == ()


@given(st.dictionaries(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), st.sampled_from(LinkState)))
def test_the_verdict_is_true_only_if_every_pair_is_sealed_at_both_ends(
    states: dict[tuple[str, str], LinkState],
) -> None:
    reports: dict[str, NodeEncryption | None] = {
        name: node(name, [link(b, state) for (a, b), state in states.items() if a == name and b != name])
        for name in "abcd"
    }
    result = judged(reports)
    full = all(states.get((a, b)) is SEALED for a in "abcd" for b in "abcd" if a != b)
    assert result.everything_sealed == full == (result.sealed_both_ends == result.pairs)
    assert sum(result.directed.values()) == 12
    assert result.everything_sealed == (not result.reasons)

"""Whether a cluster can be left for good, by what its API has of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from linkseal.tunnels.leaving import (
    Trace,
    Traces,
    can_answer,
    elsewhere,
    forgotten,
    has_arrived,
    in_the_way,
    kept,
    left_on_nodes,
    not_off,
    trace,
)
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy, Pool
from linkseal.tunnels.status import GenerationStatus, NodeStatus, RequestStatus, is_removed, to_json
from linkseal.tunnels.statusparts import AppliedStatus, BootStatus
from unit.cli import samples

NOW = samples.NOW

GENERATION = GenerationStatus(3, "live", "4f1c-9a22", NOW)
DONE = {"remove-1": RequestStatus("remove", "done")}


def status(**fields: Any) -> NodeStatus:
    """The report of an agent that works at stage off."""
    found = samples.report("n1", ["n1"], {}, stage=Stage.OFF).status
    assert found is not None
    return replace(found, **{"boot": BootStatus("installed"), "policy": AppliedStatus(7, applied=True), **fields})


def gone(**fields: Any) -> NodeStatus:
    """The last report of one that has removed everything."""
    removed = (replace(GENERATION, state="removed"),)
    return status(**{
        "requests": DONE, "announced_serial": 0, "generations": removed, "boot": BootStatus(), **fields,
    })  # fmt: skip


def seen(**nodes: Trace) -> Traces:
    return Traces(nodes, Policy())


def test_all_that_was_removed_may_be_forgotten() -> None:
    found = seen(n1=Trace(reported=True, status=gone()), n2=Trace(reported=True, status=gone()))
    assert left_on_nodes(found) == {}
    assert list(in_the_way(found)) == []


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(status(), id="an agent that works"),
        pytest.param(gone(requests={}), id="one that was not asked"),
        pytest.param(gone(requests={"r": RequestStatus("remove", "failed", "rule 100")}), id="something could not go"),
        pytest.param(gone(requests={"r": RequestStatus("remove", "running")}), id="not done yet"),
        pytest.param(gone(requests={"r": RequestStatus("verify", "done")}), id="asked for something else"),
        pytest.param(gone(generations=(GENERATION,)), id="begun anew, with a key"),
        pytest.param(gone(boot=BootStatus("absent", "not yet")), id="begun anew, and nothing is done yet"),
        pytest.param(gone(announced_serial=8), id="announced again"),
    ],
)
def test_whose_last_word_is_another_holds_all(last: NodeStatus) -> None:
    """A request that was answered before the chart was installed again stays answered: it proves nothing."""
    assert not is_removed(last)
    assert left_on_nodes(seen(n1=Trace(reported=True, status=last))) == {
        "n1": "its agent has not said that it removed everything"
    }


def test_an_agent_that_never_had_a_key_can_be_done_too() -> None:
    assert is_removed(gone(generations=()))


def test_who_announces_itself_is_not_gone() -> None:
    assert list(left_on_nodes(seen(n1=Trace(announces=True, reported=True, status=gone())))) == ["n1"]


def test_a_node_of_which_nothing_was_ever_heard_holds_all() -> None:
    assert left_on_nodes(seen(n1=Trace())) == {"n1": "its agent has never reported"}
    assert left_on_nodes(seen(n1=Trace(announces=True))) == {"n1": "it is announced, and its agent does not report"}
    assert left_on_nodes(seen(n1=Trace(reported=True))) != {}, "a report that cannot be read"


def test_where_no_agent_can_be_or_none_has_begun_there_is_nothing() -> None:
    assert left_on_nodes(seen(windows=Trace(fits=False))) == {}
    assert left_on_nodes(Traces({"n1": Trace()})) == {}, "without a policy agents wait for one"
    assert list(left_on_nodes(Traces({"n1": Trace(announces=True)}))) == ["n1"], "there was one"
    assert list(left_on_nodes(Traces({"n1": Trace(reported=True, status=status())}))) == ["n1"]


def test_a_node_that_was_cleaned_by_hand_holds_nothing() -> None:
    found = seen(n1=Trace(reported=True, status=status()), n2=Trace())
    assert list(in_the_way(found, ["n1"])) == ["n2: its agent has never reported"]
    assert list(in_the_way(found, ["n1", "n2"])) == []


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.PREFER, Stage.ENFORCE])
def test_before_stage_off_nothing_goes(stage: Stage) -> None:
    words = f"the cluster is at stage {stage.value}: run `linkseal disable` first"
    assert not_off(Traces({}, Policy(stage=stage))) == words
    assert not_off(Traces({}, Policy(pool=Pool(stage, frozenset({"n1"}))))) == words
    for said in ({"stage": stage.value}, {"stage": "off", "pool": {"stage": stage.value, "nodes": ["n1"]}}):
        assert not_off(Traces({}, encryption={"status": said})) == words
        assert f"asked to go to stage {stage.value}" in not_off(Traces({}, Policy(), encryption={"spec": said}))
    assert list(in_the_way(Traces({"n1": Trace()}, Policy(stage=stage)))) == [words], "and of nodes nothing"


def test_a_policy_that_cannot_be_read_is_no_stage_off() -> None:
    assert list(in_the_way(Traces({}, unread="the policy cannot be read"))) == ["the policy cannot be read"]


def test_stage_off_is_off_also_where_nothing_was_ever_asked_for() -> None:
    off = {"spec": {"stage": "off", "pool": {"stage": "off", "nodes": ["n1"]}}, "status": {"stage": "off"}}
    assert [not_off(found) for found in (Traces({}), Traces({}, Policy()), Traces({}, Policy(), encryption=off))] == [
        "", "", "",
    ]  # fmt: skip


def test_what_runs_is_not_forgotten() -> None:
    (why,) = in_the_way(Traces({"n1": Trace()}, Policy(), installed=("DaemonSet linkseal-agent",)))
    assert why.startswith("DaemonSet linkseal-agent: the chart is installed")


def test_of_the_ca_only_one_that_the_controller_made_goes() -> None:
    def stays(encryption: dict[str, Any], policy: Policy | None = Policy()) -> list[list[str]]:  # noqa: B008 - frozen
        found = Traces({}, policy, encryption=encryption)
        return [sorted(kept(found, uninstalling=hook)) for hook in (False, True)]

    made, brought = ({"status": {"ca": {"made": it}}} for it in (True, False))
    secret = "Secret linkseal-ca-key"
    assert stays(made) == [[], []]
    for found in (brought, {}, {"spec": {}}, {"status": {"ca": {"made": "yes"}}}):
        assert stays(found) == [[secret]] * 2
    both = ["CRD clusterencryptions.linkseal.io", secret]
    assert stays(made, None) == [[], both], "an install that failed, and is tried again"
    assert stays({}, None) == [[secret]] * 2


def test_only_who_reported_lately_is_worth_asking() -> None:
    lately = Trace(reported=True, status=status(observed_at=NOW - 890))
    assert can_answer(lately, NOW)
    assert not can_answer(lately, NOW + 11)
    assert not can_answer(Trace(reported=True, status=status(observed_at=NOW + 61)), NOW)
    assert not can_answer(Trace(reported=True), NOW)


def test_a_node_has_arrived_when_it_says_that_it_applied_the_policy_in_force() -> None:
    assert has_arrived(Trace(reported=True, status=status()), 7)
    assert not has_arrived(Trace(reported=True, status=status()), 8)
    assert not has_arrived(Trace(reported=True, status=status(policy=AppliedStatus(8))), 8)
    assert not has_arrived(Trace(reported=True, status=status(stage=Stage.PREFER)), 7)
    assert not has_arrived(Trace(), 0)


def test_who_says_that_it_is_elsewhere_counts_whatever_the_policy_says() -> None:
    found = seen(n1=Trace(status=status(stage=Stage.ENFORCE)), n2=Trace(status=status()), n3=Trace())
    assert elsewhere(found, found.nodes) == "the policy says stage off, which has not reached n1 (enforce)"
    assert elsewhere(found, ["n2", "n3"]) == ""


# --- objects


def node(**more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "n1", "uid": "uid-1", **more.pop("metadata", {})}, **more}


def encryption(last: NodeStatus | None = None, **metadata: Any) -> dict[str, Any]:
    """As the controller makes it for `node()`."""
    owners = [{"kind": "Node", "name": "n1", "uid": "uid-1"}]
    found = {} if last is None else json.loads(to_json("n1", last))
    return {**found, "metadata": {"name": "n1", "ownerReferences": owners, **metadata}}


def test_a_node_is_read_with_its_report() -> None:
    found = trace(node(metadata={"labels": {"kubernetes.io/os": "linux"}}), encryption(gone()))
    assert found == Trace(announces=False, reported=True, status=gone())
    assert trace(node(), None) == trace(node(), {**encryption(), "status": {}}) == Trace()
    assert trace(node(), {**encryption(), "status": {"stage": 7}}) == Trace(reported=True)
    assert not trace(node(metadata={"labels": {"kubernetes.io/os": "windows"}}), None).fits


@pytest.mark.parametrize("owners", [{"n1": "uid-0"}, {"other": "uid-1"}, {}])
def test_what_an_earlier_node_of_that_name_said_does_not_vouch_for_this_one(owners: dict[str, str]) -> None:
    kinds = {"n1": "Node", "other": "Pod"}
    references = [{"kind": kinds[name], "name": name, "uid": uid} for name, uid in owners.items()]
    item = encryption(gone(), ownerReferences=references)
    assert trace(node(), item) == Trace()
    assert left_on_nodes(seen(n1=trace(node(), item))) == {"n1": "its agent has never reported"}


def test_what_the_controller_says_of_a_node_is_no_announcement() -> None:
    def announces(*keys: str) -> bool:
        return trace(node(metadata={"annotations": dict.fromkeys(keys, "x")}), None).announces

    assert not announces("linkseal.io/grant", "example.com/announcement")
    assert announces("linkseal.io/certificate")


def test_of_a_node_just_what_is_ours_goes() -> None:
    ours = {"key": "linkseal.io/not-sealed", "effect": "NoSchedule"}
    other = {"key": "gpu", "effect": "NoSchedule"}
    found = node(
        metadata={"annotations": {"linkseal.io/grant": "g", "linkseal.io/signature": "s", "example.com/a": "b"}},
        spec={"taints": [other, ours]},
    )
    assert forgotten(found) == [
        {"op": "test", "path": "/metadata/uid", "value": "uid-1"},
        {"op": "test", "path": "/spec/taints/1", "value": ours},
        {"op": "remove", "path": "/spec/taints/1"},
        {"op": "remove", "path": "/metadata/annotations/linkseal.io~1signature"},
        {"op": "remove", "path": "/metadata/annotations/linkseal.io~1grant"},
    ]
    assert forgotten(node(metadata={"annotations": {"example.com/a": "b"}}, spec={"taints": [other]})) == []

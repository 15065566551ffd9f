"""Requests are carried out once, also when the report that answered them cannot be read for a while."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.keys import policydoc
from linkseal.keys.errors import DirectoryError, HostError
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.agent.requests import RequestDesk
from linkseal.tunnels.status import MAX_REQUESTS, Request, RequestStatus, to_json
from unit.agent.pair import CA, NOW, Node, T, sealed_pair, view

ROTATE = Request("r1", "rotate", T)


class Directory:
    """One report, or none, or nothing to be had."""

    def __init__(self, report: str | None = None, error: Exception | None = None) -> None:
        self.report, self.error = report, error

    async def status(self, _node: str) -> str | None:
        if self.error is not None:
            raise self.error
        return self.report


async def test_nothing_is_carried_out_before_the_last_report_was_read(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    desk = RequestDesk(a.worker)
    await desk.remember(Directory(error=DirectoryError("away")))  # type: ignore[arg-type]
    desk.take([ROTATE], T)
    assert desk.states(T) == {}
    await desk.remember(Directory())  # type: ignore[arg-type]
    desk.take([ROTATE], T)
    assert desk.states(T)["r1"].state == "running"


async def test_what_the_report_answers_is_not_carried_out_again(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    desk = RequestDesk(a.worker)
    status = a.status(T)
    answered = {"r1": RequestStatus("rotate", "done", "generation 2 alone is live")}
    report = to_json("n1", replace(status, requests=answered))
    await desk.remember(Directory(report))  # type: ignore[arg-type]
    desk.take([ROTATE], T)
    assert a.keyring.generations is not None
    assert a.keyring.generations.numbers == (1,)


async def test_a_disk_that_refuses_fails_the_request_and_not_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = sealed_pair(tmp_path)
    desk = RequestDesk(a.worker)
    await desk.remember(Directory())  # type: ignore[arg-type]
    monkeypatch.setattr("linkseal.keys.store.atomic_write", _full)
    desk.take([ROTATE], T)
    assert desk.states(T)["r1"].state == "failed"


def _full(*_: object) -> bool:
    raise HostError("no space left on device", errno=28)


async def test_a_rotation_that_runs_over_a_restart_is_answered_when_it_is_done(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    report = to_json("n1", replace(a.status(T), requests={"r1": RequestStatus("rotate", "running", "raised")}))
    a.worker.speaker.request_rotation(T)
    for _ in range(2):
        a.run(T)
    a.published()
    desk = RequestDesk(a.worker)
    await desk.remember(Directory(report))  # type: ignore[arg-type]
    assert desk.states(T)["r1"].state == "running"
    a.keyring.retire()
    assert desk.states(T)["r1"].state == "done"


async def test_what_is_still_asked_stays_answered_however_many_were_before(tmp_path: Path) -> None:
    """Or it would be carried out again; ids need not be in the order in which they were asked."""
    a, _ = sealed_pair(tmp_path)
    desk = RequestDesk(a.worker)
    old = {f"z{number}": RequestStatus("verify", "refused") for number in range(MAX_REQUESTS - 1)}
    report = to_json("n1", replace(a.status(T), requests={"a": RequestStatus("rotate", "done"), **old}))
    await desk.remember(Directory(report))  # type: ignore[arg-type]
    for number in range(10):
        desk.take([Request("a", "rotate", T), Request(f"b{number}", "verify", T)], T)
    assert a.keyring.generations is not None
    assert a.keyring.generations.numbers == (1,)
    assert desk.states(T)["a"].state == "done"
    assert len(desk.states(T)) == MAX_REQUESTS


async def ready(a: Node, report: str | None = None) -> RequestDesk:
    desk = RequestDesk(a.worker)
    await desk.remember(Directory(report))  # type: ignore[arg-type]
    return desk


async def test_a_verification_is_handed_on_once_and_answered_as_it_goes(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    desk = await ready(a)
    requests = [Request("v1", "verify", T, ("n2",)), Request("v2", "verify", T)]
    for _ in range(2):
        desk.take(requests, T)
    assert desk.verifications() == {"v1": ("n2",), "v2": ()}
    assert desk.verifications() == {}
    assert desk.states(T)["v1"] == RequestStatus("verify", "running", "")
    desk.verified("v2", "1 of 2", over=False)
    desk.verified("v1", "1 of 1: proven 1", over=True)
    desk.verified("v0", "nobody asked", over=True)
    assert dict(desk.states(T)) == {
        "v1": RequestStatus("verify", "done", "1 of 1: proven 1"),
        "v2": RequestStatus("verify", "running", "1 of 2"),
    }


async def test_a_verification_that_a_restart_ended_is_failed_and_says_so(tmp_path: Path) -> None:
    """Its results are not known: it must not look as if it went on."""
    a, _ = sealed_pair(tmp_path)
    running = {"v1": RequestStatus("verify", "running", "1 of 2")}
    desk = await ready(a, to_json("n1", replace(a.status(T), requests=running)))
    desk.take([Request("v1", "verify", T)], T)
    assert desk.states(T)["v1"].state == "failed"
    assert "ask again" in desk.states(T)["v1"].message
    assert desk.verifications() == {}


@pytest.mark.parametrize("stage", ["off", "prepare"])
async def test_where_traffic_is_plaintext_there_is_nothing_to_verify(tmp_path: Path, stage: str) -> None:
    a, b = sealed_pair(tmp_path)
    a.run(T, view=view(a, b, stage=stage))
    desk = await ready(a)
    desk.take([Request("v1", "verify", T)], T)
    assert desk.states(T)["v1"].state == "refused"
    assert desk.verifications() == {}


async def test_all_is_removed_at_stage_off_only_and_once(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    desk = await ready(a)
    desk.take([Request("x0", "remove", T), Request("x1", "remove", T)], T)
    desk.reconsider()
    refused = RequestStatus("remove", "refused", "this node is not at stage off: `linkseal disable` first")
    assert desk.states(T) == {"x0": refused, "x1": refused}
    assert desk.removal == ""
    a.run(T, view=view(a, b, stage="off"))
    desk.take([Request("x1", "remove", T)], T)
    assert desk.removal == "", "it has been answered"
    desk.take([Request("x2", "remove", T)], T)
    assert (desk.removal, desk.states(T)["x2"].state) == ("x2", "running")
    again = await ready(a, to_json("n1", replace(a.status(T), requests=dict(desk.states(T)))))
    again.take([Request("x2", "remove", T)], T)
    assert (again.removal, again.states(T)["x2"].state) == ("", "failed"), "whoever asked must look, and ask again"


async def test_a_node_that_has_no_grant_can_be_asked_to_remove_everything(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    desk = await ready(a)
    a.worker.world = None
    desk.take([Request("x1", "remove", T), Request("v1", "verify", T)], T)
    desk.reconsider()
    assert {name: one.state for name, one in desk.states(T).items()} == {"x1": "refused"}, "it is at stage prefer"
    a.run(T, view=view(a, b, stage="off"))
    a.worker.world = None
    desk.take([Request("x2", "remove", T)], T)
    assert (desk.removal, desk.states(T)["x2"].state) == ("x2", "running")
    a.worker.knowledge.policy = None
    desk.reconsider()
    assert (desk.removal, desk.states(T)["x2"].state) == ("", "refused"), "where it is, is not known any more"


async def test_a_request_to_remove_everything_is_not_carried_out_much_later(tmp_path: Path) -> None:
    """By an agent that was not there, or of a version that could not read it."""
    a, b = sealed_pair(tmp_path)
    a.run(T, view=view(a, b, stage="off"))
    desk = await ready(a)
    desk.take([Request("x1", "remove", T - 1000)], T)
    assert (desk.removal, desk.states(T)["x1"].state) == ("", "refused")
    assert "ask again" in desk.states(T)["x1"].message


async def test_a_stage_that_comes_with_the_request_keeps_everything(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    a.run(T, view=view(a, b, stage="off"))
    desk = await ready(a)
    desk.take([Request("x1", "remove", T)], T)
    desk.reconsider()
    assert desk.removal == "x1"
    up = policydoc.sign(CA, PolicyDocument("cluster", 9, NOW, {"scope": "transparent", "stage": "prepare"}))
    a.run(T, view=replace(view(a, b), policy=up))
    desk.reconsider()
    assert (desk.removal, desk.states(T)["x1"].state) == ("", "refused")


async def test_a_stage_off_that_comes_with_the_request_counts(tmp_path: Path) -> None:
    """Before the pass the node is where it was: refused by that, the request would be answered for good."""
    a, b = sealed_pair(tmp_path)
    desk = await ready(a)
    desk.take([Request("x1", "remove", T)], T)
    a.run(T, view=view(a, b, stage="off"))
    desk.reconsider()
    assert (desk.removal, desk.states(T)["x1"].state) == ("x1", "running")


async def test_after_a_pass_that_failed_the_request_is_taken_again(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    a.run(T, view=view(a, b, stage="off"))
    desk = await ready(a)
    desk.take([Request("x1", "remove", T), Request("x2", "remove", T)], T)
    desk.put_off()
    assert (desk.removal, desk.states(T)) == ("", {})
    desk.take([Request("x1", "remove", T)], T)
    assert desk.removal == "x1"


async def test_a_plan_is_answered_in_the_report_for_as_long_as_it_is_worth_reading(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    desk = await ready(a)
    a.host.refuse = lambda step: pytest.fail(f"a plan changes nothing: {step}")
    desk.take([Request("p1", "plan", T)], T)
    assert desk.states(T)["p1"].state == "done"
    found = desk.plan(T + 599)
    assert found is not None
    assert (found.request, found.at, found.steps) == ("p1", T, ())
    assert any(line.startswith("ip link add lsl11 ") for line in found.desired)
    desk.take([Request("p1", "plan", T), Request("p2", "plan", T)], T + 5)
    again = desk.plan(T + 5)
    assert again is not None
    assert again.request == "p2"
    assert desk.plan(T + 700) is None


async def test_a_plan_holds_no_secret(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    desk = await ready(a)
    desk.take([Request("p1", "plan", T)], T)
    found = desk.plan(T)
    assert found is not None
    text = "\n".join(found.desired)
    assert "private-key" in text
    for key in a.keyring.own_keys():
        assert b64encode(a.keyring.secret(key.public_key).reveal()).decode() not in text


async def test_what_this_version_does_not_know_is_refused_and_all_else_is_done(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    desk = await ready(a)
    desk.take([Request("x", "format", T), ROTATE], T)
    assert desk.states(T)["x"].state == "refused"
    assert desk.states(T)["r1"].state == "running"


@pytest.mark.parametrize("error", [KeyError("a bug"), HostError("netlink refuses")])
async def test_a_plan_that_fails_fails_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    a, _ = sealed_pair(tmp_path)
    desk = await ready(a)

    def fail() -> None:
        raise error

    monkeypatch.setattr(a.worker, "plan_now", fail)
    desk.take([Request("p1", "plan", T), ROTATE], T)
    assert desk.states(T)["p1"].state == "failed"
    assert desk.states(T)["r1"].state == "running"


async def test_an_agent_that_knows_nothing_yet_says_so(tmp_path: Path) -> None:
    """That is when somebody wants to know; what acts waits."""
    a = Node(tmp_path / "a", 1)
    assert a.worker.world is None
    desk = await ready(a)
    desk.take([Request("p1", "plan", T), ROTATE], T)
    said = desk.states(T)
    assert (said["p1"].state, "nothing to plan from" in said["p1"].message) == ("failed", True)
    assert "r1" not in said

"""NodeEncryption in a real API server: what it keeps and refuses of a report, and the agent's calls with its rights."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ground.charts import (
    AGENT,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    agent_token,
    granted,
    node_encryption,
)
from ground.controlplane import ControlPlane
from ground.daemons import DaemonError
from ground.kubeapi import ApiError, Recorder
from ground.kubeobjects import create_node
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.ca import generate_identity, make_csr
from linkseal.keys.cabundle import MAX_AUTHORITIES
from linkseal.tunnels.directory.kube import KubeDirectory
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.nodeconditions import conditions
from linkseal.tunnels.status import (
    MAX_FINDINGS,
    MAX_PAIRS,
    MAX_REQUESTS,
    MAX_UNSEALED,
    FindingStatus,
    GenerationStatus,
    LinkCounts,
    NodeStatus,
    PairStatus,
    Request,
    RequestStatus,
    UnsealedPeer,
    parse_report,
    to_json,
)
from linkseal.tunnels.statusparts import (
    MAX_COUNTS,
    MAX_FLOWS,
    MAX_VERIFIED,
    AppliedStatus,
    BootStatus,
    FormerStatus,
    GuardStatus,
    PlaintextCount,
    PlaintextFlow,
    PlanStatus,
    Verification,
)
from linkseal.tunnels.statustypes import MAX_CONDITIONS, Condition

pytestmark = [pytest.mark.kube, pytest.mark.usefixtures("chart")]

T = 1793613600.0  # 2026-11-02T10:00:00Z

MOST = 2**53 - 1
FULL = 2**63 - 1
"""The most that the API server keeps of a counter."""

LONG = "ü🙂" * 250
"""As long as a message may be, in characters that are several bytes."""


def name(number: int) -> str:
    """A node name of the greatest length."""
    return f"{number:03}" + "n" * 250


def largest_status() -> NodeStatus:
    """Every field filled, every list as long and every text as wide as it may be."""
    return NodeStatus(
        T, Stage.ENFORCE, Scope.TRANSPARENT, "wireguard", "kernel", door=True, version="v" * 128,
        kernel="k" * 127 + "\u2028", mtu=65535, serial=MOST, announced_serial=MOST,
        generations=tuple(GenerationStatus(MOST - n, "s" * 128, "f" * 128, T) for n in range(4)),
        links=LinkCounts(*[1_000_000] * 7),
        unsealed=tuple(UnsealedPeer(name(n), LinkState.STALE, "LS2001") for n in range(MAX_UNSEALED)),
        pairs=tuple(
            PairStatus(
                name(n), MOST, MOST, "lsl10", LinkState.SEALED, T, T, T, FULL, FULL, "e" * 128, 1420, carries=True,
                code="LS2001",
            )
            for n in range(MAX_PAIRS)
        ),
        findings=tuple(FindingStatus("LS2001", name(n), LONG, T) for n in range(MAX_FINDINGS)),
        requests={f"r{n:02}": RequestStatus("verify", "failed", LONG) for n in range(MAX_REQUESTS)},
        policy=AppliedStatus(MOST, applied=True),
        guard=GuardStatus(
            "drop", whole=False, redirects="open", broken_glass=LONG, last_plaintext=T, masqueraded=1_000_000,
            counts=tuple(PlaintextCount("out", "bypass", "dropped", FULL, FULL) for _ in range(MAX_COUNTS)),
            flows=tuple(PlaintextFlow(name(n), "in", "tcp", 65535, FULL, FULL, "a" * 128) for n in range(MAX_FLOWS)),
            uncovered=(LONG,) * 20, first_loaded_at=T, unguarded=1_000_000,
        ),
        verified=tuple(Verification(name(n), "leaked", T, LONG, 1_000_000) for n in range(MAX_VERIFIED)),
        trust=("f" * 128,) * MAX_AUTHORITIES,
        boot=BootStatus("failed", LONG, "r" * 40),
        plan=PlanStatus("r" * 128, T, ("\\" * 1024,) * 20, ("d" * 1023 + "\u2028",) * 20, 1_000_000, 1_000_000),
        former=FormerStatus("c" * 128, MOST, over=True),
        conditions=tuple(Condition(f"C{number}", "Unknown", "R" * 63, LONG, T) for number in range(MAX_CONDITIONS)),
    )  # fmt: skip


def barest_status() -> NodeStatus:
    """As little as there can be: what is not known is null."""
    return NodeStatus(
        T, Stage.OFF, Scope.OVERLAY, "wireguard", "", door=False, version="", kernel="", mtu=0, serial=0,
        announced_serial=0,
        pairs=(PairStatus("b", 0, 0, "", LinkState.ABSENT, T),), unsealed=(UnsealedPeer("b", LinkState.ABSENT),),
    )  # fmt: skip


def unset(value: object, path: str = "") -> list[str]:
    """Fields that have their default, in which something could hide."""
    if is_dataclass(value):
        return [found for field in fields(value) for found in unset(getattr(value, field.name), f"{path}.{field.name}")]
    if isinstance(value, tuple) and value:
        return unset(value[0], f"{path}[0]")
    return [path] if value is None or value in ((), {}, "", 0) else []


@pytest.fixture
async def directory(plane: ControlPlane, kube: Recorder, tmp_path: Path) -> AsyncIterator[KubeDirectory]:
    """What the agent of node a has, with the rights that the chart gives it."""
    create_node(kube, "a")
    kube.post(NODE_ENCRYPTIONS, node_encryption("a"))
    signed = {"metadata": {"name": "linkseal-policy"}, "data": {"policy": "{}", "signature": "x"}}
    kube.post(f"/api/v1/namespaces/{NAMESPACE}/configmaps", signed)  # an agent does nothing before there is one
    kubeconfig = plane.kubeconfig(tmp_path / "kubeconfig", agent_token(kube, "a"))
    found = KubeDirectory(KubeApi(Access(kubeconfig)), NAMESPACE, "a")
    yield found
    await found.close()


async def published(directory: KubeDirectory, status: object) -> bool:
    """Whether the report is this one; it may be on its way a little longer than who publishes waits."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        text = await directory.status("a")
        if text is not None and json.loads(text)["status"] == status:
            return True
        await asyncio.sleep(0.1)
    return False


def test_the_largest_status_leaves_nothing_out() -> None:
    assert unset(largest_status()) == [".guard.whole"]  # False is what it is when something is wrong


@pytest.mark.parametrize("status", [largest_status(), barest_status()], ids=["largest", "barest"])
async def test_a_report_is_kept_whole(directory: KubeDirectory, status: NodeStatus) -> None:
    text = to_json("a", status)
    await directory.publish_status("a", text)
    assert await published(directory, json.loads(text)["status"])


async def test_a_report_is_replaced_as_a_whole_and_can_be_taken_back(directory: KubeDirectory) -> None:
    for status in (largest_status(), barest_status()):
        text = to_json("a", status)
        await directory.publish_status("a", text)
        assert await published(directory, json.loads(text)["status"])
    await directory.withdraw("a")
    assert await directory.status("a") is None


async def test_a_report_of_a_newer_agent_is_kept_without_what_this_version_does_not_know(
    directory: KubeDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an upgrade by Helm, which replaces no CRDs."""
    known = json.loads(to_json("a", replace(largest_status(), findings=(), verified=())))
    newer = json.loads(json.dumps(known))
    newer["status"] |= {"novelty": {"deep": [1, "x"]}, "count": 7}
    newer["status"]["guard"]["novelty"] = True
    newer["status"]["pairs"][0]["novelty"] = None
    await directory.publish_status("a", json.dumps(newer))
    assert await published(directory, known["status"])
    report = parse_report(await directory.report("a") or "", "a")
    assert report.status == parse_report(json.dumps(known), "a").status
    text = to_json("a", barest_status())
    await directory.publish_status("a", text)
    assert await published(directory, json.loads(text)["status"]), "replaced as a whole"
    assert caplog.text.count("is older than this agent") == 1
    await directory.withdraw("a")
    assert await directory.status("a") is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("stage",), "on"),
        (("pairs", 0, "peer"), "A"),
        (("pairs", 0, "rxBytes"), 2**63),
        (("findings", 0, "message"), "x" * 501),
        (("findings", 0, "message"), "a\x1b[2J"),
        (("unsealed",), [{"name": f"n{n}", "state": "stale"} for n in range(MAX_UNSEALED + 1)]),
    ],
)
def test_a_report_beyond_its_limits_is_refused(
    plane: ControlPlane, kube: Recorder, path: tuple[str | int, ...], value: object
) -> None:
    create_node(kube, "a")
    kube.post(NODE_ENCRYPTIONS, node_encryption("a"))
    status: Any = json.loads(to_json("a", largest_status()))["status"]
    place = status
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with plane.admin.with_token(agent_token(kube, "a")) as agent, pytest.raises(ApiError) as caught:
        agent.patch(f"{NODE_ENCRYPTIONS}/a/status", {"status": status})
    assert caught.value.status == 422
    assert re.search(rf"invalid: \[?(status\.)?{path[0]}", str(caught.value)), "before 1.33 without the first part"


async def test_requests_reach_the_agent(directory: KubeDirectory, plane: ControlPlane, tmp_path: Path) -> None:
    operator = KubeDirectory(KubeApi(Access(plane.kubeconfig(tmp_path / "admin"))), NAMESPACE)
    asked = [Request("r1", "rotate", T), Request("r2", "verify", T, ("b", "c"))]
    for one in asked:
        await operator.request("a", one)
    await operator.close()
    spec = plane.admin.get(f"{NODE_ENCRYPTIONS}/a")["spec"]
    assert spec["requests"][0] == {
        "id": "r1", "type": "rotate", "requestedAt": "2026-11-02T10:00:00Z", "peers": [],
    }  # fmt: skip
    assert [one.id for one in (await directory.view("a")).requests] == ["r1", "r2"]


async def test_the_agent_can_do_all_it_does_with_its_rights(
    directory: KubeDirectory, plane: ControlPlane, kube: Recorder
) -> None:
    """Every call of the agent's directory, once: none is forbidden, and none of its rights is for nothing."""
    mark = plane.audit_mark()
    await directory.view("a")
    assert await directory.uid("a")
    await directory.publish("a", SignedAnnouncement("text", "signature", "certificate"))
    await directory.request_certificate("a", make_csr(generate_identity(), "a", "uid"))
    assert await directory.certificate("a") is None
    await directory.publish_status("a", to_json("a", barest_status()))
    assert await directory.report("a")
    assert list(await directory.statuses()) == ["a"]
    await directory.withdraw("a")
    mine = plane.requests(user=f"system:serviceaccount:{NAMESPACE}:{AGENT}", since=mark)
    assert {one.code for one in mine} <= {200, 201}
    assert {(one.verb, one.resource) for one in mine} == granted(plane, AGENT)
    for one in plane.admin.get("/apis/certificates.k8s.io/v1/certificatesigningrequests")["items"]:
        plane.admin.delete(f"/apis/certificates.k8s.io/v1/certificatesigningrequests/{one['metadata']['name']}")


def test_a_request_says_what_it_asks(plane: ControlPlane, kube: Recorder) -> None:
    asked = {"id": "r1", "type": "rotate", "requestedAt": "2026-11-02T10:00:00Z"}
    kube.post(NODE_ENCRYPTIONS, node_encryption("a"))
    for wrong, words in (
        ({"peers": ["b"]}, "only a request to verify names peers"),
        ({"type": "reboot"}, "Unsupported value"),
        ({"requestedAt": None}, "Required value"),
        ({"id": "-"}, "should match"),
    ):
        with pytest.raises(ApiError, match=words):
            kube.patch(f"{NODE_ENCRYPTIONS}/a", {"spec": {"requests": [{**asked, **wrong}]}})
    body = json.dumps(node_encryption("a") | {"spec": {"reqests": [asked]}})
    with pytest.raises(DaemonError, match="field not declared in schema"):
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=body)
    kube.patch(f"{NODE_ENCRYPTIONS}/a", {"spec": {"requests": [{**asked, "type": "verify", "peers": ["b"]}]}})


async def test_its_columns_are_worth_reading(directory: KubeDirectory, plane: ControlPlane, kube: Recorder) -> None:
    generations = (GenerationStatus(3, "retiring", "f", T), GenerationStatus(4, "live", "f", T))
    report = replace(
        barest_status(), stage=Stage.ENFORCE, generations=generations, links=LinkCounts(5, 4), mtu=1420,
        driver="kernel", kernel="6.1.0-26-amd64", version="0.1.0", policy=AppliedStatus(7, applied=True),
        guard=GuardStatus("drop", whole=False), boot=BootStatus("installed"), observed_at=time.time(),
    )  # fmt: skip
    report = replace(report, conditions=conditions(report, ()))
    await directory.publish_status("a", to_json("a", report))
    head, line = plane.kubectl("get", "nodeencryption", "a").splitlines()
    assert head.split() == ["NAME", "STAGE", "SEALED", "TOTAL", "GENERATION", "GUARD", "REPORTED", "VERSION", "AGE"]
    assert line.split()[:6] == ["a", "enforce", "4", "5", "4", "drop"]
    head, line = plane.kubectl("get", "nodeencryption", "-o", "wide").splitlines()
    assert head.split()[9:] == ["APPLIED", "POLICY", "WHOLE", "BOOT", "DRIVER", "KERNEL", "MTU"]
    assert line.split()[9:] == ["True", "7", "NotWhole", "installed", "kernel", "6.1.0-26-amd64", "1420"]
    plane.kubectl("wait", "--for=condition=Applied", "nodeencryption/a", "--timeout=10s")
    plane.kubectl("wait", "--for=condition=Guarded=False", "nodeencryption/a", "--timeout=10s")

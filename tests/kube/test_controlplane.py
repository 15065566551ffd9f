"""The control plane of the test ground itself: is it what the other tests here take it for?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3
from ground import controlbuild
from ground.controlplane import ControlPlane
from ground.daemons import DaemonError
from ground.kubeapi import Api, ApiError, Recorder
from ground.kubeobjects import (
    bound_token,
    create_namespace,
    create_node,
    create_pod,
    create_service_account,
    heartbeat,
    unbound_token,
)
from linkseal.tunnels.lab.kube import controlplane

pytestmark = pytest.mark.kube

EXTRA = "authentication.kubernetes.io"

REFUSES = 0.5
"""Seconds in which a server that is there answers."""


@contextmanager
def api_stopped(plane: ControlPlane) -> Iterator[None]:
    plane.stop_api()
    try:
        yield
    finally:
        plane.start_api()


def agent_pod(kube: Api, node: str) -> dict[str, object]:
    create_namespace(kube, f"ns-{node}")
    create_service_account(kube, f"ns-{node}", "agent")
    return create_pod(kube, f"ns-{node}", "agent-1", node=node, service_account="agent")


def who(plane: ControlPlane, token: str) -> dict[str, object]:
    with plane.admin.with_token(token) as api:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    return dict(answer["status"]["userInfo"])


def accepted(plane: ControlPlane, token: str) -> bool:
    try:
        return bool(who(plane, token))
    except ApiError as error:
        if error.status != 401:
            raise
        return False


def test_it_is_ready_and_of_the_pinned_version(plane: ControlPlane) -> None:
    assert plane.admin.get("/readyz")["message"] == "ok"
    assert plane.admin.get("/version")["gitVersion"] == controlbuild.kubernetes_version() == "v1.37.2"


def test_its_certificate_is_signed_by_the_ca_in_its_file(plane: ControlPlane, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes((plane.folder / "apiserver.crt").read_bytes())
    with Api(plane.server, other, plane.admin_token) as api, pytest.raises(urllib3.exceptions.SSLError):
        api.get("/readyz")


def test_nobody_may_do_anything_without_a_right(plane: ControlPlane) -> None:
    with plane.admin.impersonating("nobody") as api, pytest.raises(ApiError) as refused:
        api.get("/api/v1/nodes")
    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
    with plane.admin.with_token("wrong") as api, pytest.raises(ApiError) as refused:
        api.get("/api/v1/nodes")
    assert refused.value.status == 401


def test_a_node_keeps_what_its_kubelet_says(plane: ControlPlane, kube: Recorder) -> None:
    create_node(kube, "n1", addresses=["192.0.2.1", "2001:db8::1"], pod_cidrs=["10.0.1.0/24"])
    found = plane.admin.get("/api/v1/nodes/n1")
    assert {a["address"] for a in found["status"]["addresses"]} == {"192.0.2.1", "2001:db8::1", "n1"}
    assert found["spec"] == {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24"]}
    assert found["status"]["allocatable"]["pods"] == "110"
    heartbeat(kube, "n1", ready=False)
    conditions = plane.admin.get("/api/v1/nodes/n1")["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions}["Ready"] == "False"


def test_a_kubelet_may_change_its_own_node_only(plane: ControlPlane, kube: Recorder) -> None:
    create_node(kube, "n1")
    create_node(kube, "n2")
    mine = {"metadata": {"annotations": {"a": "1"}}}
    with plane.admin.impersonating("system:node:n1", "system:nodes", "system:authenticated") as kubelet:
        kubelet.patch("/api/v1/nodes/n1", mine)
        with pytest.raises(ApiError) as refused:
            kubelet.patch("/api/v1/nodes/n2", mine)
    assert refused.value.status == 403


def test_a_token_bound_to_a_pod_names_its_node(plane: ControlPlane, kube: Recorder) -> None:
    node = create_node(kube, "n1")
    pod = agent_pod(kube, "n1")
    user = who(plane, bound_token(kube, pod))
    assert user["username"] == "system:serviceaccount:ns-n1:agent"
    extra = user["extra"]
    assert isinstance(extra, dict)
    assert extra[f"{EXTRA}/node-name"] == ["n1"]
    assert extra[f"{EXTRA}/node-uid"] == [node["metadata"]["uid"]]
    assert extra[f"{EXTRA}/pod-name"] == ["agent-1"]
    unbound = who(plane, unbound_token(kube, "ns-n1", "agent"))["extra"]
    assert isinstance(unbound, dict)
    assert list(unbound) == [f"{EXTRA}/credential-id"]


def test_a_token_ends_with_its_pod(plane: ControlPlane, kube: Recorder) -> None:
    create_node(kube, "n1")
    token = bound_token(kube, agent_pod(kube, "n1"))
    kube.delete("/api/v1/namespaces/ns-n1/pods/agent-1")
    deadline = time.monotonic() + 20  # an accepted token is remembered for 10 s
    while accepted(plane, token) and time.monotonic() < deadline:
        time.sleep(REFUSES)
    assert not accepted(plane, token)


def test_annotations_have_owners(plane: ControlPlane, kube: Recorder) -> None:
    create_node(kube, "n1")

    def announce(value: str, manager: str, *, force: bool = False) -> None:
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": {"linkseal.io/a": value}}}
        kube.apply("/api/v1/nodes/n1", body, manager=manager, force=force)

    announce("1", "agent")
    with pytest.raises(ApiError) as refused:
        announce("2", "somebody")
    assert refused.value.reason == "Conflict"
    announce("3", "somebody", force=True)
    assert plane.admin.get("/api/v1/nodes/n1")["metadata"]["annotations"]["linkseal.io/a"] == "3"


def test_what_a_test_made_is_gone_after_it(plane: ControlPlane) -> None:
    with plane.recorder() as kube:
        create_node(kube, "n1")
        pod = agent_pod(kube, "n1")
        bound_token(kube, pod)
        applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}}
        kube.apply("/api/v1/namespaces/ns-n1/configmaps/applied", applied, manager="test")
        kube.delete("/api/v1/namespaces/ns-n1/serviceaccounts/agent")
        kube.remove()
    for path in (
        "nodes/n1",
        "namespaces/ns-n1/configmaps/applied",
        "namespaces/ns-n1",
        "namespaces/ns-n1/pods/agent-1",
    ):
        with pytest.raises(ApiError) as missing:
            plane.admin.get(f"/api/v1/{path}")
        assert missing.value.status == 404


def test_requests_are_counted_by_user_and_verb(plane: ControlPlane, kube: Recorder) -> None:
    mark = plane.audit_mark()
    create_node(kube, "n1")
    with plane.admin.impersonating("system:node:n1", "system:nodes", "system:authenticated") as kubelet:
        kubelet.get("/api/v1/nodes/n1")
        kubelet.get("/api/v1/nodes/n1")
    assert len(plane.requests(user="admin", verb="create", resource="nodes", since=mark)) == 1
    # requests in another's name are the admin's to the log; a token of its own makes them somebody's
    create_namespace(kube, "counted")
    create_service_account(kube, "counted", "agent")
    with plane.admin.with_token(unbound_token(kube, "counted", "agent")) as agent, pytest.raises(ApiError):
        agent.get("/api/v1/nodes")
    seen = plane.requests(user="system:serviceaccount:counted:agent", since=mark)
    assert [(r.verb, r.resource, r.code) for r in seen] == [("list", "nodes", 403)]
    assert [r.name for r in plane.requests(resource="serviceaccounts/token", since=mark)] == ["agent"]


def test_a_watch_is_one_request_and_counts_from_its_begin(plane: ControlPlane, kube: Recorder) -> None:
    mark = plane.audit_mark()
    watching = threading.Thread(
        target=plane.admin.get, args=("/api/v1/nodes",), kwargs={"watch": "1", "timeoutSeconds": "2"}
    )
    watching.start()
    deadline = time.monotonic() + 10
    while not plane.requests(verb="watch", since=mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert watching.is_alive()
    watching.join()
    mine = plane.requests(user="admin", verb="watch", since=mark)
    assert len(mine) == 1


def test_stopped_it_refuses_and_started_it_has_its_data(plane: ControlPlane, kube: Recorder) -> None:
    uid = create_node(kube, "n1")["metadata"]["uid"]
    server = plane.server
    with api_stopped(plane), pytest.raises(urllib3.exceptions.NewConnectionError):
        plane.admin.get("/readyz")
    assert plane.server == server
    assert plane.admin.get("/api/v1/nodes/n1")["metadata"]["uid"] == uid


def test_killed_it_comes_back_too(plane: ControlPlane, kube: Recorder) -> None:
    create_node(kube, "n1")
    plane.stop_api(kill=True)
    assert set(plane.pids()) == {"etcd"}
    plane.start_api()
    assert plane.admin.get("/api/v1/nodes/n1")


def test_paused_it_does_not_answer(plane: ControlPlane) -> None:
    plane.pause_api()
    try:
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            plane.admin.request("GET", "/readyz", timeout=REFUSES)
    finally:
        plane.resume_api()
    assert plane.admin.get("/readyz")


def test_wiped_it_knows_nothing_and_takes_the_same_token(plane: ControlPlane, kube: Recorder) -> None:
    create_node(kube, "n1")
    plane.wipe()
    assert plane.admin.get("/api/v1/nodes")["items"] == []
    create_node(kube, "n1")


def test_a_kubeconfig_is_enough_for_kubectl(plane: ControlPlane, kube: Recorder, tmp_path: Path) -> None:
    create_node(kube, "n1")
    assert plane.kubectl("get", "nodes", "-o", "name") == "node/n1\n"
    with pytest.raises(DaemonError, match="NotFound"):
        plane.kubectl("get", "node", "n2")
    file = plane.kubeconfig(tmp_path / "config", token="wrong")
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DaemonError, match="logged in"):
        plane.kubectl("--kubeconfig", str(file), "get", "nodes")


def test_a_program_that_does_not_start_is_told_with_its_log_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlplane, "api_options", lambda _: ["--no-such-option"])
    plane = ControlPlane(tmp_path)
    with pytest.raises(DaemonError, match=r"kube-apiserver does not run(.*\n)*.*unknown flag"), plane:
        pass
    assert plane.log("etcd").exists()
    assert plane.pids() == {}


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="assign"), ControlPlane(tmp_path, address="203.0.113.1"):
        pass


def test_it_ends_with_a_test_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, json, os, signal\nfrom ground.controlplane import ControlPlane\n"
        f"with ControlPlane(pathlib.Path({str(tmp_path)!r})) as plane:\n"
        "    print(json.dumps(plane.pids()), flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    pids = json.loads(done.stdout)
    assert set(pids) == {"etcd", "kube-apiserver"}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids.values()):
        time.sleep(0.05)
    assert [name for name, pid in pids.items() if Path(f"/proc/{pid}").exists()] == []

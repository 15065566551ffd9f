"""Controllers, scheduler and Helm: a chart's DaemonSet gives pods that are bound to nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ground.controlplane import ControlPlane
from ground.kubeapi import ApiError, Object
from ground.kubeobjects import bound_token, create_namespace, create_node, set_pod_ready

pytestmark = pytest.mark.kube

SECONDS = 30.0

DAEMON_SET = """
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: agent
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers:
        - {name: agent, image: registry.invalid/agent:{{ .Chart.AppVersion }}}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("whole"), controllers=True, scheduler=True) as running:
        yield running


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text('apiVersion: v2\nname: it\nversion: 1.0.0\nappVersion: "7"\n')
    (tmp_path / "templates" / "daemonset.yaml").write_text(DAEMON_SET)
    return tmp_path


def until(look: Callable[[], Any], want: Callable[[Any], bool] = bool) -> Any:
    """What `look` gives as soon as it is as wanted."""
    deadline = time.monotonic() + SECONDS
    while not want(found := look()):
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.1)
    return found


def test_a_chart_gives_a_pod_on_every_node_and_takes_them_away(whole: ControlPlane, chart: Path) -> None:
    nodes = ("n1", "n2")
    for name in nodes:
        create_node(whole.admin, name)
    whole.helm("install", "it", str(chart), "--namespace", "agents", "--create-namespace")

    def pods() -> list[Object]:
        found: list[Object] = whole.admin.get("/api/v1/namespaces/agents/pods")["items"]
        return found

    bound = until(
        pods, lambda found: [pod["spec"].get("nodeName") for pod in found].count(None) == 0 and len(found) == 2
    )
    assert {pod["spec"]["nodeName"] for pod in bound} == set(nodes)
    assert bound[0]["spec"]["containers"][0]["image"] == "registry.invalid/agent:7"
    assert bound_token(whole.admin, bound[0])
    set_pod_ready(whole.admin, bound[0])
    path = "/apis/apps/v1/namespaces/agents/daemonsets/agent"
    until(lambda: whole.admin.get(path)["status"]["numberReady"], lambda ready: ready == 1)
    whole.helm("uninstall", "it", "--namespace", "agents")
    # with a kubelet they would end; here they are told to and somebody has to do it
    until(pods, lambda found: all("deletionTimestamp" in pod["metadata"] for pod in found))
    for pod in pods():
        whole.admin.delete(f"/api/v1/namespaces/agents/pods/{pod['metadata']['name']}", missing_ok=True)
    assert pods() == []


def test_a_namespace_ends_with_all_that_is_in_it(whole: ControlPlane) -> None:
    create_namespace(whole.admin, "short")
    until(lambda: whole.admin.get("/api/v1/namespaces/short/serviceaccounts")["items"])
    whole.admin.delete("/api/v1/namespaces/short")
    until(lambda: [each["metadata"]["name"] for each in whole.admin.get("/api/v1/namespaces")["items"]],
          lambda names: "short" not in names)  # fmt: skip


def test_wiped_the_controllers_start_anew(whole: ControlPlane) -> None:
    create_namespace(whole.admin, "lost")
    whole.wipe()
    with pytest.raises(ApiError):
        whole.admin.get("/api/v1/namespaces/lost")
    assert set(whole.pids()) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}

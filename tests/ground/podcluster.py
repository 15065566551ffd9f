"""A Kubernetes cluster whose nodes run the chart's pods: control plane, nodes with a kubelet's stand-in, Helm.

with pod_cluster(tmp_path) as pods:
    pods.install()
    assert pods.linkseal("enable") == 0
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ground.charts import CHART, CLUSTER_ENCRYPTIONS, NAMESPACE
from ground.controlplane import ControlPlane
from ground.kubeapi import Object
from ground.net import Cluster
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.lab.cluster import NODE_NETWORKS, POD_NETWORKS
from linkseal.tunnels.lab.kube.cluster import API, KubeCluster, plug_in
from linkseal.tunnels.lab.kube.objects import is_ready

PATIENCE = 240.0
"""Seconds that pods may take: the lab kernel has one CPU for control plane and nodes."""


class PodCluster(KubeCluster):
    """Nodes that run pods; what an operator does with them."""

    encryption = f"{CLUSTER_ENCRYPTIONS}/default"

    def install(self, *options: str) -> None:
        """Helm installs the chart, and waits for nothing."""
        self.helm("install", "--create-namespace", *options)

    def helm(self, verb: str, *options: str) -> str:
        """What Helm prints about this release."""
        networks = {"controller.nodeNetworks": NODE_NETWORKS, "controller.podNetworks": POD_NETWORKS}
        said = [f"{name}={{{','.join(value)}}}" for name, value in networks.items()]
        chart = [] if verb == "uninstall" else [str(CHART), *(word for one in said for word in ("--set", one))]
        return self.plane.helm(verb, "linkseal", *chart, "--namespace", NAMESPACE, *options)

    def linkseal(self, *words: str) -> int:
        """Exit code of a command of the operator's."""
        kubeconfig = self.plane.kubeconfig(self.folder / "operator")
        return main(["--kubeconfig", str(kubeconfig), *words])

    def pods_of(self, component: str) -> list[Object]:
        """The chart's pods of one component."""
        label = f"app.kubernetes.io/component={component}"
        found: list[Object] = self.plane.admin.get(f"/api/v1/namespaces/{NAMESPACE}/pods", labelSelector=label)["items"]
        return found

    def uids(self, component: str) -> set[str]:
        """UIDs of the chart's pods of one component."""
        return {pod["metadata"]["uid"] for pod in self.pods_of(component)}

    def until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Wait for something; AssertionError with the pods and their logs when it does not come."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                shown = self.plane.kubectl("get", "pods", "-A", "-o", "wide")
                raise AssertionError(f"after {seconds:.0f} s: not {what}\n{shown}\n{self.logs()}")
            time.sleep(0.5)

    def ready(self, component: str) -> int:
        """How many of them are ready."""
        return sum(map(is_ready, self.pods_of(component)))

    def failed(self, capfd: pytest.CaptureFixture[str]) -> str:
        """What commands printed and pods log, for a failed assertion."""
        shown = capfd.readouterr()
        return f"{shown.out[-3000:]}\n{shown.err[-3000:]}\n{self.logs()}"


@contextmanager
def pod_cluster(folder: Path, count: int = 3, *, on_a_node: bool = False) -> Iterator[PodCluster]:
    """Nodes with plain routes between pods, as a CNI in host-gw mode leaves them.

    The control plane is a machine on their wire, or is on the first of them.
    """
    cluster = Cluster(count, cni="host-gw")
    place, address = (cluster[0], str(cluster[0].address4)) if on_a_node else (cluster.wire, API)
    options = {"controllers": True, "scheduler": True, "kubelets": [node.name for node in cluster]}
    try:
        plug_in(cluster)
        with (
            place.entered(),
            ControlPlane(folder / "plane", address=address, endpoints=on_a_node, **options) as plane,
            PodCluster(cluster, plane, folder) as made,
        ):
            yield made
    finally:
        cluster.remove()

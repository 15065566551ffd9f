"""Agents whose directory is a real API server: nodes are namespaces, the API server is a machine on their wire.

    with deployed(cluster, tmp_path) as (plane, linkseal, options):
        linkseal.start()
        main([*options, "status"])

The thread that makes the control plane stays in the wire's namespace meanwhile, and so does what it starts.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ground.agents import Deployment
from ground.boot import BootHost
from ground.charts import (
    AGENT,
    CLUSTER_ENCRYPTIONS,
    CONTROLLER,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    agent_pod,
    chart_installed,
)
from ground.controlplane import ControlPlane
from ground.kubeobjects import bound_token, create_node, unbound_token
from ground.namespaces import ForkedProcess
from ground.net import Cluster, Node
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.cli.controller import _log_to_stderr
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.controller import kuberun
from linkseal.tunnels.controller.providers.choice import Granting
from linkseal.tunnels.directory.kubeapi import Access
from linkseal.tunnels.lab.cluster import NODE_NETWORKS, POD_NETWORKS
from linkseal.tunnels.lab.kube.cluster import API, plug_in

USERSPACE = {"wireguard": {"driver": "userspace"}}
"""Settings of agents that any kernel with TUN can run."""


@contextmanager
def control_plane_on(cluster: Cluster, folder: Path) -> Iterator[ControlPlane]:
    """A control plane on the wire between the nodes."""
    plug_in(cluster)
    with cluster.wire.entered(), ControlPlane(folder, address=API) as plane:
        yield plane


@contextmanager
def deployed(cluster: Cluster, folder: Path) -> Iterator[tuple[ControlPlane, KubeDeployment, list[str]]]:
    """A control plane with the chart, agents that can be started, and the options that name it to the commands."""
    with (
        control_plane_on(cluster, folder) as plane,
        chart_installed(plane),
        KubeDeployment(cluster, plane, **USERSPACE) as linkseal,
    ):
        yield plane, linkseal, ["--kubeconfig", str(plane.kubeconfig(folder / "operator"))]


def assert_encrypted(cluster: Cluster, seconds: float) -> None:
    """There is encrypted traffic between the nodes, and for so long nothing else but to and from the API server."""
    with cluster.capture() as wire:
        time.sleep(seconds)
    assert wire.count("wireguard")
    assert [text for text in wire.plaintext() if API not in text] == []


class KubeDeployment(Deployment):
    """Node objects, a controller and agents, each with the rights that the chart gives it."""

    def __init__(self, cluster: Cluster, plane: ControlPlane, **settings: Any) -> None:
        super().__init__(cluster)
        self.plane = plane
        self.hosts = {node.name: BootHost(self.folder / "host" / node.name) for node in cluster}
        self.settings = {node.name: {"boot": self.hosts[node.name].settings, **settings} for node in cluster}
        self._recorder = plane.recorder()
        for node in cluster:
            node.hold()  # sockets of wireguard-go outlive an agent
        self.controller = self._join()

    def _join(self) -> ForkedProcess:
        """What kubelets and the chart's pods put into the API, and a controller."""
        for node in self.cluster:
            self._register(node)
        token = unbound_token(self._recorder, NAMESPACE, CONTROLLER)
        self._access = Access(self.plane.kubeconfig(self.folder / "controller.kubeconfig", token))
        controller = self._controller()
        for node in self.cluster:
            self._make_pod(node)
        return controller

    def _register(self, node: Node) -> None:
        create_node(self._recorder, node.name, addresses=node.addresses, pod_cidrs=node.pod_cidrs)

    def _make_pod(self, node: Node) -> None:
        pod = agent_pod(self._recorder, node.name, AGENT)
        self.plane.kubeconfig(self._kubeconfig(node), bound_token(self._recorder, pod))

    def delete_node(self, node: Node) -> None:
        """As a cloud does when the machine was stopped; what its Node owns goes with it."""
        self.plane.admin.delete(f"/api/v1/nodes/{node.name}")
        self.plane.admin.delete(f"{NODE_ENCRYPTIONS}/{node.name}", missing_ok=True)

    def register_again(self, node: Node) -> None:
        """What its kubelet does when it was started again. Its pod goes, another comes with its credentials."""
        self._register(node)
        pod = f"/api/v1/namespaces/{NAMESPACE}/pods/{AGENT}-{node.name}"
        self.plane.admin.delete(pod, missing_ok=True)
        self._make_pod(node)

    def join_anew(self) -> None:
        """Do so once more, on a control plane that has lost all, where the chart was installed again."""
        self.stop_controller()
        self.controller = self._join()

    def stop_controller(self) -> None:
        """End it as a crash would."""
        self.controller.kill(signal.SIGKILL)
        self.controller.wait()

    def start_controller(self) -> None:
        """Start it again, with what it had of credentials."""
        self.controller = self._controller()

    def __exit__(self, *_: object) -> None:
        self.stop_controller()
        super().__exit__()
        for node in self.cluster:
            self._recorder.delete(f"{NODE_ENCRYPTIONS}/{node.name}", missing_ok=True)
        self._recorder.remove()
        self._recorder.close()

    def cluster_uid(self) -> str:
        """Of the cluster as the API server has it now."""
        found: str = self.plane.admin.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
        return found

    def sign(self) -> None:
        """The controller does."""

    def membership(self, node: Node) -> dict[str, Any]:
        """The API server, which says the UID."""
        return {"directory": {"kubernetes": {"namespace": NAMESPACE, "kubeconfig": str(self._kubeconfig(node))}}}

    def start(self, *nodes: Node, **more: Any) -> None:
        """Start the agents of these nodes (all without any), and wait until they answer."""
        chosen = nodes or tuple(self.cluster)
        for node in chosen:
            self.agents[node.name] = node.fork(agent.run, self.agent_settings(node, **more))
        self.until(lambda: all(map(self.answers, chosen)), "agents that answer")

    def to_prefer(self, at: list[str]) -> None:
        """Walk there with agents that start on the way, and without verify, whose controls are plaintext.

        `at`: the options that name the cluster to the commands.
        """
        assert main([*at, "enable", "--to", "prepare"]) == 0
        self.start()
        assert main([*at, "enable", "--to", "prefer"]) == 0
        self.plane.admin.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"verify": {"interval": 0}}})
        self.wait_sealed()

    def to_enforce(self, at: list[str]) -> None:
        """Walk there from prefer, as far as the guards."""
        assert main([*at, "enable", "--to", "enforce", "--wait=120s", "--yes"]) == 0, self.report()
        self.wait_guarded()

    def wait_guarded(self, timeout: float = 60.0) -> None:
        """Wait until every guard drops."""
        self.until(lambda: all(self.status(n).guard.mode == "drop" for n in self.cluster), "guards that drop", timeout)

    def all_codes(self) -> set[str]:
        """Codes of the findings that any agent shows now."""
        return {code for node in self.cluster for code in self.codes(node)}

    def report(self) -> str:
        """Logs of the controller and all agents."""
        return f"--- controller\n{self.controller.text()[-4000:]}\n{super().report()}"

    def _kubeconfig(self, node: Node) -> Path:
        return self.folder / f"{node.name}.kubeconfig"

    def _controller(self) -> ForkedProcess:
        access = self._access

        def work() -> None:
            _log_to_stderr()
            chosen = Granting(networks=frozenset(NODE_NETWORKS), pod_networks=frozenset(POD_NETWORKS))
            kuberun.run(access, NAMESPACE, chosen)

        return ForkedProcess(work)

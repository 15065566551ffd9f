"""A lab on a real Kubernetes control plane: the chart's pods on the nodes, the API as directory.

    FOLDER/kubeconfig            the admin's, for kubectl, helm and linkseal
    FOLDER/plane/                files and logs of etcd, kube-apiserver, its controllers and scheduler
    FOLDER/nodes/n1/kubelet/log  what the stand-in for n1's kubelet did
    FOLDER/nodes/n1/pods/        what containers of n1's pods print

The control plane and each kubelet are processes of the lab; what runs in pods ends with its kubelet.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import urllib3
from linkseal.keys.errors import ConfigError, DirectoryError, HostError
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.controller.clusterwalk import Target, look_on
from linkseal.tunnels.controller.clusterwalk import ask as ask_for
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.lab.capture import ALLOWED
from linkseal.tunnels.lab.cluster import NODE_NETWORKS, POD_NETWORKS, Node
from linkseal.tunnels.lab.forked import ForkedProcess
from linkseal.tunnels.lab.frames import Frame
from linkseal.tunnels.lab.kube.api import Api, ApiError
from linkseal.tunnels.lab.kube.cluster import API, hold, plug_in, register, serve_api, start_kubelet
from linkseal.tunnels.lab.kube.controlplane import ControlPlane, run_tool
from linkseal.tunnels.lab.kube.objects import is_ready
from linkseal.tunnels.lab.kube.programs import find_chart, find_programs, programs_folder
from linkseal.tunnels.lab.kube.served import Served
from linkseal.tunnels.lab.lab import CONTROLLER, Lab, Told, View
from linkseal.tunnels.lab.namespaces import Namespace
from linkseal.tunnels.lab.state import LabSpec
from linkseal.tunnels.model import Stage

NAMESPACE: Final = "linkseal"
"""Where the chart is installed, and its release's name."""

CONTROL_PLANE: Final = "control-plane"
"""The process that holds it."""

TLS: Final = "TLS with the API server"
"""Kind of frames that no capture knows: it does not know where the API server is."""

_CNIS: Final = ("none", "host-gw")

_PLANE_SECONDS: Final = 180.0
"""Until it is ready: 17 s in a lab kernel of its own on an idle machine."""

_END_SECONDS: Final = 45.0
"""For a kubelet that kills its pods, on a machine that is busy."""

_GONE_SECONDS: Final = 5.0
"""How long killed containers may take to be gone."""

_LOOK: Final = 0.2


def values_of(spec: LabSpec) -> dict[str, str]:
    """Return what the chart is told: quick to report and to look, for somebody who watches. Pure.

    `verify` runs when it is asked for: what it sends in clear as a control is not to be taken for a leak.
    """
    values = {
        "agent.config.statusInterval": "1",
        "agent.config.poll": "2",
        "controller.nodeNetworks": f"{{{','.join(NODE_NETWORKS)}}}",
        "controller.podNetworks": f"{{{','.join(POD_NETWORKS)}}}",
        "clusterEncryption.create": "true",
        "clusterEncryption.spec.scope": spec.scope,
        "clusterEncryption.spec.stage": spec.stage,
        "clusterEncryption.spec.verify.interval": "0",
    }
    return values | ({"agent.config.wireguard.driver": "userspace"} if spec.driver == "userspace" else {})


def is_with(frame: str, address: str, port: int) -> bool:
    """Whether a frame's description is that of TCP from or to a server. Pure.

    >>> is_with("192.0.2.11 > 192.0.2.250 TCP 40000 > 6443, 66 bytes", "192.0.2.250", 6443)
    True
    >>> is_with("192.0.2.11 > 192.0.2.250 TCP 6443 > 40000, 66 bytes", "192.0.2.250", 6443)
    False
    """
    source, _, target, what, from_port, _, to_port, *_ = *frame.replace(",", "").split(), *[""] * 7
    ends = ((source, from_port), (target, to_port))
    return what == "TCP" and (address, str(port)) in ends


class KubeLab(Lab):
    """A lab whose nodes are a Kubernetes cluster's."""

    patience = 240.0
    allowed = ALLOWED | {TLS}
    may_cross = f"neighbour discovery, and TLS with the API server at {API}, which is no node,"

    @classmethod
    def check(cls, spec: LabSpec) -> None:
        """Raise ConfigError for what Kubernetes cannot have here, HostError where programs or the chart are missing."""
        if "4" not in spec.families:
            raise ConfigError("--kubernetes needs IPv4, by which nodes reach the API server: --families 4 or 4,6")
        if spec.cni not in _CNIS:
            raise ConfigError(f"--kubernetes and --cni {spec.cni} exclude each other: --cni {' or '.join(_CNIS)}")
        super().check(spec)
        find_programs()
        find_chart()

    def _furnish(self) -> None:
        plug_in(self.cluster)
        self._start_plane()
        for node in self.cluster:
            self._furnish_node(node)
            with self.reaching():
                register(self._admin, self.cluster, node)
            serve_api(node, self._served.address, self._served.port)
            self._start_kubelet(node)

    def _start_plane(self) -> None:
        """Start the process that holds the control plane, and wait until that is ready."""
        programs, names = find_programs(), [node.name for node in self.cluster]
        folder, stopping = self.folder / "plane", list[int]()

        def work() -> None:
            self.cluster.wire.enter()
            with ControlPlane(
                folder, programs, address=API, controllers=True, scheduler=True, kubelets=names, audit=False
            ) as plane:
                plane.kubeconfig(self.kubeconfig)
                plane.served().save(self._served_file)
                while not stopping:
                    time.sleep(_LOOK)
                plane.lose_power()  # in good order the API server takes 10 s, and nobody needs its data any more

        home = self.folder / CONTROL_PLANE
        home.mkdir()
        process = ForkedProcess(work, stopping=stopping, folder=home)
        self._remember(CONTROL_PLANE, process.pid)
        deadline = time.monotonic() + _PLANE_SECONDS
        while not self._served_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise HostError(f"the control plane did not get ready:\n{process.text().strip()[-2000:]}")
            time.sleep(_LOOK)

    def _hold(self, node: Node) -> int:
        holder = hold(node, self.node_folder(node))
        if self.record.spec.driver == "userspace":  # so that `wg` on the node finds the daemons of its pods
            node.run("mkdir -p /run/linkseal/wireguard && mount --bind /run/linkseal/wireguard /run/wireguard")
        return holder

    def _start_kubelet(self, node: Node) -> None:
        pods, home = self.node_folder(node) / "pods", self.node_folder(node) / "kubelet"
        for folder in (pods, home):
            folder.mkdir(exist_ok=True)
        self._remember(_kubelet(node), start_kubelet(node, self._served, pods, home).pid)

    # --- where things are -------------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """The admin's."""
        return self.folder / "kubeconfig"

    @property
    def _served_file(self) -> Path:
        return self.folder / "plane.json"

    @cached_property
    def _served(self) -> Served:
        return Served.load(self._served_file)

    @cached_property
    def _admin(self) -> Api:
        return Api(self._served.server, self._served.ca_file, self._served.admin_token)

    def agent_config(self, node: Node) -> Mapping[str, Any]:
        """Settings for commands on a node; those of the agent are in its pod."""
        directory = {"kubernetes": {"namespace": NAMESPACE, "kubeconfig": str(self.kubeconfig)}}
        return {"apiVersion": "linkseal.io/v1alpha1", "kind": "AgentConfig", "node": node.name, "directory": directory}

    def logs(self) -> list[Path]:
        """Return what the control plane, kubelets and containers print."""
        found = [self.folder / CONTROL_PLANE / "log"]
        for node in self.cluster:
            folder = self.node_folder(node)
            found += [folder / "kubelet" / "log", *sorted(folder.glob("pods/*/*.log"))]
        return found

    # --- processes --------------------------------------------------------------------------------------------------

    def start_controller(self) -> None:
        """Refuse: it is a Deployment. HostError."""
        raise HostError("the controller is a Deployment here: kubectl -n linkseal get deployments")

    def start_agent(self, node: Node) -> bool:
        """Refuse: agents are a DaemonSet. HostError."""
        raise HostError(f"the agent of {node.name} is a pod of a DaemonSet here: kubectl -n linkseal get pods")

    def restore(self, node: Node) -> int:
        """Refuse: the boot unit does it. HostError."""
        raise HostError(f"{node.name} is restored by its boot unit, which only a lab without --kubernetes plays")

    def start_all(self) -> None:
        """Install the chart, and wait until its pods are ready."""
        self._tool("helm", *self._install(str(find_chart())))
        self.wait(self._ready_pods, "pods that are ready")

    def _install(self, chart: str) -> list[str]:
        values = [word for name, value in values_of(self.record.spec).items() for word in ("--set", f"{name}={value}")]
        return ["install", NAMESPACE, chart, "-n", NAMESPACE, "--create-namespace", *values]

    def _ready_pods(self) -> bool:
        agents = self._ready("agent")
        nodes = {node.name for node in self.cluster}
        daemons = nodes if self.record.spec.driver != "userspace" else self._ready("daemons")
        return agents == daemons == nodes and bool(self._ready("controller"))

    def _ready(self, component: str) -> set[str]:
        """Names of the nodes that have a ready pod of one of the chart's components. DirectoryError."""
        path, label = f"/api/v1/namespaces/{NAMESPACE}/pods", f"app.kubernetes.io/component={component}"
        try:
            with self.reaching():
                items = self._admin.get(path, labelSelector=label)["items"]
        except (ApiError, urllib3.exceptions.HTTPError) as error:
            raise DirectoryError(f"the API server of the lab: {error}") from error
        return {one["spec"].get("nodeName", "") for one in items if is_ready(one)}

    def running(self, process: str) -> bool:
        """Whether the controller's pods or a node's agent are ready. DirectoryError."""
        if process == CONTROLLER:
            return bool(self._ready("controller"))
        if process in {node.name for node in self.cluster}:
            return process in self._ready("agent")
        return super().running(process)

    def stop(self, process: str, number: int = signal.SIGTERM) -> bool:
        """End the control plane or a kubelet; what is in pods is refused. HostError."""
        if process not in self.record.processes:
            raise HostError(f"{process} runs in a pod here: kubectl -n linkseal delete pod …")
        return super().stop(process, number)

    def _end_processes(self) -> None:
        """Kubelets first, all at once, as they end their pods; then the control plane, which ends its programs."""
        known = self.record.processes
        kubelets = [known[name] for name in map(_kubelet, self.cluster) if name in known]
        for process in kubelets:
            if process.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)
        for process in (*kubelets, *(known[name] for name in (CONTROL_PLANE,) if name in known)):
            process.end(seconds=_END_SECONDS)
        super()._end_processes()

    def down(self) -> list[str]:
        """End everything; pods with a network of their own are looked for by volumes: these are in the lab's folder."""
        left, deadline = super().down(), time.monotonic() + _GONE_SECONDS
        while (pods := _mounting(self.folder)) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        return left + [f"process {pid} of a pod" for pid in pods]

    # --- as an operator has it --------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """What starts with it, for a reader."""
        return "Helm installs Linkseal: a controller that signs, and an agent on each node, as pods"

    def reaching(self) -> AbstractContextManager[None]:
        """Have the block where the API server is: on the wire."""
        return self.cluster.wire.entered()

    def words(self) -> list[str]:
        """Options by which an operator's command finds it."""
        return ["--kubeconfig", str(self.kubeconfig)]

    def session(self) -> Session:
        """Return what finds the API server."""
        return Session(kubeconfig=self.kubeconfig)

    def variables(self, place: Namespace) -> dict[str, str]:
        """Environment of what is run in a place of it: kubectl, helm and linkseal find the cluster."""
        found = super().variables(place)
        kept = {name: value for name, value in found.items() if name == "LINKSEAL_CONFIG"}
        return {**kept, "KUBECONFIG": str(self.kubeconfig), "PATH": f"{programs_folder()}:{found['PATH']}"}

    def ask(self, node: Node, what: str) -> dict[str, Any]:
        """Ask a node's agent over its control socket, in the node's own /run."""
        return ask(Path(f"/proc/{node.holder}/root/run/linkseal"), {"do": what})

    def walk_up(self) -> Iterator[Told]:
        """Ask for stage enforce in the ClusterEncryption, and yield what its status says until the end."""
        with self.reaching(), asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            walk = _walk(Access(self.kubeconfig))
            try:
                while (told := runner.run(_next(walk))) is not None:
                    yield told
            finally:
                runner.run(walk.aclose())

    def kind(self, frame: Frame) -> str:
        """Return what a frame is; TLS of nodes with the API server, which is no node, is a kind of its own."""
        return TLS if frame.kind == "plaintext" and is_with(frame.text, API, self._served.port) else frame.kind

    def views(self, when: str) -> list[View]:
        """Return what kubectl shows. HostError."""
        pods = f"kubectl -n {NAMESPACE} get pods -o wide"
        if when == "built":
            return [self._view("kubectl get nodes")]
        if when == "started":
            helm = shlex.join(["helm", *self._install("charts/linkseal")])
            return [View(helm.replace(" --set", " \\\n     --set"), ""), self._view(pods)]
        return [self._view("kubectl get clusterencryption"), self._view("kubectl get nodeencryption -o wide")]

    def _view(self, command: str) -> View:
        return View(command, self._tool(*command.split()).rstrip())

    def _tool(self, name: str, *arguments: str) -> str:
        """Return what kubectl or Helm prints. HostError with what it complains of."""
        environment = {**os.environ, **self.variables(self.cluster.wire), "HOME": str(self.folder)}
        with self.reaching():
            return run_tool(find_programs() / name, arguments, environment)


async def _next(walk: AsyncGenerator[Told]) -> Told | None:
    return await anext(walk, None)


async def _walk(access: Access) -> AsyncGenerator[Told]:
    api = KubeApi(access)
    try:
        generation = await ask_for(api, Target(Stage.ENFORCE, up=True))
        async for shown in look_on(api, generation):
            yield Told(shown.text, shown.good)
    finally:
        await api.close()


def _mounting(folder: Path) -> list[str]:
    """Return the numbers of processes that have mounted something of this folder's (proc_pid_mountinfo(5))."""
    inside, found = "/".join(folder.parts[-2:]) + "/", []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and inside in (entry / "mountinfo").read_text(errors="replace"):
                found.append(entry.name)
    return found


def _kubelet(node: Node) -> str:
    return f"{node.name}.kubelet"

"""A running lab: a cluster of namespaces with a controller and an agent on each node, in this kernel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from linkseal.keys.errors import ConfigError, HostError, LinksealError
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.agent.logs import start_logging
from linkseal.tunnels.cli.load import Seen, look
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.controller import files as controller
from linkseal.tunnels.controller.stageserver import Wish, asked
from linkseal.tunnels.directory.choice import lacking
from linkseal.tunnels.directory.files import CLUSTER
from linkseal.tunnels.directory.inventory import parse_inventory
from linkseal.tunnels.lab import namespaces, state
from linkseal.tunnels.lab.backend import Backend
from linkseal.tunnels.lab.capture import ALLOWED, Capture
from linkseal.tunnels.lab.cluster import Cluster, Cni, Node
from linkseal.tunnels.lab.frames import Frame
from linkseal.tunnels.lab.namespaces import Namespace
from linkseal.tunnels.lab.state import LabRecord, LabSpec
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.settings import load_agent_settings

PATIENCE: Final = 60.0
"""Seconds a lab may take to seal: the lab kernel runs all agents on one CPU."""

LOOK_AGAIN: Final = 0.4
"""Seconds between two looks: each takes 50 ms of the lab kernel's one CPU, which the agents need."""

CONTROLLER: Final = "controller"

HOLDER: Final = "mounts.pid"
"""File in a node's folder: the process whose mount namespace is the node's."""

_WANTED: Final[Mapping[str, frozenset[LinkState]]] = {
    "off": frozenset(),
    "prepare": frozenset({LinkState.PROVEN, LinkState.SEALED}),
    "prefer": frozenset({LinkState.SEALED}),
    "enforce": frozenset({LinkState.SEALED}),
}
"""Stage → states of a directed pair that are as good as it gets."""

_API: Final = "linkseal.io/v1alpha1"


def cluster_of(spec: LabSpec) -> Cluster:
    """Return the cluster of a spec, built or not. ConfigError."""
    return Cluster(spec.nodes, prefix=f"ls-{spec.name}-", families=spec.families, cni=cast("Cni", spec.cni))


def inventory_of(spec: LabSpec, cluster: Cluster) -> dict[str, Any]:
    """Return the operator's inventory of these nodes. ConfigError, also for a policy that this version has not."""
    nodes = [
        {"name": n.name, "uid": f"uid-{n.name}", "index": n.index, "addresses": n.addresses, "prefixes": n.pod_cidrs}
        for n in cluster
    ]
    policy = {"scope": spec.scope, "stage": spec.stage}
    inventory = {"apiVersion": _API, "kind": "Inventory", "spec": policy, "nodes": nodes}
    parse_inventory(inventory, "lab")
    return inventory


def kind_of(spec: LabSpec) -> type[Lab]:
    """Return what kind of lab it is. ConfigError where this installation lacks what it needs."""
    if not spec.kubernetes:
        return Lab
    try:
        from linkseal.tunnels.lab.kube.lab import KubeLab  # noqa: PLC0415 - which is a kind of what follows
    except ModuleNotFoundError as error:
        raise lacking("--kubernetes", error) from error
    return KubeLab


class Told(NamedTuple):
    """What is said of a walk of stages. `good`: it has ended, there or not; None: it goes on."""

    text: str
    good: bool | None = None


class View(NamedTuple):
    """A command, and what it printed."""

    command: str
    output: str


class Lab:
    """One lab. Made by `build` or `find`; every change of its processes is on disk at once."""

    patience = PATIENCE
    allowed = ALLOWED
    """Kinds of frames that may cross when everything between nodes is encrypted."""
    may_cross = "neighbour discovery"
    """What of them crosses beside WireGuard, in words."""

    def __init__(self, record: LabRecord, cluster: Cluster) -> None:
        self.record = record
        self.cluster = cluster
        for node in cluster:
            if (holder := record.processes.get(f"{node.name}.mounts")) is not None:
                node.holder = holder.pid

    @classmethod
    def build(cls, spec: LabSpec, backend: Backend) -> Lab:
        """Make the cluster, without controller and agents, in the folder that was claimed for it.

        HostError, ConfigError; no namespace stays of a failure.
        """
        spec = replace(spec, driver="userspace" if backend is Backend.USERSPACE else "kernel")
        cls.check(spec)
        lab = cls(LabRecord(spec, backend), cluster_of(spec))
        try:
            lab.cluster.build()
            lab._furnish()
        except BaseException:
            lab._end_processes()
            lab.cluster.remove()
            raise
        return lab

    @classmethod
    def find(cls, record: LabRecord) -> Lab:
        """Return a lab that is up in this kernel."""
        return cls(record, cluster_of(record.spec))

    @classmethod
    def check(cls, spec: LabSpec) -> None:
        """Raise ConfigError or HostError for what cannot be made: before anything is."""
        inventory_of(spec, cluster_of(spec))

    def _furnish(self) -> None:
        """Give the nodes what they have before any agent runs."""
        inventory = inventory_of(self.record.spec, self.cluster)
        (self.folder / "inventory.yaml").write_text(json.dumps(inventory, indent=2) + "\n", encoding="utf-8")
        for node in self.cluster:
            self._furnish_node(node)

    def _furnish_node(self, node: Node) -> None:
        folder = self.node_folder(node)
        folder.mkdir(parents=True, mode=0o700)
        self.config(node).write_text(json.dumps(self.agent_config(node), indent=2) + "\n", encoding="utf-8")
        holder = self._hold(node)
        (folder / HOLDER).write_text(str(holder), encoding="ascii")
        self._remember(f"{node.name}.mounts", holder)

    def _hold(self, node: Node) -> int:
        return node.hold(self.node_folder(node))

    # --- where things are -------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Of all its files."""
        return self.record.folder

    @property
    def directory(self) -> Path:
        """Where the nodes find each other."""
        return self.folder / "directory"

    def node_folder(self, node: Node) -> Path:
        """Of one node's files."""
        return self.folder / "nodes" / node.name

    def state(self, node: Node) -> Path:
        """A node's state directory, as its agent sees it: there may be a disk of its own on it."""
        return self.node_folder(node) / "state"

    def config(self, node: Node) -> Path:
        """An agent's settings file."""
        return self.node_folder(node) / "agent.yaml"

    def agent_config(self, node: Node) -> Mapping[str, Any]:
        """Settings of a node's agent: quick to report and to look, for somebody who watches."""
        folder = self.node_folder(node)
        return {
            "apiVersion": _API,
            "kind": "AgentConfig",
            "node": node.name,
            "uid": f"uid-{node.name}",
            "directory": {"path": str(self.directory)},
            "stateDirectory": str(self.state(node)),
            "runDirectory": str(folder / "run"),
            "wireguard": {"driver": self.record.spec.driver},
            "statusInterval": 1,
            "poll": 2,
        }

    def node(self, name: str) -> Node:
        """Return a node by name. ConfigError."""
        for node in self.cluster:
            if node.name == name:
                return node
        raise ConfigError(f"there is no node {name!r} in this lab: {', '.join(node.name for node in self.cluster)}")

    def place(self, name: str) -> Namespace:
        """Return the namespace called `n1`, `n1.p1` or `wire`. ConfigError."""
        if name == "wire":
            return self.cluster.wire
        node_name, dot, pod = name.partition(".")
        node = self.node(node_name)
        if not dot:
            return node
        pods = {f"p{number}": space for number, space in enumerate(node.pods, 1)}
        if pod not in pods:
            raise ConfigError(f"{node_name} has no pod {pod!r}: {', '.join(f'{node_name}.{name}' for name in pods)}")
        return pods[pod]

    # --- processes --------------------------------------------------------------------------------------------------

    def start_controller(self) -> None:
        """Start what signs certificates and grants."""
        folder = self.folder / CONTROLLER
        folder.mkdir(exist_ok=True)

        def work() -> None:
            start_logging(load_agent_settings(self.config(self.cluster[0])))
            controller.run(self.directory, self.folder / "inventory.yaml", self.folder / "ca")

        self._remember(CONTROLLER, self.cluster.wire.fork(work, folder=folder).pid)

    def start_agent(self, node: Node) -> bool:
        """Start a node's agent; False if it runs."""
        if self.running(node.name):
            return False
        settings = load_agent_settings(self.config(node))
        self._remember(node.name, node.fork(agent.run, settings, folder=self.node_folder(node)).pid)
        return True

    def restore(self, node: Node) -> int:
        """Do what the boot unit does, from the node's disk alone; the number of steps it took. HostError."""
        return int(node.fork(agent.restore, load_agent_settings(self.config(node))).result(PATIENCE))

    def start_all(self) -> None:
        """Start the controller and every agent."""
        self.start_controller()
        self.wait((self.directory / CLUSTER).exists, "a directory by the controller")  # agents look every 2 s only
        for node in self.cluster:
            self.start_agent(node)

    def stop(self, process: str, number: int = signal.SIGTERM) -> bool:
        """End the controller or a node's agent; False if it did not run."""
        known = self.record.processes.get(process)
        ended = known is not None and known.end(number)
        self._remember(process, None)
        return ended

    def running(self, process: str) -> bool:
        """Whether the controller or a node's agent runs."""
        known = self.record.processes.get(process)
        return known is not None and known.alive()

    def down(self) -> list[str]:
        """End every process of the lab and remove everything; returns what could not be ended."""
        self._end_processes()
        spaces = [space.ns for space in self.cluster.namespaces()]
        self.cluster.remove()
        left = [space for space in spaces if (namespaces.NETNS_FOLDER / space).exists()]
        left += [name for name, known in self.record.processes.items() if known.alive()]
        state.forget(self.record.spec.name)
        return left

    def _end_processes(self) -> None:
        for known in self.record.processes.values():
            known.end()

    def _remember(self, process: str, pid: int | None) -> None:
        self.record = self.record.with_process(process, pid)
        self.record.save()

    # --- as an operator has it --------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """What starts with it, for a reader."""
        return "Linkseal starts: a controller that signs, and an agent on each node"

    def reaching(self) -> AbstractContextManager[None]:
        """Have the block (this thread only) where an operator's commands find the cluster."""
        return contextlib.nullcontext()

    def words(self) -> list[str]:
        """Options by which an operator's command finds it."""
        return ["--directory", str(self.directory)]

    def variables(self, place: Namespace) -> dict[str, str]:
        """Environment of what is run in a place of it."""
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        found = {"LINKSEAL_DIRECTORY": str(self.directory), "LINKSEAL_CA": str(self.folder / "ca"), "PATH": path}
        return found | ({"LINKSEAL_CONFIG": str(self.config(place))} if isinstance(place, Node) else {})

    def walk_up(self) -> Iterator[Told]:
        """Ask for stage enforce, and yield what is said until the end. ConfigError, DirectoryError, HostError."""
        self.wait((self.folder / "ca" / "controller.sock").exists, "a controller that listens")
        for answer in asked(self.folder / "ca", Wish(target=Stage.ENFORCE, up=True, who="demo")):
            ended = answer.get("event") == "end"
            yield Told(str(answer.get("text", "")), bool(answer.get("good")) if ended else None)

    def stray(self, wire: Capture) -> list[str]:
        """Return what was captured and should not cross when everything between nodes is encrypted."""
        return [frame.text for frame in wire.frames if self.kind(frame) not in self.allowed]

    def kind(self, frame: Frame) -> str:
        """Return what a frame is."""
        return frame.kind

    def views(self, when: str) -> list[View]:
        """Return what an operator would look at: `built`, `started` or `enforced`. HostError."""
        del when
        return []

    # --- looking ----------------------------------------------------------------------------------------------------

    def seen(self) -> Seen:
        """Return what the directory says, as `linkseal status` has it. DirectoryError."""
        with self.reaching():
            return look(self.session())

    def session(self) -> Session:
        """Return what finds the directory."""
        return Session(directory=self.directory)

    def ask(self, node: Node, what: str) -> dict[str, Any]:
        """Ask a node's agent over its control socket. DirectoryError, HostError."""
        return ask(self.node_folder(node) / "run", {"do": what})

    def wait(self, condition: Callable[[], bool], what: str, patience: float | None = None) -> float:
        """Wait until `condition` (errors of Linkseal count as no); returns the seconds. HostError past `patience`.

        Without it the lab's own patience counts.
        """
        patience = self.patience if patience is None else patience
        began = time.monotonic()
        pause = LOOK_AGAIN / 8
        while not _holds(condition):
            if time.monotonic() - began > patience:
                raise HostError(f"after {patience:.0f} s: not {what}.\n{self.last_words()}")
            time.sleep(pause)
            pause = min(2 * pause, LOOK_AGAIN)
        return time.monotonic() - began

    def last_words(self) -> str:
        """Return the end of every log: for an error."""
        lines = []
        for log in self.logs():
            text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
            lines += [f"{log.parent.name}: {line}" for line in text[-5:]]
        return "\n".join(lines)

    def logs(self) -> list[Path]:
        """Return where its processes say what they do; some may not be there."""
        return [folder / "log" for folder in (self.folder / CONTROLLER, *map(self.node_folder, self.cluster))]

    def ready(self) -> bool:
        """Whether the agents have got as far as the stage lets them: reporting, proven, or sealed."""
        seen = self.seen()
        status = seen.status
        if seen.policy.stage.value != self.record.spec.stage:  # the controller is still walking there
            return False
        wanted = _WANTED[self.record.spec.stage]
        if not wanted:
            return [one.name for one in status.nodes if one.status] == sorted(node.name for node in self.cluster)
        return sum(status.directed.get(one, 0) for one in wanted) == len(self.cluster) * (len(self.cluster) - 1)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except LinksealError:
        return False

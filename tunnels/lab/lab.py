"""A running lab: a cluster of namespaces with a controller and an agent on each node, in this kernel."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from linkseal.keys.errors import ConfigError, HostError, LinksealError
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.cli.load import Seen, look
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.controller import files as controller
from linkseal.tunnels.directory.files import CLUSTER
from linkseal.tunnels.directory.inventory import parse_inventory
from linkseal.tunnels.lab import namespaces, state
from linkseal.tunnels.lab.backend import Backend
from linkseal.tunnels.lab.cluster import Cluster, Cni, Node
from linkseal.tunnels.lab.namespaces import Namespace
from linkseal.tunnels.lab.state import LabRecord, LabSpec
from linkseal.tunnels.model import LinkState
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


class Lab:
    """One lab. Made by `build` or `find`; every change of its processes is on disk at once."""

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
        cluster = cluster_of(spec)
        lab = cls(LabRecord(spec, backend), cluster)
        inventory = inventory_of(spec, cluster)
        try:
            cluster.build()
            (lab.folder / "inventory.yaml").write_text(json.dumps(inventory, indent=2) + "\n", encoding="utf-8")
            for node in cluster:
                lab.node_folder(node).mkdir(parents=True, mode=0o700)
                lab.config(node).write_text(json.dumps(lab.agent_config(node), indent=2) + "\n", encoding="utf-8")
                holder = node.hold(lab.node_folder(node))
                (lab.node_folder(node) / HOLDER).write_text(str(holder), encoding="ascii")
                lab._remember(f"{node.name}.mounts", holder)
        except BaseException:
            cluster.remove()
            raise
        return lab

    @classmethod
    def find(cls, record: LabRecord) -> Lab:
        """Return a lab that is up in this kernel."""
        return cls(record, cluster_of(record.spec))

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
            agent.start_logging(load_agent_settings(self.config(self.cluster[0])))
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
        for known in self.record.processes.values():
            known.end()
        spaces = [space.ns for space in self.cluster.namespaces()]
        self.cluster.remove()
        left = [space for space in spaces if (namespaces.NETNS_FOLDER / space).exists()]
        left += [name for name, known in self.record.processes.items() if known.alive()]
        state.forget(self.record.spec.name)
        return left

    def _remember(self, process: str, pid: int | None) -> None:
        self.record = self.record.with_process(process, pid)
        self.record.save()

    # --- looking ----------------------------------------------------------------------------------------------------

    def seen(self) -> Seen:
        """Return what the directory says, as `linkseal status` has it. DirectoryError."""
        return look(Session(directory=self.directory))

    def ask(self, node: Node, what: str) -> dict[str, Any]:
        """Ask a node's agent over its control socket. DirectoryError, HostError."""
        return ask(self.node_folder(node) / "run", {"do": what})

    def wait(self, condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> float:
        """Wait until `condition` (errors of Linkseal count as no); returns the seconds. HostError past `patience`."""
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
        for folder in (self.folder / CONTROLLER, *(self.node_folder(node) for node in self.cluster)):
            log = folder / "log"
            text = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
            lines += [f"{folder.name}: {line}" for line in text[-5:]]
        return "\n".join(lines)

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


def command_in(record: LabRecord, place: str, words: Sequence[str], folder: Path) -> list[str]:
    """Return the command line that runs `words` in a place of a lab, in `folder`; here or in its lab kernel.

    Needs nothing of Python's, whose start takes three seconds in a lab kernel. ConfigError for an unknown place.
    """
    lab = Lab(replace(record, processes={}), cluster_of(record.spec))
    space = lab.place(place)
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    variables = [f"LINKSEAL_DIRECTORY={lab.directory}", f"LINKSEAL_CA={lab.folder / 'ca'}", f"PATH={path}"]
    mounts = ""
    if isinstance(space, Node):
        variables.append(f"LINKSEAL_CONFIG={lab.config(space)}")
        mounts = f'--mount="/proc/$(cat {shlex.quote(str(lab.node_folder(space) / HOLDER))})/ns/mnt"'
    enter = f'exec nsenter --net=/run/netns/{space.ns} {mounts} -- env -C "$0" "$@"'
    return ["sh", "-c", enter, str(folder), *variables, *words]


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except LinksealError:
        return False

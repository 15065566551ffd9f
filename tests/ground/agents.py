"""Linkseal on a cluster of namespaces: a file directory with its signer, and an agent on each node.

Agents are real processes (SIGKILL ends one), forked from the test, since imports cost over a second in the lab kernel.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from ground.namespaces import ForkedProcess
from ground.net import Cluster, Node
from linkseal.keys.ca import CertificateAuthority
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.directory.inventory import parse_inventory
from linkseal.tunnels.directory.signer import FileSigner
from linkseal.tunnels.settings import AgentSettings, parse_agent_settings
from linkseal.tunnels.status import NodeStatus, parse_report

Nodes = Callable[..., Cluster]
"""The fixture `nodes`."""

PATIENCE = 150.0
"""Seconds a cluster may take to seal: the lab kernel has one CPU for all agents, and others may use the machine."""


class Deployment:
    """Agents for (some of) the nodes of a cluster. Use as a context manager: agents end, tunnels go with their node."""

    def __init__(self, cluster: Cluster, *, scope: str = "overlay", stage: str = "prefer", **spec: Any) -> None:
        self.cluster = cluster
        self.folder = Path(tempfile.mkdtemp(prefix="linkseal-"))
        self.directory = self.folder / "directory"
        self.authority = CertificateAuthority.create("test", datetime.now(UTC) - timedelta(days=1), timedelta(days=9))
        self.spec = {"scope": scope, "stage": stage, "verify": {"interval": 0}, **spec}
        self.members: list[Node] = list(cluster)
        self.uids = {node.name: f"uid-{node.name}" for node in cluster}
        self.addresses: dict[str, list[str]] = {}
        """Node addresses granted where they are not the cluster's."""
        self.settings: dict[str, dict[str, Any]] = {}
        self.agents: dict[str, ForkedProcess] = {}
        self.sign()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.agents.values():
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- operator -------------------------------------------------------------------------------------------------

    def inventory(self) -> dict[str, Any]:
        """What the operator wrote, as it is now."""
        entries = [
            {
                "name": node.name,
                "uid": self.uids[node.name],
                "index": node.index,
                "addresses": self.addresses.get(node.name, node.addresses),
                "prefixes": node.pod_cidrs,
            }
            for node in self.members
        ]
        return {"apiVersion": "linkseal.io/v1alpha1", "kind": "Inventory", "spec": self.spec, "nodes": entries}

    def signer(self) -> FileSigner:
        """The controller's part, with the inventory as it is now."""
        signer = FileSigner(self.directory, self.authority, parse_inventory(self.inventory(), "test"))
        signer.prepare()
        return signer

    def sign(self) -> None:
        """Sign what is asked for, and grants that changed."""
        self.signer().sign(datetime.now(UTC))

    def remove_node(self, node: Node) -> None:
        """Take a node out of the cluster for good."""
        self.members.remove(node)
        self.signer().remove(node.name)

    def set(self, **spec: Any) -> None:
        """Change the cluster's policy."""
        self.spec |= spec
        self.sign()

    # --- agents ---------------------------------------------------------------------------------------------------

    def state(self, node: Node) -> Path:
        """A node's state directory."""
        return self.folder / "state" / node.name

    def run_folder(self, node: Node) -> Path:
        """Where a node's control socket is."""
        return self.folder / "run" / node.name

    def membership(self, node: Node) -> dict[str, Any]:
        """By which UID a node belongs to the cluster, and where the others are found."""
        return {"uid": self.uids[node.name], "directory": {"path": str(self.directory)}}

    def agent_settings(self, node: Node, **more: Any) -> AgentSettings:
        """The settings an agent gets; `more` stays for later starts of it."""
        known = self.settings.setdefault(node.name, {})
        known |= more
        config = {
            "apiVersion": "linkseal.io/v1alpha1",
            "kind": "AgentConfig",
            "node": node.name,
            **self.membership(node),
            "stateDirectory": str(self.state(node)),
            "runDirectory": str(self.run_folder(node)),
            "statusInterval": 1,
            "poll": 2,
            **known,
        }
        return parse_agent_settings(config, "test", hostname=node.name)

    def start(self, *nodes: Node, **more: Any) -> None:
        """Start the agents of these nodes (all without any), answer their certificate requests, wait for them."""
        chosen = nodes or tuple(self.cluster)
        for node in chosen:
            self.agents[node.name] = node.fork(agent.run, self.agent_settings(node, **more))
        waiting = {node.name for node in chosen if not (self.state(node) / "identity.crt").exists()}
        if waiting:
            self.until(lambda: self._certified(waiting), "certificates")
        self.until(lambda: all(map(self.answers, chosen)), "agents that answer")

    def _certified(self, names: Iterable[str]) -> bool:
        self.sign()
        return all((self.directory / "nodes" / name / "certificate.pem").exists() for name in names)

    def stop(self, node: Node, number: int = signal.SIGTERM) -> None:
        """End an agent and wait for its end."""
        self.agents[node.name].kill(number)
        self.agents[node.name].wait()

    def run_in(self, node: Node, target: Callable[..., Any], *arguments: Any) -> Any:
        """Run one of the agent's functions (restore, cleanup) on a node and return its result."""
        return node.fork(target, *arguments).result(60)

    def log(self, node: Node) -> str:
        """What the agent printed since it was started last."""
        return self.agents[node.name].text()

    # --- looking --------------------------------------------------------------------------------------------------

    def status(self, node: Node) -> NodeStatus:
        """What the agent itself says now."""
        answer = ask(self.run_folder(node), {"do": "status"})
        report = parse_report(answer["status"], node.name).status
        assert report is not None
        return report

    def codes(self, node: Node) -> set[str]:
        """Codes of the findings an agent shows now."""
        return {finding.code for finding in self.status(node).findings}

    def answers(self, node: Node) -> bool:
        """Whether the agent's control socket does."""
        try:
            self.status(node)
        except DirectoryError:
            return False
        return True

    def rotate(self, node: Node) -> int:
        """Raise a generation; returns its number."""
        return int(ask(self.run_folder(node), {"do": "rotate"})["generation"])

    def all_sealed(self) -> bool:
        """Whether every agent says that its traffic to every other member is sealed."""
        others = len(self.members) - 1
        running = [node for node in self.members if node.name in self.agents and self.agents[node.name].poll() is None]
        return all(self._sealed(node, others) for node in running)

    def _sealed(self, node: Node, others: int) -> bool:
        try:
            links = self.status(node).links
        except Exception:  # noqa: BLE001 - not up yet
            return False
        return links.sealed == links.total == others

    def wait_sealed(self, timeout: float = PATIENCE) -> float:
        """Wait until all is sealed; returns the seconds it took."""
        return self.until(self.all_sealed, "every link sealed", timeout)

    def settled(self) -> bool:
        """Whether all is sealed and every node has one live generation."""
        return self.all_sealed() and all(
            [g.state for g in self.status(node).generations] == ["live"] for node in self.members
        )

    def until(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> float:
        """Wait for a condition; AssertionError with every agent's log and status when it does not come."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > timeout:
                raise AssertionError(f"after {timeout:.0f} s: not {what}\n{self.report()}")
            time.sleep(0.2)
        return time.monotonic() - began

    def report(self) -> str:
        """Logs and statuses of all agents, for a failed test."""
        lines = []
        for node in self.cluster:
            if node.name in self.agents:
                lines.append(f"--- {node.name} (exit {self.agents[node.name].poll()})\n{self.log(node)[-6000:]}")
                try:
                    answer = json.loads(ask(self.run_folder(node), {"do": "status"}, timeout=5)["status"])
                    lines.append(json.dumps(answer["status"], indent=None))
                except Exception as error:  # noqa: BLE001 - this is the report of a failure
                    lines.append(str(error))
        return "\n".join(lines)

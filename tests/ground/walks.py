"""A deployment whose stage the controller keeps: `enable` and `disable` as commands, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ground.agents import Deployment
from ground.namespaces import ForkedProcess
from ground.net import Cluster, Node
from ground.probes import Connections, Flow, Loss, echo_server, loss_probes, tcp_probe
from linkseal.keys import policydoc
from linkseal.tunnels.cli.controller import _log_to_stderr
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.controller import files as controller
from linkseal.tunnels.directory.files import read_cluster
from linkseal.tunnels.status import parse_report

ECHO = 8088

BACKLOG = Path("/proc/sys/net/core/netdev_max_backlog")
"""Packets that wait for a CPU (default 1,000): all namespaces of the lab kernel share one, which a busy machine takes
away for a second at times; what overflows then is lost before it comes to anything of ours."""


class Walked(Deployment):
    """A deployment with a running controller; it begins at stage off."""

    def __init__(self, cluster: Cluster, *, scope: str = "overlay", **spec: Any) -> None:
        self._controller: ForkedProcess | None = None
        super().__init__(cluster, scope=scope, stage="off", **spec)
        self.until((self.ca / "controller.sock").exists, "a controller")

    def __exit__(self, *_: object) -> None:
        if self._controller is not None:
            self._controller.kill(signal.SIGKILL)
            self._controller.wait()
        super().__exit__(*_)

    @property
    def ca(self) -> Path:
        """The controller's folder."""
        return self.folder / "ca"

    def sign(self) -> None:
        """Write the inventory, and see that the controller runs."""
        path = self.folder / "inventory.json"
        text = json.dumps(self.inventory())
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        if self._controller is None:
            directory, ca = self.directory, self.ca

            def work() -> None:
                _log_to_stderr()
                controller.run(directory, path, ca)

            self._controller = ForkedProcess(work)

    def position(self) -> dict[str, Any]:
        """Stage and pool of the policy in the directory."""
        found = read_cluster(self.directory)
        assert found is not None
        assert found.signed is not None
        spec = policydoc.parse(found.signed.text).spec
        return {key: spec[key] for key in ("stage", "pool") if key in spec}

    def begin(self, *words: str) -> ForkedProcess:
        """Start `linkseal WORD …`; its exit code is its result."""
        ca = str(self.ca)

        def command() -> int:
            os.environ["LINKSEAL_CA"] = ca
            return main(words)

        return ForkedProcess(command)

    def walk(self, *words: str) -> str:
        """Run `linkseal WORD …` to its good end; returns what it printed."""
        process = self.begin(*words)
        code = process.result(500)
        text = process.text()
        process.forget()
        assert code == 0, f"{code}: {text}\n{self.controller_log()}\n{self.report()}"
        return text

    def controller_log(self) -> str:
        """What the controller printed."""
        return "" if self._controller is None else self._controller.text()

    def proven(self) -> bool:
        """Whether every member has reported, where the controller looks, that all its links are proven."""
        others = len(self.members) - 1
        paths = [self.directory / "nodes" / node.name / "status.json" for node in self.members]
        reports = [parse_report(path.read_text(), path.parent.name).status for path in paths if path.exists()]
        return [one.links.proven if one else 0 for one in reports] == [others] * len(self.members)

    def everywhere(self, stage: str) -> bool:
        """Whether every running agent says that it has applied this stage."""
        serving = [node for node in self.members if self.agents[node.name].poll() is None]
        reports = [self.status(node) for node in serving]
        return all(one.stage.value == stage and one.policy.applied for one in reports)


@dataclass
class Mesh:
    """Numbered packets between the pods of all nodes, both ways, and connections that nothing masquerades."""

    losses: dict[str, Loss] = field(default_factory=dict)
    connections: dict[str, Connections] = field(default_factory=dict)
    events: list[tuple[float, str]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    overflown: int = 0
    """Packets that this kernel dropped for want of CPU."""

    def note(self, event: str) -> None:
        """Say what is done now."""
        self.events.append((time.monotonic() - self.began, event))

    def assert_unharmed(self) -> None:
        """No packet was lost, no connection reset; AssertionError says after which event."""
        harm = []
        for name, loss in self.losses.items():
            for packet in loss.lost[:5]:
                before = [event for at, event in self.events if at <= packet.at] or ["nothing yet"]
                harm.append(f"{name}: {loss}: after {before[-1]} ({packet.at:.2f} s)")
        harm += [
            f"{name}: {seen}" for name, seen in self.connections.items() if seen.alive != seen.opened or seen.reset
        ]
        assert not harm, (f"{self.overflown} dropped for want of CPU", self.events, harm)
        assert all(loss.sent > 50 for loss in self.losses.values()), self.losses


@contextlib.contextmanager
def mesh_traffic(nodes: list[Node], *, flows: int = 2, pps: int = 50, connections: int = 20) -> Iterator[Mesh]:
    """One or two flows for each directed pair of nodes, the second IPv6 if there is any; TCP between the first two."""
    mesh = Mesh()
    BACKLOG.write_text("30000")
    before = overflown()
    with contextlib.ExitStack() as stack:
        pairs = [(a, b) for a in nodes for b in nodes if a is not b]
        ways: dict[str, Flow] = {}
        for number, (a, b) in enumerate(pairs * flows):
            second = number >= len(pairs)
            source, target = a.pods[second], b.pods[not second]
            address = str(target.address6 if second and target.address6 else target.address4)
            ways[f"{source.ns} → {target.ns} {address}"] = Flow(source, target, address, pps, port=9100 + number)
        losses = stack.enter_context(loss_probes(list(ways.values())))
        mesh.losses = dict(zip(ways, losses, strict=True))
        a, b = nodes[0], nodes[1]
        for client, server in ((a.pods[0], b.pods[1]), (b.pods[0], a.pods[1])):
            address = str(server.address4)
            stack.enter_context(echo_server(server, address, ECHO))
            held = tcp_probe(client, address, ECHO, connections=connections // 2, interval=0.5)
            mesh.connections[f"{client.ns} → {server.ns}"] = stack.enter_context(held)
        time.sleep(0.3)
        yield mesh
        time.sleep(0.3)
    mesh.overflown = overflown() - before


def overflown() -> int:
    """Packets dropped so far because a CPU's backlog was full (second column of softnet_stat)."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)

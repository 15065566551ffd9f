"""Traffic that must not notice what is done to a cluster, and proof of what an event touched on a node.

with steady_traffic(a, b, c) as traffic:
    traffic.note("agent of a stops")
    linkseal.stop(a)
traffic.assert_unharmed()                # says which packets were lost, and after which event
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ground.agents import Deployment
from ground.net import Node
from ground.probes import Connections, Flow, Loss, echo_server, loss_probes, tcp_probe
from ground.service import Service
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.codes import DRIFT_HEALED
from linkseal.tunnels.model import V4, V6

REKEY_AFTER = 110.0
"""Seconds: WireGuard makes a new handshake of its own after 120 s (whitepaper 6.1); an older one may be replaced."""

TRIAL = "lslt"
"""Begins the name of the interface by which an agent finds out at its start whether the kernel has WireGuard."""

SETTLE = 0.3
"""Seconds until the first packets are under way, and until the monitors listen."""


@dataclass
class Traffic:
    """What crossed while things were done to the cluster."""

    began: float = field(default_factory=time.monotonic)
    events: list[tuple[float, str]] = field(default_factory=list)
    losses: dict[str, Loss] = field(default_factory=dict)
    connections: dict[str, Connections] = field(default_factory=dict)

    def note(self, event: str) -> None:
        """Say what is done now, so that a loss can be told where it belongs."""
        self.events.append((time.monotonic() - self.began, event))

    def assert_unharmed(self) -> None:
        """No packet was lost, no connection reset; AssertionError names the last event before each loss."""
        harm = [f"{name}: {loss} ({self._events_of(loss)})" for name, loss in self.losses.items() if loss.lost]
        harm += [
            f"{name}: {seen}"
            for name, seen in self.connections.items()
            if (seen.opened, seen.alive, seen.reset) != (20, 20, 0)
        ]
        assert not harm, harm
        assert all(loss.sent / loss.seconds > 0.5 * rate for loss, rate in self._rates()), self.losses  # a busy machine

    def _rates(self) -> Iterator[tuple[Loss, int]]:
        return ((loss, int(name.rsplit(" ", 1)[1])) for name, loss in self.losses.items())

    def _events_of(self, loss: Loss) -> str:
        lost: dict[str, int] = {}
        for packet in loss.lost:
            before = [event for at, event in self.events if at <= packet.at + SETTLE] or ["nothing yet"]
            lost[before[-1]] = lost.get(before[-1], 0) + 1
        return ", ".join(f"{count} after: {event}" for event, count in lost.items())


@contextlib.contextmanager
def steady_traffic(a: Node, b: Node, c: Node, *, pps: int = 1000) -> Iterator[Traffic]:
    """Packets from a pod of `a` to one of `b` (1,000/s) and back, and 20 connections through a service.

    The service's backends are pods of `b` and `c`; it masquerades. In every family that the nodes have.
    """
    service = Service([b.pods[1], c.pods[1]])
    service.install([a])
    traffic = Traffic()
    with contextlib.ExitStack() as stack:
        for backend in service.backends:
            for address in filter(None, (backend.address4, backend.address6)):
                stack.enter_context(echo_server(backend, address))
        flows = [(a, b, b.pods[0].address4, pps), (c, a, a.pods[0].address4, pps // 10)]
        flows += [(b, a, a.pods[0].address6, pps // 10)] if a.address6 else []
        ways = {
            f"{source.name} to {address}, packets a second: {rate}": Flow(
                source.pods[0], target.pods[0], str(address), rate, port=port
            )
            for port, (source, target, address, rate) in enumerate(flows, 9000)
        }
        losses = stack.enter_context(loss_probes(list(ways.values())))
        traffic.losses = dict(zip(ways, losses, strict=True))
        for address in [service.address4] + ([service.address6] if a.address6 else []):
            connections = tcp_probe(a.pods[0], address, service.port, interval=0.5)
            traffic.connections[f"connections to {address}"] = stack.enter_context(connections)
        time.sleep(SETTLE)
        yield traffic
        time.sleep(SETTLE)


# --- what was touched -------------------------------------------------------------------------------------------------


@dataclass
class Touched:
    """What the kernel told of changes on one node: interfaces, addresses, routes, rules and nftables, a line each."""

    lines: list[str] = field(default_factory=list)
    peers_before: dict[str, str] = field(default_factory=dict)
    peers_after: dict[str, str] = field(default_factory=dict)

    def besides(self, *mine: str) -> list[str]:
        """Lines about what is ours that name none of these: what had to be left alone."""
        ours = [line for line in self.lines if re.search(r"lsl|linkseal|proto 76|table 5182[01]", line)]
        return [line for line in ours if not any(text in line for text in mine)]


@contextlib.contextmanager
def watched(node: Node) -> Iterator[Touched]:
    """Listen to every change on a node while in the block."""
    touched = Touched(peers_before=tunnels(node))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="watched-")))
        processes = []
        for name, command in (("ip", "ip -o monitor link address route rule"), ("nft", "nft monitor")):
            output = stack.enter_context((folder / name).open("wb"))
            processes.append(node.popen(command, stdout=output, stderr=output))
        time.sleep(SETTLE)
        yield touched
        time.sleep(SETTLE)
        for process in processes:
            process.terminate()
            process.wait()
        for name in ("ip", "nft"):
            touched.lines += [line for line in (folder / name).read_text().splitlines() if line.strip()]
    touched.peers_after = tunnels(node)


def tunnels(node: Node, now: float | None = None) -> dict[str, str]:
    """Every WireGuard peer of a node, by interface and key: endpoint, prefixes, keepalive, time of its handshake.

    One that WireGuard may renew by itself is shown without that time.
    """
    found = {}
    for line in node.run("wg show all dump").splitlines():
        fields = line.split("\t")
        if len(fields) == 9:
            interface, key, _, endpoint, prefixes, handshake, _, _, keepalive = fields
            old = (time.time() if now is None else now) - int(handshake) > REKEY_AFTER
            shown = [endpoint, *sorted(prefixes.split(",")), keepalive, "old" if old else handshake]
            found[f"{interface} {key}"] = " ".join(shown)
    return found


def of_peer(peers: dict[str, str], node: Node) -> dict[str, str]:
    """Those entries of `tunnels` that lead to a node."""
    return {name: text for name, text in peers.items() if any(cidr in text.split() for cidr in node.pod_cidrs)}


def data_path(node: Node) -> str:
    """Interfaces with their indexes, routes, rules and nft rules with their handles: equal if nothing was remade."""
    links = [
        ": ".join(line.split(": ")[:2]) for line in node.run("ip -o link show").splitlines() if re.search("lsl", line)
    ]
    commands = (
        "ip rule; ip -6 rule",
        "ip route show table 51820; ip -6 route show table 51820",
        "ip route show table 51821; ip -6 route show table 51821",
        "nft -a list ruleset",
    )
    # A table without routes is an error to ip.
    return "\n".join([*links, *(uncounted(node.run(command, check=False)) for command in commands)])


def uncounted(ruleset: str) -> str:
    """What nft lists, without what packets make of it: counters, and the flows that the guard notes."""
    lines = [line for line in ruleset.splitlines() if "expires" not in line]
    return re.sub(r"packets \d+ bytes \d+", "", "\n".join(lines))


def probe_addresses(node: Node) -> list[str]:
    """What stands for a node's probe addresses in the door's map."""
    ranges = ProbeRange()
    return [str(ranges.pair(family, node.index, a, b)) for family in (V4, V6) for a in (0, 1) for b in (0, 1)]


def assert_no_drift(linkseal: Deployment) -> None:
    """What agents do themselves is never taken for somebody else's doing."""
    assert [node.name for node in linkseal.members if DRIFT_HEALED in linkseal.log(node)] == []

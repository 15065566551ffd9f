"""What `enforce` would do to this cluster, said before: flows dropped, connections reset, what is not covered. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from linkseal.tunnels.stages import LIVE, Evidence, status_of
from linkseal.tunnels.statusparts import PlaintextFlow

MAX_FLOWS: Final = 100
"""Flows that are listed, the busiest first."""

ALWAYS: Final = (
    "link-local and multicast traffic between nodes (VRRP, mDNS, OSPF): it stays plaintext and is not dropped",
    "a managed control plane: its API server is no node, and its traffic is not between nodes",
    "Windows nodes: there is no agent for them",
)
"""What no report can tell, because Linkseal does not look there."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A flow of plaintext that a node would drop."""

    node: str
    flow: PlaintextFlow


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The answer. `masqueraded`: node → connections reset when their traffic moves; None: it did not count them."""

    drops: tuple[Drop, ...] = ()
    masqueraded: Mapping[str, int | None] | None = None
    uncovered: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield it for people; a line each."""
        yield from (_drop(one) for one in self.drops)
        for node, count in sorted((self.masqueraded or {}).items()):
            if count:
                yield f"would reset when traffic moves: {count} masqueraded connections of {node}"
        unknown = sorted(node for node, count in (self.masqueraded or {}).items() if count is None)
        if unknown:
            yield f"masqueraded connections were not counted on {', '.join(unknown[:10])}"
        yield from (f"not covered: {text}" for text in self.uncovered)

    def as_object(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        drops = [
            {
                "node": one.node,
                "peer": one.flow.peer,
                "address": one.flow.address,
                "direction": one.flow.direction,
                "protocol": one.flow.protocol,
                "port": one.flow.port,
                "packets": one.flow.packets,
            }
            for one in self.drops
        ]
        return {"drops": drops, "masqueraded": dict(self.masqueraded or {}), "uncovered": list(self.uncovered)}


def rehearse(evidence: Evidence, now: float) -> Rehearsal:
    """Return what enforce would do, as far as the nodes in scope report it."""
    drops: list[Drop] = []
    masqueraded: dict[str, int | None] = {}
    silent: list[str] = []
    uncovered: list[str] = []
    for name in sorted(evidence.reports):
        status = status_of(evidence, name)
        if status is None or now - status.observed_at > LIVE:
            silent.append(name)
            continue
        drops += [Drop(name, flow) for flow in status.guard.flows if flow.packets]
        masqueraded[name] = status.guard.masqueraded
        uncovered += [f"{name}: {text}" for text in status.guard.uncovered]
    drops.sort(key=lambda one: (-one.flow.packets, one.node, one.flow.peer, one.flow.port))
    cut_off = [f"{name}: no agent reports there: enforce cuts it off from the others" for name in silent]
    exceptions = [f"{name}: opted out: traffic to and from it stays plaintext" for name in sorted(evidence.out)]
    return Rehearsal(tuple(drops[:MAX_FLOWS]), masqueraded, (*cut_off, *exceptions, *uncovered, *ALWAYS))


def _drop(one: Drop) -> str:
    flow = one.flow
    other = flow.peer if flow.address is None else f"{flow.address} (no node known)"
    way = f"{one.node} → {other}" if flow.direction == "out" else f"{other} → {one.node}"
    port = f" port {flow.port}" if flow.port else ""
    return f"would be dropped: {way} {flow.protocol}{port} ({flow.packets} packets in the last ten minutes)"

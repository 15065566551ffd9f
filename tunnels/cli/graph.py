"""Nodes and their links as a picture: what is drawn, and its text in Graphviz's and Mermaid's languages. No I/O."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from linkseal.tunnels.cli.output import clean

STATES: Final = ("sealed", "proven", "pending", "stale", "refused", "absent", "unknown")
"""States of a directed link, in the order of the legend. `unknown`: nobody reports it, which is never a pass."""

_DOT: Final[Mapping[str, str]] = {
    "sealed": 'color="#0b7a5b", style=solid',
    "proven": 'color="#2f6fdb", style=dashed',
    "pending": 'color="#b7791f", style=dotted',
    "stale": 'color="#c2570c", style=dashed, penwidth=2',
    "refused": 'color="#c5303a", style=bold',
    "absent": 'color="#6b7280", style=dotted',
    "unknown": 'color="#7c5cbf", style=dotted',
}

_MERMAID: Final[Mapping[str, tuple[str, str]]] = {
    "sealed": ("===", "stroke:#0b7a5b"),
    "proven": ("---", "stroke:#2f6fdb"),
    "pending": ("-.-", "stroke:#b7791f"),
    "stale": ("-.-", "stroke:#c2570c,stroke-width:2px"),
    "refused": ("-.-", "stroke:#c5303a,stroke-width:2px"),
    "absent": ("-.-", "stroke:#6b7280"),
    "unknown": ("-.-", "stroke:#7c5cbf"),
}


class Direction(NamedTuple):
    """What `source` sends to `target`."""

    source: str
    target: str
    state: str
    code: str | None = None

    def words(self) -> str:
        """`n1 → n2: stale (LS2001)`."""
        return f"{self.source} → {self.target}: {self.state}" + (f" ({self.code})" if self.code else "")


class Edge(NamedTuple):
    """Two nodes and both directions between them; the first node's name sorts first."""

    there: Direction
    back: Direction

    @property
    def equal(self) -> bool:
        """Whether both directions are in one state."""
        return self.there.state == self.back.state

    @property
    def sealed(self) -> bool:
        """Whether both directions are sealed."""
        return self.equal and self.there.state == "sealed"


@dataclass(frozen=True, slots=True)
class Graph:
    """What a picture shows. `verdict` is the first line of `linkseal status`, `good` whether it is a yes."""

    verdict: str
    good: bool
    nodes: tuple[str, ...]
    edges: tuple[Edge, ...]
    taken_at: str

    def counts(self) -> Counter[str]:
        """How many directions are in each state."""
        return Counter(direction.state for edge in self.edges for direction in edge)

    def outside(self) -> frozenset[str]:
        """Nodes without any link, beside others that have some: opted out."""
        linked = {node for edge in self.edges for node in edge.there[:2]}
        return frozenset(self.nodes) - linked if linked else frozenset()

    def problems(self) -> tuple[Direction, ...]:
        """Directions that are not sealed, the worst state first."""
        found = (direction for edge in self.edges for direction in edge if direction.state != "sealed")
        return tuple(sorted(found, key=lambda d: (-STATES.index(d.state), d)))


def edges_of(directions: Iterable[Direction]) -> tuple[Edge, ...]:
    """Pair directions up; one that nobody reports is unknown."""
    known = {(direction.source, direction.target): direction for direction in directions}
    pairs = sorted({(min(pair), max(pair)) for pair in known})
    return tuple(
        Edge(known.get((a, b)) or Direction(a, b, "unknown"), known.get((b, a)) or Direction(b, a, "unknown"))
        for a, b in pairs
    )


def dot(graph: Graph) -> str:
    """Return the graph in Graphviz's language (`linkseal links -o dot | neato -Tpng`)."""
    lines = [
        "graph linkseal {",
        f"  label={_quoted(graph.verdict)}; labelloc=t; layout=circo; overlap=false; splines=true;",
        '  node [shape=box, style=rounded, fontname="sans-serif"]; edge [fontname="sans-serif", fontsize=10];',
        *(f"  {_quoted(name)};" for name in graph.nodes),
        *(_dot_edge(edge) for edge in graph.edges),
        "}",
    ]
    return "\n".join(lines)


def _dot_edge(edge: Edge) -> str:
    nodes = f"{_quoted(edge.there.source)} -- {_quoted(edge.there.target)}"
    if edge.equal:
        label = edge.there.state
        return f"  {nodes} [label={_quoted(label)}, {_DOT[edge.there.state]}];"
    worse = max(edge, key=lambda direction: STATES.index(direction.state))
    ends = f"taillabel={_quoted(edge.there.state)}, headlabel={_quoted(edge.back.state)}"
    return f"  {nodes} [{ends}, {_DOT[worse.state]}];"


def mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart, for Markdown; names are quoted, states are also words."""
    identity = {name: f"n{number}" for number, name in enumerate(graph.nodes)}
    lines = ["---", f"title: {json.dumps(clean(graph.verdict))}", "---", "flowchart LR"]
    lines += [f'  {identity[name]}["{_mermaid_text(name)}"]' for name in graph.nodes]
    styles: list[str] = []
    for number, edge in enumerate(graph.edges):
        worse = max(edge, key=lambda direction: STATES.index(direction.state))
        line, style = _MERMAID[worse.state]
        label = worse.state if edge.equal else f"{edge.there.state} / {edge.back.state}"
        lines.append(f'  {identity[edge.there.source]} {line}|"{label}"| {identity[edge.there.target]}')
        styles.append(f"  linkStyle {number} {style}")
    return "\n".join(lines + styles)


def _quoted(text: str) -> str:
    escaped = clean(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _mermaid_text(text: str) -> str:
    return clean(text).replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")

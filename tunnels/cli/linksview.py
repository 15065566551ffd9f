"""`linkseal links`: rows for every directed pair, as table, object and picture. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from linkseal.tunnels.cli.graph import Direction, Graph, edges_of
from linkseal.tunnels.cli.load import Seen
from linkseal.tunnels.cli.output import Cell, Paint, since, size
from linkseal.tunnels.cli.statusview import STATE_TONES, verdict
from linkseal.tunnels.cluster import DirectedPair, NodeSummary, pair_state
from linkseal.tunnels.model import LinkState
from linkseal.tunnels.status import API_VERSION, PairStatus
from linkseal.tunnels.statustypes import format_time


@dataclass(frozen=True, slots=True)
class LinkRow:
    """One directed link; `link` None: the source lists none to that target, `state` None: nothing is known."""

    source: str
    target: str
    state: LinkState | None
    code: str | None
    link: PairStatus | None = None

    @property
    def word(self) -> str:
        """The state as a word."""
        return "unknown" if self.state is None else self.state.value


def rows(seen: Seen, node: str | None = None) -> list[LinkRow]:
    """Return every link of every directed pair in scope; with `node` those from it and to it."""
    status = seen.status
    out = {entry.node for entry in status.not_covered if entry.reason == "opted out"}
    scope = [summary for summary in status.nodes if summary.name not in out]
    listed = {(pair.source, pair.target): pair for pair in status.unsealed}
    complete = sum(n for state, n in status.directed.items() if state is not LinkState.SEALED) == len(listed)
    found: list[LinkRow] = []
    for summary in scope:
        links = _links(summary)
        for other in scope:
            if other.name != summary.name and node in (None, summary.name, other.name):
                pair = listed.get((summary.name, other.name))
                found += _of_pair(summary.name, other.name, links.get(other.name, []), pair, complete=complete)
    return found


def _links(summary: NodeSummary) -> dict[str, list[PairStatus]]:
    links: dict[str, list[PairStatus]] = {}
    if summary.status is not None and summary.evidence == "fresh":  # an old report says nothing of now
        for link in summary.status.pairs:
            links.setdefault(link.peer, []).append(link)
    return links


def _of_pair(
    source: str, target: str, links: list[PairStatus], unsealed: DirectedPair | None, *, complete: bool
) -> Iterator[LinkRow]:
    if links:
        yield from (LinkRow(source, target, link.state, link.code, link) for link in links)
    elif unsealed is not None:
        yield LinkRow(source, target, unsealed.state, unsealed.code)
    else:  # reports list 200 links at most; of the others the counts say that they are sealed, or nothing does
        yield LinkRow(source, target, LinkState.SEALED if complete else None, None)


def table(seen: Seen, paint: Paint, *, node: str | None = None, wide: bool = False) -> str:
    """Return the table of all pairs."""
    return "\n".join(links_table(rows(seen, node), seen.now, paint, wide=wide))


def links_table(shown: Iterable[LinkRow], now: float, paint: Paint, *, wide: bool = False) -> list[str]:
    """Return the lines of a table of links; one marked `*` carries its pair's traffic."""
    headers = ["FROM", "TO", "STATE", "GENERATIONS", "SINCE", "HANDSHAKE", "PROOF", "SENT", "RECEIVED", "FINDING"]
    if wide:
        headers += ["SLOT", "ENDPOINT", "MTU"]
    return paint.table(headers, [_cells(row, now, wide=wide) for row in shown])


def _cells(row: LinkRow, now: float, *, wide: bool) -> list[str | Cell]:
    cells: list[str | Cell] = [row.source, row.target, Cell(row.word, STATE_TONES[row.state])]
    link = row.link
    if link is None:
        return [*cells, *[""] * 6, row.code or "", *[""] * (3 * wide)]
    generations = f"{link.own}/{link.remote}{'*' if link.carries else ''}"
    cells += [generations, *(since(moment, now) for moment in (link.since, link.last_handshake, link.last_proof))]
    cells += [size(link.tx_bytes), size(link.rx_bytes), row.code or ""]
    return [*cells, link.slot, link.endpoint or "", str(link.path_mtu or "")] if wide else cells


def as_object(seen: Seen, node: str | None = None) -> dict[str, Any]:
    """Return the LinkList of `-o json`."""
    return {
        "apiVersion": API_VERSION,
        "kind": "LinkList",
        "takenAt": seen.taken_at,
        "items": [_item(row) for row in rows(seen, node)],
    }


def _item(row: LinkRow) -> Mapping[str, Any]:
    link = row.link
    item: dict[str, Any] = {"source": row.source, "target": row.target, "state": row.word, "code": row.code}
    if link is None:
        nothing = ("since", "lastHandshake", "lastProof", "rxBytes", "txBytes", "endpoint", "pathMtu")
        return {**item, "carries": None, "generations": None, "slot": None, **dict.fromkeys(nothing)}
    return {
        **item,
        "carries": link.carries,
        "generations": {"source": link.own, "target": link.remote},
        "slot": link.slot,
        "since": format_time(link.since),
        "lastHandshake": _time(link.last_handshake),
        "lastProof": _time(link.last_proof),
        "rxBytes": link.rx_bytes,
        "txBytes": link.tx_bytes,
        "endpoint": link.endpoint,
        "pathMtu": link.path_mtu,
    }


def _time(moment: float | None) -> str | None:
    return None if moment is None else format_time(moment)


def graph(seen: Seen, node: str | None = None) -> Graph:
    """Return what the pictures show: one state for each direction of each pair."""
    answer = verdict(seen, node)
    by_pair: dict[tuple[str, str], list[LinkRow]] = {}
    for row in rows(seen, node):
        by_pair.setdefault((row.source, row.target), []).append(row)
    edges = edges_of(_direction(*pair, found) for pair, found in by_pair.items())
    names = tuple(summary.name for summary in seen.status.nodes)
    return Graph(answer.text, answer.good, names, edges, seen.taken_at)


def _direction(source: str, target: str, found: list[LinkRow]) -> Direction:
    links = [row.link for row in found if row.link is not None]
    if links:
        state, code = pair_state(links)
        return Direction(source, target, state.value, code)
    return Direction(source, target, found[0].word, found[0].code)

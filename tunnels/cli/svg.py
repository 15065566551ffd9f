"""The links as a picture in SVG: nodes on a circle, one line for each pair of nodes. No I/O.

A line's first half is what the first node sends, the second half what comes back; a pair in one state is one stroke.
Colour is never alone: each state has its own dash pattern, its word in the legend, and what is not sealed is listed.
Light and dark follow the reader's own setting, wherever the picture is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from linkseal.tunnels.cli.graph import STATES, Direction, Graph
from linkseal.tunnels.cli.output import clean, plural

MOST_PILLS: Final = 12
"""Up to so many nodes are pills with their names inside; more are dots with names around the circle."""
MOST_LINES: Final = 4000
"""Pairs drawn; beyond it those that are sealed are counted only, or no browser would show the picture."""
MOST_LABELS: Final = 14
MOST_PROBLEMS: Final = 8
"""Directions that are not sealed: so many get their word on the line, so many are listed."""
LONGEST_NAME: Final = 26

_MARGIN: Final = 40
_HEADER: Final = 104
_ROW: Final = 24
_PILL_HEIGHT: Final = 38
_TAG_HEIGHT: Final = 22

_PALETTE: Final[Mapping[str, tuple[str, str, str, float]]] = {
    "sealed": ("#0a7d5c", "#3ecf9b", "none", 2.0),
    "proven": ("#2563c9", "#6ea8ff", "14 5", 2.0),
    "pending": ("#a86700", "#f0b541", "2 6", 2.6),
    "stale": ("#b9500a", "#ff9a52", "12 4 2 4", 2.6),
    "refused": ("#c2263a", "#ff6b7a", "5 4", 3.2),
    "absent": ("#5d6675", "#9aa5b5", "1 8", 2.6),
    "unknown": ("#7a49b8", "#bf9bf5", "8 8", 2.4),
}
"""State → colour on light, on dark (each at least 4.5:1 against its ground), dashes, width in pixels."""


class Point(NamedTuple):
    """A place in the picture, pixels from the top left."""

    x: float
    y: float

    def towards(self, other: Point, share: float) -> Point:
        """Return the point at `share` of the way to `other`."""
        return Point(self.x + (other.x - self.x) * share, self.y + (other.y - self.y) * share)


class Box(NamedTuple):
    """A rectangle by its centre."""

    centre: Point
    width: float
    height: float

    def covers(self, other: Box) -> bool:
        """Whether the two have a point in common."""
        x, y = abs(self.centre.x - other.centre.x), abs(self.centre.y - other.centre.y)
        return 2 * x < self.width + other.width and 2 * y < self.height + other.height


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is."""

    width: float
    height: float
    centre: Point
    radius: float
    places: Mapping[str, Point]
    pills: bool
    legend_at: float


def svg(graph: Graph) -> str:
    """Return the picture as one SVG document."""
    layout = _layout(graph)
    parts = [
        *_head(graph, layout),
        *_header(graph),
        '<g class="links" fill="none" stroke-linecap="round">',
        *_lines(graph, layout),
        "</g>",
        *_labels(graph, layout),
        *_nodes(graph, layout),
        *_legend(graph, layout),
        *_problems(graph, layout),
        "</svg>",
    ]
    return "\n".join(parts)


# --- places --------------------------------------------------------------------------------------------------------


def _layout(graph: Graph) -> Layout:
    count = len(graph.nodes)
    pills = count <= MOST_PILLS
    longest = max((len(_short(name)) for name in graph.nodes), default=0)
    if pills:
        radius = 0.0 if count < 2 else 132.0 + 18.0 * count  # noqa: PLR2004 - a circle needs two
        beside, above = _pill_width("m" * longest) / 2 + 20, 34.0
    else:
        radius = max(270.0, 2.6 * count)
        beside = above = 7.0 * longest + 30
    width = max(760.0, 2 * (radius + beside + _MARGIN), _legend_width(graph) + 2 * _MARGIN)
    angles = _angles(count)
    highest = min((math.sin(angle) for angle in angles), default=0.0)
    centre = Point(width / 2, _HEADER + above - radius * highest)
    places = {
        name: Point(centre.x + radius * math.cos(angle), centre.y + radius * math.sin(angle))
        for name, angle in zip(graph.nodes, angles, strict=True)
    }
    lowest = max((place.y for place in places.values()), default=centre.y)
    legend_at = lowest + above + 26
    listed = min(len(graph.problems()), MOST_PROBLEMS + 1)
    height = legend_at + 46 + (listed + 1.2) * _ROW * bool(listed)
    return Layout(width, height, centre, radius, places, pills, legend_at)


def _angles(count: int) -> list[float]:
    """Return directions from the centre, from the top on clockwise; two stand side by side, four in a square."""
    start = {2: math.pi, 4: -3 * math.pi / 4}.get(count, -math.pi / 2)
    return [start + 2 * math.pi * number / count for number in range(count)]


def _pill_width(name: str) -> float:
    return max(84.0, 8.2 * len(name) + 46)


def _short(name: str) -> str:
    name = clean(name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


# --- parts ---------------------------------------------------------------------------------------------------------


def _head(graph: Graph, layout: Layout) -> Iterator[str]:
    width, height = round(layout.width), round(layout.height)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-labelledby="title desc">'
    )
    yield f'<title id="title">Linkseal: {_text(graph.verdict)}</title>'
    yield f'<desc id="desc">{_text(_description(graph))}</desc>'
    yield f"<style>{_style()}</style>"
    yield f'<rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="16"/>'


def _description(graph: Graph) -> str:
    counts = graph.counts()
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no links"
    text = f"{plural(len(graph.nodes), 'node')} and {plural(sum(counts.values()), 'directed link')}: {states}."
    problems = graph.problems()
    if problems:
        more = len(problems) - MOST_PROBLEMS
        words = "; ".join(direction.words() for direction in problems[:MOST_PROBLEMS])
        text += f" Not sealed: {words}{f'; and {more} more' if more > 0 else ''}."
    return text


def _style() -> str:
    common = (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:var(--ink)}"
        ".ground{fill:var(--ground);stroke:var(--edge)}.dim{fill:var(--dim)}"
        ".node rect,.node circle{fill:var(--card);stroke:var(--rim);stroke-width:1.5}"
        ".out rect,.out circle{stroke-dasharray:4 4;fill:none}.thin .sealed{stroke-width:1}"
        ".tag rect{fill:var(--ground);stroke:var(--edge)}.rule{stroke:var(--edge)}"
        ".mark{fill:none;stroke:var(--ground);stroke-width:2.6;stroke-linecap:round;stroke-linejoin:round}"
    )
    return (
        ":root{--ground:#fff;--card:#f6f8fa;--rim:#8993a3;--ink:#16202e;--dim:#566173;--edge:#dfe4ea;"
        + _variables(0)
        + "}@media (prefers-color-scheme:dark){:root{--ground:#11161d;--card:#1c2430;--rim:#77839a;--ink:#e8edf4;"
        "--dim:#a3afc0;--edge:#2b3543;" + _variables(1) + "}}" + common + "".join(_classes())
    )


def _variables(position: int) -> str:
    return "".join(f"--{state}:{values[position]};" for state, values in _PALETTE.items())


def _classes() -> Iterator[str]:
    for state, (_, _, dashes, width) in _PALETTE.items():
        yield f".{state}{{stroke:var(--{state});stroke-width:{width};stroke-dasharray:{dashes}}}"
        yield f".t-{state}{{fill:var(--{state})}}"


def _header(graph: Graph) -> Iterator[str]:
    state, mark = ("sealed", "M48 53l6 6 11-12") if graph.good else ("refused", "M50 46l13 13M63 46l-13 13")
    headline, _, rest = graph.verdict.partition(": ")
    headline = headline[:1].upper() + headline[1:]
    links = plural(sum(graph.counts().values()), "directed link")
    facts = [rest.partition("; ")[0], plural(len(graph.nodes), "node"), links, graph.taken_at]
    line = " · ".join(fact for fact in facts if fact)
    yield f'<circle class="t-{state}" cx="56.5" cy="52.5" r="16.5"/><path class="mark" d="{mark}"/>'
    yield f'<text x="86" y="50" font-size="19" font-weight="650">{_text(_cut(headline, 60))}</text>'
    yield f'<text class="dim" x="86" y="72" font-size="13.5">{_text(_cut(line, 92))}</text>'


def _lines(graph: Graph, layout: Layout) -> Iterator[str]:
    """Sealed lines first and fainter the more there are, so that the others lie on top of them."""
    few = len(graph.edges) <= MOST_LINES
    dense = "" if layout.pills else ' class="thin"'
    opacity = min(1.0, max(0.2, 4.5 / (len(graph.nodes) or 1)))
    yield f'<g{dense} stroke-opacity="{opacity:.2f}">'
    yield from (_stroke(layout, edge.there, 1.0) for edge in graph.edges if edge.sealed and few)
    yield "</g>"
    for edge in graph.edges:
        if edge.sealed:
            continue
        if edge.equal:
            yield _stroke(layout, edge.there, 1.0)
        else:
            yield _stroke(layout, edge.there, 0.5)
            yield _stroke(layout, edge.back, 0.5)


def _stroke(layout: Layout, direction: Direction, share: float) -> str:
    start = layout.places[direction.source]
    end = start.towards(layout.places[direction.target], share)
    return f'<path class="{direction.state}" d="M{_at(start)}L{_at(end)}"/>'


def _nodes(graph: Graph, layout: Layout) -> Iterator[str]:
    outside = graph.outside()
    for name in graph.nodes:
        place = layout.places[name]
        full, short = _text(name), _text(_short(name))
        draw = _pill if layout.pills else _dot
        kind, remark = ("node out", " (not in scope)") if name in outside else ("node", "")
        yield f'<g class="{kind}"><title>{full}{remark}</title>{draw(place, short, len(_short(name)), layout)}</g>'


def _pill(place: Point, text: str, length: int, _: Layout) -> str:
    width = _pill_width("m" * length)
    return (
        f'<rect x="{place.x - width / 2:.1f}" y="{place.y - 19:.1f}" width="{width:.1f}" height="38" rx="19"/>'
        f'<text x="{place.x:.1f}" y="{place.y + 5:.1f}" font-size="15" font-weight="600" text-anchor="middle">'
        f"{text}</text>"
    )


def _dot(place: Point, text: str, _: int, layout: Layout) -> str:
    angle = math.degrees(math.atan2(place.y - layout.centre.y, place.x - layout.centre.x))
    left = abs(angle) > 90  # noqa: PLR2004 - text on the left half is turned, or it would stand on its head
    turn = angle + 180 if left else angle
    offset, anchor = (-13, "end") if left else (13, "start")
    return (
        f'<circle cx="{place.x:.1f}" cy="{place.y:.1f}" r="5.5"/>'
        f'<text transform="translate({_at(place)}) rotate({turn:.1f})" x="{offset}" y="4.2" font-size="12.5" '
        f'text-anchor="{anchor}">{text}</text>'
    )


def _labels(graph: Graph, layout: Layout) -> Iterator[str]:
    """Yield the states' words on the lines, where there is room for them."""
    if not layout.pills:
        return
    marked = [edge for edge in graph.edges if not edge.sealed]
    if len(graph.nodes) <= 4:  # noqa: PLR2004 - six lines
        marked = list(graph.edges)
    taken = [Box(place, _pill_width(_short(name)), _PILL_HEIGHT) for name, place in layout.places.items()]
    for edge in marked[:MOST_LABELS]:
        start, end = layout.places[edge.there.source], layout.places[edge.there.target]
        if edge.equal:
            yield _tag(_free(start, end, (0.5, 0.4, 0.6, 0.33, 0.67), edge.there.state, taken), edge.there.state)
        else:
            yield _tag(_free(start, end, (0.3, 0.36, 0.24, 0.4), edge.there.state, taken), edge.there.state)
            yield _tag(_free(end, start, (0.3, 0.36, 0.24, 0.4), edge.back.state, taken), edge.back.state)


def _free(start: Point, end: Point, shares: tuple[float, ...], state: str, taken: list[Box]) -> Point:
    """Return the first of the places on a line where a tag covers nothing, else the first; it is taken then."""
    boxes = [Box(start.towards(end, share), _tag_width(state), _TAG_HEIGHT) for share in shares]
    box = next((box for box in boxes if not any(box.covers(other) for other in taken)), boxes[0])
    taken.append(box)
    return box.centre


def _tag_width(state: str) -> float:
    return 7.6 * len(state) + 18


def _tag(place: Point, state: str) -> str:
    width = _tag_width(state)
    return (
        f'<g class="tag"><rect x="{place.x - width / 2:.1f}" y="{place.y - 11:.1f}" width="{width:.1f}" height="22" '
        f'rx="11"/><text class="t-{state}" x="{place.x:.1f}" y="{place.y + 4.3:.1f}" font-size="12.5" '
        f'font-weight="600" text-anchor="middle">{state}</text></g>'
    )


def _legend_entries(graph: Graph) -> list[tuple[str, str, float]]:
    """State, words and width of each entry of the legend."""
    found = [(state, f"{state} {count}") for state in STATES if (count := graph.counts()[state])]
    return [(state, words, 58 + 7.6 * len(words)) for state, words in found]


def _legend_width(graph: Graph) -> float:
    return sum(width for _, _, width in _legend_entries(graph)) + 140 * bool(graph.outside())


def _legend(graph: Graph, layout: Layout) -> Iterator[str]:
    x, y = (layout.width - _legend_width(graph)) / 2, layout.legend_at
    for state, words, width in _legend_entries(graph):
        yield f'<path class="{state}" fill="none" stroke-linecap="round" d="M{x:.1f} {y:.1f}h34"/>'
        yield f'<text x="{x + 42:.1f}" y="{y + 4.5:.1f}" font-size="13.5">{words}</text>'
        x += width
    outside = len(graph.outside())
    if outside:
        yield f'<g class="node out"><rect x="{x:.1f}" y="{y - 7:.1f}" width="26" height="14" rx="7"/></g>'
        yield f'<text x="{x + 34:.1f}" y="{y + 4.5:.1f}" font-size="13.5">not in scope {outside}</text>'
    if len(graph.edges) > MOST_LINES:
        text = "sealed links are counted and not drawn"
        yield f'<text class="dim" x="{layout.width / 2}" y="{y + 24}" font-size="13" text-anchor="middle">{text}</text>'


def _problems(graph: Graph, layout: Layout) -> Iterator[str]:
    problems = graph.problems()
    if not problems:
        return
    y = layout.legend_at + 1.7 * _ROW
    yield f'<path class="rule" d="M{_MARGIN} {y:.1f}H{layout.width - _MARGIN:.1f}"/>'
    y += 28
    yield f'<text x="{_MARGIN}" y="{y:.1f}" font-size="14" font-weight="650">Not sealed</text>'
    more = len(problems) - MOST_PROBLEMS
    for direction in problems[:MOST_PROBLEMS]:
        pair = f"{_short(direction.source)} → {_short(direction.target)}"
        code = f' <tspan class="dim">{_text(direction.code)}</tspan>' if direction.code else ""
        yield (
            f'<text x="{_MARGIN + 110}" y="{y:.1f}" font-size="13.5">{_text(pair)}  '
            f'<tspan class="t-{direction.state}" font-weight="600">{direction.state}</tspan>{code}</text>'
        )
        y += _ROW
    if more > 0:
        yield f'<text class="dim" x="{_MARGIN + 110}" y="{y:.1f}" font-size="13.5">and {more} more</text>'


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(text: str) -> str:
    return escape(clean(text))


def _at(point: Point) -> str:
    return f"{point.x:.1f} {point.y:.1f}"

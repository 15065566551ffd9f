"""Is everything encrypted, and what is not covered? Answered from all nodes' reports. No I/O; time is an argument.

Unknown is never a pass (law 9): a missing, unreadable or old report makes every link of that node unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.status import MAX_PAIRS, WORST_FIRST, NodeEncryption, NodeStatus, PairStatus

REPORT_INTERVAL: Final = 300.0
"""Seconds after which an agent reports even if nothing changed."""

STALE_AFTER: Final = 3 * REPORT_INTERVAL
"""Age in seconds from which a report says nothing."""

CLOCK_AHEAD: Final = 60.0
"""Seconds a report may be from the future: clocks differ. Beyond, its age is not known."""

MAX_LISTED: Final = 500
"""Unsealed pairs listed by name; their number is always exact."""
_NAMED: Final = 5
_HOST_CODES: Final = ("LS3", "LS5")

Evidence = Literal["fresh", "stale", "ahead", "missing"]


@dataclass(frozen=True, slots=True)
class NodeSummary:
    """A node and what its report is worth; `age` in seconds, None without report."""

    name: str
    evidence: Evidence
    age: float | None
    status: NodeStatus | None


@dataclass(frozen=True, slots=True)
class DirectedPair:
    """The traffic from `source` to `target` as `source` reports it; state None: not known."""

    source: str
    target: str
    state: LinkState | None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class NotCovered:
    """A node whose traffic is not protected, and why."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The answer. `everything_sealed` exactly if `reasons` is empty."""

    everything_sealed: bool
    reasons: tuple[str, ...]
    nodes: tuple[NodeSummary, ...]
    directed: Mapping[LinkState | None, int]
    """Number of directed pairs in each state; None: not known."""
    pairs: int
    """Number of pairs of nodes that are in scope."""
    sealed_both_ends: int
    """Pairs of nodes whose traffic is sealed as reported by both."""
    unsealed: tuple[DirectedPair, ...] = ()
    """The directed pairs that are not sealed, unknown ones first, then the worst; at most MAX_LISTED."""
    not_covered: tuple[NotCovered, ...] = ()


@dataclass(slots=True)
class _View:
    """What one node says of the others: those it lists, and the state of those it does not list."""

    listed: dict[str, tuple[LinkState, str | None]] = field(default_factory=dict)
    rest: LinkState | None = None

    def of(self, target: str) -> tuple[LinkState | None, str | None]:
        return self.listed.get(target, (self.rest, None))


def cluster_status(
    reports: Mapping[str, NodeEncryption | None],
    policy: Policy,
    now: float,
    *,
    nodes: Collection[str] | None = None,
    opted_out: Collection[str] = (),
) -> ClusterStatus:
    """Judge the cluster.

    `reports`: node → report, None for one that could not be read. `nodes`: every node the cluster knows (those with
    a grant); without it only the reporting ones are known. `opted_out`: nodes that are out of scope on purpose.
    `now`: Unix seconds.
    """
    known = sorted(set(reports if nodes is None else nodes))
    scope = [name for name in known if name not in opted_out]
    summaries = tuple(_summary(name, reports.get(name), now) for name in known)
    views = {
        summary.name: _view(summary.status, len(scope) - 1)
        for summary in summaries
        if summary.name in set(scope) and summary.evidence == "fresh" and summary.status is not None
    }
    directed, unsealed, both = _pairs(scope, views, policy)
    reasons = tuple(_reasons(policy, scope, [s for s in summaries if s.name not in opted_out], directed))
    return ClusterStatus(
        everything_sealed=not reasons,
        reasons=reasons,
        nodes=summaries,
        directed=directed,
        pairs=len(scope) * (len(scope) - 1) // 2,
        sealed_both_ends=both,
        unsealed=unsealed,
        not_covered=tuple(_not_covered(summaries, opted_out)),
    )


def directed_states(
    reports: Mapping[str, NodeEncryption | None], now: float, about: Collection[str] | None = None
) -> Iterator[tuple[str, str, LinkState | None]]:
    """Yield source, target and state of every directed pair of these nodes, as the source reports it lately.

    `about`: only pairs with one of these at an end.
    """
    views: dict[str, _View] = {}
    for name, report in reports.items():
        summary = _summary(name, report, now)
        if summary.evidence == "fresh" and summary.status is not None:
            views[name] = _view(summary.status, len(reports) - 1)
    nothing = _View()
    for source in reports:
        view = views.get(source, nothing)
        targets = reports if about is None or source in about else about
        yield from ((source, target, view.of(target)[0]) for target in targets if target != source)


def pair_state(links: Iterable[PairStatus]) -> tuple[LinkState, str | None]:
    """Return state and code of a directed pair from its links: the worst of those that carry traffic, else of all.

    A link that is being proven beside the one that carries takes nothing from it. What carries nothing is not sealed.
    """
    candidates = list(links)
    carrying = [link for link in candidates if link.carries]
    worst = min(carrying or candidates, key=lambda link: WORST_FIRST.index(link.state))
    if worst.state is LinkState.SEALED and not carrying:
        return LinkState.PROVEN, worst.code
    return worst.state, worst.code


def _summary(name: str, report: NodeEncryption | None, now: float) -> NodeSummary:
    if report is None or report.status is None:
        return NodeSummary(name, "missing", None, None)
    age = now - report.status.observed_at
    evidence: Evidence = "stale" if age > STALE_AFTER else "ahead" if age < -CLOCK_AHEAD else "fresh"
    return NodeSummary(name, evidence, age, report.status)


def _view(status: NodeStatus, peers: int) -> _View:
    links: dict[str, list[PairStatus]] = {}
    for pair in status.pairs:
        links.setdefault(pair.peer, []).append(pair)
    view = _View({peer: pair_state(of) for peer, of in links.items()})
    for peer in status.unsealed:
        if peer.name not in view.listed or view.listed[peer.name][0] is LinkState.SEALED:
            view.listed[peer.name] = (peer.state, peer.code)
    # A full list leaves links out. Those are sealed if the counts leave no room for anything else: as many peers as
    # there are, and every one that is not sealed is named. In a list with room, who is missing is not known there.
    counts = status.links
    full = len(status.pairs) == MAX_PAIRS
    if full and counts.total == peers and counts.total - counts.sealed == len(status.unsealed):
        view.rest = LinkState.SEALED
    elif full and counts.total == peers == counts.sealed + counts.proven:
        view.rest = LinkState.PROVEN
    return view


def _pairs(
    scope: Sequence[str], views: Mapping[str, _View], policy: Policy
) -> tuple[dict[LinkState | None, int], tuple[DirectedPair, ...], int]:
    counts: Counter[LinkState | None] = Counter()
    unsealed: list[DirectedPair] = []
    sealed: dict[str, set[str]] = {name: set() for name in scope}
    nothing = _View()
    for source in scope:
        view = views.get(source, nothing)
        for target in scope:
            if target == source:
                continue
            state, code = view.of(target)
            if policy.pool is not None and Stage.OFF in (policy.stage_of(source), policy.stage_of(target)):
                state, code = LinkState.ABSENT, None  # there is to be no link yet between pool and others
            counts[state] += 1
            if state is LinkState.SEALED:
                sealed[source].add(target)
            else:
                unsealed.append(DirectedPair(source, target, state, code))
    both = sum(1 for source in scope for target in sealed[source] if source < target and source in sealed[target])
    unsealed.sort(key=lambda p: (-1 if p.state is None else WORST_FIRST.index(p.state), p.source, p.target))
    ordered: tuple[LinkState | None, ...] = (*reversed(WORST_FIRST), None)
    return {state: counts[state] for state in ordered}, tuple(unsealed[:MAX_LISTED]), both


def _reasons(
    policy: Policy, scope: Sequence[str], summaries: Sequence[NodeSummary], directed: Mapping[LinkState | None, int]
) -> Iterator[str]:
    if not scope:
        yield "no node is known"
    if policy.stage in {Stage.OFF, Stage.PREPARE}:
        yield f"the cluster's stage is {policy.stage.value}: traffic is not encrypted"
    for evidence, text in (
        ("missing", "no report from"),
        ("stale", f"the last report is older than {STALE_AFTER / 60:.0f} minutes from"),
        ("ahead", "the clock is ahead, so that the report's age is unknown, on"),
    ):
        if names := [s.name for s in summaries if s.evidence == evidence]:
            yield f"{text} {_names(names)}"
    if policy.pool is not None:
        behind = [name for name in scope if name not in policy.pool.nodes]
        yield f"a pool goes first; still at stage {policy.stage.value}: {_names(behind)}"
    others = [s.name for s in summaries if s.status and not _as_wanted(s.name, s.status, policy)]
    if others:
        yield f"the cluster's stage, scope or protocol is not applied yet on {_names(others)}"
    yield from _host_errors(summaries)
    for state, count in directed.items():
        if state is not LinkState.SEALED and count:
            yield f"{count} directed {'pair is' if count == 1 else 'pairs are'} {state.value if state else 'unknown'}"


def _as_wanted(name: str, status: NodeStatus, policy: Policy) -> bool:
    wanted = (policy.stage_of(name), policy.scope, policy.protocol)
    return (status.stage, status.scope, status.protocol) == wanted


def _host_errors(summaries: Sequence[NodeSummary]) -> Iterator[str]:
    """What is wrong with hosts as they say themselves: with it nobody knows what else does not hold there."""
    found: dict[str, list[str]] = {}
    for summary in summaries:
        for code in sorted({finding.code for finding in summary.status.findings} if summary.status else ()):
            entry = CATALOGUE.get(code)
            if code.startswith(_HOST_CODES) and (entry is None or entry.severity == "error"):
                found.setdefault(code, []).append(summary.name)
    for code, names in sorted(found.items()):
        yield f"{code} ({CATALOGUE[code].title if code in CATALOGUE else 'unknown'}) on {_names(names)}"


def _not_covered(summaries: Sequence[NodeSummary], opted_out: Collection[str]) -> Iterator[NotCovered]:
    for summary in summaries:
        if summary.name in opted_out:
            yield NotCovered(summary.name, "opted out")
        elif summary.evidence == "missing":
            yield NotCovered(summary.name, "no agent there, or it has never reported")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

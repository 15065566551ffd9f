"""`linkseal status` as text and as an object: verdict, nodes, what is not covered, findings, advice. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from linkseal.tunnels.catalogue import Severity
from linkseal.tunnels.cli import rehearsalview
from linkseal.tunnels.cli.load import Seen
from linkseal.tunnels.cli.output import Cell, Paint, Tone, age, plural, since
from linkseal.tunnels.cli.verifyview import verified_cell, verified_object
from linkseal.tunnels.cluster import ClusterStatus, DirectedPair, NodeSummary
from linkseal.tunnels.codes import AGENT_SILENT, NO_AGENT
from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.status import API_VERSION
from linkseal.tunnels.statustypes import format_time

MAX_PAIRS: Final = 20
MAX_FINDINGS: Final = 20
MAX_ADVICE: Final = 3
"""Lines that the text form shows of each; -o json has all."""

TONES: Final[Mapping[str, Tone]] = {"error": Tone.BAD, "warning": Tone.WARN, "info": Tone.DIM}

STATE_TONES: Final[Mapping[LinkState | None, Tone]] = {
    LinkState.SEALED: Tone.GOOD,
    LinkState.PROVEN: Tone.WARN,
    LinkState.PENDING: Tone.WARN,
    LinkState.STALE: Tone.BAD,
    LinkState.REFUSED: Tone.BAD,
    LinkState.ABSENT: Tone.BAD,
    None: Tone.BAD,
}

_ORDER: Final[Mapping[Severity, int]] = {"error": 0, "warning": 1, "info": 2}


class Row(NamedTuple):
    """A finding with the node that reports it."""

    code: str
    node: str
    subject: str
    message: str
    since: float | None

    @property
    def severity(self) -> Severity:
        """As the catalogue says; what a newer version found is a warning here."""
        return CATALOGUE[self.code].severity if self.code in CATALOGUE else "warning"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to the command's question."""

    good: bool
    text: str


def verdict(seen: Seen, node: str | None = None) -> Verdict:
    """Return the first line of the answer, for the whole cluster or for one node's links."""
    status = seen.status
    if node is not None:
        return _verdict_of(seen, node)
    sealed = f"{status.sealed_both_ends} of {plural(status.pairs, 'link')} sealed at both ends"
    if not status.everything_sealed:
        return Verdict(good=False, text=f"NOT everything is encrypted: {sealed}; {'; '.join(status.reasons)}")
    return Verdict(good=True, text=f"everything in scope is encrypted: {sealed}")


def _verdict_of(seen: Seen, node: str) -> Verdict:
    status = seen.status
    if any(entry.node == node and entry.reason == "opted out" for entry in status.not_covered):
        return Verdict(good=False, text=f"{node} is NOT encrypted: it is opted out")
    if lacking := next((one.message for one in seen.said if one.type == "Granted"), ""):
        return Verdict(good=False, text=f"NOT everything of {node} may be encrypted: not all is granted: {lacking}")
    stage = seen.policy.stage_of(node)
    if stage in {Stage.OFF, Stage.PREPARE}:
        return Verdict(good=False, text=f"{node} is NOT encrypted: the cluster's stage is {stage.value}")
    summary = next(summary for summary in status.nodes if summary.name == node)
    if summary.evidence != "fresh":
        return Verdict(good=False, text=f"it is NOT known whether {node} is encrypted: {_evidence(summary)}")
    opted_out = sum(entry.reason == "opted out" for entry in status.not_covered)
    peers = len(status.nodes) - opted_out - 1
    broken = {other for pair in status.unsealed for other in _other_end(pair, node)}
    # The list of unsealed pairs is cut at 500; what it leaves out may be this node's.
    left_out = sum(n for state, n in status.directed.items() if state is not LinkState.SEALED) > len(status.unsealed)
    sealed = f"{peers - len(broken)} of {plural(peers, 'link')} sealed at both ends"
    if broken or left_out:
        return Verdict(good=False, text=f"NOT everything of {node} is encrypted: {sealed}")
    return Verdict(good=True, text=f"everything of {node} in scope is encrypted: {sealed}")


def _other_end(pair: DirectedPair, node: str) -> Iterator[str]:
    if pair.source == node:
        yield pair.target
    elif pair.target == node:
        yield pair.source


def _evidence(summary: NodeSummary) -> str:
    if summary.evidence == "missing" or summary.age is None:
        return "no report"
    if summary.evidence == "ahead":
        return f"clock {age(-summary.age)} ahead"
    return f"{age(summary.age)} ago" + (", too old" if summary.evidence == "stale" else "")


# --- what is in it -------------------------------------------------------------------------------------------------


def findings(status: ClusterStatus, node: str | None) -> list[Row]:
    """Return what the nodes report, and what their silence is; errors first."""
    rows: list[Row] = []
    for summary in status.nodes:
        if summary.evidence == "stale":
            rows.append(
                Row(AGENT_SILENT, summary.name, summary.name, f"last report {since(0, summary.age or 0)} ago", None)
            )
        elif summary.evidence == "missing" and not _opted_out(status, summary.name):
            rows.append(Row(NO_AGENT, summary.name, summary.name, "no agent has reported from there", None))
        if summary.status is not None:
            rows += [Row(f.code, summary.name, f.subject, f.message, f.since) for f in summary.status.findings]
    chosen = [row for row in rows if node is None or node in (row.node, row.subject)]
    return sorted(chosen, key=lambda row: (_ORDER[row.severity], row.code, row.node, row.subject))


def not_covered(seen: Seen) -> list[tuple[str, str]]:
    """Return what the tunnels do not protect, as (what, why): nodes, and what the scope and the stage leave out."""
    found = [(entry.node, entry.reason) for entry in seen.status.not_covered]
    if seen.policy.scope is Scope.OVERLAY:
        found.append(("host traffic", "scope overlay carries pod prefixes only: host processes and host-network pods"))
    found += rehearsalview.uncovered(seen)
    if seen.policy.stage is not Stage.ENFORCE:
        found.append(("plaintext", f"stage {seen.policy.stage.value} does not block it"))
    found.append(("other networks", "secondary interfaces, link-local and multicast packets"))
    return found


def _opted_out(status: ClusterStatus, node: str) -> bool:
    return any(entry.node == node and entry.reason == "opted out" for entry in status.not_covered)


def _pairs(status: ClusterStatus, node: str | None) -> list[DirectedPair]:
    return [pair for pair in status.unsealed if node is None or node in (pair.source, pair.target)]


# --- text ----------------------------------------------------------------------------------------------------------


def text(seen: Seen, paint: Paint, *, node: str | None = None, wide: bool = False) -> str:
    """Return what `linkseal status` prints."""
    answer = verdict(seen, node)
    rows = findings(seen.status, node)
    shown = [summary for summary in seen.status.nodes if node in (None, summary.name)]
    blocks = [
        [paint(answer.text, Tone.GOOD if answer.good else Tone.BAD)],
        paint.table(_headers(wide), [_node_row(seen, summary, wide) for summary in shown]) if shown else [],
        _guard_lines(shown, seen.now) if node is not None else [],
        _pair_lines(_pairs(seen.status, node), paint),
        _said_lines(seen, paint) if node is None else [],
        ["Not covered:", *paint.table(("WHAT", "WHY"), not_covered(seen), indent=2)[1:]],
        [paint(line, Tone.PLAIN) for line in rehearsalview.lines(seen)],
        finding_lines(rows, seen.now, paint),
        list(_advice(rows, good=answer.good)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _headers(wide: bool) -> tuple[str, ...]:  # noqa: FBT001 - the form of the output
    headers = ("NODE", "REPORT", "STAGE", "SEALED", "GENERATION", "KEY AGE", "FINDINGS")
    return (
        (*headers, "VERIFIED", "SCOPE", "DRIVER", "DOOR", "MTU", "UNGUARDED", "SERIAL", "KERNEL", "VERSION")
        if wide
        else headers
    )


def _node_row(seen: Seen, summary: NodeSummary, wide: bool) -> list[str | Cell]:  # noqa: FBT001 - the form
    fresh = summary.evidence == "fresh"
    report = Cell(_evidence(summary), Tone.PLAIN if fresh else Tone.BAD)
    status = summary.status
    if status is None:
        return [summary.name, report, *[""] * (len(_headers(wide)) - 2)]
    links = status.links
    sealed = Cell(f"{links.sealed} of {links.total}", Tone.GOOD if fresh and links.sealed == links.total else Tone.BAD)
    generations = "+".join(str(generation.number) for generation in status.generations)
    newest = max((generation.created_at for generation in status.generations), default=None)
    row: list[str | Cell] = [summary.name, report, status.stage.value, sealed, generations, since(newest, seen.now)]
    row.append(str(len(status.findings)) if status.findings else "")
    if wide:
        serial = str(status.serial)
        if status.announced_serial != status.serial:
            serial += f" ({status.announced_serial} published)"
        door = "yes" if status.door else "no"
        row += [
            verified_cell(status.verified, seen.now),
            status.scope.value,
            status.driver,
            door,
            str(status.mtu),
            "" if status.guard.unguarded is None else f"{status.guard.unguarded} s",
            serial,
            status.kernel,
            status.version,
        ]
    return row


def _guard_lines(summaries: Iterable[NodeSummary], now: float) -> list[str]:
    """Return since when a node has a guard, and how long it had none while the cluster dropped plaintext already."""
    found = [summary.status.guard for summary in summaries if summary.status is not None]
    return [
        f"First guard: {since(one.first_loaded_at, now)} ago"
        + ("" if one.unguarded is None else f", {one.unguarded} s after the node was registered (at stage enforce)")
        for one in found
        if one.first_loaded_at is not None
    ]


def _pair_lines(pairs: list[DirectedPair], paint: Paint) -> list[str]:
    if not pairs:
        return []
    rows: list[list[str | Cell]] = [
        [f"{pair.source} → {pair.target}", Cell(_word(pair.state), STATE_TONES[pair.state]), pair.code or ""]
        for pair in pairs[:MAX_PAIRS]
    ]
    lines = ["Not sealed:", *paint.table(("PAIR", "STATE", "FINDING"), rows, indent=2)[1:]]
    if len(pairs) > MAX_PAIRS:
        lines.append(f"  and {len(pairs) - MAX_PAIRS} more: linkseal links")
    return lines


def _said_lines(seen: Seen, paint: Paint) -> list[str]:
    if not seen.said:
        return []
    rows: list[list[str | Cell]] = [[one.type, Cell(one.reason, Tone.WARN), one.message] for one in seen.said]
    return ["The controller says:", *paint.table(("CONDITION", "REASON", "MESSAGE"), rows, indent=2)[1:]]


def _word(state: LinkState | None) -> str:
    return "unknown" if state is None else state.value


def finding_lines(rows: list[Row], now: float, paint: Paint) -> list[str]:
    """Return the block of findings, cut to what a screen holds."""
    if not rows:
        return []
    table: list[list[str | Cell]] = [
        [row.code, Cell(row.severity, TONES[row.severity]), _where(row), since(row.since, now), row.message]
        for row in rows[:MAX_FINDINGS]
    ]
    lines = ["Findings:", *paint.table(("CODE", "SEVERITY", "WHERE", "SINCE", "MESSAGE"), table, indent=2)[1:]]
    if len(rows) > MAX_FINDINGS:
        lines.append(f"  and {len(rows) - MAX_FINDINGS} more: -o json has all")
    return lines


def _where(row: Row) -> str:
    return row.node if row.subject in ("", row.node) else f"{row.node}: {row.subject}"


def _advice(rows: Iterable[Row], *, good: bool) -> Iterator[str]:
    codes = list(dict.fromkeys(row.code for row in rows if row.code in CATALOGUE and row.severity != "info"))
    if good and not codes:
        return
    yield "What to do next:"
    for code in codes[:MAX_ADVICE]:
        yield f"  {code}: {CATALOGUE[code].fix}"
    if codes:
        yield "  `linkseal explain CODE` says more about a finding, `linkseal links` shows every pair."
    else:
        yield "  `linkseal links` shows every pair; `linkseal check` on a node says what keeps it from taking part."


# --- object --------------------------------------------------------------------------------------------------------


def as_object(seen: Seen, node: str | None = None) -> dict[str, Any]:
    """Return the answer as `-o json` has it."""
    status = seen.status
    answer = verdict(seen, node)
    return {
        "apiVersion": API_VERSION,
        "kind": "EncryptionStatus",
        "takenAt": seen.taken_at,
        "node": node,
        "everythingSealed": answer.good,
        "verdict": answer.text,
        "reasons": list(status.reasons),
        "policy": {
            "stage": seen.policy.stage.value,
            "scope": seen.policy.scope.value,
            "protocol": seen.policy.protocol,
        },
        "links": {"pairs": status.pairs, "sealedAtBothEnds": status.sealed_both_ends, "directed": _directed(status)},
        "nodes": [_node_object(summary) for summary in status.nodes if node in (None, summary.name)],
        "unsealed": [
            {"source": pair.source, "target": pair.target, "state": _word(pair.state), "code": pair.code}
            for pair in _pairs(status, node)
        ],
        "conditions": [{"type": one.type, "reason": one.reason, "message": one.message} for one in seen.said],
        "notCovered": [{"what": what, "why": why} for what, why in not_covered(seen)],
        "rehearsal": rehearsalview.as_object(seen),
        "findings": [_finding_object(row) for row in findings(status, node)],
    }


def _directed(status: ClusterStatus) -> dict[str, int]:
    return {_word(state): count for state, count in status.directed.items()}


def _finding_object(row: Row) -> dict[str, Any]:
    fields = {"code": row.code, "severity": row.severity, "node": row.node, "subject": row.subject}
    return {**fields, "message": row.message, "since": _moment(row.since)}


def _moment(at: float | None) -> str | None:
    return None if at is None else format_time(at)


def _node_object(summary: NodeSummary) -> dict[str, Any]:
    found: dict[str, Any] = {"name": summary.name, "evidence": summary.evidence}
    status = summary.status
    if status is None:
        return {**found, "observedAt": None}
    return {
        **found,
        "observedAt": format_time(status.observed_at),
        "stage": status.stage.value,
        "scope": status.scope.value,
        "protocol": status.protocol,
        "sealed": status.links.sealed,
        "peers": status.links.total,
        "generations": [
            {
                "number": generation.number,
                "state": generation.state,
                "fingerprint": generation.fingerprint,
                "createdAt": format_time(generation.created_at),
            }
            for generation in status.generations
        ],
        "verified": verified_object(status.verified),
        "guardedSince": _moment(status.guard.first_loaded_at),
        "unguardedSeconds": status.guard.unguarded,
        "serial": status.serial,
        "publishedSerial": status.announced_serial,
        "driver": status.driver,
        "door": status.door,
        "mtu": status.mtu,
        "kernel": status.kernel,
        "version": status.version,
    }

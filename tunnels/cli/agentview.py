"""`linkseal agent status` as text: one node's own report. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from linkseal.tunnels.cli.linksview import LinkRow, links_table
from linkseal.tunnels.cli.output import Paint, Tone, since
from linkseal.tunnels.cli.statusview import Row, finding_lines
from linkseal.tunnels.status import NodeEncryption, NodeStatus


def text(report: NodeEncryption, paint: Paint) -> str:
    """Return the agent's facts, its links, findings and requests."""
    status = report.status
    if status is None:
        return f"{report.name}: the agent has nothing to report yet"
    now = status.observed_at
    links = [LinkRow(report.name, pair.peer, pair.state, pair.code, pair) for pair in status.pairs]
    findings = [Row(f.code, report.name, f.subject, f.message, f.since) for f in status.findings]
    requests = [(key, done.type, done.state, done.message) for key, done in status.requests.items()]
    good = status.links.sealed == status.links.total
    blocks = [
        [
            paint(
                f"{report.name}: {status.links.sealed} of {status.links.total} peers sealed, as seen from here",
                _tone(good),
            )
        ],
        [line.rstrip() for line in paint.table(("", ""), list(_facts(status)))[1:]],
        links_table(links, now, paint, wide=True) if links else [],
        finding_lines(findings, now, paint),
        paint.table(("REQUEST", "TYPE", "STATE", "MESSAGE"), requests) if requests else [],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _tone(good: bool) -> Tone:  # noqa: FBT001 - a yes or no
    return Tone.GOOD if good else Tone.BAD


def _facts(status: NodeStatus) -> Iterator[tuple[str, str]]:
    yield "policy", f"{status.stage.value}, {status.scope.value}, {status.protocol}"
    yield "data path", f"{status.driver} driver, {'door' if status.door else 'no door'}, MTU {status.mtu}"
    for generation in status.generations:
        created = since(generation.created_at, status.observed_at)
        yield f"generation {generation.number}", f"{generation.state}, {generation.fingerprint}, {created} old"
    published = "published" if status.serial == status.announced_serial else f"published is {status.announced_serial}"
    yield "announcement", f"serial {status.serial}, {published}"
    if status.boot.state != "notAsked":
        yield "boot unit", " ".join(filter(None, (status.boot.state, status.boot.root, status.boot.reason)))
    yield "version", f"{status.version} on kernel {status.kernel}"

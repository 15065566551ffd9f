"""What an agent tells Prometheus: the catalogue of metrics, and their values from a picture of the agent. No I/O.

    NodeStatus, LoopFigures, ages ─► Picture ─► samples(picture, now) ─► (metric, labels, value) …

Ages are computed when they are asked for, from the times in the picture: an agent that hangs shows ages that grow.
Everything is bounded: one peer more adds at most one series, and of these there are at most `MAX_PEERS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Final, Literal, NamedTuple, get_args

from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.model import LinkState, Stage
from linkseal.tunnels.status import NodeStatus
from linkseal.tunnels.statusparts import Direction, GuardMode, Reason, Verdict, VerifyResult

MAX_PEERS: Final = 50
"""Peers with a series of their own: those that were not heard of for longest."""

BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of passes, seconds: an idle one with 1,000 peers takes 0.05, a hung nft 30."""

Kind = Literal["gauge", "counter", "histogram", "info"]


class Metric(NamedTuple):
    """An entry of the catalogue. `name` without the suffix that its kind adds (`_total`, `_info`)."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """The name that is seen in /metrics."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


METRICS: Final = (
    Metric("linkseal_build", "info", "Version of this agent, of its kernel, and its driver.", ("version", "kernel", "driver")),  # noqa: E501 - a table
    Metric("linkseal_ready", "gauge", "1 where the data path is applied, as /readyz says; else 0."),
    Metric("linkseal_report_time_seconds", "gauge", "When the figures of this node were taken, Unix time."),
    Metric("linkseal_stage", "gauge", "1 for the stage this node acts by, 0 for the others.", ("stage",)),
    Metric("linkseal_policy_serial", "gauge", "Serial of the cluster's policy that this node acts by."),
    Metric("linkseal_policy_applied", "gauge", "1 where the kernel was found as that policy wants it; else 0."),
    Metric("linkseal_announcement_serial", "gauge", "Serial of this node's last announcement.", ("which",)),
    Metric("linkseal_links_expected", "gauge", "Peers to which traffic should be encrypted."),
    Metric("linkseal_links", "gauge", "These peers by the state of the link that carries their traffic.", ("state",)),
    Metric("linkseal_links_without_handshake", "gauge", "Links that carry traffic and never had a handshake."),
    Metric("linkseal_oldest_handshake_age_seconds", "gauge", "Age of the oldest last handshake among links that carry traffic."),  # noqa: E501
    Metric("linkseal_peer_handshake_age_seconds", "gauge", f"Age of a peer's last handshake; the {MAX_PEERS} oldest only.", ("peer",)),  # noqa: E501
    Metric("linkseal_key_age_seconds", "gauge", "Age of this node's live generations.", ("generation", "state")),
    Metric("linkseal_plaintext_packets", "counter", "Packets outside the tunnels, as the guard counted them.", ("direction", "reason", "verdict")),  # noqa: E501
    Metric("linkseal_plaintext_bytes", "counter", "Bytes of these packets.", ("direction", "reason", "verdict")),
    Metric("linkseal_exemption_packets", "counter", "Packets that an exemption let through.", ("direction",)),
    Metric("linkseal_guard_mode", "gauge", "1 for what the guard does, 0 for the others.", ("mode",)),
    Metric("linkseal_guard_whole", "gauge", "1 where all of the guard was found in the kernel; else 0."),
    Metric("linkseal_break_glass", "gauge", "1 while break-glass lifts the guard; else 0."),
    Metric("linkseal_masqueraded_connections", "gauge", "Connections masqueraded towards protected addresses; absent: not counted."),  # noqa: E501
    Metric("linkseal_reconcile_duration_seconds", "histogram", "Seconds that the passes took."),
    Metric("linkseal_reconcile_errors", "counter", "Passes that failed, and passes in which the kernel refused a step.", ("kind",)),  # noqa: E501
    Metric("linkseal_drift_healed", "counter", "What others had changed and was put back, in steps."),
    Metric("linkseal_kernel_writes", "counter", "Operations that changed something in the kernel."),
    Metric("linkseal_verify_results", "gauge", "Peers by the result of their last verification.", ("result",)),
    Metric("linkseal_verify_last_time_seconds", "gauge", "When the last verification ended, Unix time; absent: never."),
    Metric("linkseal_findings", "gauge", "Findings that show now.", ("code", "severity")),
)  # fmt: skip
"""Every metric, in the order in which it is served and documented."""

PLAINTEXT: Final = tuple(
    (direction, reason, verdict)
    for direction, reason, verdict in product(get_args(Direction), get_args(Reason), get_args(Verdict))
    if (reason, verdict) != ("exempt", "dropped")
)
"""What packets outside the tunnels are told apart by. Each has a series as soon as there is a guard: to Prometheus a
counter that first appears with the packets it counts has not increased, and the alert would miss them."""

NAMED: Final[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, slots=True)
class LoopFigures:
    """Counts of one agent's loop since it started."""

    passes: int = 0
    seconds: float = 0.0
    by_bucket: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)
    """Passes by duration, not cumulated; the last: longer than the last bound."""
    failed: int = 0
    refused: int = 0
    healed: int = 0
    writes: int = 0
    ready: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """When links that carry traffic had their last handshake, by a clock that never jumps."""

    oldest: float | None = None
    never: int = 0
    peers: tuple[tuple[str, float], ...] = ()
    """The peers that were not heard of for longest, and when they were last."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What /metrics is answered from; changed by nobody."""

    loop: LoopFigures = field(default_factory=LoopFigures)
    status: NodeStatus | None = None
    heard: Heard = field(default_factory=Heard)


class Sample(NamedTuple):
    """A value; `labels` in the order of the metric's."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


def samples(picture: Picture, now: float, steady: float) -> Iterator[Sample]:
    """Yield all values but the histogram's. `now` in Unix seconds, `steady` by the clock of `Heard`."""
    loop = picture.loop
    yield _one("linkseal_ready", loop.ready)
    yield _one("linkseal_reconcile_errors", loop.failed, "failed")
    yield _one("linkseal_reconcile_errors", loop.refused, "refused")
    yield _one("linkseal_drift_healed", loop.healed)
    yield _one("linkseal_kernel_writes", loop.writes)
    if picture.status is not None:
        yield from _of_status(picture.status, now)
        yield from _of_guard(picture.status)
        yield from _of_heard(picture.heard, steady)


def _one(name: str, value: float, *labels: str) -> Sample:
    return Sample(NAMED[name], labels, float(value))


def _of_status(status: NodeStatus, now: float) -> Iterator[Sample]:
    yield _one("linkseal_build", 1, status.version, status.kernel, status.driver)
    yield _one("linkseal_report_time_seconds", status.observed_at)
    yield from (_one("linkseal_stage", status.stage is stage, stage.value) for stage in Stage)
    yield _one("linkseal_policy_serial", status.policy.serial)
    yield _one("linkseal_policy_applied", status.policy.applied)
    yield _one("linkseal_announcement_serial", status.serial, "signed")
    yield _one("linkseal_announcement_serial", status.announced_serial, "published")
    yield _one("linkseal_links_expected", status.links.total)
    yield from (_one("linkseal_links", getattr(status.links, state.value), state.value) for state in LinkState)
    for generation in status.generations:
        age = max(0.0, now - generation.created_at)
        yield _one("linkseal_key_age_seconds", age, str(generation.number), generation.state)
    results = Counter(one.result for one in status.verified)
    yield from (_one("linkseal_verify_results", results[result], result) for result in get_args(VerifyResult))
    if status.verified:
        yield _one("linkseal_verify_last_time_seconds", max(one.at for one in status.verified))
    for code, count in sorted(Counter(finding.code for finding in status.findings).items()):
        severity = CATALOGUE[code].severity if code in CATALOGUE else "unknown"
        yield _one("linkseal_findings", count, code, severity)


def _of_guard(status: NodeStatus) -> Iterator[Sample]:
    guard = status.guard
    counted = {(count.direction, count.reason, count.verdict): count for count in guard.counts}
    for labels in sorted({*(PLAINTEXT if guard.mode != "none" else ()), *counted}):
        count = counted.get(labels)
        yield _one("linkseal_plaintext_packets", count.packets if count else 0, *labels)
        yield _one("linkseal_plaintext_bytes", count.bytes if count else 0, *labels)
    for direction in get_args(Direction):
        exempt = sum(
            count.packets for count in guard.counts if (count.direction, count.reason) == (direction, "exempt")
        )
        yield _one("linkseal_exemption_packets", exempt, direction)
    yield from (_one("linkseal_guard_mode", guard.mode == mode, mode) for mode in get_args(GuardMode))
    yield _one("linkseal_guard_whole", guard.whole)
    yield _one("linkseal_break_glass", guard.broken_glass is not None)
    if guard.masqueraded is not None:
        yield _one("linkseal_masqueraded_connections", guard.masqueraded)


def _of_heard(heard: Heard, steady: float) -> Iterator[Sample]:
    yield _one("linkseal_links_without_handshake", heard.never)
    if heard.oldest is not None:
        yield _one("linkseal_oldest_handshake_age_seconds", max(0.0, steady - heard.oldest))
    for peer, at in heard.peers:
        yield _one("linkseal_peer_handshake_age_seconds", max(0.0, steady - at), peer)


def markdown() -> str:
    """Return docs/metrics.md."""
    return _HEAD + "".join(_row(metric) for metric in METRICS) + _TAIL


def _row(metric: Metric) -> str:
    return f"| `{metric.exposed}` | {metric.kind} | {', '.join(metric.labels) or '-'} | {metric.help} |\n"


_HEAD: Final = """# Metrics

Generated from `tunnels/metrics.py` by `python docs/metrics.py`; do not edit.

The agent serves metrics and its health where `metrics.listen` of its file says so (nothing is served without it):

    metrics: {listen: "127.0.0.1:9586"}     # or "[::1]:9586", "0.0.0.0:9586"

| path | answers |
|---|---|
| `/metrics` | the metrics below, in the text format of Prometheus (OpenMetrics if asked for) |
| `/healthz` | 200 while the agent's loop turns; 503 with the reason when it has not for three polls and a minute |
| `/readyz` | 200 when this node knows its cluster and the kernel has taken all of the data path; 503 with the reason |

There is no secret in any of them, but names of peers: whoever may connect may read them. An address that cannot be
listened on is finding LS4014, is tried again every minute, and changes nothing else. At most 16 connections are served
at once, for 10 s each.

The figures are those of the agent's last look. What must not be missed is an age or a time that stands still:
alert on `time() - linkseal_report_time_seconds` too.

| metric | kind | labels | what it is |
|---|---|---|---|
"""

_TAIL: Final = """
Alerts to begin with:

    linkseal_links_expected - on (instance, node) linkseal_links{state="sealed"} > 0         # not all is encrypted
    increase(linkseal_plaintext_packets_total{reason="bypass"}[5m]) > 0                       # LS5001
    linkseal_break_glass == 1
    linkseal_guard_whole == 0
    linkseal_verify_results{result="leaked"} > 0
    sum by (instance, node) (linkseal_findings{severity="error"}) > 0
    time() - linkseal_report_time_seconds > 900
"""

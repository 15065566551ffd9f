"""`linkseal verify` as text and as an object. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from linkseal.tunnels.cli.output import Cell, Paint, Tone, plural, since
from linkseal.tunnels.status import API_VERSION, NodeEncryption, answer_to
from linkseal.tunnels.statusparts import WORST_RESULT, Verification, VerifyResult
from linkseal.tunnels.statustypes import format_time

PairResult = VerifyResult | Literal["unanswered"]
"""Of a pair: what its source's agent says, or that it did not say anything in time."""

ORDER: Final[tuple[PairResult, ...]] = (*WORST_RESULT[:3], "unanswered", "proven")
"""The worst first."""

TONES: Final[Mapping[PairResult, Tone]] = {
    "proven": Tone.GOOD,
    "leaked": Tone.BAD,
    "blind": Tone.WARN,
    "unreachable": Tone.WARN,
    "unanswered": Tone.WARN,
}

MAX_ROWS: Final = 40
"""Pairs that the table shows, the worst first; -o json has all."""


_NAMED: Final = 3


class Pair(NamedTuple):
    """A directed pair."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class PairVerified:
    """What became of one directed pair; `at` in Unix seconds, None: nothing was said."""

    source: str
    target: str
    result: PairResult
    message: str = ""
    ciphertext: int = 0
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """The answer."""

    pairs: tuple[PairVerified, ...]
    now: float

    @property
    def proven(self) -> bool:
        """Whether every pair is; no pair is no proof."""
        return bool(self.pairs) and all(pair.result == "proven" for pair in self.pairs)

    @property
    def counts(self) -> dict[PairResult, int]:
        """Pairs by result, the best first."""
        found = Counter(pair.result for pair in self.pairs)
        return {result: found[result] for result in reversed(ORDER)}

    @property
    def verdict(self) -> str:
        """The first line."""
        pairs = plural(len(self.pairs), "directed pair")
        if self.proven:
            return f"proven on the wire: {pairs}"
        others = ", ".join(f"{count} {result}" for result, count in self.counts.items() if count)
        return f"NOT proven: of {pairs} {others}"


def unfinished(requests: Mapping[str, str], found: Mapping[str, NodeEncryption | None]) -> str:
    """Return whom is waited for, and how far they are; empty: for nobody."""
    waiting = []
    for source, request in requests.items():
        state = answer_to(found.get(source), request)
        if state is None or state.state in ("accepted", "running"):
            waiting.append(f"{source} {state.message}".rstrip() if state is not None else f"{source} (not begun)")
    more = f"; and {len(waiting) - _NAMED} more nodes" if len(waiting) > _NAMED else ""
    return "; ".join(waiting[:_NAMED]) + more


def gather(
    pairs: Collection[Pair],
    requests: Mapping[str, str],
    found: Mapping[str, NodeEncryption | None],
    silent: Collection[str],
) -> Iterator[PairVerified]:
    """Yield what became of each pair. `requests`: source → id of its request; `silent`: nodes without fresh report."""
    for source, target in pairs:
        if source in silent or source not in requests:
            yield PairVerified(source, target, "unreachable", f"the agent of {source} does not report")
            continue
        report = found.get(source)
        state = answer_to(report, requests[source])
        if state is None or state.state in ("accepted", "running"):
            yield PairVerified(source, target, "unanswered", f"the agent of {source} has not finished")
        elif state.state != "done":
            yield PairVerified(source, target, "unreachable", state.message or f"{source} {state.state} it")
        else:
            yield _of(source, target, _result(report, target))


def _of(source: str, target: str, said: Verification | None) -> PairVerified:
    if said is None:
        return PairVerified(source, target, "unanswered", f"the report of {source} does not list it")
    return PairVerified(source, target, said.result, said.message, said.ciphertext, said.at)


def _result(report: NodeEncryption | None, target: str) -> Verification | None:
    if report is None or report.status is None:
        return None
    return next((found for found in report.status.verified if found.peer == target), None)


def text(answer: Verified, paint: Paint) -> str:
    """Return what `linkseal verify` prints."""
    lines = [paint(answer.verdict, Tone.GOOD if answer.proven else Tone.BAD), ""]
    worst = sorted(answer.pairs, key=lambda pair: (ORDER.index(pair.result), pair.source, pair.target))
    rows: list[list[str | Cell]] = [
        [
            f"{pair.source} → {pair.target}",
            Cell(pair.result, TONES[pair.result]),
            str(pair.ciphertext) if pair.at is not None else "",
            pair.message,
        ]
        for pair in worst[:MAX_ROWS]
    ]
    lines += paint.table(("PAIR", "RESULT", "CIPHERTEXT", "MESSAGE"), rows)
    if len(worst) > MAX_ROWS:
        lines.append(f"and {len(worst) - MAX_ROWS} more: -o json has all")
    if not answer.proven:
        lines += [
            "",
            "`linkseal explain LS5201` (leaked), LS5202 (blind) and LS5203 (unreachable) say what to do next.",
        ]
    return "\n".join(lines)


def as_object(answer: Verified) -> dict[str, Any]:
    """Return the answer as `-o json` has it."""
    return {
        "apiVersion": API_VERSION,
        "kind": "EncryptionVerification",
        "takenAt": format_time(answer.now),
        "proven": answer.proven,
        "verdict": answer.verdict,
        "counts": dict(answer.counts),
        "pairs": [
            {
                "source": pair.source,
                "target": pair.target,
                "result": pair.result,
                "at": None if pair.at is None else format_time(pair.at),
                "ciphertext": pair.ciphertext,
                "message": pair.message,
            }
            for pair in answer.pairs
        ],
    }


# --- in `linkseal status` ------------------------------------------------------------------------------------------


def verified_cell(verified: Collection[Verification], now: float) -> Cell:
    """Return a node's last verifications in few words: how many by result, and how long ago the oldest of them was."""
    if not verified:
        return Cell("never", Tone.DIM)
    counts = Counter(found.result for found in verified)
    text_ = ", ".join(f"{counts[result]} {result}" for result in WORST_RESULT if counts[result])
    worst = next(result for result in WORST_RESULT if counts[result])
    return Cell(f"{text_}, {since(min(found.at for found in verified), now)} ago", TONES[worst])


def verified_object(verified: Collection[Verification]) -> dict[str, Any]:
    """Return a node's last verifications as `-o json` has them."""
    counts = Counter(found.result for found in verified)
    times = [found.at for found in verified]
    return {
        "oldest": format_time(min(times)) if times else None,
        "newest": format_time(max(times)) if times else None,
        "counts": {result: counts[result] for result in reversed(WORST_RESULT)},
        "notProven": [
            {"peer": found.peer, "result": found.result, "at": format_time(found.at), "message": found.message}
            for found in verified
            if found.result != "proven"
        ],
    }

"""Probe outcomes into the link book and the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from linkseal.tunnels import codes
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.model import LinkKey
from linkseal.tunnels.probe.outcomes import Diagnosis, Lost, Outcome, Proof, Target

PROBE_CODES = frozenset(
    {codes.NO_HANDSHAKE, codes.NOTHING_CROSSES, codes.NOT_FORWARDED, codes.MTU_HOLE, codes.PREFIX_NOT_CARRIED}
)


class News:
    """Which outcomes say something new: 1,000 links send a proof every 60 ms that only repeats the last one."""

    def __init__(self) -> None:
        self._last: dict[LinkKey, object] = {}

    def brought_by(self, outcome: Outcome) -> bool:
        """Whether this was not known; remembers it."""
        said = (outcome.sizes, outcome.uses) if isinstance(outcome, Proof) else None
        repeated = said is not None and self._last.get(outcome.key) == said
        self._last[outcome.key] = said
        return not repeated

    def keep(self, targets: Mapping[LinkKey, Target]) -> None:
        """Forget links that are gone or have no session: what is proven there later is new."""
        for key in [key for key in self._last if key not in targets or not targets[key].handshake]:
            del self._last[key]


def take_outcomes(
    book: LinkBook,
    findings: ActiveFindings,
    outcomes: Sequence[Outcome],
    path_mtus: Mapping[str, int],
    now: float,
    steady: float,
) -> None:
    """Enter what the probes found; then say of each peer's best link why it is not proven, if it is not.

    `steady` is the book's clock.
    """
    for outcome in outcomes:
        if isinstance(outcome, Proof):
            uses = None if outcome.uses is None else (outcome.uses[1], outcome.uses[0])
            book.proved(outcome.key, steady, max(outcome.sizes.values(), default=0), uses)
        elif isinstance(outcome, Lost):
            book.diagnosed(outcome.key, *_reason(book, outcome.diagnosis, steady), lost=True)
        elif isinstance(outcome, Diagnosis):
            book.diagnosed(outcome.key, *_reason(book, outcome, steady))
    if outcomes:
        findings.replace(PROBE_CODES, dict(_reasons(book)), now)
    for peer, mtu in path_mtus.items():
        book.path_mtu[peer] = mtu


def _reason(book: LinkBook, diagnosis: Diagnosis, steady: float) -> tuple[str, str]:
    """Code and detail; where nothing crosses because the session has ended, that is what is wrong."""
    record = book.records.get(diagnosis.key)
    if diagnosis.code == codes.NOTHING_CROSSES and record is not None and not record.fresh(steady):
        return codes.NO_HANDSHAKE, f"the session with {diagnosis.key.peer} has ended, and no handshake makes a new one"
    return diagnosis.code, diagnosis.detail


def _reasons(book: LinkBook) -> list[tuple[tuple[str, str], str]]:
    """(code, peer) → detail, for the newest link of each peer that has a diagnosis and no working link."""
    found: dict[str, tuple[tuple[str, str], str]] = {}
    for key, code in sorted((key, record.code) for key, record in book.records.items() if record.code is not None):
        detail = book.records[key].detail
        found[key.peer] = ((code, key.peer), f"link {key.own}→{key.remote} to {key.peer}: {detail}")
    return list(found.values())

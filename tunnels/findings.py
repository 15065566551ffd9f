"""The catalogue of findings, and which of them show now. No I/O; time is an argument.

Whoever watches something says in every pass what is wrong (`replace`, or `raise_` and `clear`). A finding shows when it
has lasted its hold time and nothing shown explains it (`depends_on`). Each change is logged once; what comes and goes
is logged less and less often. Everything is bounded, whatever peers do (law 8).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from linkseal.tunnels.catalogue import DOCUMENTS, PROBES, Finding, Severity
from linkseal.tunnels.catalogue_guard import GUARD, STAGES, VERIFY
from linkseal.tunnels.catalogue_host import AGENT, HOST

__all__ = ["CATALOGUE", "HOST_SUBJECT", "ActiveFinding", "ActiveFindings", "Finding", "LogLine", "Severity"]

_ALL: Final = (*DOCUMENTS, *PROBES, *HOST, *AGENT, *GUARD, *STAGES, *VERIFY)

CATALOGUE: Final[Mapping[str, Finding]] = {entry.code: entry for entry in _ALL}
"""Code → finding, in the order of codes: behind status, check, explain, metrics and docs/findings.md."""

HOST_SUBJECT: Final = ""
"""Subject of a finding about this host as a whole; as a cause it explains findings of every subject."""

MAX_SUBJECTS: Final = 100
"""Subjects listed for one code; of more, only that there are more."""
MAX_SUBJECT: Final = 253
MAX_MESSAGE: Final = 500
"""Characters of a subject (a node name) and of a message."""

_MORE: Final = "…"
_FIRST_PAUSE: Final = 60.0
_LONGEST_PAUSE: Final = 3600.0
"""Seconds between two log lines about one that comes and goes; after the longest pause without it, it is new again."""
_MAX_LOGS: Final = 2 * MAX_SUBJECTS * len(CATALOGUE)

SEVERITY_ORDER: Final[Mapping[Severity, int]] = {"error": 0, "warning": 1, "info": 2}


def printable(text: str, limit: int) -> str:
    """Return `text` without control characters (others' text must not move a cursor or forge a log line), cut."""
    clean = "".join(c if c.isprintable() else " " for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + _MORE


@dataclass(frozen=True, slots=True)
class ActiveFinding:
    """A finding that shows. `since` in the clock of the caller's `now`."""

    code: str
    subject: str
    message: str
    since: float

    @property
    def entry(self) -> Finding:
        """What the catalogue says of it."""
        return CATALOGUE[self.code]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line for the log."""

    severity: Severity
    text: str


@dataclass(slots=True)
class _Raised:
    message: str
    since: float
    until: float | None


@dataclass(slots=True)
class _Logged:
    shown: bool
    changed: float
    """When its last line was written."""
    seen: float
    """When it last showed."""
    pause: float = 0.0


class ActiveFindings:
    """What is wrong now, by (code, subject). Not safe for several threads."""

    def __init__(self) -> None:
        self._raised: dict[str, dict[str, _Raised]] = {}
        self._overflow: dict[str, float] = {}
        self._logged: dict[tuple[str, str], _Logged] = {}

    def raise_(self, code: str, subject: str, message: str, now: float, *, lasts: float | None = None) -> None:
        """Say that `code` holds for `subject`: a node, an interface, or HOST_SUBJECT. Raises KeyError: unknown code.

        `lasts`: seconds after which it clears by itself, for something that happened rather than is.
        """
        subjects = self._raised.setdefault(CATALOGUE[code].code, {})
        subject = printable(subject, MAX_SUBJECT)
        known = subjects.get(subject)
        if known is None and len(subjects) >= MAX_SUBJECTS:
            self._overflow.setdefault(code, now)
            return
        until = None if lasts is None else now + lasts
        subjects[subject] = _Raised(printable(message, MAX_MESSAGE), known.since if known else now, until)

    def clear(self, code: str, subject: str) -> None:
        """Say that `code` no longer holds for `subject`."""
        subjects = self._raised.get(code, {})
        subjects.pop(printable(subject, MAX_SUBJECT), None)
        if len(subjects) < MAX_SUBJECTS:
            self._overflow.pop(code, None)

    def replace(self, codes: Collection[str], current: Mapping[tuple[str, str], str], now: float) -> None:
        """Make `current`, (code, subject) → message, all that holds of `codes`."""
        for code in codes:
            wanted = {printable(subject, MAX_SUBJECT) for of, subject in current if of == code}
            for subject in [subject for subject in self._raised.get(code, ()) if subject not in wanted]:
                self.clear(code, subject)
        for (code, subject), message in current.items():
            if code not in codes:
                raise ValueError(f"{code} is not among the codes this call replaces")
            self.raise_(code, subject, message, now)

    def shown(self, now: float) -> tuple[ActiveFinding, ...]:
        """Return what shows: lasted its hold, not explained by another that has; errors first, then by code."""
        held = {(f.code, f.subject): f for f in self._held(now)}
        shown: dict[tuple[str, str], ActiveFinding] = {}
        for key, finding in held.items():
            causes = finding.entry.depends_on
            if not any((code, subject) in held for code in causes for subject in (finding.subject, HOST_SUBJECT)):
                shown[key] = finding
        return tuple(sorted(shown.values(), key=lambda f: (SEVERITY_ORDER[f.entry.severity], f.code, f.subject)))

    def log_lines(self, now: float) -> list[LogLine]:
        """Return a line for each change of what shows since the last call, those that flap with growing pauses."""
        shown = {(f.code, f.subject): f for f in self.shown(now)}
        lines = [line for key in (*shown, *self._gone(shown)) if (line := self._log(key, shown.get(key), now))]
        self._forget(now)
        return lines

    def _held(self, now: float) -> Iterator[ActiveFinding]:
        for code, subjects in self._raised.items():
            hold = CATALOGUE[code].hold
            for subject in [s for s, raised in subjects.items() if raised.until is not None and raised.until <= now]:
                self.clear(code, subject)
            for subject, raised in subjects.items():
                if now - raised.since >= hold:
                    yield ActiveFinding(code, subject, raised.message, raised.since)
            since = self._overflow.get(code)
            if since is not None and now - since >= hold:
                yield ActiveFinding(code, _MORE, f"more than {MAX_SUBJECTS}; the others are not listed", since)

    def _gone(self, shown: Mapping[tuple[str, str], ActiveFinding]) -> list[tuple[str, str]]:
        return [key for key, log in self._logged.items() if log.shown and key not in shown]

    def _log(self, key: tuple[str, str], finding: ActiveFinding | None, now: float) -> LogLine | None:
        log = self._logged.get(key)
        if log is None:
            log = self._logged[key] = _Logged(shown=False, changed=now, seen=now)
        if finding is not None:
            log.seen = now
        if log.shown == (finding is not None) or now - log.changed < log.pause:
            return None
        log.shown, log.changed = finding is not None, now
        if finding is None:  # one that showed and went is told at once; from then on the pauses grow
            log.pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * log.pause))
        entry = CATALOGUE[key[0]]
        subject = f" {key[1]}" if key[1] else ""
        if finding is None:
            return LogLine("info", f"{entry.code}{subject}: over: {entry.title}")
        return LogLine(entry.severity, f"{entry.code}{subject}: {entry.title}: {finding.message}")

    def _forget(self, now: float) -> None:
        """Drop what has not been shown for the longest pause, and the oldest beyond the bound."""
        for key in [k for k, log in self._logged.items() if not log.shown and now - log.seen >= _LONGEST_PAUSE]:
            del self._logged[key]
        for key in [k for k, log in self._logged.items() if not log.shown][: max(0, len(self._logged) - _MAX_LOGS)]:
            del self._logged[key]


def explain(entry: Finding) -> str:
    """Return what `linkseal explain CODE` prints."""
    lines = [f"{entry.code} ({entry.severity}): {entry.title}", "", f"Cause: {entry.cause}", f"Fix:   {entry.fix}"]
    if entry.depends_on:
        lines.append(f"Not shown while one of these explains it: {', '.join(entry.depends_on)}")
    if entry.hold:
        lines.append(f"Shown after it has lasted {entry.hold} s")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """Return docs/findings.md."""
    parts = ["# Findings\n", "Generated from the catalogue by `python docs/findings.py`; do not edit.\n"]
    for title, entries in (
        ("Keys and documents", DOCUMENTS),
        ("Links", PROBES),
        ("Host", HOST),
        ("Agent and directory", AGENT),
        ("Guard", GUARD),
        ("Stages", STAGES),
        ("Verify", VERIFY),
    ):
        parts.append(f"## {title}\n")
        parts.extend(_section(entry) for entry in entries)
    return "\n".join(parts)


def _section(entry: Finding) -> str:
    lines = [f"### {entry.code}: {entry.title}\n", f"*{entry.severity}*. {entry.cause}\n", f"**Fix:** {entry.fix}\n"]
    notes = []
    if entry.depends_on:
        notes.append(f"not shown while one of these explains it: {', '.join(entry.depends_on)}")
    if entry.hold:
        notes.append(f"shown after {entry.hold} s")
    if notes:
        text = "; ".join(notes)
        lines.append(f"{text[0].upper()}{text[1:]}.\n")
    return "\n".join(lines)

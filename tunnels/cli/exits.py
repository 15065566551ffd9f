"""Exit codes, all of them, and which error ends with which."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from enum import IntEnum
from http import HTTPStatus
from typing import Final

from linkseal.keys.errors import ConfigError, DirectoryError, HostError, PeerError, Refused


class ExitCode(IntEnum):
    """What `linkseal` exits with (DESIGN section 8; the same for every command)."""

    FINE = 0
    FOUND = 1
    USAGE = 2
    UNREACHABLE = 3
    WAITED = 4
    REFUSED = 5
    BUG = 70
    INTERRUPTED = 130


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.FINE: "fine",
    ExitCode.FOUND: "ran and found something: not everything is encrypted, a check failed, the host refused",
    ExitCode.USAGE: "usage: a flag, argument or file that cannot be used",
    ExitCode.UNREACHABLE: "cluster, directory or agent unreachable",
    ExitCode.WAITED: "the time given to --wait ran out",
    ExitCode.REFUSED: "refused as unsafe without --yes",
    ExitCode.BUG: "a bug in Linkseal",
    ExitCode.INTERRUPTED: "interrupted",
}

_BY_ERROR: Final[tuple[tuple[type[Exception], ExitCode], ...]] = (
    (ConfigError, ExitCode.USAGE),
    (DirectoryError, ExitCode.UNREACHABLE),
    (Refused, ExitCode.REFUSED),
    (HostError, ExitCode.FOUND),
    (PeerError, ExitCode.FOUND),
)

_OURS: Final = "linkseal.io"

_ADVICE: Final[Mapping[int, str]] = {
    401: "The credentials are not good, or no longer: log in again, or name another --context or --kubeconfig.",
    403: "The right to do this is missing: the chart's ClusterRoles linkseal-view and linkseal-operate have what the "
    "commands need (docs/kubernetes.md).",
    404: "Linkseal's kinds of objects are not there: install its chart, or name another --context.",
}
"""By the status of an API server's answer."""

_SECRET_LIKE: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=|(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])",
    re.DOTALL,
)
"""PEM private keys and 32 bytes in base64 or hex: a public key looks the same, and is not missed in a traceback."""


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code for an error that ended a command."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), ExitCode.BUG)


def describe_error(error: Exception, *, verbose: bool) -> str:
    """Return what to print about `error`: its message, or for a bug of ours how to report it.

    A bug's own message is shown with `verbose` only, and what looks like a key in it never.
    """
    if exit_code_of(error) is not ExitCode.BUG:
        return f"error: {error}{_advice(error)}"
    where = traceback.extract_tb(error.__traceback__)
    place = f" at {where[-1].filename.rpartition('/')[2]}:{where[-1].lineno}" if where else ""
    summary = f"error: this is a bug in Linkseal: {type(error).__name__}{place}"
    if not verbose:
        return f"{summary}\nRun the same command with -v for the details, and report them with `linkseal version`."
    details = "".join(traceback.format_exception(error)).rstrip()
    return f"{redact(details)}\n{summary}\nReport the lines above with the output of `linkseal version`."


def _advice(error: Exception) -> str:
    """What to do about an API server that refuses or does not answer, to be put behind what it said."""
    if not isinstance(error, DirectoryError):
        return ""
    if error.status == HTTPStatus.NOT_FOUND and _OURS not in str(error):
        return ""
    return "".join(f"\n{text}" for status, text in _ADVICE.items() if status == error.status)


def redact(text: str) -> str:
    """Return `text` with everything that could be a key replaced."""
    return _SECRET_LIKE.sub("(hidden)", text)

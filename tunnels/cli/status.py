"""`linkseal status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click
from linkseal.tunnels.cli import statusview
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.load import Seen, look
from linkseal.tunnels.cli.options import Command, Duration, output_option, pass_session
from linkseal.tunnels.cli.output import Paint, age, emit, note, structured
from linkseal.tunnels.cli.session import Session

INTERVAL = 2.0
"""Seconds between two looks at the directory with --watch and --wait."""

_CLEAR = "\x1b[H\x1b[2J"
"""Cursor home, erase the screen (ECMA-48)."""


@click.command(
    cls=Command,
    uses=("directory", "config"),
    examples=(
        "linkseal status                     # exit code 0 only if everything is sealed",
        "linkseal status n1 -o wide",
        "linkseal status --wait=5m           # as a gate in a script: exit code 4 if it takes longer",
        "linkseal status -o json | jq .everythingSealed",
    ),
)
@click.argument("node", required=False)
@output_option("table", "wide", "json", "yaml")
@click.option("--watch", is_flag=True, help="Show it again every 2 s until interrupted.")
@click.option(
    "--wait",
    type=Duration(),
    is_flag=False,
    flag_value="5m",
    metavar="[=DURATION]",
    help="Wait until everything is sealed, at most 5m or --wait=DURATION; exit code 4 if it takes longer.",
)
@pass_session
def status(session: Session, node: str | None, output: str, watch: bool, wait: float | None) -> int:  # noqa: FBT001
    """Say whether everything is encrypted, and what is not covered.

    The first line is the verdict. A link counts only if both ends report it sealed, lately: what is not known is
    not encrypted. With NODE, the answer is about that node's links.
    """
    if watch and (wait is not None or output in ("json", "yaml")):
        raise click.UsageError("--watch goes with -o table and -o wide, and not with --wait")

    def seen() -> Seen:
        found = look(session)
        found.require(node)
        return found

    if watch:
        return _watch(session, seen, node, wide=output == "wide")
    found = seen() if wait is None else _wait(seen, node, wait)
    emit(_form(session, found, node, output))
    if statusview.verdict(found, node).good:
        return ExitCode.FINE
    return ExitCode.FOUND if wait is None else ExitCode.WAITED


def _form(session: Session, found: Seen, node: str | None, output: str) -> str:
    if output in ("json", "yaml"):
        return structured(statusview.as_object(found, node), output)
    return statusview.text(found, Paint(session.colour()), node=node, wide=output == "wide")


def _wait(look_again: Callable[[], Seen], node: str | None, patience: float) -> Seen:
    """Look until the verdict is good or `patience` seconds are over; say on stderr what changes meanwhile."""
    start, said = time.monotonic(), ""
    while True:
        found = look_again()
        answer = statusview.verdict(found, node)
        waited = time.monotonic() - start
        if answer.good:
            return found
        if waited >= patience:
            note(f"{age(patience)} are over; look at the findings, or wait longer with --wait=DURATION")
            return found
        if answer.text != said:
            note(f"waiting ({age(waited)} of {age(patience)}): {answer.text}")
            said = answer.text
        time.sleep(min(INTERVAL, patience - waited))


def _watch(session: Session, look_again: Callable[[], Seen], node: str | None, *, wide: bool) -> int:
    terminal = sys.stdout.isatty()
    while True:
        found = look_again()
        text = statusview.text(found, Paint(session.colour()), node=node, wide=wide)
        if not emit(f"{_CLEAR if terminal else ''}{text}\n\n{found.taken_at}"):
            return ExitCode.FINE if statusview.verdict(found, node).good else ExitCode.FOUND
        time.sleep(INTERVAL)

"""`linkseal remove`."""

from __future__ import annotations

import secrets
import time

import click
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.cli.asking import answered
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.load import Seen, look
from linkseal.tunnels.cli.options import Command, Duration, pass_session
from linkseal.tunnels.cli.output import clean, confirm, emit, note, plural
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.model import Stage
from linkseal.tunnels.status import Request, RequestStatus, answer_to


@click.command(
    cls=Command,
    uses=("directory", "config"),
    examples=(
        "linkseal disable && linkseal remove     # then: helm uninstall",
        "linkseal remove --yes --timeout 10m",
    ),
)
@click.option("--yes", is_flag=True, help="Do not ask; without a terminal to ask on, exit code 5.")
@click.option(
    "--timeout", type=Duration(), default="5m", metavar="DURATION", help="How long to wait for the agents (default 5m)."
)
@pass_session
def remove(session: Session, yes: bool, timeout: float) -> int:  # noqa: FBT001 - click's flag
    """Have agents take what is ours from their hosts, before an uninstall.

    Only at stage off, where nothing is encrypted any more. Boot units and what they run in, keys and all that is kept
    on the disk go, and what the node has announced; what could not go is said, and the node keeps the rest. No access
    to nodes is needed. An agent that was asked waits for its end: uninstall it, or restart it to begin from nothing.
    Exit code 0 if all is gone from every node, 1 if not, 4 if an agent has not answered in time.
    """
    seen = look(session)
    _require_off(seen)
    silent = sorted(one.name for one in seen.status.nodes if one.evidence != "fresh")
    names = [one.name for one in seen.status.nodes if one.evidence == "fresh"]
    if not names:
        raise ConfigError("no agent reports, so nobody can be asked: run `linkseal agent cleanup` on each node")
    if not yes:
        confirm(f"This removes keys and boot units from {plural(len(names), 'node')}. Remove them?")
    answers = _answers(session, names, timeout)
    for name in names:
        emit(f"{name}: {_said(answers[name])}")
    for name in silent:
        emit(f"{name}: its agent does not report; run `linkseal agent cleanup` there")
    if silent or any(one is not None and one.state not in ("done", "running") for one in answers.values()):
        return ExitCode.FOUND
    if any(one is None or one.state != "done" for one in answers.values()):
        return ExitCode.WAITED
    note("nothing of Linkseal is left on the nodes; uninstall it now: agents that start again begin from nothing")
    return ExitCode.FINE


def _require_off(seen: Seen) -> None:
    pool = seen.policy.pool
    if seen.policy.stage is not Stage.OFF or (pool is not None and pool.stage is not Stage.OFF):
        raise ConfigError(f"the cluster is at stage {seen.policy.stage.value}: run `linkseal disable` first")


def _answers(session: Session, names: list[str], timeout: float) -> dict[str, RequestStatus | None]:
    """Ask the agents and wait for them. None: not answered."""
    now = time.time()
    asked = {name: Request(f"remove-{secrets.token_hex(6)}", "remove", now) for name in names}
    found, _ = answered(session, asked, timeout, "removing")
    return {name: answer_to(found.get(name), one.id) for name, one in asked.items()}


def _said(answer: RequestStatus | None) -> str:
    if answer is None:
        return "no answer"
    words = {"done": "removed", "running": "not done yet"}.get(answer.state, answer.state)
    return f"{words}: {clean(answer.message)}" if answer.message else words

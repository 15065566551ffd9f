"""`linkseal remove`."""

from __future__ import annotations

import secrets
import time
from typing import NamedTuple

import click
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.cli.asking import answered
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.load import Seen, look
from linkseal.tunnels.cli.options import Command, Duration, pass_session
from linkseal.tunnels.cli.output import clean, confirm, emit, note, plural
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.model import Stage
from linkseal.tunnels.status import NOT_OFF, Request, RequestStatus, answer_to


class Nodes(NamedTuple):
    """Who is to be asked, who has said before that all is gone, and who does not report and so cannot be asked."""

    asked: list[str]
    gone: list[str]
    silent: list[str]


@click.command(
    cls=Command,
    uses=("directory", "config"),
    examples=(
        "linkseal disable && helm uninstall linkseal -n linkseal     # the chart does both steps of this command",
        "linkseal remove --yes --timeout 10m                         # by hand: before `helm uninstall --no-hooks`",
        "linkseal remove --objects                                   # and after it",
    ),
)
@click.option("--yes", is_flag=True, help="Do not ask; without a terminal to ask on, exit code 5.")
@click.option(
    "--timeout", type=Duration(), default="5m", metavar="DURATION", help="How long to wait for the agents (default 5m)."
)
@click.option("--objects", is_flag=True, help="After an uninstall: take what is ours from the cluster's API, CRDs too.")
@click.option(
    "--cleaned", multiple=True, metavar="NODE", help="With --objects: this node was cleaned by hand. Repeatable."
)
@click.option(
    "--uninstalling", is_flag=True, help="As the chart's hooks do: what may not be done is said, with exit code 0."
)
@pass_session
def remove(
    session: Session,
    yes: bool,  # noqa: FBT001 - click's flags
    timeout: float,
    objects: bool,  # noqa: FBT001
    cleaned: tuple[str, ...],
    uninstalling: bool,  # noqa: FBT001
) -> int:
    """Have agents take what is ours from their hosts, before an uninstall.

    Only at stage off, where nothing is encrypted any more. Boot units and what they run in, keys and all that is kept
    on the disk go, and what the node has announced; what could not go is said, and the node keeps the rest. No access
    to nodes is needed. An agent that was asked waits for its end: uninstall it, or restart it to begin from nothing.
    Exit code 0 if all is gone from every node, 1 if not, 4 if an agent has not answered in time.

    With --objects, once the chart is uninstalled: annotations and taints of Nodes, certificate requests, the CA unless
    you brought it, the policy, the pods of wireguard-go, and both CRDs with their objects. Refused unless every node's
    agent has said that it removed everything: what is in the API is what is known of the others.
    """
    if cleaned and not objects:
        raise click.UsageError("--cleaned goes with --objects")
    access = session.cluster()
    if access is None:
        if objects or uninstalling:
            raise ConfigError("--objects and --uninstalling are for clusters of Kubernetes: name one (--kubeconfig)")
        return _from_nodes(session, _of_directory(look(session)), timeout, yes=yes)
    from linkseal.tunnels.cli import removecluster  # noqa: PLC0415 - needs what only linkseal[kubernetes] has

    space = session.kube_namespace()
    if objects:
        return removecluster.forget(access, space, cleaned, timeout, yes=yes, uninstalling=uninstalling)
    began = time.monotonic()
    nodes, why = removecluster.nodes(access, space, timeout)
    timeout -= int(time.monotonic() - began)
    if why and not uninstalling:
        raise ConfigError(why)
    if nodes is None:
        note(f"nothing is changed on nodes: {why}")
        return ExitCode.FINE
    try:
        code = _from_nodes(session, nodes, timeout, yes=yes)
    except ConfigError as error:
        if not uninstalling:
            raise
        note(f"nothing is changed on nodes: {error}")
        return ExitCode.FINE
    return ExitCode.FINE if uninstalling else code


def _from_nodes(session: Session, nodes: Nodes, timeout: float, *, yes: bool) -> int:
    if not nodes.asked and not nodes.gone and nodes.silent:
        raise ConfigError("no agent reports, so nobody can be asked: run `linkseal agent cleanup` on each node")
    if nodes.asked and not yes:
        confirm(f"This removes keys and boot units from {plural(len(nodes.asked), 'node')}. Remove them?")
    answers = _answers(session, nodes.asked, timeout) if nodes.asked else {}
    for name, answer in answers.items():
        emit(f"{name}: {_said(answer)}")
    for name in nodes.gone:
        emit(f"{name}: removed before")
    for name in nodes.silent:
        emit(f"{name}: its agent does not report; run `linkseal agent cleanup` there")
    if nodes.silent or any(one is not None and one.state not in ("done", "running") for one in answers.values()):
        return ExitCode.FOUND
    if any(one is None or one.state != "done" for one in answers.values()):
        return ExitCode.WAITED
    note("nothing of Linkseal is left on the nodes; uninstall it now: agents that start again begin from nothing")
    return ExitCode.FINE


def _of_directory(seen: Seen) -> Nodes:
    """Return who is to be asked of a folder's nodes. Raises ConfigError: they are not at stage off."""
    pool = seen.policy.pool
    if seen.policy.stage is not Stage.OFF or (pool is not None and pool.stage is not Stage.OFF):
        raise ConfigError(f"the cluster is at stage {seen.policy.stage.value}: run `linkseal disable` first")
    silent = sorted(one.name for one in seen.status.nodes if one.evidence != "fresh")
    return Nodes([one.name for one in seen.status.nodes if one.evidence == "fresh"], [], silent)


def _answers(session: Session, names: list[str], timeout: float) -> dict[str, RequestStatus | None]:
    """Ask the agents and wait for them. None: not answered.

    Who still acts by the policy before is asked again: the refusal of a request is for good.
    """
    asked = {name: _request() for name in names}
    found, _ = answered(session, asked, timeout, "removing", _anew)
    return {name: answer_to(found.get(name), one.id) for name, one in asked.items()}


def _request() -> Request:
    return Request(f"remove-{secrets.token_hex(6)}", "remove", time.time())


def _anew(answer: RequestStatus) -> Request | None:
    return _request() if answer.state == "refused" and answer.message.startswith(NOT_OFF) else None


def _said(answer: RequestStatus | None) -> str:
    if answer is None:
        return "no answer"
    words = {"done": "removed", "running": "not done yet"}.get(answer.state, answer.state)
    return f"{words}: {clean(answer.message)}" if answer.message else words

"""`linkseal plan`."""

from __future__ import annotations

import secrets
import time
from typing import Any

import click
from linkseal.keys.errors import ConfigError, DirectoryError, HostError
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.cli.asking import answered
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.load import look
from linkseal.tunnels.cli.options import Command, Duration, output_option, pass_session
from linkseal.tunnels.cli.output import age, clean, emit, note, plural, structured
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.settings import AgentSettings
from linkseal.tunnels.status import Request, answer_to
from linkseal.tunnels.statusparts import PlanStatus


@click.command(
    cls=Command,
    uses=("directory", "config"),
    examples=(
        "linkseal plan                 # of this host's agent, at once",
        "linkseal plan --node n2       # of another's, through the directory",
        "linkseal plan -o json | jq -r '.steps[]'",
    ),
)
@click.option("--node", metavar="NAME", help="The node whose agent plans (default: that of this host).")
@click.option(
    "--timeout", type=Duration(), default="5m", metavar="DURATION", help="How long to wait for the agent (default 5m)."
)
@output_option("text", "json", "yaml")
@pass_session
def plan(session: Session, node: str | None, timeout: float, output: str) -> int:
    """Show what an agent would do now as ip, wg and nft lines; change nothing.

    First what should be on its host, then the steps that lead there from what is; in the steady state there are none.
    The agent of this host is asked through its control socket (root). With --node any other is asked through the
    directory or the cluster's API, without access to nodes; of a very long plan it sends the first lines and says how
    many there are more. Exit code 3 if no agent runs or reports, 4 if it has not answered in time.
    """
    here = session.settings() if session.has_agent() else None
    if node is None and here is None:
        raise ConfigError("from here a node must be named: `linkseal plan --node NAME` (`linkseal status` lists them)")
    if here is not None and node in (None, here.node):
        fields = _of_this_host(here)
    else:
        assert node is not None
        found = _of(session, node, timeout)
        if found is None:
            note(f"{age(timeout)} are over; wait longer with --timeout=DURATION")
            return ExitCode.WAITED
        fields = found
    _show(fields, output)
    return ExitCode.FINE


def _of_this_host(settings: AgentSettings) -> dict[str, Any]:
    answer = ask(settings.run_directory, {"do": "plan"})
    try:
        desired, steps = ([str(line) for line in answer[key]] for key in ("desired", "steps"))
    except (KeyError, TypeError):
        raise DirectoryError("the agent on this host answers in another way: restart it with this version") from None
    return {"node": settings.node, "desired": desired, "steps": steps, "desiredOmitted": 0, "stepsOmitted": 0}


def _of(session: Session, node: str, timeout: float) -> dict[str, Any] | None:
    """Ask a node's agent through the directory; None: it did not answer in time. ConfigError, DirectoryError."""
    seen = look(session)
    seen.require(node)
    if any(one.name == node and one.evidence != "fresh" for one in seen.status.nodes):
        raise DirectoryError(f"the agent of {node} does not report, so none can be asked: see `linkseal status {node}`")
    request = Request(f"plan-{secrets.token_hex(6)}", "plan", time.time())
    reports, late = answered(session, {node: request}, timeout, "planning")
    if late:
        return None
    report = reports.get(node)
    answer = answer_to(report, request.id)
    found = None if report is None or report.status is None else report.status.plan
    if answer is not None and answer.state != "done":
        raise HostError(f"the agent of {node} cannot plan ({answer.state}): {clean(answer.message)}")
    if found is None or found.request != request.id:
        raise DirectoryError(f"another plan was asked of {node} meanwhile, or its agent was restarted: ask again")
    return _fields(node, found)


def _fields(node: str, found: PlanStatus) -> dict[str, Any]:
    omitted = {"desiredOmitted": found.desired_omitted, "stepsOmitted": found.steps_omitted}
    return {"node": node, "desired": list(found.desired), "steps": list(found.steps), **omitted}


def _show(fields: dict[str, Any], output: str) -> None:
    if output != "text":
        emit(structured({"apiVersion": "linkseal.io/v1alpha1", "kind": "Plan", **fields}, output))
        return
    lines: list[str] = []
    for name in ("desired", "steps"):
        more = fields[f"{name}Omitted"]
        lines += ["", f"# {name}", *fields[name], *([f"# … and {plural(more, 'line')} more"] if more else [])]
    emit("\n".join(clean(line) for line in lines[1:]))
    if not fields["steps"] and not fields["stepsOmitted"]:
        note(f"nothing to do: {fields['node']} is as it should be")

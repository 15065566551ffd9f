"""`linkseal plan`."""

from __future__ import annotations

import click
from linkseal.keys.errors import ConfigError, DirectoryError
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.cli.options import Command, output_option, pass_session
from linkseal.tunnels.cli.output import clean, emit, note, structured
from linkseal.tunnels.cli.session import Session


@click.command(
    cls=Command,
    uses=("config",),
    examples=("linkseal plan", "linkseal plan -o json | jq -r '.steps[]'"),
)
@click.option("--node", metavar="NAME", help="The node that is meant; only this host's can be asked.")
@output_option("text", "json", "yaml")
@pass_session
def plan(session: Session, node: str | None, output: str) -> None:
    """Show what the agent would do now as ip, wg and nft lines; change nothing.

    First what should be on this host, then the steps that lead there from what is; in the steady state there are none.
    The agent on this host is asked through its control socket (root); exit code 3 if none runs.
    """
    settings = session.settings()
    if node not in (None, settings.node):
        raise ConfigError(
            f"this host is {settings.node}: run `linkseal plan` on {node}, an agent plans for itself only"
        )
    answer = ask(settings.run_directory, {"do": "plan"})
    try:
        desired, steps = ([str(line) for line in answer[key]] for key in ("desired", "steps"))
    except (KeyError, TypeError):
        raise DirectoryError("the agent on this host answers in another way: restart it with this version") from None
    if output != "text":
        fields = {"node": settings.node, "desired": desired, "steps": steps}
        emit(structured({"apiVersion": "linkseal.io/v1alpha1", "kind": "Plan", **fields}, output))
        return
    emit("\n".join(clean(line) for line in ("# desired", *desired, "", "# steps", *steps)))
    if not steps:
        note("nothing to do: this host is as it should be")

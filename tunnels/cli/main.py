"""The command `linkseal`, also `kubectl linkseal`: the tree of commands and how a run of it ends.

Commands are imported when they run: `linkseal version` starts in a tenth of a second and loads no cryptography.
A command returns its exit code (None is 0); errors become exit codes in `linkseal.tunnels.cli.exits` alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click
from linkseal.tunnels.cli.exits import ExitCode, describe_error, exit_code_of
from linkseal.tunnels.cli.options import Group, Lazy, global_options
from linkseal.tunnels.cli.output import Paint, Tone, note, silence_stdout
from linkseal.tunnels.cli.session import Session

_CLI: Final = "linkseal.tunnels.cli"

COMPLETE_VARIABLE: Final = "_LINKSEAL_COMPLETE"

COMMANDS: Final = {
    "status": Lazy(f"{_CLI}.status", "status", "Say whether everything is encrypted, and what is not covered."),
    "links": Lazy(
        f"{_CLI}.links", "links", "Show every directed pair of nodes: state, generations, last proof, bytes."
    ),
    "check": Lazy(f"{_CLI}.check", "check", "Check whether this host, or a cluster, is fit for Linkseal, with advice."),
    "verify": Lazy(f"{_CLI}.verify", "verify", "Prove it on the wire: canary, capture at both ends, positive control."),
    "enable": Lazy(f"{_CLI}.stages", "enable", "Walk the cluster up, stage by stage: prepare, prefer, enforce."),
    "disable": Lazy(f"{_CLI}.stages", "disable", "Walk the cluster back, stage by stage: prefer, prepare, off."),
    "remove": Lazy(f"{_CLI}.remove", "remove", "Have agents take what is ours from their hosts, before an uninstall."),
    "plan": Lazy(f"{_CLI}.plan", "plan", "Show what an agent would do now as ip, wg and nft lines; change nothing."),
    "showconf": Lazy(f"{_CLI}.showconf", "showconf", "Show a node's tunnels as wg-quick text, from public data alone."),
    "explain": Lazy(f"{_CLI}.explain", "explain", "Say what a finding means and how to fix it."),
    "agent": Lazy(f"{_CLI}.agent", "agent", "Run the agent of this host, or look after what it left."),
    "controller": Lazy(f"{_CLI}.controller", "controller", "Sign nodes' certificates and grants."),
    "lab": Lazy("linkseal.tunnels.lab.commands", "lab", "Run a cluster of network namespaces on this machine."),
    "version": Lazy(f"{_CLI}.version", "version", "Print the version of Linkseal and of what it runs on."),
    "completion": Lazy(f"{_CLI}.completion", "completion", "Print the script that lets a shell complete commands."),
}


def _output(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).output = value


@click.group(
    cls=Group,
    lazy=COMMANDS,
    params=[
        *global_options(),
        click.Option(
            ["-o", "--output"],
            metavar="FORMAT",
            expose_value=False,
            callback=_output,
            help="Form of the output; each command says which it has.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 found something, 2 usage, 3 unreachable, 4 --wait ran out, 5 refused without --yes, "
    "70 our bug, 130 interrupted.",
)
@click.version_option(package_name="linkseal", message="linkseal %(version)s")
def cli() -> None:
    """Encrypt every packet between the nodes of a cluster, and prove it.

    Begin with `linkseal status`; `linkseal explain CODE` says what to do about a finding.
    """


def main(arguments: Sequence[str], program: str = "linkseal") -> int:
    """Run one command line and return its exit code; data is on stdout, all else on stderr."""
    session = Session()
    try:
        result = cli.main(
            list(arguments), prog_name=program, complete_var=COMPLETE_VARIABLE, standalone_mode=False, obj=session
        )
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort: a bug of ours is said to be one
        return _ended(error, session)
    return int(result or 0)


def _ended(error: BaseException, session: Session) -> int:
    """Say why a command ended and return the exit code."""
    if isinstance(error, BrokenPipeError):
        silence_stdout()
        return ExitCode.FINE
    if isinstance(error, click.Abort | KeyboardInterrupt):
        note("interrupted")
        return ExitCode.INTERRUPTED
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        note(error.format_message())
        return ExitCode.USAGE
    if isinstance(error, click.ClickException):
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "linkseal"
        note(f"{_error(f'error: {error.format_message()}', session)}\nSee `{command} --help`.")
        return ExitCode.USAGE
    assert isinstance(error, Exception)
    note(_error(describe_error(error, verbose=session.verbose), session))
    return exit_code_of(error)


def _error(text: str, session: Session) -> str:
    paint = Paint(session.colour(sys.stderr))
    return "\n".join(
        paint("error:", Tone.BAD) + paint(line.removeprefix("error:"), Tone.PLAIN)
        if line.startswith("error:")
        else paint(line, Tone.PLAIN)
        for line in text.splitlines()
    )


def program_name(path: str) -> str:
    """Return how the command was called: `linkseal`, or `kubectl linkseal` as kubectl's plugin."""
    return "kubectl linkseal" if os.path.basename(path).startswith("kubectl-") else "linkseal"  # noqa: PTH119


def run() -> NoReturn:
    """Entry point of `linkseal` and `kubectl-linkseal`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    code = main(sys.argv[1:], program_name(sys.argv[0]))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
    sys.exit(code)

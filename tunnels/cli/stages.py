# ruff: noqa: PLC0415 - what asks the controller is loaded when it is asked, so that --help is quick
"""`linkseal enable` and `linkseal disable`: walk the cluster's stages up and down."""

from __future__ import annotations

import getpass
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from linkseal.keys.errors import ConfigError, DirectoryError, Refused
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.options import Command, Duration, output_option
from linkseal.tunnels.cli.output import age, clean, emit, note, structured

if TYPE_CHECKING:
    from linkseal.tunnels.controller.stageserver import Wish

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_API: Final = "linkseal.io/v1alpha1"


def _walking(function: FunctionT) -> FunctionT:
    """Add the options that both commands have."""
    options = (
        click.option(
            "--nodes",
            metavar="SELECTOR",
            help="Only these nodes go (a pool): names or patterns, comma-separated, such as n1,worker-*.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be done and what is in the way; change nothing."),
        click.option(
            "--wait",
            type=Duration(),
            is_flag=False,
            flag_value="0",
            metavar="[=DURATION]",
            help="Wait at most so long (exit code 4 if it takes longer; without --detach the walk is then broken off).",
        ),
        click.option(
            "--timeout",
            type=Duration(),
            default="120s",
            metavar="DURATION",
            help="How long one step may take on all nodes before it is taken back (default 120s).",
        ),
        click.option("--detach", is_flag=True, help="Leave the walk to the controller and return at once."),
        click.option(
            "--ca",
            type=click.Path(path_type=Path, file_okay=False),
            envvar="LINKSEAL_CA",
            metavar="DIR",
            help="The controller's CA folder, where its socket is (LINKSEAL_CA).",
        ),
        output_option("text", "json", "yaml"),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    cls=Command,
    examples=(
        "linkseal enable --to prefer                # encrypt; nothing is dropped",
        "linkseal enable --dry-run                  # what enforce would drop and reset, and what is in the way",
        "linkseal enable --to enforce --yes",
        "linkseal enable --to prefer --nodes n1,n2  # a pool goes first",
    ),
)
@click.option(
    "--protocol", type=click.Choice(["wireguard", "ipsec"]), help="As the inventory says; anything else is refused."
)
@click.option("--scope", type=click.Choice(["overlay", "transparent"]), help="As the inventory says, likewise.")
@click.option(
    "--to",
    "target",
    type=click.Choice(["prepare", "prefer", "enforce"]),
    default="enforce",
    help="The stage to go to (default enforce).",
)
@click.option("--yes", is_flag=True, help="Do not ask before enforce, which drops what is not encrypted.")
@_walking
def enable(target: str, yes: bool, protocol: str | None, scope: str | None, **options: Any) -> int:  # noqa: FBT001
    """Walk the cluster up, stage by stage: prepare, prefer, enforce.

    Each stage is entered when every live node has applied the one before it; enforce moreover when every pair is sealed
    at both ends and no plaintext is seen for 30 s. The controller walks while this command looks on: if it ends before
    (Ctrl-C, a lost connection), the step under way is taken back. Exit code 0 at the target, 1 if it was not reached.
    """
    wish = _wish(target, up=True, scope=scope, protocol=protocol, options=options)
    if target == "enforce" and not options["dry_run"]:
        _confirm(wish, options, yes=yes)
    return _walk(wish, options)


@click.command(
    cls=Command,
    examples=(
        "linkseal disable --to prefer               # stop dropping",
        "linkseal disable                           # back to off: everything of Linkseal's is taken away",
    ),
)
@click.option(
    "--to",
    "target",
    type=click.Choice(["prefer", "prepare", "off"]),
    default="off",
    help="The stage to go back to (default off).",
)
@_walking
def disable(target: str, **options: Any) -> int:
    """Walk the cluster back, stage by stage: prefer, prepare, off.

    Nothing is lost on the way where pods reach each other without Linkseal. The controller walks while this command
    looks on, as in `linkseal enable`.
    """
    return _walk(_wish(target, up=False, scope=None, protocol=None, options=options), options)


def _wish(target: str, *, up: bool, scope: str | None, protocol: str | None, options: dict[str, Any]) -> Wish:
    from linkseal.tunnels.controller.stageserver import Wish
    from linkseal.tunnels.model import Stage

    return Wish(
        target=Stage(target),
        up=up,
        who=_who(),
        nodes=options["nodes"],
        timeout=options["timeout"] or 1.0,
        detach=options["detach"],
        dry_run=options["dry_run"],
        scope=scope,
        protocol=protocol,
    )


def _who() -> str:
    """Return who asks, for the history: `root@ops`, or behind sudo who called it."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{platform.node()}"[:200]


def _folder(options: dict[str, Any]) -> Path:
    folder = options["ca"]
    if folder is None:
        raise ConfigError("name the controller's CA folder with --ca DIR or LINKSEAL_CA: its socket is there")
    return Path(folder)


def _confirm(wish: Wish, options: dict[str, Any], *, yes: bool) -> None:
    """Show the rehearsal before enforce, and ask. Raises Refused."""
    if not yes and not sys.stdin.isatty():
        raise Refused("enforce drops what is not encrypted: look at `linkseal enable --dry-run`, then give --yes")
    rehearsal = _rehearsal(wish, options)
    for line in rehearsal["lines"]:
        note(clean(str(line)))
    if not yes and not click.confirm("Enforce: drop what is not encrypted?", err=True):
        raise Refused("nothing was changed")


def _rehearsal(wish: Wish, options: dict[str, Any]) -> dict[str, Any]:
    from linkseal.tunnels.controller.stageserver import asked

    for answer in asked(_folder(options), wish.model_copy(update={"dry_run": True}), timeout=60):
        return answer
    raise DirectoryError("the controller closed the connection: see its log")


def _walk(wish: Wish, options: dict[str, Any]) -> int:
    if wish.dry_run:
        return _dry_run(_rehearsal(wish, options), options["output"])
    from linkseal.tunnels.controller.stageserver import asked

    patience: float | None = options["wait"] or None
    try:
        for answer in asked(_folder(options), wish, timeout=patience):
            text = clean(str(answer.get("text", "")))
            if answer.get("event") == "progress":
                note(text)
                continue
            _result(answer, text, options["output"])
            return ExitCode.FINE if answer.get("good", True) else ExitCode.FOUND
    except TimeoutError:
        note(f"{age(patience or 0)} are over; the step under way is taken back")
        return ExitCode.WAITED
    raise DirectoryError("the controller closed the connection before the end: it was stopped, see its log")


def _result(answer: dict[str, Any], text: str, output: str) -> None:
    if output == "text":
        emit(text)
        return
    fields = {"good": bool(answer.get("good", True)), "detached": answer.get("event") == "detached", "message": text}
    emit(structured({"apiVersion": _API, "kind": "StageWalk", **fields}, output))


def _dry_run(answer: dict[str, Any], output: str) -> int:
    """Print a rehearsal. Exit code 1 if something is in the way of the next step."""
    blocked = [clean(str(line)) for line in answer["blockers"]]
    if output == "text":
        steps = [str(step) for step in answer["steps"]]
        lines = [
            f"stage {answer['stage']}" + "".join(f" → {step}" for step in steps) + ("" if steps else ": nothing to do")
        ]
        lines += [f"in the way: {line}" for line in blocked]
        lines += [clean(str(line)) for line in answer["lines"]]
        emit("\n".join(map(clean, lines)))
    else:
        fields = {key: answer[key] for key in ("stage", "steps", "blockers", "rehearsal")}
        emit(structured({"apiVersion": _API, "kind": "StageRehearsal", **fields}, output))
    return ExitCode.FOUND if blocked else ExitCode.FINE

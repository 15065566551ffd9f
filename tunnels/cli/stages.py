# ruff: noqa: PLC0415 - what asks the controller is loaded when it is asked, so that --help is quick
"""`linkseal enable` and `linkseal disable`: walk the cluster's stages up and down."""

from __future__ import annotations

import getpass
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import click
from click.core import ParameterSource
from linkseal.keys.errors import ConfigError, DirectoryError, Refused
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.options import Command, Duration, output_option, pass_session
from linkseal.tunnels.cli.output import age, clean, emit, note, structured
from linkseal.tunnels.cli.session import Session

if TYPE_CHECKING:
    from linkseal.tunnels.controller.stageserver import Wish
    from linkseal.tunnels.directory.kubeapi import Access

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_API: Final = "linkseal.io/v1alpha1"


def _walking(function: FunctionT) -> FunctionT:
    """Add the options that both commands have."""
    options = (
        click.option(
            "--nodes",
            metavar="SELECTOR",
            help="Only these nodes go (a pool): names or patterns, comma-separated, such as n1,worker-*; of a cluster "
            "also labels, such as pool=first.",
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
    uses=("kubeconfig", "context", "namespace"),
    examples=(
        "linkseal enable --to prefer                # encrypt; nothing is dropped",
        "linkseal enable --dry-run                  # what enforce would drop and reset, and what is in the way",
        "linkseal enable --to enforce --yes",
        "linkseal enable --to prefer --nodes n1,n2  # a pool goes first",
    ),
)
@click.option(
    "--protocol",
    type=click.Choice(["wireguard", "ipsec"]),
    help="As the inventory or the ClusterEncryption says, if there is one.",
)
@click.option("--scope", type=click.Choice(["overlay", "transparent"]), help="As these say, likewise.")
@click.option(
    "--to",
    "target",
    type=click.Choice(["prepare", "prefer", "enforce"]),
    default="enforce",
    help="The stage to go to (default enforce).",
)
@click.option("--yes", is_flag=True, help="Do not ask before enforce, which drops what is not encrypted.")
@_walking
@pass_session
def enable(
    session: Session,
    /,
    target: str,
    yes: bool,  # noqa: FBT001
    protocol: str | None,
    scope: str | None,
    **options: Any,
) -> int:
    """Walk the cluster up, stage by stage: prepare, prefer, enforce.

    Each stage is entered when every live node has applied the one before it; enforce moreover when every pair is sealed
    at both ends and no plaintext is seen for 30 s. The controller walks while this command looks on: if it ends before
    (Ctrl-C, a lost connection), the step under way is taken back. Exit code 0 at the target, 1 if it was not reached.

    On a Kubernetes cluster the wish is the `stage` of the ClusterEncryption, which is made if there is none: the
    controller goes on if this command is killed; with Ctrl-C or after --wait the cluster stays where it is. There
    `spec.pool` and `spec.stepTimeout` are what --nodes and --timeout ask for.
    """
    asked = _asked(session, target, up=True, scope=scope, protocol=protocol, options=options)
    if target == "enforce" and not options["dry_run"]:
        _confirm(asked, yes=yes)
    return _walk(asked, options)


@click.command(
    cls=Command,
    uses=("kubeconfig", "context", "namespace"),
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
@pass_session
def disable(session: Session, /, target: str, **options: Any) -> int:
    """Walk the cluster back, stage by stage: prefer, prepare, off.

    Nothing is lost on the way where pods reach each other without Linkseal. The controller walks while this command
    looks on, as in `linkseal enable`. On a Kubernetes cluster it writes `lowerTo` too, without which no stage is
    lowered.
    """
    return _walk(_asked(session, target, up=False, scope=None, protocol=None, options=options), options)


class _Asked(Protocol):
    """A walk that is asked for, of a controller at its socket or of a cluster."""

    def rehearsal(self) -> dict[str, Any]:
        """Return what the walk would do."""

    def walk(self) -> int:
        """Walk; returns the exit code."""


def _asked(
    session: Session, target: str, *, up: bool, scope: str | None, protocol: str | None, options: dict[str, Any]
) -> _Asked:
    """Return where to ask: at the socket if a CA folder is named, else at the cluster's API. Raises ConfigError."""
    source = click.get_current_context().get_parameter_source("ca")
    local = session.chosen("--ca", options["ca"], inherited=source is ParameterSource.ENVIRONMENT)
    if not local and (cluster := session.cluster()) is not None:
        return _OfCluster(cluster, target, up, scope, protocol, options)
    return _OfController(_wish(target, up=up, scope=scope, protocol=protocol, options=options), options)


def _confirm(asked: _Asked, *, yes: bool) -> None:
    """Show the rehearsal before enforce, and ask. Raises Refused."""
    if not yes and not sys.stdin.isatty():
        raise Refused("enforce drops what is not encrypted: look at `linkseal enable --dry-run`, then give --yes")
    for line in asked.rehearsal()["lines"]:
        note(clean(str(line)))
    if not yes and not click.confirm("Enforce: drop what is not encrypted?", err=True):
        raise Refused("nothing was changed")


def _walk(asked: _Asked, options: dict[str, Any]) -> int:
    if options["dry_run"]:
        return _dry_run(asked.rehearsal(), options["output"])
    return asked.walk()


class _OfCluster:
    """Asked for in the ClusterEncryption."""

    def __init__(
        self,
        access: Access,
        target: str,
        up: bool,  # noqa: FBT001
        scope: str | None,
        protocol: str | None,
        options: dict[str, Any],
    ) -> None:
        from linkseal.tunnels.cli import stagescluster
        from linkseal.tunnels.controller.clusterwalk import Target
        from linkseal.tunnels.model import Stage

        self._api, self._access, self._options = stagescluster, access, options
        stagescluster.require_timeout(options["timeout"])
        nodes = None if options["nodes"] is None else stagescluster.chosen(access, options["nodes"])
        self._target = Target(Stage(target), up, scope, protocol, nodes, options["timeout"])

    def rehearsal(self) -> dict[str, Any]:
        return self._api.rehearse(self._access, self._target)

    def walk(self) -> int:
        def tell(answer: dict[str, Any]) -> None:
            _result(answer, str(answer["text"]), self._options["output"])

        return self._api.walk(self._access, self._target, self._options, tell)


class _OfController:
    """Asked for at the socket of a controller whose directory is a folder."""

    def __init__(self, wish: Wish, options: dict[str, Any]) -> None:
        self._wish, self._options = wish, options

    def rehearsal(self) -> dict[str, Any]:
        from linkseal.tunnels.controller.stageserver import asked

        for answer in asked(_folder(self._options), self._wish.model_copy(update={"dry_run": True}), timeout=60):
            return answer
        raise DirectoryError("the controller closed the connection: see its log")

    def walk(self) -> int:
        from linkseal.tunnels.controller.stageserver import asked

        patience: float | None = self._options["wait"] or None
        try:
            for answer in asked(_folder(self._options), self._wish, timeout=patience):
                text = clean(str(answer.get("text", "")))
                if answer.get("event") == "progress":
                    note(text)
                    continue
                _result(answer, text, self._options["output"])
                return ExitCode.FINE if answer.get("good", True) else ExitCode.FOUND
        except TimeoutError:
            note(f"{age(patience or 0)} are over; the step under way is taken back")
            return ExitCode.WAITED
        raise DirectoryError("the controller closed the connection before the end: it was stopped, see its log")


def _wish(target: str, *, up: bool, scope: str | None, protocol: str | None, options: dict[str, Any]) -> Wish:
    from linkseal.tunnels.controller.stageserver import Wish
    from linkseal.tunnels.model import Stage
    from linkseal.tunnels.stages import TIMEOUT

    return Wish(
        target=Stage(target),
        up=up,
        who=_who(),
        nodes=options["nodes"],
        timeout=TIMEOUT if options["timeout"] is None else options["timeout"] or 1.0,
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
        raise ConfigError(
            "name the controller's CA folder with --ca DIR or LINKSEAL_CA: its socket is there; or a cluster with "
            "--kubeconfig FILE or KUBECONFIG"
        )
    return Path(folder)


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

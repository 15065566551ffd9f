"""Command and group classes of the tree, and the options that many commands share.

Global options may stand before or after the command's name: `linkseal --directory D status` is `linkseal status
--directory D`. A command's help lists those it uses; the others it takes too.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click
from click.core import ParameterSource
from linkseal.tunnels.cli.session import Session

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_PATH: Final = click.Path(path_type=Path)

_GLOBALS: Final[Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]]] = {
    "directory": (
        ("--directory",),
        {
            "type": _PATH,
            "metavar": "PATH",
            "help": "The folder where nodes find each other (LINKSEAL_DIRECTORY; else what the agent's file says).",
        },
    ),
    "kubeconfig": (
        ("--kubeconfig",),
        {
            "type": _PATH,
            "metavar": "FILE",
            "help": "How the Kubernetes API is reached (KUBECONFIG, default ~/.kube/config, as with kubectl).",
        },
    ),
    "context": (
        ("--context",),
        {"metavar": "NAME", "help": "The context of the kubeconfig (default the current one)."},
    ),
    "namespace": (
        ("--namespace",),
        {"metavar": "NAME", "help": "Where Linkseal's controller runs in the cluster (default linkseal)."},
    ),
    "config": (
        ("--config",),
        {
            "type": _PATH,
            "metavar": "FILE",
            "help": "The agent's file (LINKSEAL_CONFIG; default /etc/linkseal/agent.yaml).",
        },
    ),
    "no_color": (("--no-color",), {"is_flag": True, "help": "No colour, as with NO_COLOR; pipes never get any."}),
    "verbose": (("-v", "--verbose"), {"is_flag": True, "help": "Say more on stderr; show where a bug is."}),
}

_CLUSTER: Final = ("kubeconfig", "context", "namespace")
"""Options of commands that use a directory, which may be a cluster's API."""

_VARIABLES: Final[Mapping[str, str]] = {"directory": "LINKSEAL_DIRECTORY", "config": "LINKSEAL_CONFIG"}
"""Environment variables of global options."""


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and value is not False and param.name is not None:
        session = ctx.ensure_object(Session)
        setattr(session, param.name, value)
        if ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT:
            session.inherited.add(param.name)
        else:
            session.inherited.discard(param.name)


def global_options(shown: frozenset[str] | None = None) -> list[click.Parameter]:
    """Return the global options; those not in `shown` (None: all) are accepted and not listed in the help."""
    options: list[click.Parameter] = []
    for name, (flags, keywords) in _GLOBALS.items():
        hidden = shown is not None and name not in shown
        environment = _VARIABLES.get(name) if shown is None else None
        options.append(
            click.Option(
                [*flags, name], callback=_remember, expose_value=False, hidden=hidden, envvar=environment, **keywords
            )
        )
    return options


class Command(click.Command):
    """A command that takes the global options too; `uses` names those that its help lists, with `examples`."""

    def __init__(self, *args: Any, uses: tuple[str, ...] = (), examples: tuple[str, ...] = (), **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        shown = {*uses, *_CLUSTER} if "directory" in uses else set(uses)
        self.params = [*self.params, *global_options(frozenset(shown))]
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on a line of its own however long."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; refuse an -o given before the command's name if the command has none."""
        output = ctx.ensure_object(Session).output
        if output is not None and not any(param.name == "output" for param in self.params):
            raise click.UsageError(f"`{ctx.command_path}` has one form of output only: leave -o {output} out", ctx)
        return super().invoke(ctx)


class Lazy(NamedTuple):
    """Where a command is, and its line in the list of commands (a test compares it with the command's own)."""

    module: str
    attribute: str
    summary: str


class Group(click.Group):
    """A group with suggestions for misspelt names, whose `lazy` commands are imported when they run."""

    command_class = Command

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy] | None = None, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.lazy: Mapping[str, Lazy] = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order they are defined in, which is by importance."""
        del ctx
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing it if it must be."""
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command named by `args`; an unknown one is answered with the nearest."""
        name = args[0]
        if name not in self.list_commands(ctx) and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            advice = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(self.list_commands(ctx))}"
            raise click.UsageError(f"there is no command `{name}`; {advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        del ctx
        rows = [(name, entry.summary) for name, entry in self.lazy.items()]
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        rows += [(name, command.get_short_help_str(200)) for name, command in shown.items()]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


Group.group_class = Group


def output_option(*formats: str) -> Callable[[FunctionT], FunctionT]:
    """Add `-o`; the first format is the default, and an -o before the command's name counts as well."""

    def resolve(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
        given = value or ctx.ensure_object(Session).output or formats[0]
        return str(param.type.convert(given, param, ctx))

    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(formats),
        callback=resolve,
        help=f"Form of the output (default {formats[0]}).",
    )


pass_session = click.make_pass_decorator(Session, ensure=True)


class Duration(click.ParamType[float]):
    """`90s`, `5m`, `1h`, `1h30m`, or seconds without unit → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        from linkseal.tunnels.validation import duration  # noqa: PLC0415 - so that --help is quick

        try:
            return float(duration(str(value)))
        except ValueError:
            self.fail(f"{value!r} is no duration; write it like 90s, 5m, 1h30m or 30d", param, ctx)

"""docs/commands.md, generated from the tree of commands, so that no command or option is left out."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import click
from linkseal.tunnels.cli.exits import MEANINGS
from linkseal.tunnels.cli.main import COMMANDS, cli
from linkseal.tunnels.cli.session import Session

WIDTH = 100
"""Columns of the help texts, whatever the terminal of whoever generates them."""


def markdown() -> str:
    """Return docs/commands.md."""
    parts = [
        "# Commands\n",
        "Generated from the tree of commands by `python docs/commands.py`; do not edit.\n",
        "Data goes to stdout, everything else to stderr. Colour appears on a terminal only, and not with `NO_COLOR` or",
        "`--no-color`. The global options may stand before or after a command's name.\n",
        "## Exit codes\n",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()),
        "",
    ]
    for path, command in commands():
        parts += [f"{'#' * min(len(path) + 1, 3)} {' '.join(path)}\n", "```text", help_text(path, command), "```\n"]
    return "\n".join(parts)


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its path, a group before its commands."""
    yield from _walk(("linkseal",), cli)


def _walk(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if name == "lab" and importlib.util.find_spec(COMMANDS[name].module) is None:
                continue
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _walk((*path, name), found)


def help_text(path: tuple[str, ...], command: click.Command) -> str:
    """Return what `--help` prints, at a fixed width."""
    context = click.Context(
        command,
        info_name=" ".join(path),
        obj=Session(),
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())

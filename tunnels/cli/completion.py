"""`linkseal completion`."""

from __future__ import annotations

import sys
from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class
from linkseal.tunnels.cli.options import Command
from linkseal.tunnels.cli.output import emit


@click.command(
    cls=Command,
    examples=(
        "source <(linkseal completion bash)    # put it into ~/.bashrc; needs bash 4.4",
        "source <(linkseal completion zsh)     # put it into ~/.zshrc",
        "linkseal completion fish > ~/.config/fish/completions/linkseal.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets a shell complete commands."""
    completer = get_completion_class(shell)
    assert completer is not None
    emit(completer(ctx.find_root().command, {}, "linkseal", "_LINKSEAL_COMPLETE").source().strip("\n"))


_FILES: Final = 0
_NO_FILES: Final = 4
"""What a shell does where nothing fits: complete files, or not. cobra's ShellCompDirective, which kubectl reads."""


def for_kubectl() -> None:
    """Entry point of `kubectl_complete-linkseal`: what `kubectl linkseal …` may go on with, as kubectl reads it."""
    from linkseal.tunnels.cli.main import cli  # noqa: PLC0415 - which names the command above

    *words, last = sys.argv[1:] or [""]
    found = ShellComplete(cli, {}, "linkseal", "").get_completions(words, last)
    plain = [one for one in found if one.type == "plain"]
    lines = ["\t".join(filter(None, (one.value, one.help))) for one in plain]
    emit("\n".join([*lines, f":{_NO_FILES if len(plain) == len(found) else _FILES}"]))

"""`linkseal completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class
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

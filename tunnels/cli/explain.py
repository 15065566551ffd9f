"""`linkseal explain`."""

from __future__ import annotations

import difflib
from typing import Any, Final

import click
from linkseal.keys.errors import ConfigError
from linkseal.tunnels import findings
from linkseal.tunnels.cli.options import Command, output_option, pass_session
from linkseal.tunnels.cli.output import Cell, Paint, Tone, emit, structured
from linkseal.tunnels.cli.session import Session

API_VERSION: Final = "linkseal.io/v1alpha1"

TONES = {"error": Tone.BAD, "warning": Tone.WARN, "info": Tone.DIM}


@click.command(
    cls=Command,
    examples=("linkseal explain LS2004", "linkseal explain --list", "linkseal explain --list -o json"),
)
@click.argument("code", required=False)
@click.option("--list", "everything", is_flag=True, help="List the whole catalogue.")
@output_option("text", "json", "yaml")
@pass_session
def explain(session: Session, code: str | None, everything: bool, output: str) -> None:  # noqa: FBT001 - click's flag
    """Say what a finding means and how to fix it."""
    if everything == (code is not None):
        raise click.UsageError("name one CODE, such as LS2004, or give --list")
    if code is not None:
        entry = findings.CATALOGUE.get(code.upper())
        if entry is None:
            raise ConfigError(_unknown(code))
        if output == "text":
            emit(findings.explain(entry).rstrip("\n"))
            return
        emit(structured({"apiVersion": API_VERSION, "kind": "Finding", **_item(entry)}, output))
    elif output == "text":
        rows: list[list[str | Cell]] = [
            [entry.code, Cell(entry.severity, TONES[entry.severity]), entry.title]
            for entry in findings.CATALOGUE.values()
        ]
        emit("\n".join(Paint(session.colour()).table(("CODE", "SEVERITY", "TITLE"), rows)))
    else:
        items = [_item(entry) for entry in findings.CATALOGUE.values()]
        emit(structured({"apiVersion": API_VERSION, "kind": "FindingCatalogue", "items": items}, output))


def _item(entry: findings.Finding) -> dict[str, Any]:
    fields = {name: getattr(entry, name) for name in ("code", "severity", "title", "cause", "fix", "hold")}
    return {**fields, "dependsOn": list(entry.depends_on)}


def _unknown(code: str) -> str:
    near = difflib.get_close_matches(code.upper(), findings.CATALOGUE, n=1, cutoff=0.8)
    advice = f"did you mean {near[0]}? " if near else ""
    return f"there is no finding {code[:20]!r}; {advice}`linkseal explain --list` shows all"

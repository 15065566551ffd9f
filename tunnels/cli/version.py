"""`linkseal version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed
from typing import Any

import click
from linkseal.tunnels.cli.options import Command, output_option
from linkseal.tunnels.cli.output import emit, structured


@click.command(cls=Command, examples=("linkseal version", "linkseal version -o json"))
@output_option("text", "json", "yaml")
def version(output: str) -> None:
    """Print the version of Linkseal and of what it runs on."""
    found = facts()
    if output == "text":
        emit(f"linkseal {found['version']} (Python {found['python']}, {found['platform']} {found['kernel']})")
    else:
        emit(structured(found, output))


def facts() -> dict[str, Any]:
    """Return the versions, as -o json shows them."""
    return {
        "apiVersion": "linkseal.io/v1alpha1",
        "kind": "Version",
        "version": installed("linkseal"),
        "python": platform.python_version(),
        "platform": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }

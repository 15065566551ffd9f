# ruff: noqa: PLC0415 - the controller's modules are loaded by the command that needs them, so that --help is quick
"""`linkseal controller …`: what signs certificates and grants."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.options import Group, pass_session
from linkseal.tunnels.cli.output import note, plural
from linkseal.tunnels.cli.session import Session


@click.group(cls=Group)
def controller() -> None:
    """Sign nodes' certificates and grants.

    Needed for new nodes and changed grants only: while it is down, nothing that works stops working.
    """


@controller.command(
    uses=("directory",),
    examples=(
        "linkseal controller run --directory /srv/linkseal --inventory nodes.yaml --ca /root/linkseal-ca",
        "linkseal controller run --directory /srv/linkseal --inventory nodes.yaml --ca /root/linkseal-ca --once",
    ),
)
@click.option(
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    required=True,
    help="The cluster's policy, its nodes and what they own; read again when it changes.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    required=True,
    help="Folder of the CA's key and certificate; made at the first run. Nodes never see it.",
)
@click.option("--once", is_flag=True, help="Sign what is asked for now, and end.")
@pass_session
def run(session: Session, inventory: Path, ca: Path, once: bool) -> int:  # noqa: FBT001 - click's flag
    """Sign for a directory of files until SIGTERM or SIGINT.

    Makes the directory at the first run. Grants follow the inventory; a certificate is given to a node of the
    inventory that proves its key, and to no second key while the first one's is valid.
    """
    from linkseal.tunnels.controller import files

    if session.directory is None:
        raise ConfigError("no directory is given: use --directory PATH or set LINKSEAL_DIRECTORY")
    _log_to_stderr()
    if not once:
        files.run(session.directory, inventory, ca)
        return ExitCode.FINE
    signed = files.FileController(session.directory, inventory, ca).sign()
    note(f"signed {plural(len(signed.granted), 'grant')} and {plural(len(signed.certified), 'certificate')}")
    return ExitCode.FOUND if signed.refused else ExitCode.FINE


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    log = logging.getLogger("linkseal")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False

# ruff: noqa: PLC0415 - the controller's modules are loaded by the command that needs them, so that --help is quick
"""`linkseal controller …`: what signs certificates and grants."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from linkseal.keys.errors import ConfigError
from linkseal.keys.values import MAX_COMMON_NAME
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.options import Group, pass_session
from linkseal.tunnels.cli.output import note, plural
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.controller.providers.names import PROVIDER_NAMES

if TYPE_CHECKING:
    from linkseal.tunnels.controller.providers.choice import Granting


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
        "linkseal controller run --kubernetes --node-network 192.0.2.0/24",
        "linkseal controller run --kubernetes --address-provider calico --pod-network 10.244.0.0/16",
    ),
)
@click.option(
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The cluster's policy, its nodes and what they own; read again when it changes.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the CA's key and certificate; made at the first run. Nodes never see it.",
)
@click.option("--once", is_flag=True, help="Sign what is asked for now, and end.")
@click.option("--kubernetes", is_flag=True, help="Sign for a Kubernetes cluster: its Nodes and its ClusterEncryption.")
@click.option(
    "--node-network",
    "networks",
    multiple=True,
    metavar="CIDR",
    help="With --kubernetes: where addresses of nodes may be (again for more; default anywhere).",
)
@click.option(
    "--address-provider",
    "provider",
    type=click.Choice(PROVIDER_NAMES),
    help="With --kubernetes: from what the prefixes of nodes' pods are taken (default podCIDRs).",
)
@click.option(
    "--pod-network",
    "pod_networks",
    multiple=True,
    metavar="CIDR",
    help="With --kubernetes: where prefixes of pods may be (again for more; default anywhere).",
)
@click.option(
    "--lift-taint",
    is_flag=True,
    help="With --kubernetes: lift the taint linkseal.io/not-sealed from Nodes whose links are sealed.",
)
@click.option(
    "--ssh-agent",
    envvar="SSH_AUTH_SOCK",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="With --kubernetes: the SSH agent that holds the CA's key, where the Secret says so (SSH_AUTH_SOCK).",
)
@pass_session
def run(
    session: Session,
    *,
    inventory: Path | None,
    ca: Path | None,
    once: bool,
    kubernetes: bool,
    networks: tuple[str, ...],
    provider: str | None,
    pod_networks: tuple[str, ...],
    lift_taint: bool,
    ssh_agent: Path | None,
) -> int:
    """Sign for a directory until SIGTERM or SIGINT.

    For a folder of files it makes the folder at the first run; grants follow the inventory, and a certificate is given
    to a node of the inventory that proves its key, and to no second key while the first one's is valid. For a
    Kubernetes cluster a certificate is given to the agent whose token is bound to a pod on that very Node.
    """
    _log_to_stderr()
    if kubernetes:
        if session.directory is not None or inventory is not None or ca is not None or once:
            raise click.UsageError("--kubernetes goes with no --directory, --inventory, --ca or --once")
        chosen = _granting(networks, provider or PROVIDER_NAMES[0], pod_networks)
        return _run_kubernetes(session, chosen, lift_taint=lift_taint, ssh_agent=ssh_agent)
    asked = click.get_current_context().get_parameter_source("ssh_agent") is ParameterSource.COMMANDLINE
    if inventory is None or ca is None or networks or provider or pod_networks or lift_taint or asked:
        raise click.UsageError("a folder of files needs --inventory FILE and --ca DIR (a cluster: --kubernetes)")
    from linkseal.tunnels.controller import files

    if session.directory is None:
        raise ConfigError("no directory is given: use --directory PATH or set LINKSEAL_DIRECTORY")
    if not once:
        files.run(session.directory, inventory, ca)
        return ExitCode.FINE
    signed = files.FileController(session.directory, inventory, ca).sign()
    note(f"signed {plural(len(signed.granted), 'grant')} and {plural(len(signed.certified), 'certificate')}")
    return ExitCode.FOUND if signed.refused else ExitCode.FINE


def _run_kubernetes(session: Session, chosen: Granting, *, lift_taint: bool, ssh_agent: Path | None) -> int:
    from linkseal.tunnels.controller import kuberun
    from linkseal.tunnels.directory.kubeapi import Access
    from linkseal.tunnels.settings import KubeDirectorySettings

    namespace = session.namespace or KubeDirectorySettings().namespace
    access = Access(session.kubeconfig, session.context)
    kuberun.run(access, namespace, chosen, lift_taint=lift_taint, ssh_agent=ssh_agent)
    return ExitCode.FINE


def _granting(networks: tuple[str, ...], provider: str, pod_networks: tuple[str, ...]) -> Granting:
    from linkseal.tunnels.controller.providers.choice import granting, own_pod

    pod = own_pod(os.environ.get("LINKSEAL_POD_NODE", ""), os.environ.get("LINKSEAL_POD_ADDRESSES", ""))
    return granting(provider, _networks("--node-network", networks), _networks("--pod-network", pod_networks), pod)


def _common_name(_: click.Context, __: click.Parameter, name: str) -> str:
    if not 0 < len(name) <= MAX_COMMON_NAME or not name.isprintable():
        raise click.BadParameter(f"{name!r}: 1 to {MAX_COMMON_NAME} printable characters (RFC 5280)")
    return name


@controller.command(
    examples=(
        "linkseal controller ca --ssh-agent /run/hsm/agent.sock > ca.crt",
        "linkseal controller ca --ssh-agent /run/hsm/agent.sock --key linkseal-2026 --request > ca.csr",
    )
)
@click.option(
    "--ssh-agent",
    envvar="SSH_AUTH_SOCK",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    required=True,
    help="The SSH agent that holds the key (SSH_AUTH_SOCK).",
)
@click.option("--key", "named", metavar="NAME", help="Which of its P-384 keys, by comment or fingerprint.")
@click.option("--name", default="Linkseal nodes", show_default=True, callback=_common_name, help="The CA's name.")
@click.option("--days", type=click.IntRange(1, 36500), help="How long it is valid (default 3650).")
@click.option("--request", is_flag=True, help="Print a request for a CA above it to sign, not a certificate.")
def ca(ssh_agent: Path, named: str | None, name: str, days: int | None, *, request: bool) -> int:
    """Print the certificate of a CA whose key is in an SSH agent.

    For the Secret linkseal-ca-key, which then holds the words ssh-agent in place of a key; or for linkseal-ca-next.
    """
    from linkseal.keys.ca import make_ca_request
    from linkseal.tunnels.controller import outsideca

    if request and days is not None:
        raise click.UsageError("--days goes with no --request: who signs the request says how long")
    key = outsideca.chosen_key(ssh_agent, named)
    click.echo(make_ca_request(key, name) if request else outsideca.certificate(key, name, days), nl=False)
    return ExitCode.FINE


def _networks(option: str, texts: tuple[str, ...]) -> frozenset[str]:
    from linkseal.tunnels.validation import parse_network

    try:
        return frozenset(str(parse_network(text)) for text in texts)
    except ValueError as error:
        raise click.UsageError(f"{option} {error}") from None


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"))
    log = logging.getLogger("linkseal")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False

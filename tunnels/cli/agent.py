# ruff: noqa: PLC0415 - the agent's modules are loaded by the command that needs them, so that --help is quick
"""`linkseal agent …`: everything that concerns the agent of this host."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from linkseal.keys.errors import DirectoryError, PeerError
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.options import Group, output_option, pass_session
from linkseal.tunnels.cli.output import Paint, confirm, emit, note, plural, structured
from linkseal.tunnels.cli.session import Session

DAEMONS: Final = Path("/run/linkseal/daemons/control.sock")
"""Where the chart has the supervisor of wireguard-go listen."""


@click.group(cls=Group)
def agent() -> None:
    """Run the agent of this host, or look after what it left.

    Tunnels outlive the agent: stopping it, or upgrading it, stops no traffic. Only `cleanup` removes them.
    """


@agent.command(
    uses=("config",),
    examples=("linkseal agent run", "linkseal agent run --config ./agent.yaml"),
)
@pass_session
def run(session: Session) -> int:
    """Run the agent in the foreground until SIGTERM or SIGINT.

    It takes over the tunnels it finds and leaves them in place when it stops. Needs root or CAP_NET_ADMIN. The log is
    on stderr, its form is `logFormat` in the agent's file.
    """
    from linkseal.tunnels.agent import main

    return main.run(session.settings())


@agent.command(
    uses=("config",),
    examples=(
        "linkseal agent restore        # from a boot unit, before networking is offered to anyone",
        "linkseal agent restore --wait 60s        # once more, when this host has its addresses",
    ),
)
@click.option("--wait", "wait", metavar="TIME", help="Wait this long for one of this node's addresses, such as 60s.")
@click.option("--check", is_flag=True, help="Say whether all that is needed is there; change nothing.")
@click.option("--state", type=click.Path(path_type=Path), hidden=True, help="Another state directory, to check.")
@pass_session
def restore(session: Session, wait: str | None, check: bool, state: Path | None) -> None:  # noqa: FBT001 - click's flag
    """Rebuild this host's data path from its disk alone.

    For the boot: no directory, API or peer is asked. What last carried traffic is put back; the agent goes on from
    there. Before this host has its addresses the guard comes up, and tunnels that carry nothing until they are there.
    Running it again changes nothing; where the agent runs there is nothing to do.
    """
    from linkseal.tunnels.agent import main, rescue
    from linkseal.tunnels.agent.onlyone import AgentRuns

    settings = session.settings()
    seconds = 0.0 if wait is None else seconds_of("--wait", wait)
    if check or state is not None:
        note(rescue.check(settings if state is None else replace(settings, state_directory=state)))
        return
    if seconds:
        rescue.wait_for_address(settings, seconds)
    try:
        steps = main.restore(settings)
    except AgentRuns:
        note("the agent runs on this host, and looks after the tunnels itself")
        return
    note(f"restored with {plural(steps, 'step')}" if steps else "everything was in place already")
    if missing := rescue.missing_addresses(settings):
        note(f"not on this host yet: {', '.join(missing)}; run it again when they are")


@agent.command(
    uses=("config",),
    examples=("linkseal agent status", "linkseal agent status -o json"),
)
@output_option("text", "json", "yaml")
@pass_session
def status(session: Session, output: str) -> None:
    """Show what the agent that runs on this host says of itself.

    Asks its control socket, which only root can open; exit code 3 if no agent answers. For the cluster as a whole see
    `linkseal status`.
    """
    from linkseal.tunnels.agent.control import ask
    from linkseal.tunnels.cli.agentview import text
    from linkseal.tunnels.status import parse_report

    settings = session.settings()
    said = ask(settings.run_directory, {"do": "status"}).get("status")
    try:
        report = parse_report(str(said), settings.node)
    except PeerError as error:
        raise DirectoryError(f"{error}: the agent is of another version; restart it") from None
    if output == "text":
        emit(text(report, Paint(session.colour())))
    else:
        emit(structured(json.loads(str(said)), output))


@agent.command(
    uses=("config",),
    examples=("linkseal agent cleanup", "linkseal agent cleanup --yes --keep-directory"),
)
@click.option("--yes", is_flag=True, help="Do not ask; without a terminal to ask on, exit code 5.")
@click.option("--keep-directory", is_flag=True, help="Leave this node's announcement in the directory too.")
@pass_session
def cleanup(session: Session, yes: bool, keep_directory: bool) -> int:  # noqa: FBT001 - click's flags
    """Remove everything Linkseal made on this host, and nothing else.

    Interfaces, routes, rules, nftables and changed settings go, and so does the announcement in the directory; what
    was removed is listed, and what could not be, or is not ours: exit code 1 then. The keys stay in the state
    directory, an empty clsact qdisc on the NIC (docs/guard.md). From then on this host's traffic is NOT encrypted, and
    peers keep sending into the tunnel, where it is lost, until this node is removed from the directory or opted out.
    """
    from linkseal.tunnels.agent import main
    from linkseal.tunnels.boot.install import FAILED, LEFT

    settings = session.settings()
    if not yes:
        confirm(f"This ends all encryption on {settings.node}. Remove its tunnels?")
    lines = main.cleanup(settings, withdraw=not keep_directory)
    if not lines:
        note("there was nothing of Linkseal on this host")
        return ExitCode.FINE
    remains = [line for line in lines if line.startswith((FAILED, LEFT))]
    emit("\n".join(line if line in remains else f"removed {line}" for line in lines))
    note(f"peers keep sending into the tunnel until {settings.node} is removed from the directory or opted out")
    if remains:
        note(f"{plural(len(remains), 'thing')} of ours or under our names could not be removed: see above")
        return ExitCode.FOUND
    return ExitCode.FINE


@agent.command(
    uses=("config",),
    examples=(
        'linkseal agent break-glass --reason "etcd lost its quorum" --for 1h',
        "linkseal agent break-glass --end",
    ),
)
@click.option("--reason", metavar="TEXT", help="Why; it stands in every status until this is over.")
@click.option("--for", "duration", metavar="TIME", help="Until it ends by itself, such as 30m, 1h or 2d.")
@click.option("--end", is_flag=True, help="Let the guard close again.")
@pass_session
def break_glass(session: Session, reason: str | None, duration: str | None, end: bool) -> None:  # noqa: FBT001 - click's flag
    """Lift the guard of this host in an emergency: plaintext is counted and not dropped.

    Tunnels stay, and what they carry stays encrypted. Works with the agent running or not, at once, and outlasts a
    reboot; needs root. While it is in force the node has finding LS5004 and is not called encrypted.
    """
    from linkseal.tunnels.agent import main

    if (reason is not None) == end or (end and duration is not None):
        raise click.UsageError("say why with --reason TEXT (and for how long with --for), or --end")
    seconds = None if duration is None else seconds_of("--for", duration)
    changed = main.break_glass(session.settings(), reason, seconds)
    if end:
        note("the guard closes again" if changed else "break-glass was not in force")
    else:
        note("the guard is lifted; end this with: linkseal agent break-glass --end")


@agent.command(
    "trust-ca",
    uses=("config",),
    examples=("linkseal agent trust-ca 5f1c…",),
)
@click.argument("fingerprint")
@pass_session
def trust_ca(session: Session, fingerprint: str) -> None:
    """Have this host trust a CA that none trusted here vouches for.

    Where the CA's key is lost, and with it who could vouch for the next (LS1024). FINGERPRINT is the SHA-256 that the
    finding names and `status.ca.fingerprint` of the ClusterEncryption: compare them, since whoever holds that CA's key
    decides what this host encrypts and for whom. It counts once, as soon as the directory has that CA; the one before
    is retired by the first policy of the new one. Tunnels and keys stay. Needs root.
    """
    from linkseal.tunnels.agent import main

    name = main.trust_ca(session.settings(), fingerprint)
    note(f"{name} is trusted as soon as the directory names it; `linkseal agent status` shows LS1024 until then")


@agent.command(
    hidden=True,
    examples=("linkseal agent daemons", "linkseal agent daemons --list"),
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DAEMONS,
    show_default=True,
    help="Where it listens; `wireguard.daemons` of the agent's file.",
)
@click.option("--list", "listed", is_flag=True, help="Show which devices it runs wireguard-go for, and end.")
@pass_session
def daemons(_session: Session, socket: Path, listed: bool) -> None:  # noqa: FBT001 - click's flag
    """Run wireguard-go for the agent of this host, until SIGTERM or SIGINT.

    For a pod of its own, which is not replaced with the agent's: processes die with their pod. It takes over daemons
    that it finds, and leaves those it started when it ends.
    """
    from linkseal.tunnels.agent import daemons
    from linkseal.wireguard.launch import ask

    if listed:
        emit(json.dumps({key: value for key, value in ask(socket, {"do": "list"}).items() if key != "ok"}))
    else:
        daemons.run(socket)


def seconds_of(option: str, text: str) -> float:
    """Read 90s, 30m, 1h or 2d. Raises UsageError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not (number.isascii() and number.isdecimal()) or not 0 < int(number) < 10_000:  # noqa: PLR2004
        raise click.UsageError(f"{option} {text}: must be a time such as 90s, 30m, 1h or 2d")
    return float(int(number) * units[unit])

# ruff: noqa: PLC0415 - the lab's modules are loaded by the command that needs them, so that --help is quick
"""`linkseal lab …`: a cluster of network namespaces on this machine; with a Kubernetes control plane if asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
from linkseal.tunnels.cli.options import Command, Group, output_option, pass_session
from linkseal.tunnels.cli.output import Paint
from linkseal.tunnels.cli.session import Session

BACKENDS: Final = ("auto", "kernel", "lab", "userspace")
SCOPES: Final = ("overlay", "transparent")
STAGES: Final = ("off", "prepare", "prefer", "enforce")

_name = click.option("--name", default="lab", metavar="NAME", help="Which lab, where there are several (default lab).")
_backend = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    help="What carries the tunnels: this kernel, the cached lab kernel, or wireguard-go (default auto: the first of "
    "them that works here).",
)
_scope = click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="overlay",
    help="overlay carries pod networks; transparent carries host traffic too (default overlay).",
)
_kubernetes = click.option(
    "--kubernetes",
    is_flag=True,
    help="With a Kubernetes control plane: the chart is installed by Helm, agents and controller run as pods. Takes a "
    "clone, and what `make test-kube` or `make demo KUBERNETES=1` builds once.",
)


class PlaceCommand(Command):
    """A command whose options end at its first argument: what follows belongs to the program that is run."""

    allow_interspersed_args = False


@click.group(cls=Group)
def lab() -> None:
    """Run a cluster of network namespaces on this machine.

    Nodes are namespaces on one bridge, each with an agent and two pods; a controller signs for them. Needs root.
    `linkseal lab demo` shows everything at once.
    """


@lab.command(
    examples=(
        "linkseal lab up",
        "linkseal lab up --nodes 5 --scope transparent --families 4,6 --cni vxlan",
        "linkseal lab up --backend userspace --name other",
        "linkseal lab up --kubernetes --cni host-gw",
    )
)
@click.option("--nodes", type=click.IntRange(2, 40), default=3, help="How many (default 3).")
@_backend
@_scope
@click.option("--families", type=click.Choice(["4", "6", "4,6"]), default="4", help="IPv4, IPv6 or both (default 4).")
@click.option(
    "--cni",
    type=click.Choice(["none", "host-gw", "vxlan"]),
    default="none",
    help="How pods of different nodes reach each other without Linkseal (default none: not at all).",
)
@click.option("--stage", type=click.Choice(STAGES), default="prefer", help="Stage of the cluster (default prefer).")
@_kubernetes
@_name
def up(
    nodes: int,
    backend: str,
    scope: str,
    families: str,
    cni: str,
    stage: str,
    kubernetes: bool,  # noqa: FBT001
    name: str,
) -> int:
    """Start a lab and leave it running: namespaces, a controller, an agent on each node.

    It stays until `linkseal lab down` or the next boot. Look into it with `linkseal lab exec`.
    """
    from linkseal.tunnels.lab import lifecycle
    from linkseal.tunnels.lab.state import LabSpec

    spec = LabSpec(name, nodes, scope, stage, tuple(families.split(",")), cni, kubernetes=kubernetes)
    return lifecycle.up(spec, backend)


@lab.command(
    cls=PlaceCommand,
    examples=(
        "linkseal lab exec n1 -- linkseal status",
        "linkseal lab exec n1 -- wg show",
        "linkseal lab exec n1.p1 -- ping -c1 10.244.2.2",
        "linkseal lab exec wire -- tcpdump -ni br0 -c 20",
        "linkseal lab exec n1 -- kubectl get nodeencryption -o wide     # after lab up --kubernetes",
    ),
)
@_name
@click.argument("place", metavar="NODE|NODE.POD|wire")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(name: str, place: str, command: tuple[str, ...]) -> int:  # noqa: A001 - the command's name
    """Run a program on a node, in a pod, or on the wire between the nodes.

    On a node, `linkseal` finds that node's agent and the lab's directory by itself; with --kubernetes kubectl and helm
    find the cluster everywhere. Exit code: the program's.
    """
    from linkseal.tunnels.lab import lifecycle

    words = command[1:] if command[:1] == ("--",) else command
    if not words:
        raise click.UsageError("name a program to run: linkseal lab exec NODE -- PROGRAM …")
    return lifecycle.execute(name, place, words)


@lab.command(
    name="break",
    examples=(
        "linkseal lab break --list",
        "linkseal lab break peer n2        # n1 is taken where no node is named",
        "linkseal lab break agent-kill n3",
    ),
)
@click.option("--list", "listing", is_flag=True, help="List what can be broken, and mended.")
@_name
@click.argument("fault", required=False)
@click.argument("node", default="n1")
def break_(listing: bool, name: str, fault: str | None, node: str) -> int:  # noqa: FBT001 - click's flag
    """Break something on purpose, and say what to watch.

    Drift is put back by the node's agent within seconds; what is not drift has a fault of its own that mends it.
    """
    from linkseal.tunnels.lab import lifecycle

    if listing:
        return lifecycle.list_faults()
    if fault is None:
        raise click.UsageError("name a fault; `linkseal lab break --list` shows them")
    return lifecycle.break_it(name, fault, node)


@lab.command(examples=("linkseal lab status", "linkseal lab status -o json"))
@_name
@output_option("table", "json", "yaml")
@pass_session
def status(session: Session, name: str, output: str) -> int:
    """Show what a lab is and whether it is sealed.

    Exit code 0 if every agent runs and everything in scope is encrypted.
    """
    from linkseal.tunnels.lab import lifecycle

    return lifecycle.status(name, output, Paint(session.colour()))


@lab.command(examples=("linkseal lab down", "linkseal lab down --name other"))
@_name
def down(name: str) -> int:
    """End a lab: every process it started, and everything it made."""
    from linkseal.tunnels.lab import lifecycle

    return lifecycle.down(name)


@lab.command(
    examples=(
        "linkseal lab demo                  # the same as `make demo`",
        "linkseal lab demo --scope transparent --backend userspace",
        "linkseal lab demo --keep           # leaves the lab up, to look around",
        "linkseal lab demo --kubernetes     # the same as `make demo KUBERNETES=1`",
    )
)
@_backend
@_scope
@_kubernetes
@click.option("--keep", is_flag=True, help="Leave the lab up afterwards, under the name demo.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out/demo"),
    metavar="DIR",
    help="Where the pictures go (default out/demo).",
)
@pass_session
def demo(session: Session, backend: str, scope: str, kubernetes: bool, keep: bool, out: Path) -> int:  # noqa: FBT001
    """Show the main job in under a minute: plaintext on the wire, then Linkseal, then none.

    Three nodes with two pods each. A sentence is read off the wire; agents start; a file crosses while the wire is
    captured; keys change under traffic. Exit code 0 only if every claim held.
    """
    from linkseal.tunnels.lab import lifecycle

    colour = session.colour()
    return lifecycle.demo(backend, scope, out.absolute(), keep=keep, colour=colour, kubernetes=kubernetes)

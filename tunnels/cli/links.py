"""`linkseal links`."""

from __future__ import annotations

import click
from linkseal.tunnels.cli import linksview
from linkseal.tunnels.cli.graph import dot, mermaid
from linkseal.tunnels.cli.load import look
from linkseal.tunnels.cli.options import Command, output_option, pass_session
from linkseal.tunnels.cli.output import Paint, emit, structured
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.cli.svg import svg

_PICTURES = {"dot": dot, "mermaid": mermaid, "svg": svg}


@click.command(
    cls=Command,
    uses=("directory", "config"),
    examples=(
        "linkseal links",
        "linkseal links n1 -o wide",
        "linkseal links -o svg > links.svg",
        "linkseal links -o dot | dot -Tpng > links.png",
        "linkseal links -o json | jq '.items[] | select(.state != \"sealed\")'",
    ),
)
@click.argument("node", required=False)
@output_option("table", "wide", "json", "yaml", "dot", "mermaid", "svg")
@pass_session
def links(session: Session, node: str | None, output: str) -> None:
    """Show every directed pair of nodes: state, generations, last proof, bytes.

    A row is what one node (FROM) sends to another (TO), as the sender reports it. While keys are being changed a pair
    has up to four links; the one marked * carries the traffic. With NODE, only the links from it and to it.
    The pictures (svg, mermaid, dot) show one line for each pair of nodes.
    """
    seen = look(session)
    seen.require(node)
    if output in _PICTURES:
        emit(_PICTURES[output](linksview.graph(seen, node)))
    elif output in ("json", "yaml"):
        emit(structured(linksview.as_object(seen, node), output))
    else:
        emit(linksview.table(seen, Paint(session.colour()), node=node, wide=output == "wide"))

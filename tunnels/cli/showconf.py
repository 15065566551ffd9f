"""`linkseal showconf`: a node's tunnels from the public documents in the directory."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from linkseal.keys.ca import Trust
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.agent.facts import layout_of, me_of, peers_of
from linkseal.tunnels.cli.load import policy_of
from linkseal.tunnels.cli.options import Command, pass_session
from linkseal.tunnels.cli.output import emit, note
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.model import KeyOfGeneration, family_of
from linkseal.tunnels.plan import pair_links, plan
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.register import Register
from linkseal.tunnels.world import PeerLinks, Underlay, World
from linkseal.wireguard.quick import export


@click.command(
    cls=Command,
    uses=("directory", "config"),
    examples=("linkseal showconf n1", "linkseal showconf n1 --format wg-quick"),
)
@click.argument("node")
@click.option(
    "--format", "form", type=click.Choice(["wg-quick"]), default="wg-quick", help="Form of the text (default wg-quick)."
)
@pass_session
def showconf(session: Session, node: str, form: str) -> None:
    """Show a node's tunnels as wg-quick text, from public data alone.

    One section for each slot (`lsl00` … `lsl11`) with a live generation. The directory's announcements and grants are
    verified as an agent does it; what is refused is said on stderr and left out. Private keys are not there to be
    shown: `PrivateKey = (hidden)`.
    """
    del form
    view = session.with_directory(lambda directory: directory.view(""))
    policy = policy_of(view)
    register, findings, _ = Register(node).refresh(view.snapshot, Trust.from_pem(view.ca_bundle), datetime.now(UTC))
    for finding in (*view.findings, *findings):
        note(f"warning: {finding.code}: {finding.message}")
    emit(render(world_of(register, node, policy)))


def world_of(register: Register, node: str, policy: Policy) -> World:
    """Return what `node` would plan from, its endpoints all set as announced. Raises ConfigError."""
    own = register.peers.get(node)
    if own is None:
        known = ", ".join(sorted(register.peers)[:20]) or "none"
        raise ConfigError(f"there is no node {node[:80]!r} with a valid grant in the directory; known: {known}")
    said = own.announcement
    if said is None:
        raise ConfigError(f"{node} has announced nothing yet: start its agent, and look at `linkseal status {node}`")
    keys = tuple(KeyOfGeneration(g.number, g.public_key) for g in said.generations if g.protocol == "wireguard")
    me = me_of(own.grant, keys, reachable=bool(said.endpoints))
    peers = peers_of(register.peers, node, policy)
    links = {
        name: PeerLinks(set_endpoint=frozenset((ours.number, theirs.number) for ours, theirs in pair_links(me, peer)))
        for name, peer in peers.items()
    }
    underlay = Underlay("", 1500, frozenset(family_of(address) for address in own.grant.addresses))
    return World(me, layout_of(policy, opted_out=own.grant.opted_out, node=node), underlay, peers, links)


def render(world: World) -> str:
    """Return the wg-quick text of every slot, each under a comment with its name. Pure."""
    devices = plan(world).devices
    if not devices:
        return f"# {world.me.name}: it is at stage {world.layout.stage.value}: there are no tunnels"
    parts = [f"# {world.me.name}: {name}\n{export(devices[name], (), world.layout.mtu)}" for name in sorted(devices)]
    return "\n".join(parts).rstrip("\n")

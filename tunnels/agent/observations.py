"""What is wrong as long as it is so, seen from the world that was planned from and the host as it is. Pure.

    host     no door, forwarding off, IPv6 off, CNI's MTU, loosened filters, this node opted out
    peers    no agent, opted out, no endpoint at either end, another protocol, a narrow path

All are findings of a pass: what is not said in the next is over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from linkseal.tunnels import codes
from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.cni import of_cni, pod_mtu
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.model import V4, V6, Observed, Scope, Stage
from linkseal.tunnels.plan import families_of
from linkseal.tunnels.redirect.judge import redirects
from linkseal.tunnels.register import Peer as Accepted
from linkseal.tunnels.wording import listed
from linkseal.tunnels.world import Me, Peer, World, device_mtu, endpoint_of, link_mtu

OBSERVED_CODES: Final = frozenset(
    {
        codes.NO_DOOR,
        codes.REDIRECT_OPEN,
        codes.REDIRECT_UNGUARDED,
        codes.RP_FILTER_LOOSENED,
        codes.CNI_MTU,
        codes.PATH_MTU,
        codes.NO_FORWARDING,
        codes.ROUTE_INTO_TUNNEL,
        codes.NO_IPV6,
        codes.NO_ENDPOINT,
        codes.INCOMPATIBLE,
        codes.NO_AGENT,
        codes.OPTED_OUT,
    }
)

Said = tuple[tuple[str, str], str]
"""(code, subject) and message."""


def observations(
    world: World,
    observed: Observed,
    accepted: Mapping[str, Accepted],
    loosened: Mapping[str, int],
    heard: Collection[str],
) -> dict[tuple[str, str], str]:
    """Return (code, subject) → message of all that holds now.

    `accepted` is the register's peers, `loosened` the interfaces whose rp_filter we changed with what it was, `heard`
    the peers of which a session stands.
    """
    found: dict[tuple[str, str], str] = {}
    if world.layout.stage is not Stage.OFF:
        found.update(_of_host(world, observed, loosened))
        for name, peer in world.peers.items():
            found.update(_of_peer(world, peer, name in heard))
    for name, one in accepted.items():
        found.update(_of_documents(one, here=name == world.me.name))
    return found


def _of_host(world: World, observed: Observed, loosened: Mapping[str, int]) -> Iterator[Said]:
    if not world.door:
        yield (codes.NO_DOOR, HOST_SUBJECT), "no nftables egress hook with `fwd` in this kernel: routes go to the slots"
    for name, was in loosened.items():
        message = f"{name} was {was}: strict, it drops what peers send outside the tunnel once this host sends into it"
        yield (codes.RP_FILTER_LOOSENED, name), message
    off = [f"IPv{family}" for family in families_of(world) if family not in observed.forwards]
    if off and world.layout.scope is Scope.OVERLAY:
        yield (
            (codes.NO_FORWARDING, HOST_SUBJECT),
            f"{' and '.join(off)}: no pod here reaches another node, or is reached",
        )
    if not world.ipv6:
        yield from _without_ipv6(world)
    yield from _cni_mtu(world, observed)
    led = sorted(f"{prefix} dev {name}" for prefix, name in observed.main_routes if name in OURS)
    if led:
        yield (codes.ROUTE_INTO_TUNNEL, HOST_SUBJECT), f"in the table main: {listed(led)}"
    if world.layout.stage is Stage.ENFORCE:
        yield from _redirects(world, observed)


def _redirects(world: World, observed: Observed) -> Iterator[Said]:
    found = redirects(world, observed.redirect)
    if found.redirects in ("open", "unknown"):
        yield (codes.REDIRECT_OPEN, HOST_SUBJECT), found.message
    if not world.redirect:
        yield (codes.REDIRECT_UNGUARDED, HOST_SUBJECT), world.no_redirect or "the program was not tried"


def _without_ipv6(world: World) -> Iterator[Said]:
    nodes: list[Me | Peer] = [world.me, *world.peers.values()]
    holders = [node.name for node in nodes if any(":" in one for one in (*node.prefixes, *node.addresses))]
    if holders:
        yield (
            (codes.NO_IPV6, HOST_SUBJECT),
            f"this host has no IPv6 address at all; {listed(holders)} own IPv6 prefixes",
        )


def _cni_mtu(world: World, observed: Observed) -> Iterator[Said]:
    foreign = {name: one.mtu for name, one in observed.interfaces.items() if one.up and of_cni(name)}
    room = device_mtu(world)
    least = pod_mtu(foreign, room, world.layout.scope, V4 if V4 in world.underlay.families else V6)
    large = sorted(f"{name} has {mtu}" for name, mtu in foreign.items() if mtu > least)
    if large:
        message = f"set it to {least} (tunnels carry {room} bytes): {listed(large)}"
        yield (codes.CNI_MTU, HOST_SUBJECT), message


def _of_peer(world: World, peer: Peer, heard: bool) -> Iterator[Said]:  # noqa: FBT001 - a fact
    links = world.links.get(peer.name)
    path = None if links is None else links.path_mtu
    endpoint = endpoint_of(world, peer)
    if path is not None and path < world.underlay.mtu:
        mtu = link_mtu(world, peer, endpoint)
        message = f"{path} bytes reach {peer.name}, the NIC has {world.underlay.mtu}: its routes got {mtu}"
        yield (codes.PATH_MTU, peer.name), message
    if not peer.generations or heard or endpoint is not None:
        return
    if peer.endpoints:
        message = f"{peer.name} announces {listed([e.host for e in peer.endpoints])}; this host has no such family"
        yield (codes.NO_ENDPOINT, peer.name), message
    elif not world.me.reachable:
        yield (codes.NO_ENDPOINT, peer.name), f"neither {world.me.name} nor {peer.name} announces an endpoint"


def _of_documents(one: Accepted, *, here: bool) -> Iterator[Said]:
    if one.grant.opted_out:
        yield (
            (codes.OPTED_OUT, one.name),
            "this node takes part in nothing" if here else "traffic to it is not encrypted",
        )
    elif here:
        return
    elif one.documents.announcement is None:
        yield (codes.NO_AGENT, one.name), f"{one.name} owns {listed([*one.grant.prefixes, *one.grant.addresses])}"
    elif one.announcement is not None and all(g.protocol != "wireguard" for g in one.announcement.generations):
        spoken = sorted({g.protocol for g in one.announcement.generations})
        yield (codes.INCOMPATIBLE, one.name), f"{one.name} announces {', '.join(spoken)} only, this node wireguard"

"""From what was accepted, set and observed to the `World` that is planned from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from linkseal.keys.announcement import AnnouncedEndpoint
from linkseal.keys.grant import Grant
from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.model import Family, KeyOfGeneration, Observed, Stage, family_of
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.register import Peer as Accepted
from linkseal.tunnels.settings import AgentSettings, EndpointSetting
from linkseal.tunnels.world import Layout, Me, Peer, Underlay
from linkseal.wireguard.model import Endpoint


def layout_of(policy: Policy, *, opted_out: bool) -> Layout:
    """The cluster-wide numbers `plan` needs; a node that is opted out does as in stage `off`."""
    return Layout(
        scope=policy.scope,
        stage=Stage.OFF if opted_out else policy.stage,
        port=policy.wireguard.port,
        mtu=policy.wireguard.mtu,
        keepalive=policy.wireguard.keepalive,
        table=policy.routing.table,
        rule_priority=policy.routing.rule_priority,
        fwmark=policy.routing.fwmark,
        fwmark_mask=policy.routing.fwmark_mask,
        probe=policy.probe.range,
        probe_port=policy.probe.port,
    )


def underlay_of(observed: Observed, chosen: str | None, addresses: Iterable[str]) -> Underlay | None:
    """The NIC that carries the tunnels: the one named, else the one that has the first granted address that is here.

    None: no such interface, or no granted address is on this host.
    """
    here = {address: name for address, name in observed.host_addresses.items() if name not in OURS}
    name = chosen or next((here[address] for address in addresses if address in here), None)
    state = None if name is None else observed.interfaces.get(name)
    if state is None:
        return None
    families: frozenset[Family] = frozenset(
        family_of(address) for address, where in here.items() if where == state.name and not _link_local(address)
    )
    return Underlay(state.name, state.mtu, families, state.rp_filter, observed.rp_filter_all)


def me_of(grant: Grant, keys: tuple[KeyOfGeneration, ...], *, reachable: bool) -> Me:
    """This node, as its grant says."""
    return Me(grant.node, grant.index, grant.addresses, grant.prefixes, keys, reachable)


def endpoints_to_announce(
    settings: AgentSettings, grant: Grant, observed: Observed, port: int
) -> tuple[AnnouncedEndpoint, ...]:
    """What peers are told to send to: as set, else the granted addresses that are on this host."""
    if settings.endpoints is not None:
        return tuple(AnnouncedEndpoint(entry.address, entry.port or port) for entry in settings.endpoints)
    here = {address for address, name in observed.host_addresses.items() if name not in OURS}
    return tuple(AnnouncedEndpoint(address, port) for address in grant.addresses if address in here)


def overrides_of(peer_endpoints: Mapping[str, EndpointSetting], port: int) -> dict[str, Endpoint]:
    """The operator's own endpoints for peers."""
    return {name: Endpoint(entry.address, entry.port or port) for name, entry in peer_endpoints.items()}


def peers_of(accepted: Mapping[str, Accepted], own: str) -> dict[str, Peer]:
    """Every other node that has a grant and has not opted out, as `plan` sees it."""
    return {name: _peer(entry) for name, entry in accepted.items() if name != own and not entry.grant.opted_out}


def _peer(accepted: Accepted) -> Peer:
    said = accepted.announcement
    grant = accepted.grant
    if said is None:
        return Peer(grant.node, grant.index, grant.addresses, grant.prefixes)
    return Peer(
        grant.node,
        grant.index,
        grant.addresses,
        grant.prefixes,
        tuple(KeyOfGeneration(g.number, g.public_key) for g in said.generations if g.protocol == "wireguard"),
        tuple(Endpoint(entry.address, entry.port) for entry in said.endpoints),
    )


def _link_local(address: str) -> bool:
    return address.startswith(("fe80:", "169.254."))

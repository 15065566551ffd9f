"""From what was accepted, set and observed to the `World` that is planned from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from linkseal.keys.announcement import AnnouncedEndpoint
from linkseal.keys.grant import Grant
from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.model import Family, KeyOfGeneration, Observed, Stage, family_of
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.register import Peer as Accepted
from linkseal.tunnels.settings import AgentSettings, EndpointSetting
from linkseal.tunnels.world import Layout, Me, Peer, Underlay
from linkseal.wireguard.model import Endpoint


def layout_of(policy: Policy, *, opted_out: bool, node: str = "") -> Layout:
    """The numbers `plan` needs on `node`; a node that is opted out does as in stage `off`."""
    return Layout(
        scope=policy.scope,
        stage=Stage.OFF if opted_out else policy.stage_of(node),
        port=policy.wireguard.port,
        mtu=policy.wireguard.mtu,
        keepalive=policy.wireguard.keepalive,
        table=policy.routing.table,
        rule_priority=policy.routing.rule_priority,
        fwmark=policy.routing.fwmark,
        fwmark_mask=policy.routing.fwmark_mask,
        probe=policy.probe.range,
        probe_port=policy.probe.port,
        guard_table=policy.guard.table,
        pass_through=policy.guard.pass_through,
        protected_cidrs=policy.protected_cidrs,
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
    own = tuple(sorted(one for one, where in here.items() if where == state.name and not _link_local(one)))
    return Underlay(state.name, state.mtu, families, state.rp_filter, observed.rp_filter_all, own)


def nics_of(observed: Observed, addresses: Iterable[str]) -> tuple[str, ...]:
    """Every foreign interface that has an address granted to this node."""
    found = {observed.host_addresses.get(address, "") for address in addresses}
    return tuple(sorted(found - {"", *OURS}))


def addresses_on(observed: Observed, interface: str) -> frozenset[str]:
    """Every address of one interface of this host."""
    return frozenset(address for address, name in observed.host_addresses.items() if name == interface)


def me_of(grant: Grant, keys: tuple[KeyOfGeneration, ...], *, reachable: bool) -> Me:
    """This node, as its grant says."""
    return Me(grant.node, grant.index, grant.addresses, grant.prefixes, keys, reachable)


def endpoints_to_announce(
    settings: AgentSettings,
    grant: Grant,
    observed: Observed,
    port: int,
    before: tuple[AnnouncedEndpoint, ...] = (),
) -> tuple[AnnouncedEndpoint, ...]:
    """What peers are told to send to: as set, else the granted addresses that are on this host.

    While none is, as when the NIC is being made anew, what was announced `before` holds: peers that were told of no
    endpoint would wait for this node to begin.
    """
    if settings.endpoints is not None:
        return tuple(AnnouncedEndpoint(entry.address, entry.port or port) for entry in settings.endpoints)
    here = {address for address, name in observed.host_addresses.items() if name not in OURS}
    return tuple(AnnouncedEndpoint(address, port) for address in grant.addresses if address in here) or before


def overrides_of(peer_endpoints: Mapping[str, EndpointSetting], port: int) -> dict[str, Endpoint]:
    """The operator's own endpoints for peers."""
    return {name: Endpoint(entry.address, entry.port or port) for name, entry in peer_endpoints.items()}


class Peers:
    """`peers_of`, again and again: of thousands of nodes hardly one has said anything new."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Accepted, Peer]] = {}

    def of(self, accepted: Mapping[str, Accepted], own: str, policy: Policy | None) -> dict[str, Peer]:
        """Return `peers_of`; a peer that is as it was accepted before is the very same."""
        before = self._known
        self._known = {
            name: known if (known := before.get(name)) is not None and known[0] is entry else (entry, _peer(entry))
            for name, entry in accepted.items()
        }
        entries = self._known.items()
        peers = {name: peer for name, (one, peer) in entries if name != own and not one.grant.opted_out}
        if policy is None or policy.pool is None:
            return peers
        staged = ((name, peer, policy.stage_of(name)) for name, peer in peers.items())
        return {name: replace(peer, stage=stage) for name, peer, stage in staged if stage is not Stage.OFF}

    def own_anew(self, accepted: Mapping[str, Accepted], names: Iterable[str]) -> bool:
        """Whether any of these nodes owns something else than at the last `of`, has come to speak, or is gone."""
        return any(_part(accepted.get(name)) != _part(self._known.get(name, (None,))[0]) for name in names)


def _part(accepted: Accepted | None) -> tuple[Grant, bool] | None:
    return None if accepted is None else (accepted.grant, accepted.announcement is not None)


def peers_of(accepted: Mapping[str, Accepted], own: str, policy: Policy | None = None) -> dict[str, Peer]:
    """Every other node that has a grant and has not opted out, as `plan` sees it.

    Where a pool goes first, those outside it that are still off have nothing to make a link with.
    """
    return Peers().of(accepted, own, policy)


def opted_out(accepted: Mapping[str, Accepted], own: str) -> dict[str, Peer]:
    """Every other node that has opted out, by what it owns alone: no tunnel leads there."""
    return {name: _owner(entry.grant) for name, entry in accepted.items() if name != own and entry.grant.opted_out}


def behind(accepted: Mapping[str, Accepted], own: str, policy: Policy) -> dict[str, Peer]:
    """Every other node that takes part and is still off where a pool goes first, by what it owns."""
    if policy.pool is None:
        return {}
    grants = {name: entry.grant for name, entry in accepted.items() if name != own and not entry.grant.opted_out}
    return {name: _owner(grant) for name, grant in grants.items() if policy.stage_of(name) is Stage.OFF}


def _owner(grant: Grant) -> Peer:
    return Peer(grant.node, grant.index, grant.addresses, grant.prefixes)


def _peer(accepted: Accepted) -> Peer:
    said = accepted.announcement
    grant = accepted.grant
    if said is None:
        return _owner(grant)
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

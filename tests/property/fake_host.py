"""A host in memory, stricter than the kernel: it refuses what the kernel refuses, and what the kernel lets pass.

Applies one step at a time; `way` tells where a packet for a prefix would go at this instant, `watch` is called after
every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_network

from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import DOOR, OURS, PROBE, PROBE_PEER, SLOTS
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.model import (
    AddAddress,
    AddInterface,
    Address,
    AddRule,
    Chain,
    InterfaceState,
    Kind,
    LookAgain,
    NftTransaction,
    Observed,
    RemoveAddress,
    RemoveInterface,
    RemoveRoute,
    RemoveRule,
    Route,
    Rule,
    Ruleset,
    SetInterface,
    SetRoute,
    SetRpFilter,
    Step,
)
from linkseal.tunnels.redirect.model import AttachRedirect, DetachRedirect, ForgetRedirect, SetRedirect
from linkseal.wireguard.model import DeviceState, ReprovokePeer
from property.fake_guard import FakeGuard
from property.fake_redirect import FakeRedirect
from property.misuse import need
from unit.wireguard.fake_device import FakeDevice

NIC = "eth0"


class FakeHost:
    """One host. Everything it holds is open to the tests that spoil it."""

    def __init__(self, addresses: Iterable[str] = (), rp_filter: int = 0, table: int = 51820) -> None:
        self.table = table
        self.interfaces: dict[str, InterfaceState] = {
            NIC: InterfaceState(NIC, 2, None, 1500, up=True, rp_filter=rp_filter)
        }
        self.addresses: set[Address] = set()
        self.nic_addresses = dict.fromkeys(addresses, NIC)
        self.devices: dict[str, FakeDevice] = {}
        self.routes: dict[tuple[int, Prefix], Route] = {}
        self.rules: set[Rule] = set()
        self.main_routes: frozenset[tuple[Prefix, str]] = frozenset()
        self.tables = False
        self.guard = FakeGuard()
        self.chains: dict[tuple[str, str], Chain] = {}
        self.slots: dict[Prefix, str] = {}
        self.redirect = FakeRedirect()
        self.watch: Callable[[Step], None] = lambda _step: None
        self._next_index = 10

    def observe(self) -> Observed:
        return Observed(
            interfaces=dict(self.interfaces),
            addresses=frozenset(self.addresses),
            host_addresses={**self.nic_addresses, **{a.cidr.partition("/")[0]: a.interface for a in self.addresses}},
            devices={name: device.state() for name, device in self.devices.items()},
            routes=dict(self.routes),
            rules=frozenset(self.rules),
            main_routes=self.main_routes,
            nft=Ruleset(dict(self.chains), dict(self.slots)) if self.tables else None,
            redirect=self.redirect.observe(),
            guard=self.guard.state,
        )

    def apply(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, SetRedirect | ForgetRedirect | AttachRedirect | DetachRedirect):
                self.redirect.apply(step)
            else:
                self._apply(step)
            self.watch(step)

    def way(self, prefix: Prefix) -> tuple[str, str] | None:
        """(slot, public key of the peer) by which a packet for this prefix leaves now; None: it does not."""
        route = self.routes.get((self.table, prefix))
        slot = None if route is None else self.slots.get(prefix) if route.interface == DOOR else route.interface
        if slot not in self.devices or not self.rules:
            return None
        peers = self.devices[slot].peers.values()
        return next(((slot, peer.public_key) for peer in peers if prefix in peer.allowed_ips), None)

    def pointing_nowhere(self) -> list[str]:
        """Elements and routes into a slot none of whose peers takes the prefix."""
        into = list(self.slots.items()) + [
            (r.prefix, r.interface) for r in self.routes.values() if r.interface in SLOTS
        ]
        allowed = {name: {p for peer in d.peers.values() for p in peer.allowed_ips} for name, d in self.devices.items()}
        return [f"{prefix} → {slot}" for prefix, slot in into if prefix not in allowed.get(slot, ())]

    # --- steps ------------------------------------------------------------------------------------------------------

    def _apply(self, step: Step) -> None:
        match step:
            case AddInterface():
                self._add_interface(step)
            case SetInterface():
                self._set_interface(step)
            case RemoveInterface(name, _):
                need(name in self.interfaces, f"removes the absent interface {name}")
                self.drop_interface(name)
            case AddAddress() | RemoveAddress():
                self._address(step)
            case SetRoute(route):
                self._set_route(route)
            case RemoveRoute(route):
                need(self.routes.get((route.table, route.prefix)) == route, f"removes the absent {route}")
                del self.routes[route.table, route.prefix]
            case AddRule() | RemoveRule():
                self._rule(step)
            case LookAgain(rule):
                need(rule not in self.rules, f"{rule} is there for good and must not be removed")
            case NftTransaction() | GuardTransaction():
                self._nft(step)
            case SetRpFilter(name, value, was):
                need(name in self.interfaces and name not in OURS, f"{name} is no foreign interface")
                need(self.interfaces[name].rp_filter == was != value, f"the filter of {name} is not {was}")
                self.interfaces[name] = self.interfaces[name]._replace(rp_filter=value)
            case ReprovokePeer(device, spec):
                self._reprovoke(device, spec.public_key, step)
            case _:
                need(step.device in self.devices, f"no WireGuard device {step.device}")
                self.devices[step.device].apply([step])

    def _address(self, step: AddAddress | RemoveAddress) -> None:
        address = step.address
        if isinstance(step, RemoveAddress):
            need(address in self.addresses, f"removes the absent {address}")
            self.drop_address(address)
            return
        need(address.interface in self.interfaces, f"{address} without interface")
        there = any((a.interface, a.cidr) == (address.interface, address.cidr) for a in self.addresses)
        need(not there, f"adds {address} twice")
        self.addresses.add(address)

    def _rule(self, step: AddRule | RemoveRule) -> None:
        rule = step.rule
        if isinstance(step, RemoveRule):
            need(rule in self.rules, f"removes the absent {rule}")
            self.rules.remove(rule)
            return
        need(rule not in self.rules, f"adds {rule} twice")
        floor = rule.table == self.table + 1
        need(rule.fwmark or rule.protocol or floor, "sends WireGuard's own packets into the tunnel")
        need(rule.table != self.table or rule.inverted, "sends nothing else into the tunnel")
        self.rules.add(rule)

    def _reprovoke(self, device: str, key: str, step: ReprovokePeer) -> None:
        need(device in self.devices, f"no WireGuard device {device}")
        others = {p for other, peer in self.devices[device].peers.items() if other != key for p in peer.allowed_ips}
        need(not others & step.spec.allowed_ips, "a peer made anew takes another's prefix")
        self.devices[device].apply([step])

    def _add_interface(self, step: AddInterface) -> None:
        want = step.interface
        ends = (PROBE, PROBE_PEER) if want.kind is Kind.PROBE else (want.name,)
        for name in ends:
            need(name not in self.interfaces, f"adds {name} twice")
            self._next_index += 1
            self.interfaces[name] = InterfaceState(
                name, self._next_index, want.kind, want.mtu, up=True, rp_filter=want.rp_filter,
                accept_local=want.accept_local,
            )  # fmt: skip
        if want.kind is not Kind.PROBE:
            self.devices[want.name] = FakeDevice(DeviceState(want.name))

    def _set_interface(self, step: SetInterface) -> None:
        need(step.name in self.interfaces, f"changes the absent interface {step.name}")
        have = self.interfaces[step.name]
        changed = have._replace(
            mtu=have.mtu if step.mtu is None else step.mtu,
            up=have.up or step.up,
            rp_filter=have.rp_filter if step.rp_filter is None else step.rp_filter,
            accept_local=have.accept_local if step.accept_local is None else step.accept_local,
        )
        need(changed != have, f"changes nothing of {step.name}")
        self.interfaces[step.name] = changed

    def _set_route(self, route: Route) -> None:
        need(self.routes.get((route.table, route.prefix)) != route, f"sets {route} again")
        state = self.interfaces.get(route.interface)
        need(not route.interface or (state is not None and state.up), f"{route} by an interface that is absent or down")
        need(route.source is None or self.local(route.source), f"{route} from an address that is not here")
        self.routes[route.table, route.prefix] = route

    def _nft(self, step: NftTransaction | GuardTransaction) -> None:
        if isinstance(step, GuardTransaction):
            self.guard.apply(step, self.interfaces)
            return
        need(step != NftTransaction(), "an nft transaction that does nothing")
        if step.drop_tables:
            need(self.tables and step == NftTransaction(drop_tables=True), "drops tables and does more, or has none")
            self.tables, self.chains, self.slots = False, {}, {}
            return
        need(self.tables or step.create, "elements or chains without a table")
        self.tables = True
        for move in step.moves:
            need(
                self.slots.get(move.prefix) == move.old != move.new,
                f"{move}, but there is {self.slots.get(move.prefix)}",
            )
            self.slots.pop(move.prefix, None)
        for move in step.moves:
            if move.new is not None:
                need(move.new in self.interfaces, f"{move} to an absent interface")
                clash = [p for p in self.slots if overlap(p, move.prefix)]
                need(not clash, f"{move.prefix} overlaps {clash}")
                self.slots[move.prefix] = move.new
        for chain in step.set_chains:
            need(self.chains.get((chain.family, chain.name)) != chain, f"sets chain {chain.name} again")
            need(chain.device is None or chain.device in self.interfaces, f"chain {chain.name} on an absent device")
            self.chains[chain.family, chain.name] = chain
        for chain in step.remove_chains:
            need(self.chains.get((chain.family, chain.name)) == chain, f"removes the absent chain {chain.name}")
            del self.chains[chain.family, chain.name]

    # --- what the kernel does by itself, and vandals ------------------------------------------------------------------

    def local(self, address: str) -> bool:
        return address in self.nic_addresses or any(a.cidr.partition("/")[0] == address for a in self.addresses)

    def drop_interface(self, name: str) -> None:
        """Take it away with all that hangs on it: addresses, routes, device, netdev chain; elements keep its number."""
        for end in (PROBE, PROBE_PEER) if name in (PROBE, PROBE_PEER) else (name,):
            gone = self.interfaces.pop(end)
            self.guard.lose(end)
            self.slots = {p: str(gone.index) if slot == end else slot for p, slot in self.slots.items()}
            self.chains = {key: chain for key, chain in self.chains.items() if chain.device != end}
            self.routes = {key: route for key, route in self.routes.items() if route.interface != end}
            self.devices.pop(end, None)
            for address in [address for address in self.addresses if address.interface == end]:
                self.drop_address(address)

    def drop_address(self, address: Address) -> None:
        """Take an address away, and the routes that name it as their source."""
        self.addresses.remove(address)
        bare = address.cidr.partition("/")[0]
        if not self.local(bare):
            self.routes = {key: route for key, route in self.routes.items() if route.source != bare}

    def down(self, name: str) -> None:
        """Set it down: its routes go."""
        self.interfaces[name] = self.interfaces[name]._replace(up=False)
        self.routes = {key: route for key, route in self.routes.items() if route.interface != name}


def overlap(one: Prefix, other: Prefix) -> bool:
    (version, low, high), (other_version, other_low, other_high) = _interval(one), _interval(other)
    return version == other_version and low <= other_high and other_low <= high


@lru_cache(maxsize=10_000)
def _interval(prefix: Prefix) -> tuple[int, int, int]:
    network = ip_network(prefix)
    return network.version, int(network.network_address), int(network.broadcast_address)

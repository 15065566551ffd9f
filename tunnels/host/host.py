"""The kernel of this host: `observe` it, `apply` steps to it. Blocking; for one worker thread.

What vanished or appeared between the two is no failure where the step's aim is met anyway.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Final, NamedTuple, TypeGuard

from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.host.addresses import Addresses
from linkseal.tunnels.host.guard import GuardTables
from linkseal.tunnels.host.links import Links, open_route
from linkseal.tunnels.host.nfnetlink import generation
from linkseal.tunnels.host.nft import Nft
from linkseal.tunnels.host.routes import apply_routes, read_destinations, read_main, read_routes, read_table
from linkseal.tunnels.host.sysctls import forwarded
from linkseal.tunnels.model import (
    AddAddress,
    AddInterface,
    AddRule,
    ForeignRule,
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
    SetInterface,
    SetRoute,
    SetRpFilter,
    Step,
)
from linkseal.tunnels.nftables import moved
from linkseal.tunnels.plan import FALLBACK_TABLE
from linkseal.tunnels.redirect.kernel import Redirector
from linkseal.tunnels.redirect.model import AttachRedirect, DetachRedirect, ForgetRedirect, RedirectState, SetRedirect
from linkseal.tunnels.truth import tables_before
from linkseal.wireguard.driver import Driver, DriverKind, Secrets
from linkseal.wireguard.model import ConfigureDevice, RemovePeer, ReprovokePeer, SetPeer, WireguardStep
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket

_LOG: Final = logging.getLogger("linkseal.agent")


class Aspect(Enum):
    """A part of `Observed` that can be read alone."""

    LINKS = "links"
    """Interfaces and addresses."""
    ROUTES = "routes"
    RULES = "rules"
    WIREGUARD = "wireguard"
    NFT = "nft"
    GUARD = "guard"
    REDIRECT = "redirect"
    """Programs on interfaces, ours and others', and the entries of ours."""


ALL: Final = frozenset(Aspect)


class Failure(NamedTuple):
    """A step that was not carried out. For WireGuard the first of a device's run; `error` names what failed in it."""

    step: Step
    error: HostError


@dataclass(frozen=True, slots=True)
class Features:
    """What this host can do."""

    door: bool
    """False: no nft, or no netdev egress hook or `fwd` in this kernel: masqueraded connections reset in a rotation."""
    kernel: str
    driver: DriverKind
    nft: str | None
    """Version of nft; None if it is not installed."""
    redirect: bool = False
    """It can have the program that stops redirected packets."""
    no_redirect: str = ""
    """Why it cannot."""


class Host:
    """This thread's network namespace, through one WireGuard driver.

    `table` is the first of our two routing tables, `guard` the name of the guard's nft tables.
    `close` gives back sockets and leaves the kernel as it is; the driver is the caller's to close.
    """

    def __init__(self, driver: Driver, table: int, guard: str = "linkseal_guard") -> None:
        self._driver = driver
        self._table = table
        self._route = open_route()
        self._sock = NetlinkSocket(NETLINK_ROUTE)
        self._nft = Nft()
        self.guard = GuardTables(guard)
        self.links = Links(self._route, self._sock, driver)
        self._addresses = Addresses(self._route)
        self.redirect = Redirector()

    @property
    def table(self) -> int:
        """Return the number of our routing table; the next one is ours too."""
        return self._table

    @property
    def writes(self) -> int:
        """How many operations that change something were made so far; an idle reconcile makes none."""
        parts = (self._driver, self._sock, self._nft, self.guard, self.links, self._addresses, self.redirect)
        return sum(part.writes for part in parts)

    def features(self) -> Features:
        """Find out what this host can do; tries, does not guess from versions, and changes nothing."""
        refusal = self.redirect.unable()
        return Features(
            door=self._nft.has_door(),
            kernel=os.uname().release,
            driver=self._driver.kind,
            nft=self._nft.version(),
            redirect=refusal is None,
            no_redirect="" if refusal is None else str(refusal),
        )

    def observe(self, aspects: frozenset[Aspect] = ALL, previous: Observed | None = None) -> Observed:
        """Read these aspects; the others are taken from `previous`. HostError."""
        before = previous or Observed()
        interfaces, addresses, everywhere = before.interfaces, before.addresses, before.host_addresses
        rp_filter_all, forwards = before.rp_filter_all, before.forwards
        if Aspect.LINKS in aspects:
            interfaces = self.links.read()
            addresses, everywhere = self._addresses.read({one.index: name for name, one in interfaces.items()})
            rp_filter_all = self.links.rp_filter_all()
            forwards = forwarded()
        devices = before.devices
        if Aspect.WIREGUARD in aspects:
            kinds = {Kind.SLOT, Kind.DOOR} if self._driver.kind == "kernel" else {Kind.SLOT}
            devices = self._driver.dump([name for name, one in interfaces.items() if one.kind in kinds])
        rules, foreign_rules = before.rules, before.foreign_rules
        if Aspect.RULES in aspects:
            rules, foreign_rules = self._addresses.read_rules()
        routes, strangers = before.routes, before.foreign_routes
        if aspects & {Aspect.ROUTES, Aspect.RULES}:
            routes, strangers = self._read_routes(rules, foreign_rules)
        numbers = {(name, one.index) for name, one in interfaces.items()}
        return Observed(
            interfaces=interfaces,
            addresses=addresses,
            host_addresses=everywhere,
            rp_filter_all=rp_filter_all,
            forwards=forwards,
            devices=devices,
            routes=routes,
            rules=rules,
            nft=self._nft.read_again(numbers) if Aspect.NFT in aspects else before.nft,
            guard=self.guard.read_again(numbers) if Aspect.GUARD in aspects else before.guard,
            redirect=self._redirects() if Aspect.REDIRECT in aspects else before.redirect,
            main_routes=read_main(self._sock) if Aspect.ROUTES in aspects else before.main_routes,
            foreign_rules=foreign_rules,
            foreign_routes=strangers,
        )

    def _redirects(self) -> RedirectState | None:
        try:
            return self.redirect.observe()
        except HostError as error:  # unknown is reported as such, and stops nothing else
            _LOG.debug("programs on interfaces cannot be read: %s", error)
            return None

    def _read_routes(
        self, rules: frozenset[Rule], foreign: frozenset[ForeignRule]
    ) -> tuple[dict[tuple[int, Prefix], Route], frozenset[tuple[int, Prefix]]]:
        """Return our routes, and of others' what could take packets before they meet ours."""
        ours, strangers = read_table(self._sock, self._table)
        for table in tables_before(rules, foreign, self._table):
            strangers |= read_destinations(self._sock, table)
        for table in (self._table + 1, FALLBACK_TABLE):
            ours |= read_routes(self._sock, table)
        return ours, frozenset(strangers)

    def apply(self, steps: Sequence[Step], secrets: Secrets) -> tuple[Failure, ...]:
        """Carry out steps in order, runs of routes and of one device's WireGuard steps in batches.

        A step that fails is reported and stops no other, save those that need an interface that could not be made.
        """
        failures: list[Failure] = []
        lost: dict[str, HostError] = {}
        for _, group in groupby(steps, _batch):
            run: list[Step] = []
            for step in group:
                possible, refused = _without_lost(step, lost)
                failures += refused
                run += possible
            for failure in self._apply_run(run, secrets):
                failures.append(failure)
                if isinstance(failure.step, AddInterface):
                    lost[failure.step.interface.name] = failure.error
        return tuple(failures)

    def _apply_run(self, run: Sequence[Step], secrets: Secrets) -> Iterator[Failure]:
        routes = [step for step in run if isinstance(step, SetRoute | RemoveRoute)]
        if routes:
            yield from (Failure(step, error) for step, error in apply_routes(self._sock, routes))
            return
        peers = [step for step in run if _is_wireguard(step)]
        try:
            if peers:
                self._driver.apply(peers, secrets)
            else:
                for step in run:
                    self._apply_one(step)
        except HostError as error:
            yield Failure(run[0], error)

    def _apply_one(self, step: Step) -> None:
        match step:
            case AddInterface() | SetInterface() | RemoveInterface() | SetRpFilter():
                self._apply_link(step)
            case AddAddress(address):
                self._addresses.add(address)
            case RemoveAddress(address):
                self._addresses.remove(address)
            case AddRule(rule):
                self._addresses.add_rule(rule)
            case RemoveRule(rule):
                self._addresses.remove_rule(rule)
            case LookAgain(rule):
                self._addresses.add_rule(rule)
                self._addresses.remove_rule(rule)
            case NftTransaction() | GuardTransaction():
                self._apply_tables(step)
            case SetRedirect() | ForgetRedirect() | AttachRedirect() | DetachRedirect():
                self.redirect.apply(step)
            case _:
                raise TypeError(f"not a step that is carried out alone: {type(step).__name__}")

    def _apply_tables(self, step: NftTransaction | GuardTransaction) -> None:
        """One transaction, and what is remembered of tables after it; if anything else happened they are read again."""
        before = generation()
        if isinstance(step, NftTransaction):
            after = generation() if self._nft.apply(step) else None
            self._nft.remembered.becomes(before, after, lambda ruleset: moved(ruleset, step))
            self.guard.remembered.becomes(before, after, lambda guard: guard)
        else:
            after = generation() if self.guard.apply(step) else None
            self._nft.remembered.becomes(before, after, lambda ruleset: ruleset)

    @property
    def granted(self) -> frozenset[Aspect]:
        """What was not read since it was written, and is to be."""
        tables = ((Aspect.NFT, self._nft.remembered), (Aspect.GUARD, self.guard.remembered))
        return frozenset(aspect for aspect, remembered in tables if remembered.is_granted)

    def _apply_link(self, step: AddInterface | SetInterface | RemoveInterface | SetRpFilter) -> None:
        match step:
            case AddInterface(interface):
                self.links.add(interface)
            case SetInterface():
                self.links.set(step)
            case RemoveInterface(name, kind):
                self.links.remove(name, kind)
            case SetRpFilter(interface, value, _):
                self.links.set_rp_filter(interface, value)

    def close(self) -> None:
        """Give back sockets."""
        self._route.close()
        self._sock.close()
        self.redirect.close()


def _is_wireguard(step: Step) -> TypeGuard[WireguardStep]:
    return isinstance(step, ConfigureDevice | SetPeer | RemovePeer | ReprovokePeer)


def _batch(step: Step) -> object:
    """Equal for neighbours that are carried out together."""
    if isinstance(step, SetRoute | RemoveRoute):
        return "routes"
    return step.device if _is_wireguard(step) else _Alone(step)


class _Alone:
    """Equal to nothing, so that `groupby` gives each of these steps a run of its own."""

    def __init__(self, step: Step) -> None:
        self.step = step


def _without_lost(step: Step, lost: dict[str, HostError]) -> tuple[list[Step], list[Failure]]:
    """Return what of a step can be tried when these interfaces could not be made, and the failures of the rest."""
    if not lost:
        return [step], []
    if isinstance(step, NftTransaction):
        return _split(step, lost)
    name = _needs(step)
    if name is None or name not in lost:
        return [step], []
    return [], [Failure(step, _not_tried(name, lost[name]))]


def _needs(step: Step) -> str | None:
    """Return the interface that a step works on, if it adds something; removals are always tried."""
    match step:
        case AddAddress(address):
            return address.interface
        case SetRoute(route):
            return route.interface
        case SetInterface(name=name):
            return name
        case ConfigureDevice() | SetPeer() | ReprovokePeer():
            return step.device
        case _:
            return None


def _split(step: NftTransaction, lost: dict[str, HostError]) -> tuple[list[Step], list[Failure]]:
    """Leave out what names a lost interface: nft would refuse the whole transaction for it."""
    chains = tuple(chain for chain in step.set_chains if chain.device in lost)
    moves = tuple(move for move in step.moves if move.new in lost)
    if not chains and not moves:
        return [step], []
    left = step._replace(
        set_chains=tuple(chain for chain in step.set_chains if chain not in chains),
        moves=tuple(move for move in step.moves if move not in moves),
    )
    name = next(name for name in lost if any(name == one for one in _names(step)))
    return [left], [Failure(NftTransaction(set_chains=chains, moves=moves), _not_tried(name, lost[name]))]


def _names(step: NftTransaction) -> Iterator[str | None]:
    yield from (chain.device for chain in step.set_chains)
    yield from (move.new for move in step.moves)


def _not_tried(name: str, error: HostError) -> HostError:
    return HostError(f"not tried, because {name} could not be made: {error}", errno=error.errno)

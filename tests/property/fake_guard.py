"""The guard's tables in memory, stricter than the kernel."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from linkseal.tunnels.guard.commands import commands
from linkseal.tunnels.guard.model import Guard, GuardTransaction
from property.misuse import need


class Span(NamedTuple):
    """Addresses from the first to the last."""

    version: int
    first: int
    last: int

    def lies_in(self, other: Span) -> bool:
        """Whether all of it is in another."""
        return self.version == other.version and other.first <= self.first <= self.last <= other.last

    def overlaps(self, other: Span) -> bool:
        """Whether an address is in both."""
        return self.version == other.version and self.first <= other.last and other.first <= self.last


def span(text: str) -> Span:
    """What a prefix or a range `first-last` has, parsed apart from the code under test."""
    if "-" in text:
        first, last = map(ip_address, text.split("-"))
        return Span(first.version, int(first), int(last))
    network = ip_network(text)
    return Span(network.version, int(network.network_address), int(network.broadcast_address))


class FakeGuard:
    """`state` is what an observation finds; None: there are no tables."""

    def __init__(self) -> None:
        self.state: Guard | None = None

    def lose(self, device: str) -> None:
        """The kernel removes chains with the device they hook."""
        if self.state is not None:
            left = {place: chain for place, chain in self.state.chains.items() if chain.device != device}
            self.state = replace(self.state, chains=left)

    def verdict(self, direction: str, prefix: str) -> set[str]:
        """The sets of a direction that hold this prefix or one around it: `drop`, `count`."""
        inner = span(prefix)
        if self.state is None:
            return set()
        return {
            element.set.partition("_")[0]
            for element in self.state.elements
            if f"_{direction}{inner.version}" in element.set and inner.lies_in(span(element.prefix))
        }

    def apply(self, step: GuardTransaction, devices: Collection[str]) -> None:
        """Carry out a transaction, or raise Misuse and change nothing."""
        need(commands(step), "a guard transaction that does nothing")
        if step.drop_tables:
            need(self.state is not None and step == GuardTransaction(step.table, drop_tables=True), "drops no tables")
            self.state = None
            return
        now = Guard(step.table) if step.renew else self.state
        need(now is not None or step.families, "parts of a guard without tables")
        now = now or Guard(step.table)
        chains, sets, counters, elements = dict(now.chains), dict(now.sets), set(now.counters), set(now.elements)
        for one in step.sets:
            need(one.place not in sets, f"adds {one} twice")
            sets[one.place] = one
        counters |= set(step.counters)
        for element in step.take:
            need(element in elements, f"takes the absent {element}")
            elements.remove(element)
        for element in step.put:
            need((element.family, element.set) in sets, f"{element} into no set")
            mine = span(element.prefix)
            clash = [
                one
                for one in elements
                if (one.family, one.set) == (element.family, element.set) and mine.overlaps(span(one.prefix))
            ]
            need(not clash, f"{element} overlaps {clash}")
            elements.add(element)
        for chain in step.chains:
            need(chain.device is None or chain.device in devices, f"{chain.name} on an absent device")
            need(chains.get(chain.place) != chain, f"sets {chain.name} again")
            there = chains.get(chain.place)
            same = there is None or (there.hook, there.priority, there.device) == (
                chain.hook,
                chain.priority,
                chain.device,
            )
            need(same or chain.place in step.rehook, f"changes the hook of {chain.name}")
            chains[chain.place] = chain
        for place in step.drop_chains:
            del chains[place]
        for place in step.drop_sets:
            elements = {one for one in elements if (one.family, one.set) != place}
            del sets[place]
        counters -= set(step.drop_counters)
        self.state = Guard(step.table, chains, sets, frozenset(counters), frozenset(elements))

"""diff_guard(desired, observed) → (early, late): what adds, changes and moves, and what only removes. Pure.

A prefix that goes from one set to another does so in one transaction, so that at every instant it is in one of them.
A chain of the guard whose device is not there cannot be made; it is when the device comes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any

from linkseal.keys.values import Prefix
from linkseal.tunnels.guard.model import Element, Family, Guard, GuardChain, GuardTransaction
from linkseal.tunnels.intervals import overlapping

FAMILIES: tuple[Family, ...] = ("netdev", "inet")

Transactions = tuple[GuardTransaction | None, GuardTransaction | None]


def diff_guard(desired: Guard | None, observed: Guard | None, devices: Collection[str]) -> Transactions:
    """Return the two transactions, None where there is nothing to do; `devices` are the interfaces there are.

    A foreign table of our name is left alone, whatever is wanted.
    """
    if observed is not None and observed.foreign:
        return None, None
    if desired is None:
        return None, None if observed is None else GuardTransaction(observed.table, drop_tables=True)
    have = observed or Guard(desired.table)
    possible = [c for c in desired.chains.values() if c.device is None or c.device in devices]
    misshapen = any(have.sets[place] != one for place, one in desired.sets.items() if place in have.sets)
    if observed is not None and (misshapen or any(_unlike(have, chain) for chain in possible)):
        return _renewal(desired, possible), None
    early = _additions(desired, have, possible, whole=observed is None)
    late = _removals(desired, have, early)
    nothing = GuardTransaction(desired.table)
    return None if early == nothing else early, None if late == nothing else late


def is_whole(desired: Guard | None, observed: Guard | None, devices: Collection[str]) -> bool:
    """Whether everything of the guard that can be is there."""
    if desired is None:
        return True
    if observed is None or observed.foreign:
        return False
    early, _ = diff_guard(desired, observed, devices)
    return early is None


def _unlike(have: Guard, chain: GuardChain) -> bool:
    """Whether a chain that others go to has become a base chain, or the reverse: it cannot be made anew alone."""
    there = have.chains.get(chain.place)
    return there is not None and (there.hook is None) != (chain.hook is None)


def _renewal(desired: Guard, possible: Iterable[GuardChain]) -> GuardTransaction:
    return _additions(desired, Guard(desired.table), list(possible), whole=True)._replace(renew=True)


def _additions(desired: Guard, have: Guard, possible: Collection[GuardChain], *, whole: bool) -> GuardTransaction:
    changed = sorted((chain for chain in possible if have.chains.get(chain.place) != chain), key=_chain_order)
    sets = sorted(one for place, one in desired.sets.items() if place not in have.sets)
    counters = sorted(desired.counters - have.counters)
    put, gone = _apart(desired.elements, have.elements)
    take = {element for element in gone if element.set.startswith(("drop", "count")) and _moves(element, put)}
    take |= set(_in_the_way(gone - take, put))
    families = {place[0] for place in desired.chains} if whole else set[Family]()
    if changed or sets or counters:
        families |= {chain.family for chain in changed} | {one.family for one in sets} | {f for f, _ in counters}
    return GuardTransaction(
        desired.table,
        families=tuple(family for family in FAMILIES if family in families),
        sets=tuple(sets),
        counters=tuple(counters),
        take=tuple(sorted(take)),
        put=tuple(sorted(put)),
        chains=tuple(changed),
        rehook=tuple(c.place for c in changed if c.place in have.chains and _hook(have.chains[c.place]) != _hook(c)),
    )


@lru_cache(maxsize=2)
def _apart(wanted: frozenset[Element], there: frozenset[Element]) -> tuple[frozenset[Element], frozenset[Element]]:
    """What is missing and what is too much. Remembered: mostly both are the very objects of the pass before."""
    return wanted - there, there - wanted


def _removals(desired: Guard, have: Guard, early: GuardTransaction) -> GuardTransaction:
    taken = set(early.take)
    return GuardTransaction(
        desired.table,
        take=tuple(sorted(_apart(desired.elements, have.elements)[1] - taken)),
        drop_chains=tuple(
            place
            for place, chain in sorted(have.chains.items(), key=lambda item: (item[1].hook is None, item[0]))
            if place not in desired.chains
        ),
        drop_sets=tuple(sorted(place for place in have.sets if place not in desired.sets)),
        drop_counters=tuple(sorted(have.counters - desired.counters)),
    )


def _moves(element: Element, put: Collection[Element]) -> bool:
    """Whether the prefix comes into the set of the other verdict, of the same direction."""
    verdict, _, rest = element.set.partition("_")
    other = f"{'count' if verdict == 'drop' else 'drop'}_{rest}"
    return element._replace(set=other) in put or element._replace(family="netdev", set=other) in put


def _in_the_way(gone: Iterable[Element], put: Iterable[Element]) -> Iterator[Element]:
    """What goes and overlaps what comes into the same set, which would be refused beside it."""
    coming: dict[tuple[Family, str], list[Prefix]] = {}
    for element in put:
        coming.setdefault((element.family, element.set), []).append(Prefix(element.prefix))
    going: dict[tuple[Family, str], list[Prefix]] = {}
    for element in gone:
        going.setdefault((element.family, element.set), []).append(Prefix(element.prefix))
    for (family, name), prefixes in going.items():
        for prefix in overlapping(prefixes, coming.get((family, name), [])):
            yield Element(family, name, prefix)


def _hook(chain: GuardChain) -> tuple[Any, ...]:
    return chain.hook, chain.priority, chain.device


def _chain_order(chain: GuardChain) -> tuple[bool, str, str]:
    """Those that others go to first."""
    return chain.hook is not None, chain.family, chain.name

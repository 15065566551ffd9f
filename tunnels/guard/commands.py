"""The guard's transactions as libnftables JSON, and its listing back. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from linkseal.tunnels.guard.chains import network
from linkseal.tunnels.guard.diff import FAMILIES
from linkseal.tunnels.guard.model import (
    Element,
    Family,
    Guard,
    GuardChain,
    GuardSet,
    GuardTransaction,
    Place,
)
from linkseal.tunnels.guard.plan import FLOW_SECONDS, FLOWS

Json = dict[str, Any]

OUR_SETS: Final = frozenset({"own4", "own6", "drop_out4", "drop_out6", "drop_in4", "drop_in6"})
OUR_CHAINS: Final = frozenset({"post", "pre", "egress", "ingress", "drop_out", "drop_in", "count_out", "count_in"})
"""What makes a table recognisable as ours even when parts of it are gone."""


def commands(transaction: GuardTransaction) -> list[Json]:
    """Return the transaction as the list of JSON commands, in order; nft carries them out atomically."""
    table = transaction.table
    result: list[Json] = []
    if transaction.drop_tables or transaction.renew:
        for family in FAMILIES:  # adding first: one of the two may be gone
            result += [_table("add", family, table), _table("delete", family, table)]
    result += [_table("add", family, table) for family in transaction.families]
    result += [{"add": {"set": _set(table, one)}} for one in transaction.sets]
    result += [{"add": {"counter": _place(table, place)}} for place in transaction.counters]
    result += _elements("delete", table, transaction.take)
    result += _elements("add", table, transaction.put)
    result += _chains(transaction)
    for kind, places in (
        ("chain", transaction.drop_chains),
        ("set", transaction.drop_sets),
        ("counter", transaction.drop_counters),
    ):
        if kind == "chain":  # rules first: they may go to each other
            result += [{"flush": {"chain": _place(table, place)}} for place in places]
        result += [{"delete": {kind: _place(table, place)}} for place in places]
    return result


def _table(verb: str, family: Family, table: str) -> Json:
    return {verb: {"table": {"family": family, "name": table}}}


def _place(table: str, place: Place) -> Json:
    return {"family": place[0], "table": table, "name": place[1]}


def _set(table: str, one: GuardSet) -> Json:
    key: Any = one.key[0] if len(one.key) == 1 else list(one.key)
    more: Json = {}
    if one.interval:
        more["flags"] = ["interval"]
    if one.dynamic:
        more |= {"flags": ["timeout"], "timeout": FLOW_SECONDS, "size": FLOWS}
    if one.counted:
        more["stmt"] = [{"counter": None}]
    return {**_place(table, one.place), "type": key, **more}


def _elements(verb: str, table: str, elements: Iterable[Element]) -> Iterator[Json]:
    """One command a set: nft reads the whole set of the kernel once a command."""
    grouped: dict[Place, list[Any]] = {}
    for element in elements:
        grouped.setdefault((element.family, element.set), []).append(_key(element.prefix))
    for place, listed in grouped.items():
        yield {verb: {"element": {**_place(table, place), "elem": listed}}}


def _key(prefix: str) -> Any:
    return {"range": prefix.split("-")} if "-" in prefix else network(prefix)


def _chains(transaction: GuardTransaction) -> Iterator[Json]:
    table = transaction.table
    for chain in transaction.chains:
        place = _place(table, chain.place)
        if chain.place in transaction.rehook:
            yield {"flush": {"chain": place}}
            yield {"delete": {"chain": place}}
        base = {"type": "filter", "hook": chain.hook, "prio": chain.priority, "policy": "accept"} if chain.hook else {}
        device = {"dev": chain.device} if chain.device else {}
        yield {"add": {"chain": {**place, **base, **device}}}
        yield {"flush": {"chain": place}}
    for chain in transaction.chains:
        for rule in chain.rules:
            place = {"family": chain.family, "table": table, "chain": chain.name}
            yield {"add": {"rule": {**place, "expr": json.loads(rule)}}}


# --- reading -------------------------------------------------------------------------------------------------------


def parse(table: str, items: Iterable[Json], devices: Mapping[str, str | None]) -> Guard:
    """Return the guard of what `nft -j list table …` printed (the objects of both tables).

    `devices` names the hooked device of each netdev chain: nft 1.0.6 leaves it out of its JSON.
    """
    chains: dict[Place, GuardChain] = {}
    rules: dict[Place, list[str]] = {}
    sets: dict[Place, GuardSet] = {}
    counters: set[Place] = set()
    elements: set[Element] = set()
    others = False
    for item in items:
        if (chain := item.get("chain")) is not None:
            made = _chain(chain, devices)
            chains[made.place] = made
        elif (rule := item.get("rule")) is not None:
            rules.setdefault((rule["family"], rule["chain"]), []).append(_rule(rule["expr"]))
        elif (counter := item.get("counter")) is not None:
            counters.add((counter["family"], counter["name"]))
        elif (one := item.get("set")) is not None:
            known = _known_set(one)
            sets[known.place] = known
            if not known.dynamic:
                elements.update(Element(*known.place, _prefix(key)) for key in one.get("elem", ()))
        else:
            others = others or ("metainfo" not in item and "table" not in item)
    names = {name for _, name in chains} | {name for _, name in sets}
    foreign = bool(names or others) and not names & (OUR_SETS | OUR_CHAINS)
    full = {place: chain._replace(rules=tuple(rules.get(place, ()))) for place, chain in chains.items()}
    return Guard(table, full, sets, frozenset(counters), frozenset(elements), foreign)


def _chain(chain: Json, devices: Mapping[str, str | None]) -> GuardChain:
    hook = chain.get("hook")
    if hook and (chain.get("type", "filter") != "filter" or chain.get("policy", "accept") != "accept"):
        hook += f" {chain.get('type')} {chain.get('policy')}"  # none that we make: so it differs and is replaced
    device = devices.get(chain["name"]) if chain["family"] == "netdev" and hook else None
    return GuardChain(chain["family"], chain["name"], hook, int(chain.get("prio", 0)), device, ())


def _rule(expressions: list[Json]) -> str:
    """A rule's own counter is listed with its state, a named one by its name."""
    plain = [{"counter": None} if isinstance(one.get("counter"), dict) else one for one in expressions]
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _known_set(one: Json) -> GuardSet:
    key = one["type"]
    flags = one.get("flags", ())
    return GuardSet(
        one["family"],
        one["name"],
        (key,) if isinstance(key, str) else tuple(key),
        interval="interval" in flags,
        counted=any("counter" in statement for statement in one.get("stmt", ())),
        dynamic="timeout" in flags and one.get("timeout") == FLOW_SECONDS,
    )


def _prefix(key: Any) -> str:
    if isinstance(key, dict) and "elem" in key:
        key = key["elem"]["val"]
    if isinstance(key, str):
        return f"{key}/{128 if ':' in key else 32}"
    if "range" in key:
        return "-".join(key["range"])
    return f"{key['prefix']['addr']}/{key['prefix']['len']}"

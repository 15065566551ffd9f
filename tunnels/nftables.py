"""Our nftables as libnftables JSON and back, and the difference of two rulesets. Pure.

    table netdev linkseal   maps slot4 and slot6 (prefix → slot interface), chain `door`
    table inet linkseal     chains for probes and for the MSS (linkseal.tunnels.nftchains)

A rule is compared as the canonical JSON text of its `expr` list, so what is built must be spelled as nft lists it; the
builders and tests/golden/nft hold the spelling of nft 1.0.6 (Debian 12).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Literal, cast

from linkseal.keys.errors import HostError
from linkseal.keys.values import Prefix
from linkseal.tunnels.intervals import overlapping
from linkseal.tunnels.model import Chain, MoveSlot, NftTransaction, Ruleset, family_of
from linkseal.tunnels.nftchains import clamp_chain, door_chain, prefix_expression, probe_chains
from linkseal.tunnels.nftrender import render

__all__ = [
    "FAMILIES",
    "MAPS",
    "TABLE",
    "adjust",
    "clamp_chain",
    "commands",
    "diff_ruleset",
    "door_chain",
    "joined",
    "moved",
    "parse",
    "probe_chains",
    "render",
]

TABLE: Final = "linkseal"
FAMILIES: Final = ("netdev", "inet")
MAPS: Final = {4: ("slot4", "ipv4_addr"), 6: ("slot6", "ipv6_addr")}

Json = dict[str, Any]


# --- difference ----------------------------------------------------------------------------------------------------


def diff_ruleset(
    desired: Ruleset | None, observed: Ruleset | None
) -> tuple[NftTransaction | None, NftTransaction | None]:
    """Return (early, late): what adds or moves, and what removes; None where there is nothing to do.

    An element that goes but overlaps one that comes is taken out in the early transaction: the map would refuse it.
    """
    if desired is None:
        return None, None if observed is None else NftTransaction(drop_tables=True)
    have = observed or Ruleset()
    chains = tuple(chain for key, chain in sorted(desired.chains.items()) if have.chains.get(key) != chain)
    there = have.slots.get
    moves = []
    if desired.slots != have.slots:  # tens of thousands, compared in C
        new = [(prefix, slot) for prefix, slot in desired.slots.items() if there(prefix) != slot]
        moves += [MoveSlot(prefix, there(prefix), slot) for prefix, slot in new]
    gone: set[Prefix] = set()
    if len(have.slots) != len(desired.slots) - sum(move.old is None for move in moves):
        gone |= have.slots.keys() - desired.slots.keys()
    in_the_way = overlapping(gone, [move.prefix for move in moves if move.old is None])
    moves += [MoveSlot(prefix, have.slots[prefix], None) for prefix in in_the_way]
    early = NftTransaction(
        create=bool(chains) or observed is None,  # a table that lost its chains may have lost its maps
        set_chains=chains,
        moves=tuple(sorted(moves, key=_move_order)),
    )
    late = NftTransaction(
        moves=tuple(MoveSlot(prefix, have.slots[prefix], None) for prefix in sorted(gone - in_the_way)),
        remove_chains=tuple(chain for key, chain in sorted(have.chains.items()) if key not in desired.chains),
    )
    nothing = NftTransaction()
    return None if early == nothing else early, None if late == nothing else late


def joined(
    early: NftTransaction | None, late: NftTransaction | None
) -> tuple[NftTransaction | None, NftTransaction | None]:
    """Return the two as one, if both are of moves alone; what else there is may fail, and must not hold these up."""
    if early is None or late is None or not (_moves_alone(early) and _moves_alone(late)):
        return early, late
    return NftTransaction(moves=(*early.moves, *late.moves)), None


def _moves_alone(transaction: NftTransaction) -> bool:
    return transaction == NftTransaction(moves=transaction.moves)


def _move_order(move: MoveSlot) -> str:
    return move.prefix


def adjust(transaction: NftTransaction, actual: Ruleset | None) -> NftTransaction:
    """Return what is left of a transaction when the ruleset has changed since it was computed."""
    have = actual or Ruleset()
    return transaction._replace(
        moves=tuple(
            move._replace(old=have.slots.get(move.prefix))
            for move in transaction.moves
            if have.slots.get(move.prefix) != move.new
        ),
        remove_chains=tuple(chain for chain in transaction.remove_chains if (chain.family, chain.name) in have.chains),
    )


def moved(ruleset: Ruleset | None, transaction: NftTransaction) -> Ruleset | None:
    """Return what a transaction of moves alone makes of a ruleset, None if it does anything else or fits no ruleset."""
    if ruleset is None or not _moves_alone(transaction):
        return None
    slots = dict(ruleset.slots)
    for move in transaction.moves:
        if slots.pop(move.prefix, None) != move.old:
            return None
        if move.new is not None:
            slots[move.prefix] = move.new
    return replace(ruleset, slots=slots)


# --- building ------------------------------------------------------------------------------------------------------


def commands(transaction: NftTransaction) -> list[Json]:
    """Return the transaction as the list of libnftables JSON commands, in order; nft carries them out atomically."""
    result: list[Json] = []
    if transaction.create:
        result += [*map(_add_table, FAMILIES), *map(_add_map, MAPS)]
    result += _elements("delete", ((move.prefix, None) for move in transaction.moves if move.old is not None))
    result += _elements("add", ((move.prefix, move.new) for move in transaction.moves if move.new is not None))
    for chain in transaction.set_chains:
        result += _replace_chain(chain)
    result += [{"delete": {"chain": _place(chain)}} for chain in transaction.remove_chains]
    if transaction.drop_tables:
        for family in FAMILIES:  # adding first: one of the two may be gone
            result += [_add_table(family), {"delete": {"table": {"family": family, "name": TABLE}}}]
    return result


def _add_table(family: str) -> Json:
    return {"add": {"table": {"family": family, "name": TABLE}}}


def _add_map(version: int) -> Json:
    name, kind = MAPS[version]
    place = {"family": "netdev", "table": TABLE, "name": name}
    return {"add": {"map": {**place, "type": kind, "map": "iface_index", "flags": ["interval"]}}}


def _elements(verb: str, elements: Iterable[tuple[Prefix, str | None]]) -> Iterator[Json]:
    """One command a map: nft reads the whole map of the kernel once a command."""
    grouped: dict[int, list[Any]] = {4: [], 6: []}
    for prefix, slot in elements:
        key = _key(prefix)
        grouped[family_of(prefix)].append(key if slot is None else [key, slot])
    for version, listed in grouped.items():
        if listed:
            place = {"family": "netdev", "table": TABLE, "name": MAPS[version][0]}
            yield {verb: {"element": {**place, "elem": listed}}}


def _key(prefix: Prefix) -> Any:
    if "-" in prefix:
        return {"range": prefix.split("-")}
    return prefix_expression(prefix)


def _place(chain: Chain) -> Json:
    return {"family": chain.family, "table": TABLE, "name": chain.name}


def _replace_chain(chain: Chain) -> Iterator[Json]:
    """Delete and make anew, since a hook cannot be changed; adding first makes sure there is something to delete."""
    yield {"add": {"chain": _place(chain)}}
    yield {"delete": {"chain": _place(chain)}}
    base = {"type": "filter", "hook": chain.hook, "prio": chain.priority, "policy": "accept"}
    device = {} if chain.device is None else {"dev": chain.device}
    yield {"add": {"chain": {**_place(chain), **base, **device}}}
    for rule in chain.rules:
        place = {"family": chain.family, "table": TABLE, "chain": chain.name}
        yield {"add": {"rule": {**place, "expr": json.loads(rule)}}}


# --- reading -------------------------------------------------------------------------------------------------------


def parse(listings: Iterable[str], devices: Mapping[str, str | None]) -> Ruleset:
    """Return the ruleset of what `nft -j list table …` printed, one text a table. HostError if that is no JSON.

    `devices` names the hooked device of each netdev chain: nft 1.0.6 leaves it out of its JSON. An element whose
    interface is gone is listed with the bare number of it, which is no slot's name and so differs from what is wanted.
    """
    chains: dict[tuple[str, str], Chain] = {}
    rules: dict[tuple[str, str], list[str]] = {}
    slots: dict[Prefix, str] = {}
    for item in (item for listing in listings for item in _objects(listing)):
        if (chain := item.get("chain")) is not None:
            chains[chain["family"], chain["name"]] = _chain(chain, devices)
        elif (rule := item.get("rule")) is not None:
            rules.setdefault((rule["family"], rule["chain"]), []).append(_rule(rule))
        elif (found := item.get("map")) is not None:
            slots.update((_prefix(key), str(value)) for key, value in found.get("elem", ()))
    return Ruleset({key: chain._replace(rules=tuple(rules.get(key, ()))) for key, chain in chains.items()}, slots)


def _objects(listing: str) -> list[Json]:
    try:
        return list(json.loads(listing)["nftables"])
    except ValueError:
        raise HostError(f"nft printed no JSON: {listing[:80]!r}; is this nft built with JSON support?") from None


def _chain(chain: Json, devices: Mapping[str, str | None]) -> Chain:
    family = cast("Literal['inet', 'netdev']", chain["family"])
    hook = str(chain.get("hook", ""))
    if chain.get("type", "filter") != "filter" or chain.get("policy", "accept") != "accept":
        hook += f" {chain.get('type')} {chain.get('policy')}"  # none that we make: so it differs and is replaced
    device = devices.get(chain["name"]) if family == "netdev" else None
    return Chain(family, chain["name"], hook, int(chain.get("prio", 0)), device, ())


def _rule(rule: Json) -> str:
    expressions = [{"counter": None} if "counter" in one else one for one in rule["expr"]]
    return json.dumps(expressions, sort_keys=True, separators=(",", ":"))


def _prefix(key: Any) -> Prefix:
    if isinstance(key, str):
        return Prefix(f"{key}/{128 if ':' in key else 32}")
    if "range" in key:
        return Prefix("-".join(key["range"]))
    return Prefix(f"{key['prefix']['addr']}/{key['prefix']['len']}")

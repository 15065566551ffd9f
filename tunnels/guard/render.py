"""A transaction of the guard as lines that `nft -f` takes: what `linkseal plan` prints and the goldens hold. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from linkseal.tunnels.guard.diff import FAMILIES
from linkseal.tunnels.guard.model import Element, GuardChain, GuardSet, GuardTransaction
from linkseal.tunnels.guard.plan import FLOW_SECONDS, FLOWS


def render(transaction: GuardTransaction) -> list[str]:
    """Return the transaction as lines, each with the word `nft` before it, in the order they are carried out."""
    return [f"nft {line}" for line in _lines(transaction)]


def _lines(transaction: GuardTransaction) -> Iterator[str]:
    table = transaction.table
    if transaction.renew or transaction.drop_tables:
        yield from (f"delete table {family} {table}" for family in FAMILIES)
    yield from (f"add table {family} {table}" for family in transaction.families)
    yield from (_set(table, one) for one in transaction.sets)
    yield from (f"add counter {family} {table} {name}" for family, name in transaction.counters)
    yield from (_element("delete", table, one) for one in transaction.take)
    yield from (_element("add", table, one) for one in transaction.put)
    for chain in transaction.chains:
        if chain.place in transaction.rehook:
            yield f"delete chain {chain.family} {table} {chain.name}"
        yield _chain(table, chain)
        yield f"flush chain {chain.family} {table} {chain.name}"
    for chain in transaction.chains:
        for rule in chain.rules:
            words = " ".join(map(statement, json.loads(rule)))
            yield f"add rule {chain.family} {table} {chain.name} {words}"
    yield from (f"delete chain {family} {table} {name}" for family, name in transaction.drop_chains)
    yield from (f"delete set {family} {table} {name}" for family, name in transaction.drop_sets)
    yield from (f"delete counter {family} {table} {name}" for family, name in transaction.drop_counters)


def _set(table: str, one: GuardSet) -> str:
    words = [f"type {' . '.join(one.key)};"]
    if one.interval:
        words.append("flags interval;")
    if one.dynamic:
        words.append(f"flags timeout, dynamic; timeout {FLOW_SECONDS}s; size {FLOWS};")
    if one.counted:
        words.append("counter;")
    return f"add set {one.family} {table} {one.name} {{ {' '.join(words)} }}"


def _element(verb: str, table: str, element: Element) -> str:
    return f"{verb} element {element.family} {table} {element.set} {{ {element.prefix} }}"


def _chain(table: str, chain: GuardChain) -> str:
    where = f"add chain {chain.family} {table} {chain.name}"
    if chain.hook is None:
        return where
    device = f' device "{chain.device}"' if chain.device else ""
    return f"{where} {{ type filter hook {chain.hook}{device} priority {chain.priority}; policy accept; }}"


def statement(expression: dict[str, Any]) -> str:
    """One expression of a rule as nft's own language has it; what we never build comes out as JSON."""
    [(kind, body)] = expression.items()
    match kind, body:
        case "match", {"op": op, "left": left, "right": right}:
            shown = f'"{right}"' if _is_name(left) else _value(right)
            return f"{_value(left)} {'' if op == '==' and '&' not in left else op + ' '}{shown}"
        case "counter", str(name):
            return f"counter name {name}"
        case (("goto" | "jump"), {"target": target}):
            return f"{kind} {target}"
        case "set", {"op": op, "elem": elem, "set": name}:
            return f"{op} {name} {{ {_value(elem)} }}"
        case _, None:
            return kind
    return json.dumps(expression)


def _is_name(left: dict[str, Any]) -> bool:
    return left.get("meta", {}).get("key") in ("iifname", "oifname")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return _operand(value)
    if value is True:
        return "exists"
    return str(value) if isinstance(value, str) or value < 1 << 16 else f"{value:#x}"  # marks are read as hexadecimal


def _operand(value: dict[str, Any]) -> str:
    text = json.dumps(value)
    match value:
        case {"payload": {"protocol": protocol, "field": field}}:
            text = f"{protocol} {field}"
        case {"meta": {"key": key}}:
            text = f"meta {key}"
        case {"ct": {"key": key}}:
            text = f"ct {key}"
        case {"exthdr": {"name": name}}:
            text = f"exthdr {name}"
        case {"range": [first, last]}:
            text = f"{first}-{last}"
        case {"prefix": {"addr": address, "len": length}}:
            text = f"{address}/{length}"
        case {"set": [*members]}:
            text = f"{{ {', '.join(map(str, members))} }}"
        case {"concat": [*parts]}:
            text = " . ".join(map(_value, parts))
        case {"&": [left, mask]}:
            text = f"{_value(left)} & {mask:#x}"
    return text

"""An nft transaction as lines that `nft -f` takes: what `linkseal plan` prints and the goldens hold. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from linkseal.tunnels.model import Chain, MoveSlot, NftTransaction, family_of

_WHERE = "netdev linkseal"


def render(transaction: NftTransaction) -> list[str]:
    """Return the transaction as lines, each with the word `nft` before it, in the order they are carried out."""
    return [f"nft {line}" for line in _lines(transaction)]


def _lines(transaction: NftTransaction) -> Iterator[str]:
    if transaction.create:
        yield "add table netdev linkseal"
        yield "add table inet linkseal"
        yield f"add map {_WHERE} slot4 {{ type ipv4_addr : iface_index; flags interval; }}"
        yield f"add map {_WHERE} slot6 {{ type ipv6_addr : iface_index; flags interval; }}"
    yield from (_delete(move) for move in transaction.moves if move.old is not None)
    yield from (_add(move) for move in transaction.moves if move.new is not None)
    for chain in transaction.set_chains:
        yield from _chain(chain)
    yield from (f"delete chain {chain.family} linkseal {chain.name}" for chain in transaction.remove_chains)
    if transaction.drop_tables:
        yield "delete table netdev linkseal"
        yield "delete table inet linkseal"


def _delete(move: MoveSlot) -> str:
    return f"delete element {_WHERE} slot{family_of(move.prefix)} {{ {move.prefix} }}"


def _add(move: MoveSlot) -> str:
    return f'add element {_WHERE} slot{family_of(move.prefix)} {{ {move.prefix} : "{move.new}" }}'


def _chain(chain: Chain) -> Iterator[str]:
    where = f"{chain.family} linkseal {chain.name}"
    device = f' device "{chain.device}"' if chain.device else ""
    yield f"add chain {where}"
    yield f"delete chain {where}"
    yield f"add chain {where} {{ type filter hook {chain.hook}{device} priority {chain.priority}; policy accept; }}"
    for rule in chain.rules:
        yield f"add rule {where} {' '.join(map(_expression, json.loads(rule)))}"


def _expression(expression: dict[str, Any]) -> str:
    [(kind, body)] = expression.items()
    if kind == "match":
        op = "" if body["op"] == "==" else f"{body['op']} "
        if "&" in body["left"]:
            op = "== "  # needed after a mask
        return f"{_value(body['left'])} {op}{_value(body['right'])}"
    if kind == "fwd":
        return f"fwd to {_value(body['dev'])}"
    if kind == "mangle":
        return f"{_value(body['key'])} set {_value(body['value'])}"
    return kind if body is None else json.dumps(expression)


def _value(value: Any) -> str:
    """Text of an operand; what we never build comes out as JSON, so that a foreign rule can be shown too."""
    if isinstance(value, str):
        return value if value in _WORDS or value[0].isdigit() or ":" in value else f'"{value}"'
    kind, body = next(iter(value.items())) if isinstance(value, dict) else ("", value)
    match kind, body:
        case "payload", {"protocol": protocol, "field": field}:
            text = f"{protocol} {field}"
        case "meta", {"key": key}:
            text = str(key)
        case "rt", {"key": key}:
            text = f"rt {key}"
        case "prefix", {"addr": address, "len": length}:
            text = f"{address}/{length}"
        case "map", {"key": key, "data": data}:
            text = f"{_value(key)} map {data}"
        case "tcp option", {"name": name, "field": field}:
            text = f"tcp option {name} {field}"
        case "&", [left, [*names]]:
            text = f"{_value(left)} & ({' | '.join(map(str, names))})"
        case _:
            text = json.dumps(value)
    return text


_WORDS = frozenset({"syn", "rst", "fin", "ack"})
"""Words of nft's own among the right sides we build; the others are interface names."""

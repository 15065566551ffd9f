"""Takes a good document apart: as bytes, as text, and as JSON. All randomness comes from the given generator."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

NASTY: list[Any] = [
    None, True, False, 0, 1, 2, -1, 1.0, 1e300, 2**53, 2**53 - 1, 2**63, 65532, 65533, 16383, 16384,
    "", "1", "n1", "n2", "..", "wireguard", "ipsec", "x" * 300, "\x00", "\ud800", "é", "n1\n",
    [], {}, [[]], [None], {"a": 1}, ["a", "a"],
    "0.0.0.0", "127.0.0.1", "::1", "::", "ff02::1", "224.0.0.1", "fe80::1", "fe80::1%eth0", "::ffff:192.0.2.1",  # noqa: S104 - not bound
    "192.0.2.01", "192.0.2.1 ", "2001:DB8::1", "2001:db8:0::1", "255.255.255.255", "198.51.100.7", "2001:db8::7",
    "0.0.0.0/0", "10.0.0.1/24", "10.0.0.0/33", "::/0", "2001:db8::/32", "10.9.0.0/16", "10.0.0.0/255.0.0.0", "10.0.0.0",
    "2026-11-02T10:00:00Z", "2026-11-02t10:00:00z", "2026-13-02T10:00:00Z", "2026-11-02T10:00:00+00:00",
    "2026-11-02T10:00:60Z", "0000-01-01T00:00:00Z", "2026-11-02T10:00:00.123456Z", "٢026-11-02T10:00:00Z",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
]  # fmt: skip

TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"NaN", b"Infinity", b"-0", b"1e999",
    b"null", b"true", b" ", b"\n", b"\t", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"/*x*/",
    b"9" * 30, b"[" * 600, b'{"a":' * 40, b'"serial":1,', b'"format":1,', b'"node":"n2",',
]  # fmt: skip


def mutate(text: str, random: Random, spare: list[Any]) -> str:
    """Return `text` changed in one to three ways; `spare` are more values that fit somewhere in the document."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        way: Callable[[str, Random, list[Any]], str] = random.choice((_bytes, _structure, _structure, _layout))
        text = way(text, random, spare)
    return text


def _bytes(text: str, random: Random, _spare: list[Any]) -> str:
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    at = random.randrange(len(data) + 1)
    match random.randrange(6):
        case 0 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 1:
            data[at:at] = random.choice(TOKENS)
        case 2:
            del data[at : at + random.randrange(1, 20)]
        case 3:
            end = at + random.randrange(1, 60)
            data[at:at] = data[at:end]
        case 4:
            del data[at:]
        case _:
            data[at : at + 1] = random.choice(TOKENS)
    return data.decode("utf-8", "surrogateescape")


def _structure(text: str, random: Random, spare: list[Any]) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text + " "
    places = list(_places(document))
    if not places:
        return "{}"
    holder, key = random.choice(places)
    match random.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[f"unknown{random.randrange(9)}"] = random.choice(NASTY)
        case 2 if isinstance(holder, list):
            holder.insert(key, holder[key])
        case 3 if isinstance(holder[key], list):
            holder[key] = holder[key] * random.choice((2, 5, 40, 300))
        case 4:
            other, name = random.choice(places)
            holder[key] = json.loads(json.dumps(other[name]))
        case 5 if isinstance(holder[key], int):
            holder[key] += random.choice((-1, 1, 2, 2**52))
        case 6:
            holder[key] = random.choice(spare)
        case _:
            holder[key] = random.choice(NASTY)
    return json.dumps(document)


def _places(value: Any) -> Any:
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _layout(text: str, random: Random, _spare: list[Any]) -> str:
    """Change how it is written, not what it says: most of these are still good documents."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text[::-1]
    match random.randrange(5):
        case 0:
            return json.dumps(document, indent=random.randrange(3))
        case 1 if isinstance(document, dict):
            return json.dumps(dict(random.sample(list(document.items()), len(document))))
        case 2:
            return text.replace("a", "\\u0061", 1)
        case 3:  # a field twice, in JSON that a lenient reader takes
            name = random.choice(list(document)) if isinstance(document, dict) and document else "x"
            return text[:-1] + f",{json.dumps(name)}:{json.dumps(random.choice(NASTY))}}}"
        case _:
            return f" {text}\n"

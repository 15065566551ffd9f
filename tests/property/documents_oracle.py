"""A second reader of all signed documents, written from their description alone: it imports nothing of linkseal.

It answers one question: may a receiver accept this? It is slow and plain on purpose.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA384

FORBIDDEN = [
    *map(ip_network, ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32")),
    *map(ip_network, ("::/127", "ff00::/8", "::ffff:0:0/96", "fe80::/10")),
]
P = 2**255 - 19
LOW_ORDER = {
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}
NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class No(Exception):  # noqa: N818 - the oracle's answer
    """It may not be accepted."""


def need(truth: object, why: str) -> None:
    if not truth:
        raise No(why)


def signed(key: EllipticCurvePublicKey, data: bytes, signature: str) -> None:
    try:
        key.verify(base64.b64decode(signature), data, ECDSA(SHA384()))
    except Exception as error:
        raise No("signature") from error


def certified(pem: str, ca: EllipticCurvePublicKey, node: str, uid: str, now: datetime) -> EllipticCurvePublicKey:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    ca.verify(certificate.signature, certificate.tbs_certificate_bytes, ECDSA(SHA384()))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    need([name.value for name in names] == [f"linkseal:node/{node}/{uid}"], "name")
    need(not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, "a CA")
    need(certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc, "dates")
    key = certificate.public_key()
    assert isinstance(key, EllipticCurvePublicKey)
    need(key.curve.name == "secp384r1", "curve")
    return key


def document(text: str, limit: int = 16384) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len({name for name, _ in pairs}) == len(pairs), "a field twice")
        return dict(pairs)

    def never(name: str) -> None:
        raise No(name)

    need(len(text.encode()) <= limit, "size")
    fields = json.loads(text, object_pairs_hook=once, parse_constant=never)
    need(type(fields) is dict, "object")
    return fields


def whole(value: object, low: int, high: int) -> int:
    need(type(value) is int, "a whole number")
    assert isinstance(value, int)
    need(low <= value <= high, "range")
    return value


def string(value: object, pattern: str | re.Pattern[str]) -> str:
    need(type(value) is str, "a string")
    assert isinstance(value, str)
    need(re.fullmatch(pattern, value), "pattern")
    return value


def when(value: object) -> None:
    text = string(value, r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z")
    datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)


def address(value: object) -> str:
    text = string(value, r"[0-9a-f:.]+")
    number = ip_address(text)
    need(str(number) == text, "canonical")
    need(not any(number in network for network in FORBIDDEN if network.version == number.version), "unicast")
    return text


def items(value: object, low: int, high: int) -> list[Any]:
    need(type(value) is list, "a list")
    assert isinstance(value, list)
    need(low <= len(value) <= high, "length")
    return value


def raw(value: object, length: int) -> bytes:
    text = string(value, r"[A-Za-z0-9+/]+={0,2}")
    data = base64.b64decode(text)
    need(len(data) == length and base64.b64encode(data).decode() == text, "base64")
    return data


def key_held(fields: dict[str, Any], node: str, uid: str) -> bytes:
    number = whole(fields["number"], 1, 2**53 - 1)
    need(fields["protocol"] in ("wireguard", "ipsec"), "protocol")
    key = raw(fields["publicKey"], 32)
    need(key.hex() not in LOW_ORDER and int.from_bytes(key, "little") < P, "weak key")
    edwards = raw(fields["proof"]["ed25519PublicKey"], 32)
    u, y = int.from_bytes(key, "little"), int.from_bytes(edwards, "little") % 2**255
    need((u * (1 - y) - (1 + y)) % P == 0 and y != 1, "another key")
    message = b"linkseal possession 1\n%s\n%s\n%d\n" % (node.encode(), uid.encode(), number)
    Ed25519PublicKey.from_public_bytes(edwards).verify(raw(fields["proof"]["signature"], 64), message)
    return key


def announcement_holds(
    text: str, signature: str, pem: str, ca: EllipticCurvePublicKey, node: str, uid: str, now: datetime
) -> None:
    """Raise (anything) unless this announcement may be accepted."""
    signed(certified(pem, ca, node, uid, now), text.encode(), signature)
    fields = document(text)
    need(whole(fields["format"], 1, 1) == 1, "format")
    need(fields["node"] == node and NAME.fullmatch(node), "node")
    need(fields["uid"] == uid, "uid")
    whole(fields["serial"], 1, 2**53 - 1)
    when(fields["issued"])
    generations = items(fields["generations"], 1, 2)
    keys = [key_held(generation, node, uid) for generation in generations]
    need(len(set(keys)) == len(keys), "one key twice")
    need(len({g["number"] % 2 for g in generations}) == len(generations), "parity")
    endpoints = [(address(e["address"]), whole(e["port"], 1, 65532)) for e in items(fields["endpoints"], 0, 8)]
    need(len(set(endpoints)) == len(endpoints), "endpoint twice")
    capabilities = [string(c, r"[a-z0-9][a-z0-9.-]{0,62}") for c in items(fields["capabilities"], 0, 32)]
    need(len(set(capabilities)) == len(capabilities), "capability twice")


def grant_holds(text: str, signature: str, ca: EllipticCurvePublicKey, node: str) -> None:
    """Raise (anything) unless this grant may be accepted."""
    signed(ca, text.encode(), signature)
    fields = document(text)
    need(whole(fields["format"], 1, 1) == 1, "format")
    need(fields["node"] == node and NAME.fullmatch(node), "node")
    string(fields["uid"], r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
    whole(fields["index"], 1, 16383)
    whole(fields["serial"], 1, 2**53 - 1)
    when(fields["issued"])
    need(type(fields["optedOut"]) is bool, "optedOut")
    addresses = [address(a) for a in items(fields["addresses"], 0, 32)]
    need(len(set(addresses)) == len(addresses), "address twice")
    prefixes = [string(p, r"[0-9a-f:.]+/[0-9]{1,3}") for p in items(fields["prefixes"], 0, 256)]
    need(len(set(prefixes)) == len(prefixes), "prefix twice")
    for prefix in prefixes:
        network = ip_network(prefix)
        need(str(network) == prefix, "canonical")
        address(str(network.network_address))


def policy_holds(text: str, signature: str, ca: EllipticCurvePublicKey, cluster: str) -> None:
    """Raise (anything) unless this policy may be accepted."""
    signed(ca, b"linkseal.io/policy 1\n" + text.encode(), signature)
    fields = document(text, 131072)
    need(whole(fields["format"], 1, 1) == 1, "format")
    need(fields["cluster"] == cluster, "cluster")
    whole(fields["serial"], 1, 2**53 - 1)
    when(fields["issued"])
    need(type(fields["spec"]) is dict, "spec")

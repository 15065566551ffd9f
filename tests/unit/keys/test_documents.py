"""Announcements and grants: good ones come back as they were, each kind of bad one is refused by its own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from linkseal.keys import announcement as announcements
from linkseal.keys import codes
from linkseal.keys import grant as grants
from linkseal.keys.announcement import AnnouncedEndpoint, Announcement, GenerationKey, SignedAnnouncement
from linkseal.keys.documents import MAX_TEXT, format_time, parse_time
from linkseal.keys.errors import PeerError
from linkseal.keys.grant import Grant, SignedGrant
from linkseal.keys.values import Prefix
from unit.keys.cluster import NOW, Node, authority, key_of, trust

NODE = Node("n1")
SIGNED = NODE.announce(1, (1, 2), capabilities=("door",))
FIELDS = json.loads(SIGNED.text)
GRANT = json.loads(NODE.grant().text)


def read(fields: object) -> Announcement:
    return announcements.parse(fields if isinstance(fields, str) else json.dumps(fields), node="n1")


def read_grant(fields: object) -> Grant:
    return grants.parse(fields if isinstance(fields, str) else json.dumps(fields), node="n1")


def code_of(read_it: Callable[[], object]) -> str:
    with pytest.raises(PeerError) as caught:
        read_it()
    assert caught.value.node == "n1"
    assert len(str(caught.value)) < 600, "a hostile document cannot fill the log"
    return caught.value.code


def with_field(fields: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `fields` with the value at a dotted path replaced."""
    copy = json.loads(json.dumps(fields))
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = copy
    for step in way:
        place = place[step]
    place[last] = value
    return dict(copy)


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


def test_an_announcement_survives_encoding_signing_and_verifying() -> None:
    keys = {1: key_of("a"), 2: key_of("b")}
    value = Announcement(
        "n1",
        "uid-1",
        2**53 - 1,
        datetime(2026, 11, 2, 10, 0, 0, 123456, tzinfo=UTC),
        (GenerationKey(1, "ipsec", keys[1].public_key), GenerationKey(2, "wireguard", keys[2].public_key)),
        (AnnouncedEndpoint("192.0.2.1", 65532), AnnouncedEndpoint("2001:db8::1", 1)),
        ("door", "pq.mlkem"),
    )
    proofs = {n: k.prove("n1", "uid-1", n) for n, k in keys.items()}
    text = announcements.encode(value, proofs)
    assert text == announcements.encode(value, proofs)
    signed = SignedAnnouncement(text, announcements.sign(NODE.identity, text), NODE.certificate())
    assert announcements.verify(signed, trust(), node="n1", uid="uid-1", now=NOW) == value


def test_a_grant_survives_encoding_signing_wrapping_and_verifying() -> None:
    prefixes = (Prefix("10.244.1.0/24"), Prefix("2001:db8:1::/64"))
    value = Grant("n1", "uid-1", 16383, 3, NOW, ("192.0.2.1", "2001:db8::1"), prefixes, opted_out=True)
    wrapped = grants.wrap(grants.sign(authority(), value))
    assert grants.verify(grants.unwrap(wrapped, node="n1"), trust(), node="n1") == value
    assert value.protected() == {*prefixes, "192.0.2.1/32", "2001:db8::1/128"}


def test_unknown_fields_are_ignored_and_covered_by_the_signature() -> None:
    more = json.dumps(FIELDS | {"future": {"anything": [1.5, None, "é"]}})
    assert read(more) == read(FIELDS)
    signed = SignedAnnouncement(more, announcements.sign(NODE.identity, more), NODE.certificate())
    announcements.verify(signed, trust(), node="n1", uid="uid-1", now=NOW)
    changed = replace(signed, text=more.replace("1.5", "1.6"))
    refused = code_of(lambda: announcements.verify(changed, trust(), node="n1", uid="uid-1", now=NOW))
    assert refused == codes.SIGNATURE_INVALID


def test_generations_come_in_order_of_their_numbers() -> None:
    turned = with_field(FIELDS, "generations", FIELDS["generations"][::-1])
    assert [g.number for g in read(turned).generations] == [1, 2]


def test_no_endpoint_means_the_node_cannot_be_reached() -> None:
    assert read(with_field(FIELDS, "endpoints", [])).endpoints == ()


@pytest.mark.parametrize("name", list(FIELDS))
def test_every_field_of_an_announcement_is_needed(name: str) -> None:
    assert code_of(lambda: read(without(FIELDS, name))) == codes.MALFORMED


@pytest.mark.parametrize("name", list(GRANT))
def test_every_field_of_a_grant_is_needed(name: str) -> None:
    assert code_of(lambda: read_grant(without(GRANT, name))) == codes.MALFORMED


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 0),
        ("format", True),
        ("format", "1"),
        ("node", "N1"),
        ("node", "n" * 254),
        ("uid", ""),
        ("uid", "a/b"),
        ("serial", 0),
        ("serial", 2**53),
        ("serial", 1.0),
        ("serial", True),
        ("issued", "2026-11-02"),
        ("issued", "2026-02-30T00:00:00Z"),
        ("issued", "2026-11-02T10:00:00+01:00"),
        ("generations", []),
        ("generations", FIELDS["generations"] * 2),
        ("generations", [FIELDS["generations"][0]] * 2),
        ("generations.1.number", 3),
        ("generations.1.publicKey", FIELDS["generations"][0]["publicKey"]),
        ("generations.0.publicKey", "A" * 43 + "="),
        ("generations.0.protocol", "openvpn"),
        ("generations.0.number", 0),
        ("generations.0.proof", None),
        ("endpoints", [{"address": "192.0.2.1", "port": 51820}] * 2),
        ("endpoints", [{"address": f"192.0.2.{i}", "port": 51820} for i in range(9)]),
        ("endpoints.0.port", 0),
        ("endpoints.0.port", 65533),
        ("endpoints.0.address", "node.example"),
        ("endpoints.0.address", "192.0.2.01"),
        ("endpoints.0.address", "2001:DB8::1"),
        ("endpoints.0.address", "0.0.0.0"),  # noqa: S104 - not bound
        ("endpoints.0.address", "127.0.0.1"),
        ("endpoints.0.address", "255.255.255.255"),
        ("endpoints.0.address", "224.0.0.1"),
        ("endpoints.0.address", "::"),
        ("endpoints.0.address", "::1"),
        ("endpoints.0.address", "ff02::1"),
        ("endpoints.0.address", "fe80::1"),
        ("endpoints.0.address", "2001:db8::1%2"),
        ("endpoints.0.address", "::ffff:192.0.2.1"),
        ("capabilities", ["door", "door"]),
        ("capabilities", ["Door"]),
        ("capabilities", ["x" * 64]),
        ("capabilities", [f"c{i}" for i in range(33)]),
    ],
)
def test_a_bad_value_in_an_announcement_is_malformed(path: str, value: object) -> None:
    assert code_of(lambda: read(with_field(FIELDS, path, value))) == codes.MALFORMED


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("index", 0),
        ("index", 16384),
        ("optedOut", 0),
        ("addresses", [f"10.0.0.{i}" for i in range(1, 34)]),
        ("addresses", ["192.0.2.1"] * 2),
        ("addresses", ["192.0.2.1/32"]),
        ("prefixes", ["10.244.1.1/24"]),
        ("prefixes", ["10.244.1.0"]),
        ("prefixes", ["10.244.1.0/255.255.255.0"]),
        ("prefixes", ["10.244.1.0/024"]),
        ("prefixes", ["0.0.0.0/0"]),
        ("prefixes", ["::/0"]),
        ("prefixes", ["::ffff:0:0/96"]),
        ("prefixes", ["127.0.0.0/8"]),
        ("prefixes", ["ff00::/8"]),
        ("prefixes", ["2001:db8::/32"] * 2),
        ("prefixes", [f"10.{i // 256}.{i % 256}.0/24" for i in range(257)]),
    ],
)
def test_a_bad_value_in_a_grant_is_malformed(path: str, value: object) -> None:
    assert code_of(lambda: read_grant(with_field(GRANT, path, value))) == codes.MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        SIGNED.text[:-1] + ',"serial":1}',
        SIGNED.text[:-1] + ',"x":{"y":1,"y":1}}',
        SIGNED.text[:-1] + ',"x":NaN}',
        SIGNED.text[:-1] + ',"x":-Infinity}',
        SIGNED.text[:-1] + ',"x":1e999}',
        SIGNED.text[:-1] + ',"x":' + "9" * 5000 + "}",
        SIGNED.text[:-1] + ',"x":' + "[" * 17 + "]" * 17 + "}",
        SIGNED.text[:-1] + ',"x":' + "[" * 7000 + "]" * 7000 + "}",
        '{"a":' * 3000,
        SIGNED.text + SIGNED.text,
        "\ufeff" + SIGNED.text,
        SIGNED.text + "\udcff",
    ],
)
def test_a_text_two_readers_might_read_differently_is_malformed(text: str) -> None:
    assert code_of(lambda: read(text)) == codes.MALFORMED


def test_a_deep_document_is_refused_however_deep_the_caller_is() -> None:
    def deeper(levels: int) -> str:
        return deeper(levels - 1) if levels else code_of(lambda: read('{"a":' * 900 + "1" + "}" * 900))

    assert deeper(1) == deeper(300) == codes.MALFORMED


@pytest.mark.parametrize("filler", ["x", "é"])
def test_size_is_counted_in_bytes_before_anything_is_parsed(filler: str) -> None:
    room = MAX_TEXT - len(SIGNED.text.encode()) - len(',"x":""')
    fits = SIGNED.text[:-1] + f',"x":"{filler * (room // len(filler.encode()))}"}}'
    read(fits)
    assert code_of(lambda: read(fits.replace(filler, filler * 3, 1))) == codes.TOO_LARGE


def test_the_next_format_is_told_apart_from_a_broken_document() -> None:
    assert code_of(lambda: read({"format": 2})) == codes.UNKNOWN_FORMAT


@pytest.mark.parametrize("field", ["ed25519PublicKey", "signature"])
def test_a_broken_proof_is_no_possession(field: str) -> None:
    other = FIELDS["generations"][1]["proof"][field]
    swapped = with_field(FIELDS, f"generations.0.proof.{field}", other)
    assert code_of(lambda: read(swapped)) == codes.POSSESSION_NOT_PROVEN


@pytest.mark.parametrize("text", ["{", "[]", '{"grant":1,"signature":""}', '{"grant":"","grant":"","signature":""}'])
def test_a_broken_wrapper_is_malformed(text: str) -> None:
    assert code_of(lambda: grants.unwrap(text, node="n1")) == codes.MALFORMED


def test_oversized_wrappers_and_signatures_are_refused() -> None:
    assert code_of(lambda: grants.unwrap(" " * 40_000, node="n1")) == codes.TOO_LARGE
    long = SignedGrant(NODE.grant().text, "A" * 1000)
    assert code_of(lambda: grants.verify(long, trust(), node="n1")) == codes.TOO_LARGE


@pytest.mark.parametrize("signature", ["", "A", "AAAA", "é", "\ud800", "=" * 8, "\n"])
def test_a_strange_signature_is_invalid_and_no_crash(signature: str) -> None:
    with pytest.raises(PeerError):
        announcements.verify(replace(SIGNED, signature=signature), trust(), node="n1", uid="uid-1", now=NOW)
    with pytest.raises(PeerError):
        grants.verify(replace(NODE.grant(), signature=signature), trust(), node="n1")


def test_a_signer_cannot_sign_what_no_receiver_accepts() -> None:
    with pytest.raises(ValueError, match="host bits"):
        NODE.grant(prefixes=("10.0.0.1/24",))


def test_times_are_utc_on_the_wire() -> None:
    local = datetime(2026, 11, 2, 11, tzinfo=timezone(timedelta(hours=1)))
    assert format_time(local) == "2026-11-02T10:00:00Z"
    assert parse_time(format_time(local)) == local
    with pytest.raises(ValueError, match="zone"):
        format_time(datetime(2026, 11, 2))  # noqa: DTZ001 - what is tested

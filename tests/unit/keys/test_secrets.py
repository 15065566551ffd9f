"""Secrets stay put, and a proof of possession convinces for one key, node and number only."""

import base64
import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from linkseal.keys.errors import ConfigError
from linkseal.keys.secrets import (
    PossessionProof,
    PresharedKey,
    PrivateKey,
    fingerprint,
    parse_public_key,
    verify_possession,
)

ROOT = Path(__file__).resolve().parents[3]
SEED = bytes(range(1, 33))
KEY = PrivateKey(SEED)

MAY_REVEAL = re.compile(r"keys/(secrets|store)\.py|wireguard/(codec|driver|netlink|uapi)\w*(/\w+)?\.py")
"""The codecs: the only modules that may name `.reveal(` or `.seed_for_store(`."""


def forms_of(key: PrivateKey) -> set[str]:
    """Every spelling of the secret that a leak could have."""
    raws = [SEED, key.reveal()]
    return {
        text
        for raw in raws
        for text in (raw.hex(), base64.b64encode(raw).decode(), repr(raw), repr(list(raw)), raw.decode("latin1"))
    }


@pytest.mark.parametrize("show", [repr, str, "{}".format, "%s".__mod__, lambda k: f"{k}", lambda k: f"{k!r}"])
def test_a_secret_shows_nothing_however_it_is_printed(show: Callable[[object], str]) -> None:
    for secret in (KEY, PresharedKey(SEED)):
        try:
            shown = show(secret)
        except TypeError as error:
            shown = str(error)
        assert not any(form in shown for form in forms_of(KEY))


@pytest.mark.parametrize(
    "leak",
    [list, bytes, hash, copy.copy, copy.deepcopy, pickle.dumps, json.dumps, vars, KEY.__eq__, lambda k: k[0], len],
)
def test_a_secret_cannot_be_taken_apart(leak: Callable[[object], object]) -> None:
    for secret in (KEY, PresharedKey(SEED)):
        with pytest.raises(TypeError) as caught:
            leak(secret)
        assert not any(form in str(caught.value) for form in forms_of(KEY))


@pytest.mark.parametrize("raw", [b"", bytes(32), bytes(31), bytes(range(33))])
def test_a_secret_of_wrong_size_is_refused_without_being_named(raw: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        PrivateKey(raw)
    assert repr(raw) not in str(caught.value)


def test_only_codecs_may_reveal_a_secret() -> None:
    sources = [p for folder in ("keys", "wireguard", "ipsec", "tunnels") for p in (ROOT / folder).rglob("*.py")]
    callers = {
        str(p.relative_to(ROOT)) for p in sources if re.search(r"\.(reveal|seed_for_store)\(", p.read_text("utf-8"))
    }
    assert "keys/secrets.py" in callers  # the search itself finds something
    assert {name for name in callers if not MAY_REVEAL.fullmatch(name)} == set()


def test_the_public_key_belongs_to_the_revealed_private_key() -> None:
    private = X25519PrivateKey.from_private_bytes(KEY.reveal())
    assert base64.b64decode(KEY.public_key) == private.public_key().public_bytes_raw()


def test_generated_keys_differ() -> None:
    assert PrivateKey.generate().public_key != PrivateKey.generate().public_key


def test_a_fingerprint_is_short_and_depends_on_the_key() -> None:
    other = PrivateKey(bytes(range(2, 34))).public_key
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(KEY.public_key))
    assert fingerprint(KEY.public_key) != fingerprint(other)


def encoded(u: int) -> str:
    return base64.b64encode(u.to_bytes(32, "little")).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AAAA",
        encoded(0),
        encoded(1),
        encoded(2**255 - 20),
        encoded(325606250916557431795983626356110631294008115727848805560023387167927233504),
        encoded(39382357235489614581723060781553021112529911719440698176882885853963445705823),
        encoded(2**255 - 19 + 9),  # u = 9, written beyond p
        encoded(2**255 + 9),  # the ignored top bit set
        KEY.public_key + "\n",
        " " + KEY.public_key[1:],
        KEY.public_key[:-1],
        KEY.public_key[:-2] + chr(ord(KEY.public_key[-2]) + 1) + "=",  # other unused bits: same bytes
        "é" * 44,
        "\ud800" * 44,
    ],
)
def test_a_public_key_has_one_spelling_and_is_no_weak_point(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_public_key(text)


def test_a_good_public_key_passes_unchanged() -> None:
    assert parse_public_key(encoded(9)) == encoded(9)
    assert parse_public_key(KEY.public_key) == KEY.public_key


def test_a_proof_convinces_for_its_own_key_node_uid_and_number() -> None:
    assert verify_possession(KEY.public_key, KEY.prove("n1", "u1", 3), "n1", "u1", 3)


@pytest.mark.parametrize(("node", "uid", "number"), [("n2", "u1", 3), ("n1", "u2", 3), ("n1", "u1", 4), ("n", "\n", 3)])
def test_a_proof_copied_by_another_convinces_nobody(node: str, uid: str, number: int) -> None:
    assert not verify_possession(KEY.public_key, KEY.prove("n1", "u1", 3), node, uid, number)


def test_a_proof_by_another_key_convinces_nobody() -> None:
    thief = PrivateKey.generate()
    own = KEY.prove("n1", "u1", 3)
    signed_by_thief = PossessionProof(own.ed25519_public, thief.prove("n1", "u1", 3).signature)
    assert not verify_possession(KEY.public_key, thief.prove("n1", "u1", 3), "n1", "u1", 3)
    assert not verify_possession(KEY.public_key, signed_by_thief, "n1", "u1", 3)


@pytest.mark.parametrize("y", [0, 1, 2, 2**255 - 20, 2**255 - 19, 2**255 - 1, 2**255, 2**255 + 1, 2**256 - 1])
def test_strange_edwards_points_are_no_proof_and_no_crash(y: int) -> None:
    proof = PossessionProof(base64.b64encode(y.to_bytes(32, "little")).decode(), KEY.prove("n", "u", 1).signature)
    assert not verify_possession(KEY.public_key, proof, "n", "u", 1)


def test_the_proof_signs_with_the_edwards_form_of_the_announced_key() -> None:
    edwards = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
    assert base64.b64decode(KEY.prove("n", "u", 1).ed25519_public) == edwards

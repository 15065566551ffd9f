"""100,000 broken documents, half of them signed again by a key that may sign: what we accept, the oracle accepts too.

LINKSEAL_FUZZ raises the count, LINKSEAL_FUZZ_SEED gives another run. About 0.4 ms each: a P-384 verification.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import timedelta
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from linkseal.keys import announcement as announcements
from linkseal.keys import grant as grants
from linkseal.keys import policydoc
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import PeerError
from linkseal.keys.grant import SignedGrant
from linkseal.keys.policydoc import SignedPolicy
from property.documents_mutator import mutate
from property.documents_oracle import announcement_holds, grant_holds, policy_holds
from unit.keys.cluster import NOW, Node, authority, key_of, policy, trust

COUNT = int(os.environ.get("LINKSEAL_FUZZ", "100000"))
SEED = int(os.environ.get("LINKSEAL_FUZZ_SEED", "1"))


def ca_key() -> EllipticCurvePublicKey:
    key = trust().roots[0].public_key()
    assert isinstance(key, EllipticCurvePublicKey)
    return key


def generation(node: Node, number: int, seed: str, uid: str | None = None) -> dict[str, Any]:
    """A generation with a valid proof: what a hostile node that knows its keys can put together."""
    key = key_of(seed)
    proof = key.prove(node.name, uid or node.uid, number)
    return {
        "number": number,
        "protocol": "wireguard",
        "publicKey": key.public_key,
        "proof": {"ed25519PublicKey": proof.ed25519_public, "signature": proof.signature},
    }


def broken_announcement(
    good: list[SignedAnnouncement], node: Node, random: Random, spare: list[Any]
) -> SignedAnnouncement:
    signed = random.choice(good)
    text = mutate(signed.text, random, spare)
    chance = random.random()
    if chance < 0.5:
        try:
            return SignedAnnouncement(text, announcements.sign(node.identity, text), signed.certificate)
        except UnicodeEncodeError:
            return SignedAnnouncement(text, signed.signature, signed.certificate)
    if chance < 0.52:
        return SignedAnnouncement(signed.text, mutate(signed.signature, random, spare), signed.certificate)
    if chance < 0.54:
        return SignedAnnouncement(signed.text, signed.signature, mutate(signed.certificate, random, spare))
    return SignedAnnouncement(text, signed.signature, signed.certificate)


def test_no_announcement_is_accepted_that_the_oracle_refuses() -> None:
    random = Random(SEED)
    node = Node("n1")
    certificate = node.certificate()
    expired = node.certificate(until=NOW - timedelta(hours=1))
    good = [
        node.announce(1, (1,), certificate=certificate),
        node.announce(2, (1, 2), capabilities=("door", "pq"), certificate=certificate),
        node.announce(3, (7, 4), certificate=certificate),
    ]
    spare = [generation(node, n, f"spare{k}") for n in (1, 2, 3) for k in (1, 2)]
    spare += [[spare[0], spare[2]], [spare[0], spare[4]], [spare[0], spare[3]], generation(Node("n2"), 1, "spare1")]
    spare += [{"address": "2001:db8::9", "port": 51820}, ["door"], [], generation(node, 2, "spare1", "uid-2")]
    for document in good:
        announcement_holds(document.text, document.signature, certificate, ca_key(), "n1", "uid-1", NOW)
    outcome: Counter[str] = Counter()
    for _ in range(COUNT // 2):
        broken = broken_announcement(good, node, random, spare)
        if random.random() < 0.01:
            broken = SignedAnnouncement(broken.text, broken.signature, expired)
        try:
            announcements.verify(broken, trust(), node="n1", uid="uid-1", now=NOW)
        except PeerError as error:
            outcome[error.code] += 1
        else:
            outcome["accepted"] += 1
            announcement_holds(broken.text, broken.signature, broken.certificate, ca_key(), "n1", "uid-1", NOW)
    print(dict(outcome))
    assert outcome["accepted"] > COUNT // 100, "the mutator reaches beyond the parser"
    assert len(outcome) > 6, "many reasons to refuse"


def test_no_grant_is_accepted_that_the_oracle_refuses() -> None:
    random = Random(SEED)
    node = Node("n1")
    good = [
        node.grant(1),
        node.grant(2, prefixes=("10.244.1.0/24", "2001:db8:1::/64"), addresses=("192.0.2.1", "2001:db8::1")),
        node.grant(3, prefixes=tuple(f"10.{i}.0.0/16" for i in range(1, 9)), addresses=()),
    ]
    spare: list[Any] = [["10.7.0.0/16", "10.7.0.0/16"], ["2001:db8::/48"], [], ["198.51.100.1"], "192.0.2.77", 77]
    for document in good:
        grant_holds(document.text, document.signature, ca_key(), "n1")
    outcome: Counter[str] = Counter()
    for _ in range(COUNT // 2):
        signed = random.choice(good)
        text, signature = mutate(signed.text, random, spare), signed.signature
        if random.random() < 0.5:
            try:
                signature = authority().sign_grant(text)
            except UnicodeEncodeError:
                outcome["not signed"] += 1
        try:
            broken = SignedGrant(text, signature)
            if random.random() < 0.1:
                wrapped = json.dumps({"grant": text, "signature": signature})
                broken = grants.unwrap(mutate(wrapped, random, spare), node="n1")
            grants.verify(broken, trust(), node="n1")
        except PeerError as error:
            outcome[error.code] += 1
        else:
            outcome["accepted"] += 1
            grant_holds(broken.text, broken.signature, ca_key(), "n1")
    print(dict(outcome))
    assert outcome["accepted"] > COUNT // 100, "the mutator reaches beyond the parser"
    assert len(outcome) > 5, "many reasons to refuse"


def test_no_policy_is_accepted_that_the_oracle_refuses() -> None:
    random = Random(SEED)
    good = [policy(1), policy(2**53 - 1, scope="transparent"), policy(3, pool={"stage": "enforce", "nodes": ["n1"]})]
    spare: list[Any] = ["c1", "c2", 3, {"stage": "off"}, {"stage": {"stage": []}}]
    for document in good:
        policy_holds(document.text, document.signature, ca_key(), "c1")
    outcome: Counter[str] = Counter()
    for _ in range(COUNT // 20):
        signed = random.choice(good)
        text, signature = mutate(signed.text, random, spare), signed.signature
        chance = random.random()
        try:
            if chance < 0.5:
                signature = authority().sign_policy(text)
            elif chance < 0.6:
                signature = authority().sign_grant(text)
            policydoc.verify(SignedPolicy(text, signature), trust(), cluster="c1")
        except UnicodeEncodeError:
            outcome["not signed"] += 1
        except PeerError as error:
            outcome[error.code] += 1
        else:
            outcome["accepted"] += 1
            policy_holds(text, signature, ca_key(), "c1")
    print(dict(outcome))
    assert outcome["accepted"] > COUNT // 1000, "the mutator reaches beyond the parser"
    assert len(outcome) > 4, "many reasons to refuse"

"""A CA and nodes that sign documents: the honest side of the tests of documents and of the register."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from linkseal.keys import announcement as announcements
from linkseal.keys import grant as grants
from linkseal.keys import policydoc
from linkseal.keys.announcement import AnnouncedEndpoint, Announcement, GenerationKey, SignedAnnouncement
from linkseal.keys.ca import CertificateAuthority, Trust, generate_identity, make_csr
from linkseal.keys.grant import Grant, SignedGrant
from linkseal.keys.policydoc import PolicyDocument, SignedPolicy
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import Prefix
from linkseal.tunnels.register import NodeDocuments, Refresh, Register, Snapshot

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)
YEAR = timedelta(days=365)


def authority(name: str = "lab") -> CertificateAuthority:
    return _authority(name)


def trust(name: str = "lab") -> Trust:
    return _trust(name)


@functools.cache
def _authority(name: str) -> CertificateAuthority:
    return CertificateAuthority.create(name, NOW - YEAR, 10 * YEAR)


@functools.cache
def _trust(name: str) -> Trust:
    return Trust.from_pem(_authority(name).certificate_pem())


def key_of(seed: str) -> PrivateKey:
    return PrivateKey(hashlib.sha256(seed.encode()).digest())


def policy(
    serial: int = 1,
    cluster: str = "c1",
    ca: str = "lab",
    after: int | None = None,
    issued: datetime = NOW,
    **spec: object,
) -> SignedPolicy:
    """A policy, stage prefer unless `spec` says otherwise."""
    document = PolicyDocument(cluster, serial, issued, {"stage": "prefer", **spec}, after=after)
    return policydoc.sign(authority(ca), document)


@dataclass
class Node:
    """A node that signs whatever it is told to."""

    name: str
    uid: str = "uid-1"
    index: int = 1
    identity: ec.EllipticCurvePrivateKey = field(default_factory=generate_identity)

    def certificate(self, *, until: datetime = NOW + YEAR, since: datetime = NOW - YEAR, ca: str = "lab") -> str:
        request = make_csr(self.identity, self.name, self.uid)
        return authority(ca).sign_csr(request, self.name, self.uid, since, until - since)

    def announce(
        self,
        serial: int = 1,
        numbers: tuple[int, ...] = (1,),
        *,
        keys: dict[int, str] | None = None,
        capabilities: tuple[str, ...] = (),
        certificate: str | None = None,
    ) -> SignedAnnouncement:
        """Sign an announcement; `keys` names the seed of a generation's key where it is not the node's own."""
        seeds = {n: (keys or {}).get(n, f"{self.name}/{self.uid}/{n}") for n in numbers}
        secrets = {n: key_of(seed) for n, seed in seeds.items()}
        value = Announcement(
            self.name,
            self.uid,
            serial,
            NOW,
            tuple(GenerationKey(n, "wireguard", secrets[n].public_key) for n in numbers),
            (AnnouncedEndpoint(f"192.0.2.{self.index}", 51820),),
            capabilities,
        )
        text = announcements.encode(value, {n: s.prove(self.name, self.uid, n) for n, s in secrets.items()})
        return SignedAnnouncement(text, announcements.sign(self.identity, text), certificate or self.certificate())

    def grant(
        self,
        serial: int = 1,
        *,
        index: int | None = None,
        issued: datetime = NOW,
        prefixes: tuple[str, ...] | None = None,
        addresses: tuple[str, ...] | None = None,
        ca: str = "lab",
    ) -> SignedGrant:
        value = Grant(
            self.name,
            self.uid,
            index or self.index,
            serial,
            issued,
            (f"192.0.2.{self.index}",) if addresses is None else addresses,
            tuple(map(Prefix, (f"10.244.{self.index}.0/24",) if prefixes is None else prefixes)),
        )
        return grants.sign(authority(ca), value)

    def documents(self, serial: int = 1, **grant: object) -> NodeDocuments:
        return NodeDocuments(self.announce(serial), self.grant(**grant))  # type: ignore[arg-type]


def nodes(count: int) -> list[Node]:
    return [Node(f"n{i}", f"uid-{i}", i) for i in range(1, count + 1)]


ONE, TWO, THREE = nodes(3)
GOOD = {node.name: node.documents() for node in (ONE, TWO, THREE)}


def see(register: Register, docs: dict[str, NodeDocuments], gone: set[str] | None = None, **other: object) -> Refresh:
    fields = {"cluster_uid": "c1", "trust": trust(), "now": NOW, **other}
    snapshot = Snapshot(str(fields["cluster_uid"]), docs, frozenset(gone or ()))
    return register.refresh(snapshot, fields["trust"], fields["now"])  # type: ignore[arg-type]


def fresh(docs: dict[str, NodeDocuments] | None = None) -> Register:
    refresh = see(Register("n1"), docs or GOOD)
    assert refresh.findings == ()
    return refresh.register


def told(refresh: Refresh) -> list[tuple[str, str, str | None]]:
    return [(f.code, f.node, f.other) for f in refresh.findings]


def altered(docs: NodeDocuments, **fields: str) -> NodeDocuments:
    assert docs.announcement is not None
    return replace(docs, announcement=replace(docs.announcement, **fields))

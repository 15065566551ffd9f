"""This node's keys and what it says of itself: identity, certificate, generations, announcement.

What is stored is stored before it is used: a key before its generation, a generation before its announcement, a serial
before it is published.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from linkseal.keys import announcement as documents
from linkseal.keys import ca, generations
from linkseal.keys.announcement import AnnouncedEndpoint, Announcement, GenerationKey, SignedAnnouncement
from linkseal.keys.ca import NodeCertificate
from linkseal.keys.errors import ConfigError, DirectoryError, HostError, PeerError
from linkseal.keys.generations import Generations, State
from linkseal.keys.secrets import PrivateKey, fingerprint
from linkseal.keys.store import KeyStore
from linkseal.keys.values import PublicKey
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.model import KeyOfGeneration

_LOG: Final = logging.getLogger("linkseal.agent")

CLOCK_TOLERANCE: Final = 60.0
"""Seconds a clock may step back unnoticed: less than WireGuard's own tolerance for one peer's handshakes never matters,
since the next rekey comes 120 s after the last."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What an announcement says besides identity, serial and date."""

    endpoints: tuple[AnnouncedEndpoint, ...] = ()
    capabilities: tuple[str, ...] = ()


class Floor(NamedTuple):
    """The serial and the generation that peers may have seen of this node, though nothing of it is on its disk."""

    serial: int = 0
    generation: int = 0


class Keyring:
    """Opened once at start; every change is on disk before the method returns. Raises HostError.

    Once the disk is made another UID's (`superseded`) every change raises ConfigError.
    """

    def __init__(self, state_dir: Path, node: str) -> None:
        self.node = node
        self.uid = ""
        self.generations: Generations | None = None
        self.last: SignedAnnouncement | None = None
        self.last_parsed: Announcement | None = None
        self.floor = Floor()
        self.damage = ""
        """What of the keys on disk could not be read."""
        self.superseded = False
        """Whether the disk is being made that of another UID: nothing that this holds is written there any more."""
        self._store = KeyStore(state_dir)
        self._known = KnownGood(state_dir)
        self._keys: dict[int, PrivateKey] = {}
        self._identity: ec.EllipticCurvePrivateKey | None = None

    # --- opening ------------------------------------------------------------------------------------------------

    def uid_in(self, cluster_uid: str) -> str | None:
        """The UID under which this node's store was used in that cluster last; None: it was not."""
        owner = self._store.owner()
        ours = owner is not None and (owner.node, owner.cluster_uid) == (self.node, cluster_uid)
        return owner.uid if owner is not None and ours else None

    def open(self, uid: str | None, cluster_uid: str) -> None:
        """Open the store; a first start makes the UID (where none is given) and the identity key."""
        owner = self._store.owner()
        self.uid = uid or (owner.uid if owner is not None else str(uuid.uuid4()))
        self._store.open(self.node, self.uid, cluster_uid)
        self._known.open()
        self._load()
        if self.generations is not None:
            self._sweep()
        if self._identity is None:
            self._make_identity()

    def open_existing(self) -> bool:
        """Open what is on disk, for `agent restore`; False: this node has never been set up.

        Keys that are lost or damaged stop nothing (`damage`): the guard comes back, and all else that needs none.
        """
        owner = self._store.owner()
        if owner is None:
            return False
        try:
            self._store.open(owner.node, owner.uid, owner.cluster_uid)
        except HostError as error:
            self.damage = str(error)
        self.take_up()
        return True

    def take_up(self) -> None:
        """Read what of the keys on disk can be read, whosever it is; `damage` says what could not."""
        owner = self._store.owner()
        self.uid = "" if owner is None else owner.uid
        self._load_last()
        for load in (self._load_generations, self._load_identity):
            try:
                load()
            except HostError as error:
                self.damage = self.damage or str(error)
        if self.generations is None and self.last is not None:
            self.damage = self.damage or f"{self._store.state_dir} has lost the keys that it announced"

    def _load(self) -> None:
        self._load_last()
        self._load_identity()
        self._load_generations()

    def _load_last(self) -> None:
        self.last = self._known.own()
        if self.last is not None:
            try:
                self.last_parsed = documents.parse(self.last.text, node=self.node)
            except PeerError:
                self.last, self.last_parsed = None, None

    def _load_identity(self) -> None:
        self._identity = self._store.load_identity()

    def _load_generations(self) -> None:
        known = self._store.load_generations()
        keys = {} if known is None else {number: self._store.load_key(number) for number in known.numbers}
        self._keys = {number: key for number, key in keys.items() if key is not None}
        if len(self._keys) == len(keys):  # else one is lost: taken up above what is published
            self.generations = known
        else:
            self._keys = {}

    # --- generations --------------------------------------------------------------------------------------------

    def ensure(self, published: Announcement | None, now: datetime, *, keep: bool = True) -> bool:
        """Make a first generation where there is none, above all this node ever published; whether one was kept.

        `keep` False: in memory alone, so that a restore can plan all that needs no key of ours.
        """
        if self.generations is not None:
            return False
        first = generations.recover(self._given(published), now)
        if keep:
            self._adopt(first)
        else:
            self.generations, self._keys = first, {first.newest.number: PrivateKey.generate()}
        return keep

    def is_announced(self, public_key: PublicKey | None) -> bool:
        """Whether peers know this key for one of ours, by what was announced last."""
        said = () if self.last_parsed is None else self.last_parsed.generations
        return any(generation.public_key == public_key for generation in said)

    def _given(self, published: Announcement | None) -> list[int]:
        """Numbers that were given to generations, the highest of them at least."""
        known = [entry for entry in (published, self.last_parsed) if entry is not None]
        numbers = [generation.number for entry in known for generation in entry.generations]
        highest = 0 if self.generations is None else self.generations.highest
        return [*numbers, *self._store.key_numbers(), self.floor.generation, highest]

    def renew(self, uid: str, now: datetime) -> int:
        """Belong to another UID of this name, as a new node would: with other keys. Returns the generation's number.

        At any time the disk has what `agent restore` wants, so the old keys go last. It can be done again, and then
        takes up the key that nobody has heard of yet.
        """
        owner = self._store.owner()
        if owner is None:
            raise HostError(f"{self._store.state_dir} belongs to no node: start the agent, which makes its keys")
        if self.generations is not None:
            self._sweep()
        if not self._is_unheard():
            self._adopt(generations.recover(self._given(None), now))
        self._make_identity()
        self._store.move(owner.node, uid, owner.cluster_uid)
        self.uid = uid
        self._sweep()
        return self._live().newest.number

    def _is_unheard(self) -> bool:
        """Whether all that there is of keys is one that was never announced."""
        if self.generations is None or self.generations.announced:
            return False
        return not any(self.is_announced(key.public_key) for key in self._keys.values())

    def _sweep(self) -> None:
        """Erase keys of generations that are no more: a crash may have left one."""
        for number in sorted(set(self._store.key_numbers()) - set(self._live().numbers)):
            self._keys.pop(number, None)
            try:
                self._store.erase_key(number)
            except HostError as error:
                _LOG.error("the key of generation %d is used no more and could not be erased: %s", number, error)

    def raise_generation(self, now: datetime) -> int:
        """Make the key of a new generation and return its number. ConfigError while two are live."""
        self._adopt(generations.raise_(self._live(), now))
        return self._live().newest.number

    def announced(self) -> None:
        """The newest generation has been published."""
        current = self._live()
        if current.newest.state is State.GENERATED:
            self._save(generations.announced(current, current.newest.number))

    def retire(self) -> int:
        """Withdraw the generation that no peer needs any more and erase its key; returns its number."""
        before = self._live()
        self._save(generations.retire(before))
        return self._forget_gone(before)

    def abort(self) -> int:
        """Take the newer generation back; returns its number, never used again. Its key stays while peers use it."""
        before = self._live()
        self._save(generations.abort_new(before))
        self._forget_gone(before)
        return before.newest.number

    def own_keys(self) -> tuple[KeyOfGeneration, ...]:
        """Every generation that has slots, the older first."""
        if self.generations is None:
            return ()
        return tuple(KeyOfGeneration(n, self._keys[n].public_key) for n in self.generations.numbers)

    def withdrawing(self) -> frozenset[int]:
        """Numbers of generations that were aborted and are still there: announced no more, to be left."""
        live = () if self.generations is None else self.generations.live
        return frozenset(g.number for g in live if g.state is State.WITHDRAWING)

    def secret(self, public_key: PublicKey) -> PrivateKey:
        """The private key that belongs to one of our public keys. Raises HostError."""
        for key in self._keys.values():
            if key.public_key == public_key:
                return key
        raise HostError(f"there is no private key for {fingerprint(public_key)} in the store: raise a new generation")

    def clock_stepped_back(self, now: datetime) -> bool:
        """Whether this node once announced something later than now: peers would refuse its handshakes."""
        return self.last_parsed is not None and (self.last_parsed.issued - now).total_seconds() > CLOCK_TOLERANCE

    # --- certificate and announcement ---------------------------------------------------------------------------

    def csr(self) -> str:
        """A certificate request of this node."""
        return ca.make_csr(self._require_identity(), self.node, self.uid)

    def certificate(self) -> str | None:
        """The node's certificate, None before the first."""
        return self._store.load_certificate()

    def is_ours(self, certificate: NodeCertificate) -> bool:
        """Whether a certificate is for this node's identity key."""
        return certificate.public_key == self._require_identity().public_key()

    def save_certificate(self, pem: str) -> None:
        """Keep a certificate that was verified."""
        self._require_present()
        self._store.save_certificate(pem)

    def ca_bundle(self) -> str | None:
        """The CA bundle this node trusts."""
        return self._store.load_ca_bundle()

    def save_ca_bundle(self, pem: str) -> None:
        """Keep the first CA this node was given, or one that a trusted CA vouched for."""
        self._store.save_ca_bundle(pem)

    def retired_cas(self) -> str | None:
        """CAs that this node trusted and no longer does."""
        return self._store.load_retired_cas()

    def save_retired_cas(self, pem: str) -> None:
        """Keep them: what they signed before is still judged by them."""
        self._store.save_retired_cas(pem)

    def named_ca(self) -> str | None:
        """Fingerprint of the CA that root on this host says is to be trusted."""
        return self._store.load_named_ca()

    def forget_named_ca(self) -> None:
        """It is trusted now."""
        self._store.forget_named_ca()

    def statement_differs(self, statement: Statement, certificate: str, numbers: Sequence[int]) -> bool:
        """Whether what was last signed says anything else than this."""
        last, signed = self.last_parsed, self.last
        if last is None or signed is None or signed.certificate != certificate:
            return True
        said = [(g.number, g.public_key) for g in last.generations]
        mine = [(number, self._keys[number].public_key) for number in numbers]
        return (last.uid, last.endpoints, last.capabilities, said) != (
            self.uid,
            statement.endpoints,
            statement.capabilities,
            mine,
        )

    def sign(
        self, statement: Statement, certificate: str, numbers: Sequence[int], above: int, now: datetime
    ) -> SignedAnnouncement:
        """Sign and store a new announcement with a serial above `above` and above every one used here."""
        self._require_present()
        serial = max(above, self.last_parsed.serial if self.last_parsed is not None else self.floor.serial) + 1
        entry = Announcement(
            node=self.node,
            uid=self.uid,
            serial=serial,
            issued=now.astimezone(UTC),
            generations=tuple(GenerationKey(n, "wireguard", self._keys[n].public_key) for n in numbers),
            endpoints=statement.endpoints,
            capabilities=statement.capabilities,
        )
        proofs = {number: self._keys[number].prove(self.node, self.uid, number) for number in numbers}
        text = documents.encode(entry, proofs)
        signed = SignedAnnouncement(text, documents.sign(self._require_identity(), text), certificate)
        self._known.save_own(signed)
        self.last, self.last_parsed = signed, documents.parse(text, node=self.node)
        return signed

    # --- insides ------------------------------------------------------------------------------------------------

    def _live(self) -> Generations:
        if self.generations is None:
            raise DirectoryError("this node has no generation yet: it has not seen the directory")
        return self.generations

    def _require_identity(self) -> ec.EllipticCurvePrivateKey:
        if self._identity is None:
            raise HostError("the identity key is missing: restart the agent, which makes and certifies a new one")
        return self._identity

    def _make_identity(self) -> None:
        self._store.erase_certificate()  # nothing is announced with one that is for another key
        self._identity = ca.generate_identity()
        self._store.save_identity(self._identity)

    def _require_present(self) -> None:
        if self.superseded:
            raise ConfigError(
                "this node was registered again, and what it had of keys changes no more: ask again later"
            )

    def _adopt(self, raised: Generations) -> None:
        self._require_present()
        number = raised.newest.number
        key = PrivateKey.generate()
        self._store.erase_key(number)  # one that a crash left between the two writes below; it was never used
        self._store.save_key(number, key)
        self._store.save_generations(raised)
        self._keys[number] = key
        self.generations = raised

    def _save(self, changed: Generations) -> None:
        self._require_present()
        self._store.save_generations(changed)
        self.generations = changed

    def _forget_gone(self, before: Generations) -> int:
        """Erase keys of generations that were there before; returns the highest of their numbers, 0 if none is gone."""
        gone = sorted(set(before.numbers) - set(self._live().numbers))
        for number in gone:
            self._keys.pop(number, None)
            self._store.erase_key(number)
        return gone[-1] if gone else 0

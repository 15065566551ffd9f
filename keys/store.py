"""A node's keys and certificates on its disk (docs/architecture.md, "What is where on a node").

    STATE/                        0700
      node.json                   the node (name, UID) and cluster this store belongs to
      identity.key identity.crt ca.crt ca-retired.crt ca-named
      generations.json            never a secret
      keys/gen-NUMBER.key         0600: the seed of one generation

A store belongs to one node: copied to another node's machine it is refused, because two machines with one key would
take each other's traffic.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from linkseal.keys import generations
from linkseal.keys.ca import CertificateAuthority, identity_pem
from linkseal.keys.errors import ConfigError, HostError
from linkseal.keys.files import PUBLIC, SECRET, atomic_write, erase_file, private_folder, read_file
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import check_identity

if TYPE_CHECKING:
    from pathlib import Path

    from linkseal.keys.generations import Generations

__all__ = ["KeyStore", "StoreOwner", "atomic_write", "load_authority", "save_authority"]

_KEY_NAME: Final = re.compile(r"gen-([1-9][0-9]{0,15})\.key", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoreOwner:
    """Whose store this is. `cluster_uid` is the first cluster it was used in, or the last one that went on from it."""

    node: str
    uid: str
    cluster_uid: str


class KeyStore:
    """The state directory of one node. Every method raises HostError when the disk or a file is not as it must be."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self._keys = state_dir / "keys"

    def open(self, node: str, uid: str, cluster_uid: str) -> StoreOwner:
        """Make the directories, or check that they are private and this node's; return the recorded owner.

        The recorded cluster UID is returned, not checked: what a changed one means is for the register to say.
        """
        check_identity(node, uid)
        private_folder(self.state_dir)
        private_folder(self._keys)
        owner = self.owner()
        if owner is None:
            owner = StoreOwner(node, uid, cluster_uid)
            self._save_owner(owner)
        if (owner.node, owner.uid) != (node, uid):
            raise HostError(
                f"{self.state_dir} holds the keys of node {owner.node} (UID {owner.uid}), and this is {node} "
                f"(UID {uid}). If this disk was copied from that node, or the UID is another now, run `linkseal agent "
                f"cleanup`, move {self.state_dir} away and start again: new keys are made. Never use one store on two "
                "machines"
            )
        return owner

    def move(self, node: str, uid: str, cluster_uid: str) -> None:
        """Have the store belong to this node under another UID, or in another cluster, with the keys that it has.

        The certificate goes, before: it is for the old UID, and nothing is ever announced with that under the new one.
        """
        check_identity(node, uid)
        self.erase_certificate()
        self._save_owner(StoreOwner(node, uid, cluster_uid))

    def _save_owner(self, owner: StoreOwner) -> None:
        fields = {"node": owner.node, "uid": owner.uid, "clusterUid": owner.cluster_uid}
        atomic_write(self.state_dir / "node.json", json.dumps(fields, indent=1).encode() + b"\n")

    def owner(self) -> StoreOwner | None:
        """Return whose store this is; None: not used yet."""
        path = self.state_dir / "node.json"
        data = read_file(path)
        if data is None:
            return None
        try:
            fields = json.loads(data)
            owner = StoreOwner(str(fields["node"]), str(fields["uid"]), str(fields["clusterUid"]))
            check_identity(owner.node, owner.uid)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise HostError(f"{path} is damaged: restore it, or move {self.state_dir} away to start anew") from None
        return owner

    def save_key(self, number: int, key: PrivateKey) -> None:
        """Store the key of generation `number`; another key under that number is refused: numbers are given once."""
        path = self._key_path(number)
        known = self.load_key(number)
        if known is not None and known.public_key != key.public_key:
            raise HostError(f"{path} already holds another key: a generation's number is never given twice")
        atomic_write(path, base64.b64encode(key.seed_for_store()) + b"\n", SECRET)

    def load_key(self, number: int) -> PrivateKey | None:
        """Return the key of generation `number`, None if there is none."""
        path = self._key_path(number)
        data = read_file(path, secret=True)
        if data is None:
            return None
        try:
            return PrivateKey(base64.b64decode(data.strip(), validate=True))
        except (binascii.Error, ValueError):
            raise HostError(f"{path} is damaged: remove it and raise a new generation") from None

    def erase_key(self, number: int) -> None:
        """Overwrite and remove the key of generation `number`; absent is fine."""
        erase_file(self._key_path(number))

    def key_numbers(self) -> tuple[int, ...]:
        """Return the numbers of all keys on disk, lowest first."""
        names = self._keys.iterdir() if self._keys.is_dir() else ()
        found = (_KEY_NAME.fullmatch(path.name) for path in names)
        return tuple(sorted(int(match[1]) for match in found if match))

    def _key_path(self, number: int) -> Path:
        return self._keys / f"gen-{number}.key"

    def save_generations(self, gens: Generations) -> bool:
        """Store the state of the generations; return whether anything was written."""
        return atomic_write(self.state_dir / "generations.json", generations.encode(gens).encode())

    def load_generations(self) -> Generations | None:
        """Return the stored state of the generations, None if there is none."""
        path = self.state_dir / "generations.json"
        data = read_file(path)
        if data is None:
            return None
        try:
            return generations.decode(data.decode())
        except (ConfigError, UnicodeDecodeError):
            raise HostError(
                f"{path} is damaged: remove it, and the numbers are taken up above what is published"
            ) from None

    def save_identity(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Store the node's identity key."""
        atomic_write(self.state_dir / "identity.key", identity_pem(key), SECRET)

    def load_identity(self) -> ec.EllipticCurvePrivateKey | None:
        """Return the node's identity key (ECDSA P-384), None if there is none."""
        path = self.state_dir / "identity.key"
        data = read_file(path, secret=True)
        if data is None:
            return None
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise HostError(f"{path} is damaged: remove it, and a new one is made and certified")
        return key

    def save_certificate(self, pem: str) -> bool:
        """Store the node's certificate; return whether anything was written."""
        return atomic_write(self.state_dir / "identity.crt", pem.encode(), PUBLIC)

    def erase_certificate(self) -> None:
        """Remove the node's certificate; absent is fine."""
        erase_file(self.state_dir / "identity.crt")

    def load_certificate(self) -> str | None:
        """Return the node's certificate (PEM), None if there is none."""
        return self._text("identity.crt")

    def save_ca_bundle(self, pem: str) -> bool:
        """Store the CA bundle this node trusts; return whether anything was written."""
        return atomic_write(self.state_dir / "ca.crt", pem.encode(), PUBLIC)

    def load_ca_bundle(self) -> str | None:
        """Return the CA bundle this node trusts (PEM), None before the first."""
        return self._text("ca.crt")

    def save_retired_cas(self, pem: str) -> bool:
        """Store the CAs that this node no longer trusts (PEM); return whether anything was written."""
        return atomic_write(self.state_dir / "ca-retired.crt", pem.encode(), PUBLIC)

    def load_retired_cas(self) -> str | None:
        """Return the CAs that this node no longer trusts (PEM), None if there are none."""
        return self._text("ca-retired.crt")

    def save_named_ca(self, fingerprint: str) -> None:
        """Store the fingerprint of a CA that root on this host says is to be trusted, in place of one named before."""
        atomic_write(self.state_dir / "ca-named", fingerprint.encode() + b"\n", PUBLIC)

    def load_named_ca(self) -> str | None:
        """Return the fingerprint of the CA that root named, None if none waits to be trusted."""
        text = self._text("ca-named")
        return None if text is None else text.strip()

    def forget_named_ca(self) -> None:
        """It is trusted now: the word is used up."""
        erase_file(self.state_dir / "ca-named")

    def _text(self, name: str) -> str | None:
        data = read_file(self.state_dir / name)
        try:
            return None if data is None else data.decode("ascii")
        except UnicodeDecodeError:
            raise HostError(f"{self.state_dir / name} is damaged: it is no PEM text") from None


def save_authority(folder: Path, authority: CertificateAuthority) -> None:
    """Store a CA as `ca.key` (0600) and `ca.crt` in `folder`, made 0700 if absent. Raises HostError."""
    private_folder(folder)
    atomic_write(folder / "ca.key", authority.key_pem(), SECRET)
    atomic_write(folder / "ca.crt", authority.certificate_pem().encode(), PUBLIC)


def load_authority(folder: Path) -> CertificateAuthority | None:
    """Return the CA stored in `folder`, None if there is none. Raises HostError or ConfigError."""
    key = read_file(folder / "ca.key", secret=True)
    certificate = read_file(folder / "ca.crt")
    if key is None or certificate is None:
        return None
    return CertificateAuthority.from_pem(key, certificate.decode("ascii", "replace"))

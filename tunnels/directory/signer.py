"""The controller's part for a file directory: signs grants and certificates, adds and removes nodes.

It holds the CA's key and runs where the operator is (or in the lab), not on every node. What it has signed is in the
directory; it keeps no state of its own. Grants that say what they said are not touched.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from linkseal.keys import codes, policydoc
from linkseal.keys import grant as grants
from linkseal.keys.ca import MAX_CERTIFICATE, CertificateAuthority, Trust
from linkseal.keys.errors import ConfigError, DirectoryError, PeerError
from linkseal.keys.grant import Grant
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.directory.access import folders, node_folder, read, remove, trouble, write
from linkseal.tunnels.directory.files import (
    CA_BUNDLE,
    CERTIFICATE,
    CLUSTER,
    GRANT,
    MAX_BUNDLE,
    MAX_ENVELOPE,
    NODES,
    REQUEST,
    cluster_json,
    read_cluster,
)
from linkseal.tunnels.directory.inventory import Inventory, InventoryNode
from linkseal.tunnels.directory.watch import Watcher

LIFETIME: Final = timedelta(days=365)
"""Of a node's certificate. Long, because a bare-metal signer may run seldom; agents renew at two thirds of it."""

BACKDATED: Final = timedelta(minutes=5)
"""By which a certificate is valid before it was signed: clocks differ."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a pass did. `refused`: why requests were not signed. `unlisted`: nodes there but not in the inventory."""

    granted: tuple[str, ...] = ()
    certified: tuple[str, ...] = ()
    refused: tuple[PeerError, ...] = ()
    unlisted: tuple[str, ...] = ()


class FileSigner:
    """Signs for the directory in `path`. Raises DirectoryError where it cannot be read or written."""

    def __init__(self, path: Path, authority: CertificateAuthority, inventory: Inventory) -> None:
        self.path = path
        self.inventory = inventory
        self._authority = authority
        self._trust = Trust.from_pem(authority.certificate_pem())
        self._uid = ""
        self._watcher = Watcher(path, lambda node, file: bool(node) and file == REQUEST)

    def prepare(self, spec: Mapping[str, Any] | None = None, *, above: int = 0) -> str:
        """Make the directory or bring its cluster.json up to date; return the cluster's UID.

        An existing UID stays: nodes keep to it. `spec`: the policy to sign, else the inventory's as it stands. `above`
        as in `publish`. Raises DirectoryError if the inventory names another UID.
        """
        try:
            (self.path / NODES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise trouble("make", self.path, error) from None
        present = read_cluster(self.path)
        uid = self.inventory.uid or (present.uid if present else str(uuid.uuid4()))
        if present is not None and present.uid != uid:
            raise DirectoryError(
                f"{self.path} belongs to cluster {present.uid}, the inventory to {uid}: use another folder, or take "
                "`uid` out of the inventory"
            )
        self._check_ca()
        write(self.path / CA_BUNDLE, self._authority.certificate_pem())
        self._uid = uid
        self.publish(self.inventory.spec if spec is None else spec, datetime.now(UTC), above=above)
        return uid

    def _check_ca(self) -> None:
        """Raise DirectoryError if the directory names another CA: nodes would not follow."""
        try:
            text = read(f"{self.path}/{CA_BUNDLE}", MAX_BUNDLE, "")
            named = () if text is None else Trust.from_pem(text).fingerprints
        except (ConfigError, PeerError):
            return  # nothing that a node could trust: written anew
        if named and self._authority.fingerprint not in named:
            raise DirectoryError(
                f"{self.path / CA_BUNDLE} is another CA's than the one that is to sign, and nodes trust the first they "
                "saw: put the old CA back. In a folder the CA is not replaced; to begin anew, run `linkseal agent "
                "cleanup` on every node and remove the file"
            )

    def policy(self) -> PolicyDocument | None:
        """Return the policy that is in the directory, None if there is none by this CA for this cluster."""
        present = read_cluster(self.path)
        if present is None or present.signed is None:
            return None
        try:
            return policydoc.verify(present.signed, self._trust, cluster=self._uid or present.uid)
        except PeerError:
            return None

    def publish(self, spec: Mapping[str, Any], now: datetime, *, above: int = 0) -> int:
        """Sign `spec` as the cluster's policy unless the directory says just that; return the serial in force.

        `above`: a serial known to have been used, so that a directory that was rolled back is overtaken.
        """
        present = self.policy()
        if present is not None and present.spec == _plain(spec) and present.serial >= above:
            return present.serial
        after = max(above, present.serial if present else 0)
        serial = max(int(now.timestamp()), after + 1)
        signed = policydoc.sign(self._authority, PolicyDocument(self._uid, serial, now, spec, after=after))
        write(self.path / CLUSTER, cluster_json(self._uid, signed))
        return serial

    def sign(self, now: datetime) -> Signed:
        """Do one pass: grants for every node of the inventory, certificates for those that ask. `now` with zone."""
        granted, certified, refused = [], [], []
        listed = {node.name: node for node in self.inventory.nodes}
        for node in listed.values():
            folder = node_folder(self.path / NODES, node.name, make=True)
            if self._grant(node, folder, now):
                granted.append(node.name)
            try:
                if self._certify(node, folder, now):
                    certified.append(node.name)
            except PeerError as error:
                refused.append(error)
        unlisted = tuple(name for name in folders(self.path / NODES) if name not in listed)
        return Signed(tuple(granted), tuple(certified), tuple(refused), unlisted)

    def remove(self, node: str) -> None:
        """Remove a node from the directory: its peers close their links to it once they have seen that twice."""
        folder = node_folder(self.path / NODES, node)
        hidden = folder.with_name(f".{node}.removed")
        try:
            shutil.rmtree(hidden, ignore_errors=True)
            folder.rename(hidden)  # at once, so that nobody sees a node without some of its files
            shutil.rmtree(hidden)
        except OSError as error:
            raise trouble("remove", folder, error) from None

    async def wait_for_request(self, seconds: float) -> bool:
        """Return True when a node may have asked for a certificate, False after `seconds` without."""
        return await self._watcher.wait(seconds)

    def close(self) -> None:
        """Stop watching."""
        self._watcher.close()

    def _grant(self, node: InventoryNode, folder: Path, now: datetime) -> bool:
        """Write the node's grant if it differs from the one that is there; tell whether it did."""
        present = self._present_grant(node.name, folder)
        serial = max(int(now.timestamp()), present.serial + 1 if present else 1)
        # The serial follows the clock, so that it rises above what peers have seen even if the directory was lost.
        grant = Grant(
            node.name, node.uid, node.index, serial, now, node.addresses, node.prefixes, opted_out=node.opted_out
        )
        if present is not None and _says(present) == _says(grant):
            return False
        write(folder / GRANT, grants.wrap(grants.sign(self._authority, grant)) + "\n")
        return True

    def _present_grant(self, name: str, folder: Path) -> Grant | None:
        """Return the grant that is there, None if there is none by this CA."""
        try:
            text = read(f"{folder}/{GRANT}", MAX_ENVELOPE, name)
            return None if text is None else grants.verify(grants.unwrap(text, node=name), self._trust, node=name)
        except PeerError:
            return None

    def _certify(self, node: InventoryNode, folder: Path, now: datetime) -> bool:
        """Sign the node's request if there is one; tell whether there was. Raises PeerError if it is refused."""
        request = read(f"{folder}/{REQUEST}", MAX_CERTIFICATE, node.name)
        if request is None:
            return False
        certificate = self._authority.sign_csr(request, node.name, node.uid, now - BACKDATED, LIFETIME + BACKDATED)
        self._check_holder(node, folder, certificate, now)
        write(folder / CERTIFICATE, certificate)
        remove(folder / REQUEST)
        return True

    def _check_holder(self, node: InventoryNode, folder: Path, certificate: str, now: datetime) -> None:
        """Raise PeerError if another key holds a valid certificate for this node: the holder on record wins."""
        try:
            text = read(f"{folder}/{CERTIFICATE}", MAX_CERTIFICATE, node.name)
            present = None if text is None else self._trust.verify_certificate(text, node.name, node.uid, now)
        except PeerError:
            return  # not ours, for an earlier UID, or expired
        new = self._trust.verify_certificate(certificate, node.name, node.uid, now)
        if present is not None and present.public_key != new.public_key:
            raise PeerError(
                f"{node.name} asks for a certificate with another key than the one on record. If its disk was lost, "
                f"remove {folder / CERTIFICATE} or give it a new UID in the inventory",
                code=codes.WRONG_IDENTITY,
                node=node.name,
            )


def _plain(spec: Mapping[str, Any]) -> object:
    """Return `spec` as a reader of its JSON text has it."""
    return json.loads(json.dumps(dict(spec)))


def _says(grant: Grant) -> tuple[object, ...]:
    """What a grant says, without serial and date."""
    return (grant.uid, grant.index, grant.addresses, grant.prefixes, grant.opted_out)

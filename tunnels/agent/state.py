"""What a node knows was good, on its disk: enough to rebuild the data path without directory or peers (law 5).

    STATE/cluster.json        UID of the cluster, and its signed policy exactly as it was accepted last
    STATE/former.json         the cluster from which this one goes on, if there was one, and UIDs that nodes had there
    STATE/announcement.json   this node's own announcement, as last signed
    STATE/peers/NAME.json     a node's documents exactly as they were accepted, this node's own grant among them
    STATE/links.json          the pair of generations that carries each peer's traffic, and the endpoints last set
    STATE/underlay.json       the NIC that carries the tunnels, as last seen
    STATE/host.json           settings of foreign interfaces that we changed, with what they were

A file is written only when its content changes. One that is damaged is reported and treated as absent: the directory
will fill it again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import HostError
from linkseal.keys.files import atomic_write, erase_file, private_folder, read_file
from linkseal.keys.grant import SignedGrant
from linkseal.keys.policydoc import SignedPolicy
from linkseal.tunnels.register import NodeDocuments
from linkseal.tunnels.world import Underlay
from linkseal.wireguard.model import Endpoint
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_LOG: Final = logging.getLogger(__name__)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Announcement(_Strict):
    announcement: str
    signature: str
    certificate: str


class _Grant(_Strict):
    grant: str
    signature: str


class _Peer(_Strict):
    announcement: _Announcement | None = None
    grant: _Grant | None = None


class _Link(_Strict):
    current: Annotated[list[int], Field(min_length=2, max_length=2)]
    endpoint: tuple[str, int] | None = None


class _Links(_Strict):
    links: dict[str, _Link] = Field(default_factory=dict)


class _Cluster(_Strict):
    uid: str
    policy: str
    signature: str


class _Former(_Strict):
    cluster: str
    index: int
    uids: list[str]


class _Passed(_Strict):
    serial: int


class _Host(_Strict):
    rp_filter: dict[str, int] = Field(default_factory=dict)


class _Underlay(_Strict):
    interface: str
    mtu: int
    families: list[Literal[4, 6]]
    rp_filter: int
    rp_filter_all: int
    addresses: list[str] = Field(default_factory=list)


_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class SavedLink:
    """Which pair carries a peer's traffic, and the base endpoint last announced for it."""

    current: tuple[int, int]
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class SavedCluster:
    """The cluster's UID and its policy exactly as it was accepted."""

    uid: str
    policy: SignedPolicy


@dataclass(frozen=True, slots=True)
class SavedFormer:
    """A cluster from which another goes on: its UID, this node's index there (0: none), UIDs that only it had."""

    cluster: str
    index: int
    uids: frozenset[str] = frozenset()


class KnownGood:
    """The files above. Methods raise HostError when the disk refuses; the old content is whole then."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir
        self._peers = state_dir / "peers"

    def open(self) -> None:
        """Make the folder of peers, or check that it is private."""
        private_folder(self._peers)

    def peers(self) -> dict[str, NodeDocuments]:
        """Every node's documents, as accepted."""
        found: dict[str, NodeDocuments] = {}
        for path in sorted(self._peers.glob("*.json")) if self._peers.is_dir() else ():
            model = self._read(path, _Peer)
            if model is not None:
                found[path.stem] = _documents(model)
        return found

    def save_peer(self, name: str, documents: NodeDocuments) -> bool:
        """Write a node's documents; whether anything changed."""
        return self._write(self._peers / f"{name}.json", _peer_fields(documents))

    def forget_peer(self, name: str) -> None:
        """Remove a node whose deletion was confirmed."""
        erase_file(self._peers / f"{name}.json")

    def links(self) -> dict[str, SavedLink]:
        """Which link carried each peer's traffic last."""
        model = self._read(self._dir / "links.json", _Links)
        if model is None:
            return {}
        return {
            name: SavedLink(
                (link.current[0], link.current[1]), None if link.endpoint is None else Endpoint(*link.endpoint)
            )
            for name, link in model.links.items()
        }

    def save_links(self, links: Mapping[str, SavedLink]) -> bool:
        """Write them; whether anything changed."""
        fields = {
            name: {"current": list(link.current), "endpoint": None if link.endpoint is None else list(link.endpoint)}
            for name, link in sorted(links.items())
        }
        return self._write(self._dir / "links.json", {"links": fields})

    def own(self) -> SignedAnnouncement | None:
        """This node's own announcement, as last signed."""
        model = self._read(self._dir / "announcement.json", _Announcement)
        return None if model is None else SignedAnnouncement(model.announcement, model.signature, model.certificate)

    def save_own(self, signed: SignedAnnouncement) -> bool:
        """Write it before it is published: its serial must not be used twice."""
        return self._write(self._dir / "announcement.json", _announcement_fields(signed))

    def cluster(self) -> SavedCluster | None:
        """The cluster's UID and policy, as last accepted."""
        model = self._read(self._dir / "cluster.json", _Cluster)
        return None if model is None else SavedCluster(model.uid, SignedPolicy(model.policy, model.signature))

    def save_cluster(self, cluster: SavedCluster) -> bool:
        """Write them; whether anything changed."""
        fields = {"uid": cluster.uid, "policy": cluster.policy.text, "signature": cluster.policy.signature}
        return self._write(self._dir / "cluster.json", fields)

    def former(self) -> SavedFormer | None:
        """The cluster from which this one goes on; None: it goes on from none."""
        model = self._read(self._dir / "former.json", _Former)
        return None if model is None else SavedFormer(model.cluster, model.index, frozenset(model.uids))

    def save_former(self, former: SavedFormer) -> bool:
        """Write it; whether anything changed."""
        fields = {"cluster": former.cluster, "index": former.index, "uids": sorted(former.uids)}
        return self._write(self._dir / "former.json", fields)

    def passed(self) -> int:
        """Serial of the newest policy that was seen and refused for its ports, marks or tables; 0: none was."""
        model = self._read(self._dir / "passed.json", _Passed)
        return 0 if model is None else model.serial

    def save_passed(self, serial: int) -> bool:
        """Write it; whether anything changed. A file of its own: an earlier version knows no more of the others."""
        return self._write(self._dir / "passed.json", {"serial": serial})

    def changed_rp_filter(self) -> dict[str, int]:
        """Foreign interface → the reverse path filter it had before we changed it."""
        model = self._read(self._dir / "host.json", _Host)
        return {} if model is None else dict(model.rp_filter)

    def save_changed_rp_filter(self, values: Mapping[str, int]) -> bool:
        """Write them; whether anything changed."""
        return self._write(self._dir / "host.json", {"rp_filter": dict(sorted(values.items()))})

    def underlay(self) -> Underlay | None:
        """The NIC that carried the tunnels last; None: never seen."""
        model = self._read(self._dir / "underlay.json", _Underlay)
        if model is None:
            return None
        families = frozenset(model.families)
        filters = model.rp_filter, model.rp_filter_all
        return Underlay(model.interface, model.mtu, families, *filters, tuple(model.addresses))

    def save_underlay(self, underlay: Underlay) -> bool:
        """Write it; whether anything changed."""
        fields = {
            "interface": underlay.interface,
            "mtu": underlay.mtu,
            "families": sorted(underlay.families),
            "rp_filter": underlay.rp_filter,
            "rp_filter_all": underlay.rp_filter_all,
            "addresses": list(underlay.addresses),
        }
        return self._write(self._dir / "underlay.json", fields)

    def _read(self, path: Path, model: type[_Model]) -> _Model | None:
        try:
            data = read_file(path)
            return None if data is None else model.model_validate_json(data)
        except (HostError, ValidationError, ValueError) as error:
            _LOG.warning("%s cannot be used and is passed over: %s", path, type(error).__name__)
            return None

    def _write(self, path: Path, fields: Mapping[str, Any]) -> bool:
        return atomic_write(path, json.dumps(fields, indent=1, sort_keys=True).encode() + b"\n")


def _documents(model: _Peer) -> NodeDocuments:
    announcement, grant = model.announcement, model.grant
    return NodeDocuments(
        None
        if announcement is None
        else SignedAnnouncement(announcement.announcement, announcement.signature, announcement.certificate),
        None if grant is None else SignedGrant(grant.grant, grant.signature),
    )


def _announcement_fields(signed: SignedAnnouncement) -> dict[str, str]:
    return {"announcement": signed.text, "signature": signed.signature, "certificate": signed.certificate}


def _peer_fields(documents: NodeDocuments) -> dict[str, Any]:
    announcement, grant = documents.announcement, documents.grant
    return {
        "announcement": None if announcement is None else _announcement_fields(announcement),
        "grant": None if grant is None else {"grant": grant.text, "signature": grant.signature},
    }

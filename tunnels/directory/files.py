"""A folder of files as directory: for bare metal, the lab, and a cluster without API (layout: docs/architecture.md).

What belongs together (an announcement's text, signature and certificate) is one file, written to a temporary name and
renamed, so a reader never sees half. Nothing is trusted: links are not followed, sizes are limited before reading.
A file is read again only when it may have changed: looking at 1,000 idle nodes costs some milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Generic, Protocol, TypeVar

from linkseal.keys import codes as document_codes
from linkseal.keys import grant as grants
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.ca import MAX_CERTIFICATE
from linkseal.keys.documents import MAX_SIGNATURE, MAX_TEXT
from linkseal.keys.errors import DirectoryError, PeerError
from linkseal.keys.grant import SignedGrant
from linkseal.keys.policydoc import MAX_POLICY, SignedPolicy
from linkseal.keys.values import UID_PATTERN, is_node_name
from linkseal.tunnels import codes
from linkseal.tunnels.directory.access import (
    Stamp,
    folders,
    locked,
    node_folder,
    read,
    remove,
    stamp,
    unsafe,
    write,
)
from linkseal.tunnels.directory.base import MAX_NODES, Absences, DirectoryView, Failed, unheard
from linkseal.tunnels.directory.watch import Watcher
from linkseal.tunnels.register import Finding, NodeDocuments, Snapshot
from linkseal.tunnels.status import MAX_REPORT, MAX_REQUESTS, Request, parse_requests, requests_json
from pydantic import BaseModel, ConfigDict, Field, ValidationError

CLUSTER: Final = "cluster.json"
CA_BUNDLE: Final = "ca.crt"
NODES: Final = "nodes"
REQUEST: Final = "request.csr"
CERTIFICATE: Final = "certificate.pem"
GRANT: Final = "grant.json"
ANNOUNCEMENT: Final = "announcement.json"
STATUS: Final = "status.json"
REQUESTS: Final = "requests.json"

MAX_CLUSTER: Final = 2 * MAX_POLICY + 1024
MAX_BUNDLE: Final = 64 * 1024
MAX_ENVELOPE: Final = 2 * (MAX_TEXT + MAX_CERTIFICATE + MAX_SIGNATURE) + 1024
"""Bytes: quotes and line ends take two inside a JSON string."""

YOUNG: Final = 2_000_000_000
"""Nanoseconds: a file that was changed so recently may be changed again within one tick of its clock, unseen."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Parse(Protocol[T_co]):
    def __call__(self, text: str, *, node: str) -> T_co: ...


class _Envelope(BaseModel):
    """announcement.json."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)
    announcement: str
    signature: str
    certificate: str


class Cluster(BaseModel):
    """cluster.json."""

    model_config = ConfigDict(strict=True, extra="ignore")
    uid: Annotated[str, Field(pattern=UID_PATTERN)]
    policy: str | None = None
    signature: str | None = None

    @property
    def signed(self) -> SignedPolicy | None:
        """The policy as it travels; None: there is none, or it is not signed."""
        return None if self.policy is None or self.signature is None else SignedPolicy(self.policy, self.signature)


def wrap_announcement(signed: SignedAnnouncement) -> str:
    """Return the text of announcement.json."""
    fields = {"announcement": signed.text, "signature": signed.signature, "certificate": signed.certificate}
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")) + "\n"


def unwrap_announcement(text: str, *, node: str) -> SignedAnnouncement:
    """Read announcement.json of `node`. Raises PeerError (MALFORMED)."""
    try:
        found = _Envelope.model_validate_json(text)
    except ValidationError:
        message = f"the announcement file of {node} must hold the strings 'announcement', 'signature', 'certificate'"
        raise PeerError(message, code=document_codes.MALFORMED, node=node) from None
    return SignedAnnouncement(found.announcement, found.signature, found.certificate)


def cluster_json(uid: str, signed: SignedPolicy) -> str:
    """Return the text of cluster.json."""
    return json.dumps({"uid": uid, "policy": signed.text, "signature": signed.signature}, indent=2) + "\n"


def read_cluster(directory: Path) -> Cluster | None:
    """Return what cluster.json of `directory` says, None if it is absent. Raises DirectoryError."""
    path = directory / CLUSTER
    text = _reading(lambda: read(str(path), MAX_CLUSTER, ""))
    if text is None:
        return None
    try:
        return Cluster.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        raise DirectoryError(f"{path}: {where}: {first['msg']}; restore it, nothing changes until then") from None


@dataclass(slots=True)
class _File(Generic[T]):
    """What a file held when it was read."""

    stamp: Stamp
    value: T | None = None
    problem: Finding | None = None
    young: bool = False
    """It may have changed since without its stamp telling."""


@dataclass(slots=True)
class _Node:
    """What is remembered of a node between two looks."""

    documents: NodeDocuments
    announcement: _File[SignedAnnouncement] | None = None
    grant: _File[SignedGrant] | None = None
    trouble: Finding | None = None


class FileDirectory:
    """The directory in the folder `path`. Implements `linkseal.tunnels.directory.base.Directory`.

    `also`: names of further files whose change ends `wait_for_change`, such as "status.json".
    """

    def __init__(self, path: Path, *, also: Collection[str] = ()) -> None:
        self.path = path
        self._root = str(path)
        self._node = ""
        self._also = frozenset(also)
        self._nodes: dict[str, _Node] = {}
        self._absences = Absences()
        self._watcher = Watcher(path, self._matters)
        self._lock = asyncio.Lock()

    # --- reading ------------------------------------------------------------------------------------------------

    async def view(self, node: str, known: Collection[str] = ()) -> DirectoryView:
        """Return what is there, for `node` (see `Directory.view`)."""
        self._node = node
        async with self._lock:
            try:
                return await asyncio.to_thread(self._view, node, frozenset(known))
            except DirectoryError:
                self._absences.unsound()
                raise

    async def wait_for_change(self, seconds: float) -> bool:
        """Return True as soon as another `view` may differ, False after `seconds` without a change."""
        due = self._absences.due(time.monotonic())
        if due is not None and due <= seconds:
            await self._watcher.wait(due)
            return True
        return await self._watcher.wait(seconds)

    async def certificate(self, node: str) -> str | None:
        """Return the certificate the signer issued to `node`, None while there is none."""
        if not is_node_name(node):
            raise DirectoryError(f"{node[:80]!r} is no node name")
        path = f"{self._root}/{NODES}/{node}/{CERTIFICATE}"
        return await asyncio.to_thread(_reading, lambda: read(path, MAX_CERTIFICATE, node))

    async def status(self, node: str) -> str | None:
        """Return one node's report as published, None while there is none. PeerError if it cannot be read as one."""
        path = f"{self._root}/{NODES}/{node}/{STATUS}"
        return await asyncio.to_thread(_reading, lambda: read(path, MAX_REPORT, node))

    async def statuses(self) -> Mapping[str, str]:
        """Return every node's report as published; one that cannot be read is empty text."""
        return await asyncio.to_thread(self._statuses)

    async def report(self, node: str) -> str | None:
        """Return the report of `node` as published: None while there is none, empty text if it cannot be read."""
        if not is_node_name(node):
            raise DirectoryError(f"{node[:80]!r} is no node name")
        return await asyncio.to_thread(self._status, node)

    async def close(self) -> None:
        """Stop watching."""
        self._watcher.close()

    def _view(self, node: str, known: frozenset[str]) -> DirectoryView:
        cluster = self._cluster()
        findings: list[Finding] = []
        if (reason := unsafe(self.path)) is not None:
            findings.append(Finding(codes.DIRECTORY_PERMISSIONS, "", reason))
        if cluster.signed is None:
            findings.append(Finding(codes.POLICY_UNSIGNED, "", f"{self.path / CLUSTER} holds no signed policy"))
        names = self._names(findings)
        self._nodes = {name: self._look(name, self._nodes.get(name)) for name in names}
        bundle = _reading(lambda: read(f"{self._root}/{CA_BUNDLE}", MAX_BUNDLE, ""))
        if self._cluster().uid != cluster.uid:
            raise DirectoryError(f"{self.path} is being replaced; looking again later")
        for name in names:
            remembered = self._nodes[name]
            findings += [f.problem for f in (remembered.grant, remembered.announcement) if f and f.problem]
            findings += [remembered.trouble] if remembered.trouble else []
        documents = {name: found.documents for name, found in self._nodes.items()}
        gone = self._absences.see(cluster.uid, documents, known, time.monotonic())
        return DirectoryView(
            snapshot=Snapshot(cluster.uid, documents, gone),
            policy=cluster.signed,
            ca_bundle=bundle or "",
            requests=self._requests(node, findings),
            findings=tuple(findings),
        )

    def _cluster(self) -> Cluster:
        found = read_cluster(self.path)
        if found is None:
            raise DirectoryError(f"there is no {self.path / CLUSTER}: not mounted, or not made by the signer yet")
        return found

    def _names(self, findings: list[Finding]) -> list[str]:
        found = folders(self.path / NODES)
        if len(found) > MAX_NODES:
            raise DirectoryError(f"{self.path / NODES} holds more than {MAX_NODES} nodes")
        names = [name for name in found if is_node_name(name)]
        for name in set(found) - set(names):
            message = f"{name[:80]!r} in {self.path / NODES} is no node name: remove it"
            findings.append(Finding(document_codes.MALFORMED, "", message))
        return names

    def _look(self, name: str, known: _Node | None) -> _Node:
        """Return what is there of node `name`: the same objects as in `known` where nothing changed."""
        folder = f"{self._root}/{NODES}/{name}"
        before = known or _Node(NodeDocuments())
        try:
            grant = _look_at(before.grant, f"{folder}/{GRANT}", name, grants.unwrap)
            announcement = _look_at(before.announcement, f"{folder}/{ANNOUNCEMENT}", name, unwrap_announcement)
        except DirectoryError as error:  # one node's files must not hide the others
            finding = Finding(codes.DIRECTORY_UNREADABLE, name, str(error))
            return _Node(before.documents, before.announcement, before.grant, finding)
        if known is not None and not known.trouble and grant is known.grant and announcement is known.announcement:
            return known
        documents = NodeDocuments(announcement.value if announcement else None, grant.value if grant else None)
        return _Node(before.documents if documents == before.documents else documents, announcement, grant)

    def _requests(self, node: str, findings: list[Finding]) -> tuple[Request, ...]:
        try:
            text = read(f"{self._root}/{NODES}/{node}/{REQUESTS}", MAX_REPORT, node) if is_node_name(node) else None
            return () if text is None else parse_requests(text, node)
        except PeerError as error:
            findings.append(Finding(error.code, node, str(error)))
            return ()

    def _statuses(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self._names([]):
            if (text := self._status(name)) is not None:
                found[name] = text
        return found

    def _status(self, name: str) -> str | None:
        try:
            return read(f"{self._root}/{NODES}/{name}/{STATUS}", MAX_REPORT, name)
        except PeerError:
            return ""

    def _matters(self, node: str, file: str) -> bool:
        if not node:
            return file in {CLUSTER, CA_BUNDLE}
        return (
            file in {ANNOUNCEMENT, GRANT}
            or file in self._also
            or (node == self._node and file in {CERTIFICATE, REQUESTS})
        )

    # --- writing ------------------------------------------------------------------------------------------------

    async def publish(self, node: str, signed: SignedAnnouncement, _failed: Failed = unheard) -> None:
        """Put the announcement of `node` there. A node that was removed does not come back by this."""
        await self._write(node, ANNOUNCEMENT, wrap_announcement(signed))

    async def request_certificate(self, node: str, csr: str) -> None:
        """Ask the signer to certify the identity key of `node`; makes its folder."""
        await self._write(node, REQUEST, csr, make=True)

    async def publish_status(self, node: str, report: str, _failed: Failed = unheard) -> None:
        """Put the report of `node` there."""
        await self._write(node, STATUS, report)

    async def withdraw(self, node: str) -> None:
        """Take away what `node` wrote. The signer's files stay."""
        folder = node_folder(self.path / NODES, node)
        for name in (ANNOUNCEMENT, STATUS, REQUEST):
            await asyncio.to_thread(remove, folder / name)

    async def request(self, node: str, request: Request) -> None:
        """Ask something of the agent of `node`; the oldest of more than MAX_REQUESTS is forgotten."""
        await asyncio.to_thread(self._request, node, request)

    def _request(self, node: str, request: Request) -> None:
        folder = node_folder(self.path / NODES, node)
        with locked(folder):
            text = _reading(lambda: read(f"{folder}/{REQUESTS}", MAX_REPORT, node))
            present = _reading(lambda: parse_requests(text, node)) if text else ()
            kept = [*(r for r in present if r.id != request.id), request][-MAX_REQUESTS:]
            write(folder / REQUESTS, requests_json(kept))

    async def _write(self, node: str, name: str, text: str, *, make: bool = False) -> None:
        folder = node_folder(self.path / NODES, node, make=make)
        await asyncio.to_thread(write, folder / name, text)


def _reading(action: Callable[[], T]) -> T:
    """Do `action`; what is wrong with a file of the directory itself is the directory's fault."""
    try:
        return action()
    except PeerError as error:
        raise DirectoryError(str(error)) from error


def _look_at(known: _File[T] | None, path: str, node: str, parse: _Parse[T]) -> _File[T] | None:
    """Return what is in a file, None if it is absent; `known` itself if it is unchanged. Raises DirectoryError."""
    found = stamp(path)
    if found is None:
        return None
    if known is not None and known.stamp == found and not known.young:
        return known
    young = abs(time.time_ns() - found.modified) < YOUNG
    value: T | None = None
    problem: Finding | None = None
    try:
        text = read(path, MAX_ENVELOPE, node)
        value = None if text is None else parse(text, node=node)
    except PeerError as error:
        problem = Finding(error.code, node, str(error))
    if known is not None and (known.value, known.problem) == (value, problem):
        known.stamp, known.young = found, young
        return known
    return _File(found, value, problem, young)

"""The Kubernetes API as directory: announcements and grants are annotations of Nodes (layout: docs/architecture.md).

    Node                 linkseal.io/announcement, /signature, /certificate   the agent of that node
                         linkseal.io/grant                                    the controller
    ConfigMap            linkseal-ca: ca.crt, cross.crt    linkseal-policy: policy, signature       the controller
    NodeEncryption       spec.requests: who asks    status: the agent
    CertificateSigningRequest of signer linkseal.io/node: the agent asks, the controller signs

Nodes are seen as metadata alone. Nothing is trusted; sizes are limited before anything is read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Mapping
from http import HTTPStatus
from random import uniform
from secrets import token_hex
from typing import Any, Final, NamedTuple

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.ca import MAX_CERTIFICATE
from linkseal.keys.errors import CertificateRefusedError, ConfigError, DirectoryError, PeerError
from linkseal.keys.values import is_node_name
from linkseal.tunnels import codes
from linkseal.tunnels.directory.base import MAX_NODES, Absences, DirectoryView, Failed, unheard
from linkseal.tunnels.directory.kubeapi import METADATA, METADATA_LIST, Access, ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import (
    ANNOUNCEMENT,
    CA_KEY,
    CA_MAP,
    CERTIFICATE,
    CROSS_KEY,
    POLICY_MAP,
    SIGNATURE,
    SIGNER,
    NodeEntry,
    map_data,
    node_entry,
    signed_policy,
    spec_text,
    uid_of,
)
from linkseal.tunnels.directory.mirror import Mirror
from linkseal.tunnels.directory.outbox import Outbox
from linkseal.tunnels.directory.reporting import NEW_CRDS, Reporter
from linkseal.tunnels.register import Finding, Snapshot
from linkseal.tunnels.settings import KubeDirectorySettings
from linkseal.tunnels.status import MAX_REPORT, MAX_REQUESTS, Request, parse_requests, requests_json

MANAGER: Final = "linkseal-agent"
"""Field manager of what an agent applies."""

NODES: Final = "/api/v1/nodes"
NAMESPACES: Final = "/api/v1/namespaces"
KUBE_SYSTEM: Final = "kube-system"
"""Its UID is the cluster's: it is made with the cluster and cannot be deleted."""
NODE_ENCRYPTIONS: Final = "/apis/linkseal.io/v1alpha1/nodeencryptions"
CSRS: Final = "/apis/certificates.k8s.io/v1/certificatesigningrequests"

MAX_BUNDLE: Final = 64 * 1024
FIRST_LOOK: Final = 10.0
"""Seconds a first copy may take."""

CONFIRM_AGAIN: Final = (2.0, 20.0)
"""Seconds after which they are asked for again where that failed: by chance, since all agents ask at once."""

CONFIRMING: Final = 8
"""Nodes asked for at once to confirm that they are gone."""


class _Copies(NamedTuple):
    """What is watched."""

    system: Mirror[str]
    nodes: Mirror[NodeEntry]
    maps: Mirror[Mapping[str, str]]
    own: Mirror[str]


class KubeDirectory:
    """The directory in an API server. Implements `linkseal.tunnels.directory.base.Directory`.

    `node`: whose requests are watched; empty: nobody's. Watching begins with the first look.
    """

    def __init__(self, api: KubeApi, namespace: str, node: str = "") -> None:
        self._api, self._node, self._namespace = api, node, namespace
        self._news = asyncio.Event()
        self._copies = self._begun()
        self._uid = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._absences = Absences()
        self._gone: dict[str, None] = {}
        """Names that the API server itself has said are not there."""
        self._begun_once = False
        """There was a policy."""
        self._asking: asyncio.Task[None] | None = None
        self._outbox = Outbox()
        self._reporter = Reporter(api, NODE_ENCRYPTIONS, MANAGER)
        self._asked = ""
        """The name of our certificate request; empty: none was made yet, or it was denied."""
        self._denied = ""
        """What the next request's name ends in, since the one before was denied: it stays there for an hour."""
        self._request: Mapping[str, Any] = {}
        self._answered = ""
        """The request whose certificate came: the server forgets it after an hour, as it may."""

    # --- reading ------------------------------------------------------------------------------------------------

    async def view(self, node: str, known: Collection[str] = ()) -> DirectoryView:
        """Return what is there, for `node` (see `Directory.view`). After the first nothing is waited for."""
        try:
            return self._view(node, known, await self._watching())
        except DirectoryError:
            self._absences.unsound()
            raise

    async def wait_for_change(self, seconds: float) -> bool:
        """Return True as soon as another `view` may differ, False after `seconds` without a change."""
        due = self._absences.due(time.monotonic())
        confirming = due is not None and due <= seconds
        try:
            async with asyncio.timeout(due if confirming else seconds):
                await self._news.wait()
        except TimeoutError:
            return confirming
        self._news.clear()
        return True

    async def certificate(self, node: str) -> str | None:
        """Return the certificate that was issued for our request. CertificateRefusedError: it was denied, and why."""
        if not self._asked:
            return None
        found = await self._outbox.ask(f"certificate {self._asked}", self._answer_to(self._asked))
        if found is None:
            return None
        status = found.get("status") or {}
        for condition in status.get("conditions") or ():
            if condition.get("type") in {"Denied", "Failed"}:
                said = f"{condition.get('reason', '')} {condition.get('message', '')}".strip()
                refused, self._asked, self._denied = self._asked, "", token_hex(3)
                raise CertificateRefusedError(f"the certificate request {refused} of {node} was refused: {said}")
        issued = status.get("certificate")
        if not issued:
            return None
        self._answered = self._asked
        return _pem(str(issued), self._asked)

    async def status(self, node: str) -> str | None:
        """Return one node's report as published, None while there is none."""
        found = await self._api.find(f"{NODE_ENCRYPTIONS}/{_name(node)}")
        return None if found is None or not found.get("status") else json.dumps(found)

    async def report(self, node: str) -> str | None:
        """Return one node's report as published, None while there is none, empty text if it is too large."""
        text = await self.status(node)
        return text if text is None or len(text) <= MAX_REPORT else ""

    async def statuses(self) -> Mapping[str, str]:
        """Return every node's report as published; a node without one is missing."""
        found = await self._api.get(NODE_ENCRYPTIONS)
        return {
            str(item["metadata"]["name"]): json.dumps(
                {**item, "apiVersion": "linkseal.io/v1alpha1", "kind": "NodeEncryption"}
            )
            for item in found.get("items") or ()
            if item.get("status")
        }

    async def uid(self, node: str) -> str | None:
        """Return the UID of a Node, None if there is none of that name."""
        found = await self._api.find(f"{NODES}/{_name(node)}", accept=METADATA)
        return None if found is None else str(found["metadata"]["uid"])

    async def close(self) -> None:
        """Stop watching and close the connections."""
        await self._end()
        await self._outbox.close()
        await self._api.close()

    def _begun(self) -> _Copies:
        """Copies of which nothing is read yet."""
        told = self._news.set
        maps = f"/api/v1/namespaces/{self._namespace}/configmaps"
        system, own = _named(KUBE_SYSTEM), _named(self._node)
        return _Copies(
            Mirror(self._api, NAMESPACES, uid_of, changed=told, metadata=True, query=system),
            Mirror(self._api, NODES, node_entry, changed=told, metadata=True),
            Mirror(self._api, maps, map_data, changed=told),
            Mirror(self._api, NODE_ENCRYPTIONS, spec_text, changed=told, query=own),
        )

    async def _watching(self) -> _Copies:
        """See that everything is watched, in one cluster; wait for the first copies. Raises ConfigError."""
        copies = self._copies
        client = await self._api.opened()
        if not self._tasks:
            watched = copies if self._node else copies[:-1]
            self._tasks = [asyncio.ensure_future(mirror.run()) for mirror in watched]
        for mirror in (copies.system, copies.nodes, copies.maps):
            await mirror.first(FIRST_LOOK)
            if not mirror.tried:
                host = client.configuration.host
                raise ApiError(f"the API server {host} has not answered in {FIRST_LOOK:.0f} s")
            if mirror.trouble is not None:
                raise ApiError(mirror.trouble, mirror.status)
        uid = copies.system.objects.get(KUBE_SYSTEM, "")
        if uid != self._uid and self._uid:  # what is known of another cluster says nothing of this one
            await self._end()
            self._copies, self._uid, self._asked = self._begun(), "", ""
            return await self._watching()
        self._uid = uid
        return copies

    async def _end(self) -> None:
        ending = [*self._tasks, *((self._asking,) if self._asking else ())]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self._tasks, self._asking = [], None

    def _view(self, node: str, known: Collection[str], copies: _Copies) -> DirectoryView:
        nodes, maps = copies.nodes.objects, copies.maps.objects
        if len(nodes) > MAX_NODES:
            raise DirectoryError(f"the cluster has more than {MAX_NODES} nodes")
        findings = [problem for entry in nodes.values() for problem in entry.problems]
        documents = {name: entry.documents for name, entry in nodes.items()}
        missing = self._absences.see(self._uid, documents, known, time.monotonic())
        self._ask_for(missing)
        policy = signed_policy(maps.get(POLICY_MAP, {}))
        self._begun_once |= policy is not None
        if policy is None:
            where = f"the ConfigMap {self._namespace}/{POLICY_MAP}"
            if node and not self._begun_once:  # agents are installed before there is anything to do
                raise DirectoryError(
                    f"{where} is not there yet: the controller signs what the ClusterEncryption asks for"
                )
            findings.append(Finding(codes.POLICY_UNSIGNED, "", f"{where} holds no signed policy"))
        return DirectoryView(
            snapshot=Snapshot(self._uid, documents, frozenset(self._gone) & missing, frozenset(copies.nodes.vanished)),
            policy=policy,
            ca_bundle=_limited(maps.get(CA_MAP, {}).get(CA_KEY, ""), MAX_BUNDLE),
            requests=self._requests(node, findings),
            findings=tuple(findings),
            cross_certificates=_limited(maps.get(CA_MAP, {}).get(CROSS_KEY, ""), MAX_BUNDLE),
            uid=nodes[node].uid if node in nodes else None,
            registered=nodes[node].made if node in nodes else None,
        )

    def _ask_for(self, missing: Collection[str]) -> None:
        """Ask the API server itself for names that are missing; who is gone is known at a later look."""
        self._gone = {name: None for name in self._gone if name in missing}
        doubtful = [name for name in missing if name not in self._gone and is_node_name(name)]
        if doubtful and (self._asking is None or self._asking.done()):
            self._asking = asyncio.ensure_future(self._confirm(doubtful, self._uid))

    async def _confirm(self, names: Iterable[str], uid: str) -> None:
        """Note which of these names the API server of this very cluster says are not there: all of them, or none."""
        slots = asyncio.Semaphore(CONFIRMING)

        async def is_gone(name: str) -> bool:
            async with slots:
                return await self._api.find(f"{NODES}/{name}", accept=METADATA) is None

        try:
            asked = list(names)
            answers = await asyncio.gather(*map(is_gone, asked))
            # as a list, by its name: that is the right that agents have
            system = await self._api.get(NAMESPACES, _named(KUBE_SYSTEM), accept=METADATA_LIST)
            if [uid_of(one, None) for one in system.get("items") or ()] != [uid]:
                return
        except DirectoryError as error:  # proves nothing; who is gone keeps what it had until that is known
            pause = uniform(*CONFIRM_AGAIN)  # noqa: S311 - no secret
            await asyncio.sleep(max(getattr(error, "after", 0.0), pause))
            self._news.set()
            return
        self._gone |= {name: None for name, gone in zip(asked, answers, strict=True) if gone}
        self._news.set()

    def _requests(self, node: str, findings: list[Finding]) -> tuple[Request, ...]:
        text = self._copies.own.objects.get(node)
        try:
            return () if not text else parse_requests(text, node)
        except PeerError as error:
            findings.append(Finding(error.code, node, str(error)))
            return ()

    # --- writing ------------------------------------------------------------------------------------------------

    async def publish(self, node: str, signed: SignedAnnouncement, failed: Failed = unheard) -> None:
        """Put the announcement on the Node, if it is not there already."""
        wanted = {ANNOUNCEMENT: signed.text, SIGNATURE: signed.signature, CERTIFICATE: signed.certificate}
        entry = self._copies.nodes.objects.get(node)
        if entry is not None and wanted.items() <= entry.annotations.items():
            return
        await self._outbox.send("announcement", self._annotate(node, wanted), failed)

    async def withdraw(self, node: str) -> None:
        """Take the announcement off the Node, and empty the report."""
        await self._annotate(node, {})
        try:
            await self._reporter.put(_name(node), {})
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:  # none was made
                raise

    async def _annotate(self, node: str, annotations: Mapping[str, str]) -> None:
        """Apply our annotations; those that are missing go. The UID keeps us from a Node that was made anew."""
        uid = await self.uid(node)
        if uid is None:
            raise DirectoryError(f"there is no Node {node}")
        metadata: dict[str, Any] = {"name": node, "uid": uid}
        if annotations:  # none, and not an empty map: who applies that is named on the Node for ever
            metadata["annotations"] = dict(annotations)
        body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        await self._api.apply(f"{NODES}/{node}", body, manager=MANAGER, accept=METADATA)

    async def request_certificate(self, node: str, csr: str) -> None:
        """Ask the signer to certify the node's identity key (PEM)."""
        digest = hashlib.sha256(csr.encode()).hexdigest()[:12]
        name = f"linkseal-{_name(node)[:200]}-{digest}{self._denied}"
        spec = {"request": b64encode(csr.encode()).decode(), "signerName": SIGNER, "usages": ["digital signature"]}
        body = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "linkseal"}},
            "spec": spec,
        }
        self._asked, self._request = name, body
        await self._outbox.send("certificate request", self._create_request(body))

    async def _answer_to(self, name: str) -> dict[str, Any] | None:
        """Return our request as it is there; one that is not (lost on the way, cleaned up too early) is made again."""
        found = await self._api.find(f"{CSRS}/{name}")
        if found is None and name != self._answered:
            await self._create_request(self._request)
        return found

    async def _create_request(self, body: Mapping[str, Any]) -> None:
        try:
            await self._api.create(CSRS, body)
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:  # the same request is there already
                raise

    async def publish_status(self, node: str, report: str, failed: Failed = unheard) -> None:
        """Put the node's report into the status of its NodeEncryption, which the controller made."""
        await self._outbox.send("report", self._reporter.put(_name(node), json.loads(report)["status"]), failed)

    async def request(self, node: str, request: Request) -> None:
        """Ask something of the node's agent; the oldest of more than MAX_REQUESTS is forgotten."""
        path = f"{NODE_ENCRYPTIONS}/{_name(node)}"
        while True:
            found = await self._api.get(path)
            present = parse_requests(spec_text(found, None) or "{}", node) if found.get("spec") else ()
            kept = [*(one for one in present if one.id != request.id), request][-MAX_REQUESTS:]
            found["spec"] = {**(found.get("spec") or {}), **json.loads(requests_json(kept))}
            try:
                await self._api.replace(path, found)
            except ApiError as error:
                if error.status == HTTPStatus.CONFLICT:  # another asked meanwhile
                    continue
                if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                    raise ConfigError(
                        f"the API server refuses this request: {error}; if it does not know it, the CRDs there are "
                        f"older than this command: {NEW_CRDS}"
                    ) from error
                raise
            return


def kube_directory(settings: KubeDirectorySettings, node: str = "") -> KubeDirectory:
    """The directory in the cluster that the settings name."""
    return KubeDirectory(KubeApi(Access(settings.kubeconfig, settings.context)), settings.namespace, node)


def _named(name: str) -> dict[str, str]:
    return {"fieldSelector": f"metadata.name={name}"}


def _limited(text: str, most: int) -> str:
    return text if len(text) <= most else ""


def _pem(issued: str, name: str) -> str:
    try:
        return b64decode(issued, validate=True).decode("ascii")[:MAX_CERTIFICATE]
    except ValueError:
        raise DirectoryError(f"the certificate in {name} cannot be read") from None


def _name(node: str) -> str:
    if not is_node_name(node):
        raise DirectoryError(f"{node[:80]!r} is no node name")
    return node

"""The controller's part of the Kubernetes directory: what it signs and makes, in passes that can be repeated.

    Node linkseal.io/grant      what the node owns, of what the address provider gives it
    CertificateSigningRequest   approved and signed, or denied with the reason
    NodeEncryption              one for each Node, owned by it

A pass reads copies that are watched and writes only what differs, so that two controllers at once do no harm: serials
rise, and what is the same is not written.
"""

from __future__ import annotations

import logging
import time
from base64 import b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from linkseal.keys import grant as grants
from linkseal.keys.ca import Trust
from linkseal.keys.errors import PeerError, SignerError
from linkseal.keys.grant import Grant
from linkseal.tunnels.controller.cakeeper import CaKeeper
from linkseal.tunnels.controller.carotation import BACKDATED
from linkseal.tunnels.controller.csrs import Asked, Asker, asked, node_refused, pod_refused
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.ownership import NO_INDEXES, Claim, Owned, SeenNode, owned
from linkseal.tunnels.controller.providers.base import Offered
from linkseal.tunnels.controller.providers.choice import Granting
from linkseal.tunnels.controller.waiting import in_turns
from linkseal.tunnels.directory.kube import CSRS, NODE_ENCRYPTIONS, NODES
from linkseal.tunnels.directory.kubeapi import METADATA, ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import GRANT

_LOG: Final = logging.getLogger("linkseal.controller")

MANAGER: Final = "linkseal-controller"
"""Field manager of what the controller applies."""

CERTIFICATE_LIFETIME: Final = timedelta(days=90)
"""Of a node's: agents renew at two thirds of it, so a controller may be away for a month."""

SETTLE: Final = timedelta(seconds=10)
"""After which a grant that was sent must have come back by the watch, or is sent again."""

NODE_COMES: Final = 10.0
"""Seconds for which a request waits for its Node, of which another watch tells."""

PUT_OFF: Final = 30.0
"""Seconds until what the API server refused of one object is asked again."""

MAX_REFUSED: Final = 10
"""Objects refused in one pass, after which it is not for the objects: the pass ends."""

AGENT: Final = "linkseal-agent"
"""Name of the agents' service account."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What a pass did. `refused`, `problems`: lines that say why something was not done."""

    granted: tuple[str, ...] = ()
    certified: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    askers: tuple[Asker, ...] = ()
    denied: tuple[tuple[Asker, str], ...] = ()
    """By whom certificates were asked for that were signed, and denied and why, where that is attested."""
    problems: tuple[str, ...] = ()


class _Held(NamedTuple):
    """A grant as it was read from a Node. `by`: fingerprint of the CA that signed it."""

    text: str
    uid: str
    trust: Trust
    grant: Grant | None = None
    by: str = ""


class _Sent(NamedTuple):
    """A grant that was sent, by whom it was signed, and when that was."""

    grant: Grant
    by: str
    at: datetime


class _Refusals:
    """What the API server refuses of single objects, so that one of them holds up no other. `what`: for all names."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._found: dict[str, tuple[float, str]] = {}
        """Of each name until when it is put off, by the clock that never jumps, and a line."""

    def is_put_off(self, name: str) -> bool:
        """Whether it was refused a moment ago."""
        return name in self._found and time.monotonic() < self._found[name][0]

    def add(self, name: str, error: ApiError) -> None:
        """Note that an object was refused. Raises `error` if it is about more than this object."""
        no = HTTPStatus.BAD_REQUEST <= error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        if not no or error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS}:
            raise error
        line = f"{self._what} {name}: the API server refuses it, and all others go on: {error}"
        self._found[name] = (time.monotonic() + PUT_OFF, line)
        if sum(map(self.is_put_off, self._found)) > MAX_REFUSED:
            raise error

    def over(self, name: str) -> None:
        """It was taken."""
        self._found.pop(name, None)

    def lines(self, present: Collection[str]) -> tuple[str, ...]:
        """Say what is refused; what is not `present` any more is forgotten."""
        self._found = {name: one for name, one in self._found.items() if name in present}
        return tuple(line for _, line in self._found.values())


class KubeSigner:
    """Signs for the cluster of `api`. Every method raises ApiError."""

    def __init__(self, api: KubeApi, namespace: str, ca: CaKeeper) -> None:
        self._api, self._namespace, self._ca = api, namespace, ca
        self._held: dict[str, _Held] = {}
        self._sent: dict[str, _Sent] = {}
        """The newest grant of a node until it is seen on it: nobody else gets what is in it."""
        self._doubted: set[str] = set()
        """Nodes whose newest grant was sent, and no good answer came."""
        self._owned: tuple[object, Owned] | None = None
        """What is owned by the same words as last time: to find it takes a second with 5,000 nodes."""
        self._unknown: dict[str, float] = {}
        """Since when a request waits for its Node, by the clock that never jumps."""
        self._grants_refused, self._answers_refused = _Refusals("the grant of"), _Refusals("the answer to")
        self._issued = datetime.min.replace(tzinfo=UTC)
        """The newest date of a grant that is known."""
        self._account = f"system:serviceaccount:{namespace}:{AGENT}"

    async def grant(
        self,
        nodes: Mapping[str, NodeFacts],
        offered: Offered | None,
        opted_out: Collection[str],
        chosen: Granting,
        now: datetime,
        restored: datetime | None = None,
        indexes: Mapping[str, int] = NO_INDEXES,
    ) -> Passed:
        """Sign what each Node owns, where that differs from what it carries, or another CA has signed it.

        `offered` None: the address provider has not been read yet, so nodes keep what they have and new ones wait.
        `restored`: all that was signed before is signed again. `indexes`: those that nodes have from a former cluster.
        """
        for name in self._sent.keys() - nodes.keys():
            del self._sent[name]
        self._held = held = {name: self._present(name, facts) async for name, facts in in_turns(nodes.items())}
        self._issued = max([self._issued, *(one.grant.issued for one in held.values() if one.grant is not None)])
        seen = [
            node
            for name, facts in nodes.items()
            if (node := self._seen(name, facts, offered)).grant is not None or offered is not None
        ]
        asked = (seen, frozenset(opted_out), chosen.networks, chosen.pod_networks, dict(indexes))
        if self._owned is None or self._owned[0] != asked:
            self._owned = (asked, owned(*asked))
        found, dated = self._owned[1], self._date(now)
        by_name = {node.name: node for node in seen}
        granted, unsigned = [], []
        for claim in found.claims:
            grant = self._due(claim, by_name[claim.name], held[claim.name], now, dated, restored)
            if grant is None:
                self._grants_refused.over(claim.name)
            elif not self._grants_refused.is_put_off(claim.name):
                try:
                    await self._annotate(grant, now)
                except SignerError as error:
                    unsigned.append(f"{claim.name}: {error}")
                    break
                except ApiError as error:
                    self._grants_refused.add(claim.name, error)
                    continue
                self._grants_refused.over(claim.name)
                granted.append(claim.name)
        refused = self._grants_refused.lines(nodes)
        return Passed(granted=tuple(granted), problems=(*unsigned, *refused, *found.problems))

    def _date(self, now: datetime) -> datetime:
        """Return the date of the grants of this pass: after all others, though the clock went back.

        Of a Node that was made anew under its name only the date tells peers which of the two is the newer one.
        """
        return now if now > self._issued else self._issued + timedelta(seconds=1)

    def _seen(self, name: str, facts: NodeFacts, offered: Offered | None) -> SeenNode:
        present, sent = self._held[name].grant, self._sent[name].grant if name in self._sent else None
        if sent is not None and (sent.uid != facts.uid or (present is not None and present.serial >= sent.serial)):
            del self._sent[name]
            sent = None
        prefixes = () if offered is None else offered.prefixes.get(name, ())
        keeps = offered is None or name in offered.keeps
        return SeenNode(name, facts.uid, facts.addresses, prefixes, present, sent, keeps)

    async def certify(self, requests: Mapping[str, Asked], nodes: Mapping[str, NodeFacts], now: datetime) -> Passed:
        """Answer requests for certificates. A denied one is not looked at again; the agent tells of it."""
        certified, refused, unsigned = [], [], []
        askers, denied = list[Asker](), list[tuple[Asker, str]]()
        self._unknown = {name: since for name, since in self._unknown.items() if name in requests}
        for request in requests.values():
            if self._answers_refused.is_put_off(request.name):
                continue
            try:
                why, certificate = await self._judge(request, nodes, now)
                if certificate:
                    await self._answer(request.name, "Approved", "the asker's pod runs on this node", certificate)
                    certified.append(request.name)
                    askers += [] if request.asker is None else [request.asker]
                elif why is not None:
                    await self._answer(request.name, "Denied", why)
                    refused.append(f"{request.name}: {why}")
                    denied += [] if request.asker is None else [(request.asker, why)]
            except SignerError as error:  # it is answered when it can be
                unsigned.append(f"{request.name}: {error}")
                break
            except ApiError as error:
                self._answers_refused.add(request.name, error)
        unsigned += self._answers_refused.lines(requests)
        return Passed((), tuple(certified), tuple(refused), tuple(askers), tuple(denied), tuple(unsigned))

    async def register(self, nodes: Mapping[str, NodeFacts], present: Collection[str]) -> tuple[str, ...]:
        """Make the NodeEncryption of every Node that has none; it goes with its Node."""
        missing = tuple(name for name in sorted(nodes) if name not in present)
        for name in missing:
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": nodes[name].uid}
            body = {
                "apiVersion": "linkseal.io/v1alpha1",
                "kind": "NodeEncryption",
                "metadata": {"name": name, "ownerReferences": [owner]},
                "spec": {},
            }
            try:
                await self._api.create(NODE_ENCRYPTIONS, body)
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
        return missing

    def request_of(self, item: Mapping[str, Any], before: Asked | None) -> Asked | None:
        """What is kept of a CertificateSigningRequest: those that wait for us."""
        found = asked(item, self._account)
        return before if found == before else found

    def _present(self, name: str, facts: NodeFacts) -> _Held:
        """Return the grant that a Node carries, none if it is not ours or for an earlier Node of that name."""
        trust, known = self._ca.trust, self._held.get(name)
        found = _Held(facts.grant, facts.uid, trust)
        if known is not None and (known.text, known.uid) == (found.text, found.uid) and known.trust is trust:
            return known
        if not facts.grant:
            return found
        try:
            signed = grants.unwrap(facts.grant, node=name)
            grant = grants.verify(signed, trust, node=name)
        except PeerError:
            return found
        if grant.uid != facts.uid:
            return found
        return found._replace(grant=grant, by=trust.grant_signer(signed.text, signed.signature))

    def _due(
        self, claim: Claim, node: SeenNode, held: _Held, now: datetime, dated: datetime, restored: datetime | None
    ) -> Grant | None:
        """Return the grant to sign.

        None if what is there, or was sent and is not seen yet, says the same by the CA that signs now, and is no older
        than `restored`.
        """
        newest, sent = node.newest, self._sent.get(claim.name)
        said = (claim.index, claim.addresses, claim.prefixes, claim.opted_out)
        if newest is not None and (newest.index, newest.addresses, newest.prefixes, newest.opted_out) == said:
            lost = sent is not None and (claim.name in self._doubted or now - sent.at > SETTLE)
            older = restored is not None and newest.issued < restored <= now
            by = held.by if sent is None else sent.by
            if not lost and not older and by == self._ca.keys.signer.fingerprint:
                return None
        # The serial follows the clock, so that it rises above what peers have seen even if the Node was made anew.
        serial = max(int(now.timestamp()), newest.serial + 1 if newest else 1)
        owns = claim.addresses, claim.prefixes
        return Grant(claim.name, claim.uid, claim.index, serial, dated, *owns, opted_out=claim.opted_out)

    async def _annotate(self, grant: Grant, now: datetime) -> None:
        by = self._ca.keys.signer.fingerprint
        text = grants.wrap(await self._ca.signed(lambda authority: grants.sign(authority, grant)))
        metadata = {"name": grant.node, "uid": grant.uid, "annotations": {GRANT: text}}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        self._sent[grant.node] = _Sent(grant, by, now)  # also where no answer comes: it may be there
        self._issued = max(self._issued, grant.issued)
        self._doubted.add(grant.node)
        await self._api.apply(f"{NODES}/{grant.node}", body, manager=MANAGER, accept=METADATA)
        self._doubted.discard(grant.node)

    async def _judge(self, request: Asked, nodes: Mapping[str, NodeFacts], now: datetime) -> tuple[str | None, str]:
        """Return why a request is refused, or the certificate; neither while that cannot be told."""
        asker = request.asker
        if request.refused is not None or asker is None:
            return request.refused, ""
        facts = nodes.get(asker.node)
        why = node_refused(asker, None if facts is None else facts.uid)
        if why is not None:  # the API server told of the request before it told of the Node
            first = self._unknown.setdefault(request.name, time.monotonic())
            return (why if time.monotonic() - first > NODE_COMES else None), ""
        pod = await self._api.find(f"/api/v1/namespaces/{self._namespace}/pods/{asker.pod}")
        if (why := pod_refused(asker, pod, self._account)) is not None:
            return why, ""
        try:
            named, since, lifetime = (asker.node, asker.node_uid), now - BACKDATED, CERTIFICATE_LIFETIME + BACKDATED
            return None, await self._ca.signed(lambda ca: ca.sign_csr(request.pem, *named, since, lifetime))
        except PeerError as error:
            return str(error), ""

    async def _answer(self, name: str, verdict: str, why: str, certificate: str = "") -> None:
        """Approve or deny, and put the certificate there. Another controller's answer counts."""
        try:
            found = await self._api.get(f"{CSRS}/{name}")
            if (found.get("status") or {}).get("certificate"):  # our own answer, which the watch has not told of yet
                return
            conditions = (found.get("status") or {}).get("conditions") or []
            said = {one.get("type") for one in conditions}
            if verdict == "Denied" and "Approved" in said:  # by somebody else, and it cannot be both
                verdict = "Failed"
            if verdict not in said:
                condition = {"type": verdict, "status": "True", "reason": "Linkseal", "message": why}
                found["status"] = {**(found.get("status") or {}), "conditions": [*conditions, condition]}
                part = "status" if verdict == "Failed" else "approval"
                found = await self._api.replace(f"{CSRS}/{name}/{part}", found)
            if certificate:
                found["status"] = {**(found.get("status") or {}), "certificate": _base64(certificate.encode())}
                await self._api.replace(f"{CSRS}/{name}/status", found)
        except ApiError as error:
            if error.status not in {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}:
                raise


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()

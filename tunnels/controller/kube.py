"""The controller of a Kubernetes cluster: signs, and walks the stages that the ClusterEncryption asks for.

    ClusterEncryption default   what the operator wants; status: where the cluster is, and what holds it
    ConfigMap linkseal-ca       the CA's certificate and who vouches for it, for agents
    ConfigMap linkseal-policy   the policy in force, signed
    ConfigMap linkseal-stage    where the cluster is, the walk under way, and every change of stage

If it is down, nothing that works stops working: it is needed for new nodes, changed grants and changes of stage.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Never

from linkseal.keys import policydoc
from linkseal.keys.errors import ConfigError, DirectoryError, PeerError, SignerError
from linkseal.keys.policydoc import PolicyDocument, SignedPolicy
from linkseal.keys.sshagent import AgentKey
from linkseal.tunnels.controller.aims import Aim, aim_of
from linkseal.tunnels.controller.apiserver import Endpoint, with_api_server
from linkseal.tunnels.controller.cakeeper import CaKeeper
from linkseal.tunnels.controller.clusterreport import ClusterReport
from linkseal.tunnels.controller.clusterstatus import Standing
from linkseal.tunnels.controller.comers import beyond
from linkseal.tunnels.controller.kubecopies import (
    STAGE_MAP,
    Copies,
    Wanted,
    begun,
    comers_of,
    current,
    newest_of,
    remembered,
    staying_out,
)
from linkseal.tunnels.controller.kubeevents import Events, NodeNews
from linkseal.tunnels.controller.kubesigner import MANAGER, KubeSigner, Passed
from linkseal.tunnels.controller.lifter import Lifter, position_of
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.choice import NOT_READ, Granting, misfits, unbounded
from linkseal.tunnels.controller.providers.copy import ProviderCopy
from linkseal.tunnels.controller.stagekeeper import MAX_STEPS, Stagekeeper
from linkseal.tunnels.directory.kube import KUBE_SYSTEM, NAMESPACES
from linkseal.tunnels.directory.kubeapi import METADATA, ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import (
    BESIDE,
    CA_MAP,
    DEFAULT,
    POLICY_KEY,
    POLICY_MAP,
    POLICY_SIGNATURE,
    config_map,
    restored_at,
    signed_policy,
    uid_of,
)
from linkseal.tunnels.policy import parse_policy, read_signed
from linkseal.tunnels.stages import Evidence, Position

_LOG: Final = logging.getLogger("linkseal.controller")

LOOK: Final = 10.0
"""Seconds between two passes though nothing is known to have changed."""

STEP: Final = 0.5
"""Seconds between two looks at the nodes' reports while a stage is walked to."""

RETRY: Final = 2.0
"""Seconds after a pass that failed."""

SETTLE: Final = 10.0
"""Seconds after which a policy that was written must have come back by the watch, or is written again."""

SOURCE: Final = "the ClusterEncryption"

STAND_DOWN: Final = 30.0
"""Seconds without a signature after which another controller may try: its SSH agent may sign."""


class KubeController:
    """Signs for one cluster. `chosen`: from what grants are made; `ssh_agent`: its socket, if it holds the CA's key."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        chosen: Granting | None = None,
        *,
        lift_taint: bool = False,
        ssh_agent: Path | None = None,
    ) -> None:
        self._elsewhere = None if ssh_agent is None else partial(AgentKey, ssh_agent)
        self._api, self._namespace, self._chosen = api, namespace, chosen or Granting()
        self._unbounded = tuple(unbounded(self._chosen))
        self._news = asyncio.Event()
        self._told: set[str] = set()
        self._cluster = ""
        self._stages: Stagekeeper | None = None
        self._signed: PolicyDocument | None = None
        self._written = 0.0
        self._verified: tuple[SignedPolicy, PolicyDocument | None] | None = None
        """The policy seen last, and what it says if it is by this CA for this cluster."""
        self._events = Events(api)
        self._lifter = Lifter(api, self._events, wanted=lift_taint)
        self._misfits, self._ungranted = tuple[str, ...](), tuple[str, ...]()
        """What nodes do not get of what they claim, and what is not known, as lines."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`, or until nothing could be signed for a while. ConfigError, ApiError: at the start only."""
        await self._api.opened()
        self._ca = CaKeeper(self._api, self._namespace, self._elsewhere)
        await self._ca.load(datetime.now(UTC))
        self._signer = KubeSigner(self._api, self._namespace, self._ca)
        self._cluster_report, self._node_news = ClusterReport(self._api, self._events), NodeNews(self._events)
        self._begin_anew()
        copies = begun(self._api, self._namespace, self._signer, self._news.set)
        self._provider = ProviderCopy(self._api, self._chosen.provider, self._news.set)
        tasks = [asyncio.ensure_future(one.run()) for one in (*copies, self._provider, self._events)]
        try:
            while not stop.is_set():
                pause = RETRY
                try:
                    await self._pass(copies)
                    walking = self._stages is not None and self._stages.walk is not None
                    pause = STEP if walking and not self._ca.unsigned else LOOK
                except DirectoryError as error:
                    self._tell([str(error)])
                if self._ca.down > STAND_DOWN and not self._knows_more(copies):
                    _LOG.warning("nothing could be signed for %.0f s: another may try", self._ca.down)
                    return
                await self._wait(stop, pause)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _knows_more(self, copies: Copies) -> bool:
        """Tell whether the policy in force is only known here: the store was put back to an older one."""
        present = self._in_force(copies)
        return self._signed is not None and (present is None or self._signed.serial > present.serial)

    def _begin_anew(self) -> None:
        """Another has led meanwhile: where the cluster is, the API server knows."""
        self._stages = self._signed = None

    async def _wait(self, stop: asyncio.Event, seconds: float) -> None:
        tasks = {asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._news.wait())}
        _, pending = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        self._news.clear()

    # --- one pass -----------------------------------------------------------------------------------------------

    async def _pass(self, copies: Copies) -> None:
        """Do what is to be done now."""
        await current(copies, RETRY)
        now = datetime.now(UTC)
        # Copies of copies: these change whenever the server says something, also while a pass waits for it.
        nodes, requests = dict(copies.nodes.objects), dict(copies.requests.objects)
        if not self._cluster:
            system = await self._api.get(f"{NAMESPACES}/{KUBE_SYSTEM}", accept=METADATA)
            self._cluster = uid_of(system, None) or ""
        wanted = copies.wanted.objects.get(DEFAULT)
        spec: Mapping[str, Any] = {} if wanted is None else json.loads(wanted.spec)
        reports = {name: one.report for name, one in copies.reports.objects.items()}
        await self._ca.look()
        troubles = () if wanted is None else await self._ca.step(spec, nodes, reports, self._in_force(copies), now)
        bundle = self._ca.keys.published()
        # agents keep the first CA that they see: it is none before it has signed
        if copies.maps.objects.get(CA_MAP) != bundle and (CA_MAP in copies.maps.objects or not self._ca.unsigned):
            await self._put(CA_MAP, bundle)
        made = await self._signer.register(nodes, frozenset(copies.reports.objects))
        granted = await self._grant(nodes, spec, now, comers_of(copies, spec).indexes)
        certified = await self._signer.certify(requests, nodes, now)
        for text, names in (("the grant of", granted.granted), ("the certificate", certified.certified)):
            for name in names:
                _LOG.info("signed %s %s", text, name)
        for name in made:
            _LOG.info("made the NodeEncryption %s", name)
        uids = {name: facts.uid for name, facts in nodes.items()}
        self._node_news.tell(uids, granted.granted, certified.askers, reports, certified.denied, now.timestamp())
        problems = [] if wanted is None else await self._policy(copies, spec, wanted)
        stuck = await self._lifter.step(nodes, lambda: self._standing(copies, spec))
        self._tell([*troubles, *certified.refused, *certified.problems, *self._ungranted, *problems, *stuck])

    async def _grant(
        self, nodes: Mapping[str, NodeFacts], spec: Mapping[str, Any], now: datetime, indexes: Mapping[str, int]
    ) -> Passed:
        """Sign what nodes own, with the `indexes` of a former cluster; what is not granted goes into the status too."""
        await self._provider.first(RETRY)
        offered, out = self._provider.offer(nodes), staying_out(spec, nodes)
        granted = await self._signer.grant(nodes, offered, out, self._chosen, now, restored_at(spec), indexes)
        trouble = (self._provider.trouble,) if self._provider.trouble else ()
        scope = {name: nodes[name] for name in nodes.keys() - out}
        found = () if offered is None else tuple(misfits(self._chosen, scope, offered.prefixes))
        unread = () if offered is None else offered.problems
        self._misfits = found if offered is not None else trouble or (NOT_READ,)
        self._ungranted = (*trouble, *found, *unread, *granted.problems)
        return granted

    async def _policy(self, copies: Copies, spec: Mapping[str, Any], wanted: Wanted) -> list[str]:
        """Walk the stages and sign the policy; returns what is wrong with what is asked for."""
        asked = {key: value for key, value in spec.items() if key not in BESIDE}
        present = self._in_force(copies)
        try:
            stages = self._keeper(copies, present)
            policy = parse_policy(asked, SOURCE)
            aim = aim_of(policy, spec, SOURCE)
            stages.goes_on(policy, aim, comers_of(copies, spec), time.time())
            asked, kept = stages.merged(asked, policy)
            endpoints = frozenset[Endpoint]().union(*copies.slices.objects.values())
            addresses = {address for facts in copies.nodes.objects.values() for address in facts.addresses}
            asked = with_api_server(asked, kept, endpoints, addresses, None if present is None else present.spec)
        except ConfigError as error:
            problem = f"{error}; the policy in force stays"
            if self._stages is not None:
                self._stages.tick(self._evidence(copies, spec), time.time(), signs=False)
                await self._save()
                evidence = self._evidence(copies, spec)
                await self._report(self._stages, wanted, self._stages.position, evidence, problem, unused=True)
            return [problem]
        try:
            await self._walk(copies, spec, stages, asked, aim, present)
            unsigned = ""
        except SignerError as error:
            stages.undo()
            stages.tick(self._evidence(copies, spec), time.time(), signs=False)
            await self._save()
            unsigned = str(error)
        evidence = self._evidence(copies, spec)
        conflict = stages.awaited or stages.conflict(policy) or stages.unmet(aim, evidence.reports)
        await self._report(stages, wanted, aim.goal, evidence, conflict, unsigned)
        return [] if conflict is None else [conflict]

    async def _walk(
        self,
        copies: Copies,
        spec: Mapping[str, Any],
        stages: Stagekeeper,
        asked: Mapping[str, Any],
        aim: Aim,
        present: PolicyDocument | None,
    ) -> None:
        """Sign what is asked for, at the stage where the cluster is, and take the steps that are due."""
        scope = self._evidence(copies, spec).reports
        if not self._ca.unsigned:
            stages.aim(aim, scope, time.time())
        await self._publish(stages, asked, present)
        if self._ca.unsigned and (stages.walk is not None or stages.wants(aim)):
            raise SignerError(self._ca.unsigned)
        for _ in range(MAX_STEPS):
            if stages.walk is None or not stages.tick(self._evidence(copies, spec), time.time()):
                break
            await self._publish(stages, asked, self._signed)
        stages.aim(aim, scope, time.time())  # what waited for the end of that walk
        await self._save()

    def _keeper(self, copies: Copies, present: PolicyDocument | None) -> Stagekeeper:
        if self._stages is None:
            self._store, self._signed = remembered(copies, present, self._document)
            newest = self._signed
            policy = None if newest is None else read_signed(newest.spec)[0]
            self._stages = Stagekeeper(self._store, policy, time.time(), source="ClusterEncryption")
            if newest is not None and policy is not None:
                self._stages.hold_to(policy, newest.serial, time.time())
        return self._stages

    def _in_force(self, copies: Copies) -> PolicyDocument | None:
        """Return the policy that agents have been told, None if there is none by this CA for this cluster."""
        found = signed_policy(copies.maps.objects.get(POLICY_MAP, {}))
        if found is None:
            return None
        if self._verified is None or self._verified[0] != found:
            self._verified = (found, self._document(found))
        return self._verified[1]

    def _document(self, found: SignedPolicy | None) -> PolicyDocument | None:
        """Return what our CA signed for this cluster, None: it did not sign this."""
        try:
            return None if found is None else policydoc.verify(found, self._ca.trust, cluster=self._cluster)
        except PeerError:
            return None

    async def _publish(self, stages: Stagekeeper, asked: Mapping[str, Any], present: PolicyDocument | None) -> None:
        """Sign the policy at the stage where the cluster is, unless it says just that."""
        newest = newest_of(present, self._signed)
        spec, authorities = json.loads(json.dumps(stages.spec(asked))), self._ca.keys.in_force
        told = newest == present or time.monotonic() - self._written < SETTLE  # what was written comes by the watch
        said = None if newest is None else (newest.spec, newest.authorities)
        if newest is not None and said == (spec, authorities) and newest.serial >= stages.serial and told:
            stages.signed(newest.serial)
            return
        if newest is not None and newest.serial > stages.serial:
            self._overtaken()
        now, after = datetime.now(UTC), stages.serial
        serial = max(int(now.timestamp()), after + 1)
        document = PolicyDocument(self._cluster, serial, now, spec, authorities, after)
        signed = await self._ca.signed(lambda authority: policydoc.sign(authority, document))
        version = await self._unovertaken(newest)
        stages.signed(serial)
        self._store.signed = signed
        await self._save()  # before anybody acts on it: a controller that starts anew goes on from there
        body = config_map(POLICY_MAP, {POLICY_KEY: signed.text, POLICY_SIGNATURE: signed.signature}, version)
        try:
            if version is None:
                await self._api.create(self._map(""), body)
            else:
                await self._api.apply(self._map(POLICY_MAP), body, manager=MANAGER)
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT:
                self._begin_anew()
            raise
        self._signed, self._written = document, time.monotonic()

    def _overtaken(self) -> Never:
        self._begin_anew()
        raise ApiError("another controller has signed a policy meanwhile: looking again", HTTPStatus.CONFLICT)

    async def _unovertaken(self, newest: PolicyDocument | None) -> str | None:
        """Return the version of the policy's object to replace it only as it is, None if there is none: make it then.

        Raises ApiError if another controller has signed one after `newest`, the last that is known here: a node would
        refuse what does not follow that, so all is begun anew from what the API server has.
        """
        found = await self._api.find(self._map(POLICY_MAP))
        if found is None:
            return None
        present = self._document(signed_policy(found.get("data") or {}))
        if present is not None and present != newest and (newest is None or present.serial >= newest.serial):
            self._overtaken()
        return str(found["metadata"]["resourceVersion"])

    async def _save(self) -> None:
        if self._store.due:
            await self._put(STAGE_MAP, self._store.data)
            self._store.due = False

    async def _put(self, name: str, data: Mapping[str, str]) -> None:
        await self._api.apply(self._map(name), config_map(name, data), manager=MANAGER)

    def _map(self, name: str) -> str:
        return f"/api/v1/namespaces/{self._namespace}/configmaps/{name}".rstrip("/")

    def _standing(self, copies: Copies, spec: Mapping[str, Any]) -> tuple[Position, Evidence] | None:
        """Where the cluster is, also without ClusterEncryption; None: there is a policy, and it cannot be read."""
        if self._stages is not None:
            return self._stages.position, self._evidence(copies, spec)
        present = self._in_force(copies)
        at = None if present is None and POLICY_MAP in copies.maps.objects else position_of(present)
        return None if at is None else (at, self._evidence(copies, spec, 0 if present is None else present.serial))

    def _evidence(self, copies: Copies, spec: Mapping[str, Any], serial: int = 0) -> Evidence:
        out = staying_out(spec, copies.nodes.objects)
        at = Position() if self._stages is None else self._stages.position
        coming = {name: stage for name, (_, stage) in comers_of(copies, spec).waiting.items()}
        held = out.union(beyond(at, coming))
        reports = {
            name: known.report if (known := copies.reports.objects.get(name)) is not None else None
            for name in copies.nodes.objects
            if name not in held
        }
        serial = serial if self._stages is None else self._stages.serial
        return Evidence(
            serial, reports, tuple(sorted(out & copies.nodes.objects.keys())), self._misfits, self._unbounded
        )

    async def _report(
        self,
        stages: Stagekeeper,
        wanted: Wanted,
        goal: Position,
        evidence: Evidence,
        problem: str | None,
        unsigned: str = "",
        *,
        unused: bool = False,
    ) -> None:
        """Say in the ClusterEncryption's status where the cluster is and what holds it."""
        shown, walking = stages.progress, stages.walk is not None
        reasons = shown.reasons if shown is not None and walking else ()
        here = stages.position, goal, walking, reasons, stages.serial, wanted.generation, problem, stages.taken_back
        standing = Standing(*here, self._ungranted, self._ca.status(), unsigned, unused)
        if trouble := await self._cluster_report.tell(standing, evidence, wanted):
            self._tell([trouble])

    def _tell(self, messages: list[str]) -> None:
        for message in messages:
            if message not in self._told:
                _LOG.warning("%s", message)
        self._told = set(messages)

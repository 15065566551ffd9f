"""Keeps the CA of a cluster in its Secret, and replaces it when that is asked for (`carotation`).

    Secret linkseal-ca-key     the CA that signs, the next one while it is rotated, cross certificates, the phase
    Secret linkseal-ca-next    by the operator: a CA that is brought as the next one

A CA's key may be in an SSH agent: then the Secret says so in its place, and every signature is asked for there.

Every step is one write of the Secret as it was read: of two controllers at once one loses and reads anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from linkseal.keys import grant as grants
from linkseal.keys.ca import CertificateAuthority, Trust
from linkseal.keys.elsewhere import Elsewhere
from linkseal.keys.errors import ConfigError, PeerError, SignerError
from linkseal.keys.policydoc import PolicyDocument
from linkseal.tunnels.clusterobject import MAX_BLOCKERS, CaStatus
from linkseal.tunnels.controller.carotation import (
    NEXT_SECRET,
    STATE,
    Authorities,
    Phase,
    Seen,
    advanced,
    begun,
    brought,
    data_of,
    ends,
    holds,
    make,
    read_data,
    wish,
)
from linkseal.tunnels.controller.waiting import in_turns
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import CA, CA_KEY, CA_MAP
from linkseal.tunnels.findings import MAX_MESSAGE, printable
from linkseal.tunnels.status import NodeEncryption

if TYPE_CHECKING:
    from linkseal.tunnels.controller.nodefacts import NodeFacts

_LOG: Final = logging.getLogger("linkseal.controller")

CA_SECRET: Final = "linkseal-ca-key"  # noqa: S105 - the name of the object, not what is in it


CHECK: Final = 60.0
"""Seconds between two looks whether a key elsewhere signs: it is to be known before it is needed."""

Signed = TypeVar("Signed")


class _Signers(NamedTuple):
    """By whom what a Node carries is signed, as fingerprints; to find that out again takes milliseconds a node."""

    of: tuple[str, str, str]
    trust: Trust
    granted_by: str
    certified_by: str


class CaKeeper:
    """The CAs of the cluster of `api`; `elsewhere` makes keys that another process holds. Methods raise ApiError."""

    def __init__(self, api: KubeApi, namespace: str, elsewhere: Elsewhere | None = None) -> None:
        self._api, self._elsewhere = api, elsewhere
        self._path = f"/api/v1/namespaces/{namespace}/secrets"
        self._maps = f"/api/v1/namespaces/{namespace}/configmaps"
        self._where = f"the Secret {namespace}/{CA_SECRET}"
        self._next = f"the Secret {namespace}/{NEXT_SECRET}"
        self._secret: dict[str, Any] = {}
        self._waiting: tuple[str, ...] = ()
        self._problem = self.unsigned = ""
        """What is wrong with a replacement; why nothing can be signed, empty: it can."""
        self._since = self._checked = -CHECK
        self._signers: dict[str, _Signers] = {}
        self.keys: Authorities
        self.trust: Trust

    async def load(self, now: datetime) -> None:
        """Read the Secret; make a CA if there is none. Raises ConfigError: it holds none that can be used."""
        while (found := await self._api.find(f"{self._path}/{CA_SECRET}")) is None:
            await self._check_first()
            body = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": CA_SECRET}}
            try:
                await self._api.create(self._path, {**body, "data": data_of(Authorities(make(now)))})
            except ApiError as error:
                if error.status != HTTPStatus.CONFLICT:  # another controller was faster: its CA counts
                    raise
            else:
                _LOG.info("made a CA in %s", self._where)
        self._take(found, read_data(found.get("data") or {}, self._where, now, self._elsewhere))
        if not self.keys.made and STATE not in found["data"]:
            await self._store(self.keys, now)  # it was taken up: its dates end nothing from now on

    async def _check_first(self) -> None:
        """Raise ConfigError if agents were given a CA already: another one would be trusted by none of them."""
        for one in (await self._api.get(self._maps)).get("items") or ():
            if one["metadata"].get("name") == CA_MAP and (one.get("data") or {}).get(CA_KEY):
                raise ConfigError(
                    f"{self._where} is gone, and agents trust its CA: put it back from a copy. Without one delete the "
                    f"ConfigMap {CA_MAP} too: a new CA is made, of which each node is told by `linkseal agent "
                    "trust-ca` (docs/ca.md)"
                )

    async def step(
        self,
        spec: Mapping[str, Any],
        nodes: Mapping[str, NodeFacts],
        reports: Mapping[str, NodeEncryption | None],
        policy: PolicyDocument | None,
        now: datetime,
    ) -> tuple[str, ...]:
        """Make the next step, if one is due; returns what is wrong.

        `spec`: of the ClusterEncryption; `policy`: the one in force.
        """
        asked = str((spec.get(CA) or {}).get("rotate") or "")
        self._waiting, self._problem = (), ""
        try:
            if self.keys.phase is Phase.STEADY:
                await self._begin(asked, now)
            else:
                seen = [
                    self._seen(name, facts, reports.get(name), now) async for name, facts in in_turns(nodes.items())
                ]
                self._signers = {name: one for name, one in self._signers.items() if name in nodes}
                said = ((), 0) if policy is None else (policy.authorities, policy.serial)
                self._waiting = holds(self.keys, seen, said, now)
                if not self._waiting:
                    await self._ready(self.keys.coming)
                    await self._store(advanced(self.keys, now), now)
        except (ConfigError, ApiError, SignerError) as error:
            self._problem = f"the CA stays as it is: {error}"
        return (self._problem,) if self._problem else ()

    async def look(self) -> None:
        """See now and then whether a key elsewhere signs, and in every pass while it does not: see `signed`."""
        if not self.keys.signer.elsewhere:
            self.unsigned = ""  # of a CA that signs no more
        elif self.unsigned or time.monotonic() - self._checked >= CHECK:
            self._checked = time.monotonic()
            with suppress(SignerError):  # which is kept, and told
                await self._ask(CertificateAuthority.check)

    async def signed(self, sign: Callable[[CertificateAuthority], Signed]) -> Signed:
        """Return what `sign` makes with the CA that signs now; it may take its time.

        Raises SignerError; at once where it is known that nothing is signed, until `look` has found that it is.
        """
        if self.unsigned:
            raise SignerError(self.unsigned)
        return await self._ask(sign)

    @property
    def down(self) -> float:
        """Seconds for which nothing could be signed; 0: it can."""
        return time.monotonic() - self._since if self.unsigned else 0.0

    async def _ask(self, sign: Callable[[CertificateAuthority], Signed]) -> Signed:
        try:
            made = await asyncio.to_thread(sign, self.keys.signer)
        except SignerError as error:
            if not self.unsigned:
                self._since = time.monotonic()
                _LOG.warning("nothing can be signed: %s", error)
            self.unsigned = f"nothing can be signed: {error}"
            raise
        if self.unsigned:
            _LOG.info("the CA's key signs again")
        self.unsigned = ""
        return made

    async def _ready(self, coming: CertificateAuthority | None) -> None:
        """Raise SignerError if the CA that is to sign cannot: nothing would be signed any more, and no way back."""
        if coming is not None and coming.elsewhere:
            await asyncio.to_thread(coming.check)

    def status(self) -> CaStatus:
        """What the ClusterEncryption's status says of the CA."""
        keys = self.keys
        return CaStatus(
            phase=keys.phase.value,
            fingerprint=keys.signer.fingerprint,
            not_after=ends(keys),
            old=keys.present.fingerprint if keys.phase is Phase.SIGNING else None,
            next=keys.coming.fingerprint if keys.coming is not None and keys.phase is Phase.TRUSTING else None,
            asked=keys.asked,
            since=keys.since or None,
            waiting=tuple(printable(one, MAX_MESSAGE) for one in self._waiting[:MAX_BLOCKERS]),
            problem=printable(self._problem, MAX_MESSAGE),
            unsigned=printable(self.unsigned, MAX_MESSAGE),
            made=keys.made,
        )

    async def _begin(self, asked: str, now: datetime) -> None:
        due = wish(self.keys, asked, now)
        self._problem = due.problem
        if due.asked:
            coming, made = await self._coming(now)
            await self._ready(coming)
            await self._store(await self.signed(lambda _: begun(self.keys, coming, due.asked, now, made=made)), now)

    async def _coming(self, now: datetime) -> tuple[CertificateAuthority, bool]:
        """Return the next CA and whether it was made here: one that was brought, else a new one."""
        found = await self._api.find(f"{self._path}/{NEXT_SECRET}")
        if found is not None:
            return brought(found.get("data") or {}, self._next, now, self._elsewhere), False
        if not self.keys.made:
            raise ConfigError(f"the present one was brought, and so must the next be: put it into {self._next}")
        return make(now), True

    async def _store(self, keys: Authorities, now: datetime) -> None:
        """Write them, unless the Secret has changed since it was read: then what is there counts."""
        try:
            found = await self._api.replace(f"{self._path}/{CA_SECRET}", {**self._secret, "data": data_of(keys)})
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            await self.load(now)
            return
        self._take(found, keys)
        _LOG.info("the CA: phase %s, %s signs", keys.phase.value, keys.signer.fingerprint)

    def _take(self, secret: dict[str, Any], keys: Authorities) -> None:
        self._secret, self.keys, self.trust = secret, keys, keys.trust()

    def _seen(self, name: str, facts: NodeFacts, report: NodeEncryption | None, now: datetime) -> Seen:
        status = None if report is None else report.status
        if self.keys.phase is not Phase.SIGNING:
            return Seen(name, bool(facts.certificate), status)
        known = self._signers.get(name)
        if known is None or known.of != (facts.grant, facts.certificate, facts.uid) or known.trust is not self.trust:
            known = self._signers[name] = self._signers_of(name, facts, now)
        return Seen(name, bool(facts.certificate), status, known.granted_by, known.certified_by)

    def _signers_of(self, name: str, facts: NodeFacts, now: datetime) -> _Signers:
        granted_by = certified_by = ""
        try:
            if facts.grant:
                signed = grants.unwrap(facts.grant, node=name)
                granted_by = self.trust.grant_signer(signed.text, signed.signature)
            if facts.certificate:
                known = self.trust.verify_certificate(facts.certificate, name, facts.uid, now, check_time=False)
                certified_by = known.issuer
        except PeerError:
            pass  # by nobody we know
        return _Signers((facts.grant, facts.certificate, facts.uid), self.trust, granted_by, certified_by)

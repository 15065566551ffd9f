"""One controller works, the others stand by: by a Lease, as client-go's election has it.

Whether a Lease has run out is judged by how long it has not changed by one's own clock, never by the times in it. The
election of the package `kubernetes` for asyncio is not used: that of 37.0 fails at its first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from linkseal.tunnels.controller.waiting import pause
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi

_LOG: Final = logging.getLogger("linkseal.controller")

NAME: Final = "linkseal-controller"
LEASE_SECONDS: Final = 15
RENEW_SECONDS: Final = 10
"""Who could not renew for so long stops working, well before another may begin."""
RETRY_SECONDS: Final = 2
"""The three are client-go's defaults."""

STAND_BY: Final = 3
"""Times RETRY_SECONDS, in which another one may take a Lease that was given up."""

Work = Callable[[asyncio.Event], Awaitable[None]]


class Lease:
    """The Lease of one namespace, for one candidate."""

    def __init__(self, api: KubeApi, namespace: str, identity: str) -> None:
        self._api, self._identity = api, identity
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._seen: tuple[object, float] = (None, 0.0)
        """The record as last seen, and since when it has been that."""

    async def hold(self) -> bool:
        """Take or renew it; whether it is ours now. Raises ApiError."""
        now = asyncio.get_running_loop().time()
        found = await self._api.find(f"{self._leases}/{NAME}")
        if found is None:
            return await self._try(self._api.create(self._leases, self._body({}, {})))
        spec = found.get("spec") or {}
        record = (spec.get("holderIdentity"), spec.get("renewTime"))
        if record != self._seen[0]:
            self._seen = (record, now)
        free = not record[0] or now - self._seen[1] > LEASE_SECONDS
        if record[0] != self._identity and not free:
            return False
        return await self._try(self._api.replace(f"{self._leases}/{NAME}", self._body(found["metadata"], spec)))

    async def release(self) -> None:
        """Let another take it at once, if it is ours."""
        with contextlib.suppress(ApiError):
            found = await self._api.get(f"{self._leases}/{NAME}")
            if (found.get("spec") or {}).get("holderIdentity") == self._identity:
                found["spec"]["holderIdentity"] = ""
                await self._api.replace(f"{self._leases}/{NAME}", found)

    async def _try(self, write: Awaitable[object]) -> bool:
        try:
            await write
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:  # another was faster
                raise
            return False
        return True

    def _body(self, metadata: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = before.get("holderIdentity") == self._identity
        changes = int(before.get("leaseTransitions") or 0) + (0 if ours or not before else 1)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": NAME, **metadata},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": LEASE_SECONDS,
                "acquireTime": before.get("acquireTime") if ours else now,
                "renewTime": now,
                "leaseTransitions": changes,
            },
        }


async def while_leading(lease: Lease, work: Work, stop: asyncio.Event) -> None:
    """Do `work` whenever this process holds the Lease, until `stop`. Raises what `work` raises but ApiError.

    Work that ends by itself, or for the API server's sake, cannot be done here now: another one gets the time to try.
    """
    clock = asyncio.get_running_loop().time
    ending, renewed = asyncio.Event(), 0.0
    working: asyncio.Future[None] | None = None
    try:
        while not stop.is_set():
            if working is not None and working.done():
                try:
                    await working
                except ApiError as error:
                    _LOG.warning("nothing can be signed now, another may try: %s", error)
                working = None
                await lease.release()
                await pause(stop, STAND_BY * RETRY_SECONDS)
            elif await _holds(lease):
                renewed = clock()
                if working is None:
                    _LOG.info("leading")
                    ending = asyncio.Event()
                    working = asyncio.ensure_future(work(ending))
            elif working is not None and clock() - renewed > RENEW_SECONDS:
                _LOG.warning("the Lease %s could not be renewed: standing by", NAME)
                ending.set()
                await working
                working = None
            await pause(stop, RETRY_SECONDS)
    finally:
        ending.set()
        try:
            if working is not None:
                await working
        finally:  # whatever it ended with: another need not wait for the Lease to run out
            await lease.release()


async def _holds(lease: Lease) -> bool:
    try:
        async with asyncio.timeout(2 * RETRY_SECONDS):
            return await lease.hold()
    except (ApiError, TimeoutError) as error:
        _LOG.debug("the Lease cannot be renewed now: %s", error)
        return False

"""Writes a node's report into the status of its NodeEncryption, also where the CRD is older than the agent.

Helm replaces no CRDs, so an agent may know fields that the API server does not. Server-side apply refuses these; a JSON
patch goes through, and what is not known is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from linkseal.tunnels.directory.kubeapi import METADATA, ApiError, KubeApi

_LOG: Final = logging.getLogger("linkseal.agent")

NEW_CRDS: Final = "`kubectl apply --server-side --force-conflicts -f charts/linkseal/crds/`"
"""By force: the fields are Helm's, which made them."""

UNDECLARED: Final = "field not declared in schema"
"""The API server's words (structured-merge-diff, typed/validate.go); it answers 500 with them."""


class Reporter:
    """Of one node. `collection`: where the NodeEncryptions are; `manager`: who applies."""

    def __init__(self, api: KubeApi, collection: str, manager: str) -> None:
        self._api, self._collection, self._manager = api, collection, manager
        self._older = False
        """The CRD was found to be older than this agent. Once it is not, a patch leaves nothing out either."""

    async def put(self, node: str, status: Mapping[str, Any]) -> None:
        """Replace the status as a whole. Raises ApiError."""
        path = f"{self._collection}/{node}/status"
        if not self._older:
            fields = {"apiVersion": "linkseal.io/v1alpha1", "kind": "NodeEncryption", "metadata": {"name": node}}
            try:
                await self._api.apply(path, {**fields, "status": status}, manager=self._manager, accept=METADATA)
            except ApiError as error:
                if UNDECLARED not in str(error):
                    raise
            else:
                return
            self._older = True
            _LOG.warning(
                "the CRD nodeencryptions.linkseal.io is older than this agent, so a part of its reports is left out: "
                "%s",
                NEW_CRDS,
            )
        await self._api.patch(path, [{"op": "add", "path": "/status", "value": status}])

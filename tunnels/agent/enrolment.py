"""How a node gets its certificate: it asks with a request signed by its own key, and takes what fits.

Renewed at two thirds of its life; the old one stays until a new one has been verified.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from linkseal.keys.errors import DirectoryError, PeerError
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.trouble import Pauses
from linkseal.tunnels.agent.worker import unix_now, utc
from linkseal.tunnels.directory.base import Directory

_LOG: Final = logging.getLogger("linkseal.agent")

RENEW_AT: Final = 2 / 3
"""Of a certificate's life (DESIGN, Kubernetes' own kubelets do 70 to 90 %)."""


class Enrolment:
    """Asks and takes. Called whenever the directory was looked at; `warn` is told what is wrong each time."""

    def __init__(
        self, keyring: Keyring, knowledge: Knowledge, directory: Directory, warn: Callable[[str], None]
    ) -> None:
        self._keyring = keyring
        self._knowledge = knowledge
        self._directory = directory
        self._warn = warn
        self._asked = False
        self._pauses = Pauses()

    async def step(self) -> float:
        """Do what is needed now; returns the seconds until it is worth another look, 0.0 if nothing is to come.

        Less and less often: a signer may be away for months, and a directory tells when something comes.
        """
        if await self._waits():
            return self._pauses.next()
        self._pauses.reset()
        return 0.0

    async def _waits(self) -> bool:
        """Ask or take; whether an answer is still to come."""
        trust, node = self._knowledge.trust, self._keyring.node
        if trust is None:
            return True
        now = utc(unix_now())
        if not self._due(now):
            self._asked = False
            return False
        try:
            offered = await self._directory.certificate(node)
            if offered is not None and offered != self._keyring.certificate() and self._take(offered, now):
                return False
            if not self._asked:
                await self._directory.request_certificate(node, self._keyring.csr())
                self._asked = True
        except DirectoryError as error:
            _LOG.debug("no certificate yet: %s", error)
        return True

    def _due(self, now: datetime) -> bool:
        """Whether there is no valid certificate of ours, or two thirds of its life are over."""
        certificate, trust = self._keyring.certificate(), self._knowledge.trust
        if certificate is None or trust is None:
            return True
        try:
            known = trust.verify_certificate(certificate, self._keyring.node, self._keyring.uid, now)
        except PeerError:
            return True
        return now >= known.not_before + (known.not_after - known.not_before) * RENEW_AT

    def _take(self, offered: str, now: datetime) -> bool:
        trust = self._knowledge.trust
        assert trust is not None
        try:
            known = trust.verify_certificate(offered, self._keyring.node, self._keyring.uid, now)
        except PeerError as error:
            self._warn(f"the certificate offered is refused: {error}")
            return False
        if not self._keyring.is_ours(known):
            self._warn("the certificate offered is for another key; asking for one for ours")
            return False
        self._keyring.save_certificate(offered)
        return True

"""How a node gets its certificate: it asks with a request signed by its own key, and takes what fits.

Renewed at two thirds of its life, and when another CA signs now; the old one stays until a new one has been verified.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final
from zlib import crc32

from linkseal.keys.ca import NodeCertificate
from linkseal.keys.errors import CertificateRefusedError, DirectoryError, PeerError
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.trouble import Pauses
from linkseal.tunnels.agent.worker import steady_now, unix_now, utc
from linkseal.tunnels.directory.base import Directory

_LOG: Final = logging.getLogger("linkseal.agent")

RENEW_AT: Final = 2 / 3
"""Of a certificate's life (DESIGN, Kubernetes' own kubelets do 70 to 90 %)."""


TURN: Final = 0.05
"""Seconds for each node of the cluster, over which they ask a new CA: twenty of them a second."""

SOON: Final = 0.1

CHECK: Final = 3600.0
"""Seconds after which at the latest it is looked whether the certificate is due; each node has its own, of the second
half of that, lest all ask in one moment."""

AFTER_REFUSAL: Final = (15.0, 900.0)
"""Seconds until another request after one that was denied, from the first to the last. Where a pod was replaced while
its request waited it is denied, once; denied ones stay at the API server for an hour: there must not be many."""


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
        self._refusals = Pauses(*AFTER_REFUSAL)
        self._not_before = 0.0
        """When (steady clock) another request may be made."""
        self._since: float | None = None
        """When (steady clock) it was seen that another CA signs now."""
        self._signing = ""

    async def step(self) -> float:
        """Do what is needed now; returns the seconds until it is worth another look.

        Less and less often: a signer may be away for months, and a directory tells when something comes. That a
        certificate is due nobody tells.
        """
        if steady_now() < self._not_before:
            return self._not_before - steady_now()
        try:
            if await self._waits():
                return self._pauses.next()
        except CertificateRefusedError as error:
            pause = self._refusals.next()
            self._asked, self._not_before = False, steady_now() + pause
            self._warn(f"{error}; another is made in {pause:.0f} s")
            return pause
        self._pauses.reset()
        self._refusals.reset()
        again = CHECK * (1 + self._share()) / 2
        return again if self._since is None else min(again, max(SOON, self._since + self._turn() - steady_now()))

    def soon(self) -> float:
        """Seconds until `step` is wanted, since a pass has learnt that another CA signs; 0.0: it has not."""
        signing = self._knowledge.anchors.signing
        if signing == self._signing:
            return 0.0
        self._signing = signing
        return SOON

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
                self._asked = False
                return self._due(now)  # it may be by a CA that has just been replaced
            if not self._asked:
                await self._directory.request_certificate(node, self._keyring.csr())
                self._asked = True
        except CertificateRefusedError:
            raise
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
        if self._replaced(known) or not self._keyring.is_ours(known):
            return True
        return now >= known.not_before + (known.not_after - known.not_before) * RENEW_AT

    def _replaced(self, known: NodeCertificate) -> bool:
        """Whether another CA than this certificate's signs now, by the policy in force, and it is this node's turn."""
        if self._knowledge.anchors.signing in ("", known.issuer):
            self._since = None
            return False
        if self._since is None:
            self._since = steady_now()
        return steady_now() >= self._since + self._turn()

    def _turn(self) -> float:
        """Seconds by which this node waits for its turn: by its name, so that not all ask at once."""
        register = self._knowledge.register
        nodes = 1 if register is None else len(register.peers)
        return TURN * nodes * self._share()

    def _share(self) -> float:
        """This node's part of 0 to 1, by its name."""
        return crc32(self._keyring.node.encode()) / (1 << 32)

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

"""What the directory holds of this node, compared with what it signed last. In the worker's thread."""

from __future__ import annotations

import logging
from typing import Final

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.tunnels import codes
from linkseal.tunnels.agent.clock import unix_now
from linkseal.tunnels.agent.worker import Worker
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import HOST_SUBJECT

_LOG: Final = logging.getLogger("linkseal.agent")


def compare(worker: Worker, view: DirectoryView, before: int) -> int:
    """Have it published again where the directory holds something older, or the same with another signature.

    `before` is the serial it held last. Returns the one that is there, 0 if it is not what was signed last. HostError.
    """
    own = view.snapshot.nodes.get(worker.settings.node)
    there = None if own is None else own.announcement
    text = None if there is None else there.text
    speaker, keyring = worker.speaker, worker.keyring
    if keyring.last is not None and keyring.last_parsed is not None and there == keyring.last:  # signature and all
        speaker.published(keyring.last.text)
        worker.findings.clear(codes.NOT_PUBLISHED, HOST_SUBJECT)
        return keyring.last_parsed.serial
    if text is not None and speaker.held_another(text):
        message = f"it no longer holds this node's announcement {before}: publishing again"
        worker.findings.raise_(codes.DIRECTORY_OLDER, HOST_SUBJECT, message, unix_now(), lasts=3600.0)
    speaker.unpublished()
    return 0


def published(worker: Worker, signed: SignedAnnouncement) -> int:
    """Note that it has been published; returns its serial. HostError."""
    worker.findings.clear(codes.NOT_PUBLISHED, HOST_SUBJECT)
    worker.speaker.published(signed.text)
    last = worker.keyring.last_parsed
    serial = 0 if last is None else last.serial
    numbers = [] if last is None else [generation.number for generation in last.generations]
    _LOG.info("announced generations %s with serial %d", numbers, serial)
    return serial

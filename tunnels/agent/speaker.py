"""What this node announces, and when its generations change.

raise ── key on disk ── slots in the kernel ── announced ── every living peer has moved and said so ── retire
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from linkseal.keys.announcement import AnnouncedEndpoint, SignedAnnouncement
from linkseal.keys.ca import Trust
from linkseal.keys.errors import ConfigError
from linkseal.tunnels import codes
from linkseal.tunnels.addressing import slot_name
from linkseal.tunnels.agent.keyring import CLOCK_TOLERANCE, Keyring, Statement
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.model import KeyOfGeneration, Observed
from linkseal.tunnels.rotation import SPREAD, due_after, holders

_LOG: Final = logging.getLogger("linkseal.agent")


class Speaker:
    """Decides on generations and signs announcements. Owned by the worker's thread."""

    def __init__(self, keyring: Keyring, findings: ActiveFindings) -> None:
        self._keyring = keyring
        self._findings = findings
        self._ahead: float | None = None
        """Seconds the wall clock was ahead of the steady one, at the most since it last stepped back."""
        self._published: str | None = None
        self._aborted = False
        """The generation that was raised last was taken back, and the schedule has not yet taken note of that."""
        self._not_before = 0.0
        """Wall time before which none is raised by schedule."""

    # --- rotation -----------------------------------------------------------------------------------------------

    def request_rotation(self, now: float) -> int:
        """Raise a generation; returns its number. ConfigError while two are live."""
        number = self._keyring.raise_generation(datetime.fromtimestamp(now, UTC))
        _LOG.info("generation %d raised", number)
        return number

    def rotate_by_schedule(self, node: str, interval: float, now: float) -> None:
        """Raise a generation if the live one is as old as the policy lets it be: `interval` seconds; 0: any age.

        Not while another is coming or going: what holds that is told. One that was aborted is not raised again at once.
        """
        generations = self._keyring.generations
        if not interval or generations is None or len(generations.live) > 1:
            return
        if self._aborted:
            self._aborted, self._not_before = False, now + interval * SPREAD
        age = now - generations.newest.raised.timestamp()
        if age >= due_after(node, interval) and now >= self._not_before:
            number = self.request_rotation(now)
            _LOG.info("generation %d is to replace one of %.1f days", number, age / 86400)

    def request_abort(self) -> int:
        """Take the newer of two generations back; returns its number. ConfigError if there is one only."""
        number = self._keyring.abort()
        self._aborted = True
        _LOG.info("generation %d aborted; peers go back to the one before", number)
        return number

    def watch_clock(self, wall: float, steady: float) -> None:
        """Raise a generation if the wall clock stepped back: peers refuse handshakes dated before those they had.

        Seen while running against a clock that never jumps, and at start against what this node signed last.
        """
        generations = self._keyring.generations
        if generations is None or len(generations.live) > 1:
            return  # the one that is coming is a new key anyway
        ahead = wall - steady
        most = ahead if self._ahead is None else max(ahead, self._ahead)
        if most - ahead > CLOCK_TOLERANCE or self._keyring.clock_stepped_back(datetime.fromtimestamp(wall, UTC)):
            self._clock_stepped_back(wall)
            most = ahead
        self._ahead = most

    def rotate(self, book: LinkBook, steady: float, wall: float) -> None:
        """Retire the generation that is to go when nothing holds it. `steady` is the book's clock."""
        generations = self._keyring.generations
        if generations is None:
            return
        leaving = generations.leaving
        if leaving is None:
            self._tell_held({}, wall)
            return
        staying = next(g.number for g in generations.live if g is not leaving)
        held = holders(book, leaving.number, staying, steady)
        self._tell_held({name: f"generation {leaving.number} stays: {why}" for name, why in held.items()}, wall)
        if not held:
            _LOG.info("generation %d retired: every living peer uses %d", self._keyring.retire(), staying)

    def _tell_held(self, reasons: Mapping[str, str], now: float) -> None:
        current = {(codes.ROTATION_HELD, peer): reason for peer, reason in reasons.items()}
        self._findings.replace({codes.ROTATION_HELD}, current, now)

    def _clock_stepped_back(self, now: float) -> None:
        try:
            number = self.request_rotation(now)
        except ConfigError:
            return
        message = f"the clock stepped back; peers would refuse handshakes by the old key: generation {number} raised"
        self._findings.raise_(codes.CLOCK_BACK, HOST_SUBJECT, message, now, lasts=3600.0)

    # --- announcement -------------------------------------------------------------------------------------------

    def announcement(
        self,
        endpoints: tuple[AnnouncedEndpoint, ...],
        door: bool,  # noqa: FBT001 - a fact of this host
        observed: Observed,
        seen_serial: int,
        trust: Trust | None,
        now: float,
    ) -> SignedAnnouncement | None:
        """What is to be published now; None: nothing, or it cannot be yet (no certificate)."""
        certificate = self._keyring.certificate()
        ready = self._ready(observed)
        if certificate is None or trust is None or not ready:
            if certificate is None:
                message = "no certificate yet: the signer has not answered this node's request"
                self._findings.raise_(codes.NO_CERTIFICATE, HOST_SUBJECT, message, now)
            return None
        self._findings.clear(codes.NO_CERTIFICATE, HOST_SUBJECT)
        statement = Statement(endpoints, ("door",) if door else ())
        last = self._keyring.last
        above = self._keyring.last_parsed.serial if self._keyring.last_parsed is not None else 0
        if self._keyring.statement_differs(statement, certificate, ready) or seen_serial > above:
            last = self._keyring.sign(statement, certificate, ready, seen_serial, datetime.fromtimestamp(now, UTC))
        if last is None or last.text == self._published:
            return None
        return last

    def published(self, text: str) -> None:
        """The directory holds this announcement now."""
        self._published = text
        if self._keyring.last is not None and self._keyring.last.text == text:
            self._keyring.announced()

    def held_another(self, text: str) -> bool:
        """Whether the directory held an announcement of ours that this is not: an older one was put back."""
        return self._published is not None and self._published != text

    def unpublished(self) -> None:
        """The directory holds something else, or nothing: publish again."""
        self._published = None

    def _ready(self, observed: Observed) -> list[int]:
        """Generations to announce: those announced before, and those whose slots stand now, so that peers may begin.

        A slot that somebody deletes does not take its generation back: that would burn its number with every peer.
        """
        generations = self._keyring.generations
        said = set() if generations is None else {generation.number for generation in generations.announced}

        def stands(entry: KeyOfGeneration) -> bool:
            devices = [observed.devices.get(slot_name(entry.number, remote)) for remote in (0, 1)]
            return all(device is not None and device.public_key == entry.public_key for device in devices)

        return [
            entry.number
            for entry in self._keyring.own_keys()
            if entry.number not in self._keyring.withdrawing() and (entry.number in said or stands(entry))
        ]

"""The agent's process: watchers mark what is dirty, one task does the passes, timers only wake it.

directory ─┐
netlink   ─┼─► dirty ──► pass (worker thread) ──► probe targets, publication, status ──► sleep until the next
probes    ─┤
control   ─┘
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import DirectoryError, LinksealError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.control import ControlServer
from linkseal.tunnels.agent.enrolment import Enrolment
from linkseal.tunnels.agent.paths import PathMeter
from linkseal.tunnels.agent.report import node_status
from linkseal.tunnels.agent.requests import RequestDesk
from linkseal.tunnels.agent.targets import sources_of
from linkseal.tunnels.agent.worker import Job, Result, Worker, unix_now
from linkseal.tunnels.directory.base import Directory, DirectoryView
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.host.events import Events
from linkseal.tunnels.host.host import ALL, Aspect
from linkseal.tunnels.model import Observed
from linkseal.tunnels.plan import protected
from linkseal.tunnels.probe.engine import ProbeEngine, ProbeSettings
from linkseal.tunnels.probe.outcomes import Outcome
from linkseal.tunnels.render import render, render_steps
from linkseal.tunnels.status import NodeStatus, significant, to_json

_LOG: Final = logging.getLogger("linkseal.agent")
_T = TypeVar("_T")

DEBOUNCE: Final = 0.03
"""Seconds: one change of the kernel comes as several events."""
POLLED: Final = frozenset({Aspect.WIREGUARD, Aspect.LINKS})
"""What has no events: WireGuard's configuration, and accept_local and rp_filter of interfaces when set by netlink.
Reading 120 interfaces takes 25 ms: 0.25 % of a core at a poll every 10 s."""
FULL_LOOK_EVERY: Final = 6
"""Polls after which everything is looked at: nothing depends on events alone."""
SECOND_LOOK: Final = 2.5
"""Seconds after a node disappeared from the directory: a deletion counts when it is seen twice, two seconds apart."""
DIRECTORY_LOOK: Final = 60.0
"""Seconds one wait for a change of the directory lasts."""
STATUS_REFRESH: Final = 300.0
"""Seconds between two writes of an unchanged status (DESIGN 5), give or take a tenth."""
POKE_EVERY: Final = 1.0
"""Seconds between two requests for the replies that a rotation waits for."""
PUBLISH_RETRY: Final = 5.0
"""Seconds until a publication that failed is tried again."""


class Agent:
    """One node's agent. `run` returns when `stop` was called; tunnels stay."""

    def __init__(self, worker: Worker, directory: Directory, executor: ThreadPoolExecutor) -> None:
        self.worker = worker
        self._directory = directory
        self._executor = executor
        self._wake = asyncio.Event()
        self._stopping = False
        self._dirty: set[Aspect] = set(ALL)
        self._look = True
        self._view: DirectoryView | None = None
        self._outcomes: list[Outcome] = []
        self._polls = 0
        self._poll_due = 0.0
        self._poke_due = 0.0
        self._passes = 0
        self._published_serial = 0
        self._status: NodeStatus | None = None
        self._status_due = 0.0
        self._status_refresh = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        settings = worker.settings
        self.desk = RequestDesk(worker)
        self._enrolment = Enrolment(worker.keyring, worker.knowledge, directory)
        self._events = Events(self._on_dirty, worker.host.table)
        self._paths = PathMeter(self._on_path)
        self._path_mtus: dict[str, int] = {}
        self._control = ControlServer(settings.run_directory, self._answer)
        self._engine: ProbeEngine | None = None

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped."""
        loop = asyncio.get_running_loop()
        await self._control.start()
        self._events.start(loop)
        self._spawn(self._watch_directory())
        self._spawn(self._paths.run())
        await self.desk.remember(self._directory)
        timeout = 0.0
        try:
            while not self._stopping:
                timeout = await self._pass(timeout)
        finally:
            await self._close()

    def stop(self) -> None:
        """End after the pass under way."""
        self._stopping = True
        self._wake.set()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._events.close()
        if self._engine is not None:
            self._engine.close()
        await self._control.close()

    def _spawn(self, work: Awaitable[None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    # --- what wakes a pass --------------------------------------------------------------------------------------

    def _on_dirty(self, aspects: frozenset[Aspect]) -> None:
        self._dirty |= aspects
        self._wake.set()

    def _on_outcome(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._wake.set()

    def _on_path(self, peer: str, mtu: int) -> None:
        self._path_mtus[peer] = mtu
        self._wake.set()

    async def _watch_directory(self) -> None:
        while True:
            try:
                changed = await self._directory.wait_for_change(DIRECTORY_LOOK)
            except DirectoryError:
                await asyncio.sleep(PUBLISH_RETRY)
                changed = True
            if changed:
                self._look = True
                self._wake.set()

    async def _wait(self, seconds: float) -> None:
        """Wait for something to do, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(DEBOUNCE)

    # --- one pass -----------------------------------------------------------------------------------------------

    async def _pass(self, seconds: float) -> float:
        clock = asyncio.get_running_loop().time
        await self._wait(max(0.0, min(seconds, self._poll_due - clock())))
        polled = clock() >= self._poll_due
        if polled:
            self._polls += 1
            self._dirty |= ALL if self._polls % FULL_LOOK_EVERY == 0 else POLLED
        self._wake.clear()
        self._passes += 1
        view = await self._look_at_directory()
        job = Job(unix_now(), frozenset(self._dirty), view, tuple(self._outcomes), dict(self._path_mtus))
        self._dirty.clear()
        self._outcomes.clear()
        self._path_mtus.clear()
        try:
            result = await self._in_worker(lambda: self._work(job))
        except LinksealError as error:
            _LOG.error("this pass failed and is tried again: %s", error)
            self._dirty |= ALL
            self._poll_due = clock() + PUBLISH_RETRY
            return PUBLISH_RETRY
        self._after(result)
        # Only ever sooner until it has been: proofs that keep waking us must not put it off.
        due = clock() + result.wake_in
        self._poll_due = due if polled else min(self._poll_due, due)
        wake = min(result.wake_in, await self._publish(result.publish), await self._report())
        if result.again:
            self._dirty |= result.again
            wake = min(wake, self.worker.retry_in or DEBOUNCE)
        self._log_findings()
        return wake

    def _work(self, job: Job) -> Result:
        """What a pass does in the worker's thread; requests wait until the first pass has made a world to act on."""
        if self._view is not None:
            self.desk.take(self._view.requests, job.now)
        return self.worker.run(job)

    def _after(self, result: Result) -> None:
        world = self.worker.world
        if world is None:
            return
        if self._engine is None:
            probe = world.layout
            policy = self.worker.knowledge.policy
            interval = 60.0 if policy is None else float(policy.probe.interval)
            self._engine = ProbeEngine(
                ProbeSettings(world.me.name, world.me.index, probe.probe, probe.probe_port, interval),
                self._on_outcome,
                self._uses,
                self._peer_index,
            )
            self._engine.start()
        mine = sources_of(protected(world.layout.scope, world.me.addresses, world.me.prefixes))
        self._engine.set_own_sources({family: tuple(s.address for s in found) for family, found in mine.items()})
        self._engine.set_targets(result.targets)
        now = asyncio.get_running_loop().time()
        if result.poke and now >= self._poke_due:  # every proof comes back here: without a pause they would chase us
            self._poke_due = now + POKE_EVERY
            for key in result.poke:
                self._engine.poke(key)
        self._paths.set_world(world)

    def _uses(self, peer: str) -> tuple[int, int] | None:
        return self.worker.book.current.get(peer)

    def _peer_index(self, peer: str) -> int | None:
        world = self.worker.world
        known = None if world is None else world.peers.get(peer)
        return None if known is None else known.index

    # --- directory ----------------------------------------------------------------------------------------------

    async def _look_at_directory(self) -> DirectoryView | None:
        if not self._look:
            return None
        self._look = False
        try:
            register = self.worker.knowledge.register
            known = () if register is None else tuple(register.peers)
            view = await self._directory.view(self.worker.settings.node, known)
        except DirectoryError as error:
            self.worker.findings.raise_(codes.DIRECTORY_UNREADABLE, HOST_SUBJECT, str(error), unix_now())
            self._later(PUBLISH_RETRY)
            return None
        self.worker.findings.clear(codes.DIRECTORY_UNREADABLE, HOST_SUBJECT)
        if self._view is not None and set(self._view.snapshot.nodes) - set(view.snapshot.nodes):
            self._later(SECOND_LOOK)
        self._view = view
        self._note_own(view)
        if await self._enrolment.step():
            self._later(1.0)
        return view

    def _later(self, seconds: float) -> None:
        """Look at the directory again after some seconds."""

        def look() -> None:
            self._look = True
            self._wake.set()

        asyncio.get_running_loop().call_later(seconds, look)

    def _note_own(self, view: DirectoryView) -> None:
        """Compare what is published of this node with what it signed last: an older directory is put right."""
        own = view.snapshot.nodes.get(self.worker.settings.node)
        text = None if own is None or own.announcement is None else own.announcement.text
        speaker, keyring = self.worker.speaker, self.worker.keyring
        if keyring.last is not None and keyring.last_parsed is not None and text == keyring.last.text:
            speaker.published(text)
            self._published_serial = keyring.last_parsed.serial
        else:
            if text is not None and speaker.held_another(text):
                message = f"it no longer holds this node's announcement {self._published_serial}: publishing again"
                self.worker.findings.raise_(codes.DIRECTORY_OLDER, HOST_SUBJECT, message, unix_now(), lasts=3600.0)
            speaker.unpublished()
            self._published_serial = 0

    async def _publish(self, signed: SignedAnnouncement | None) -> float:
        if signed is None:
            return STATUS_REFRESH
        node = self.worker.settings.node
        try:
            await self._directory.publish(node, signed)
        except DirectoryError as error:
            self.worker.findings.raise_(codes.NOT_PUBLISHED, HOST_SUBJECT, str(error), unix_now())
            return PUBLISH_RETRY
        self.worker.findings.clear(codes.NOT_PUBLISHED, HOST_SUBJECT)
        self.worker.speaker.published(signed.text)
        last = self.worker.keyring.last_parsed
        if last is not None:
            self._published_serial = last.serial
            numbers = [generation.number for generation in last.generations]
            _LOG.info("announced generations %s with serial %d", numbers, last.serial)
        return DEBOUNCE

    # --- what others see ----------------------------------------------------------------------------------------

    async def _report(self) -> float:
        """Write the status when it says something new, at most once in the interval; returns when to come back."""
        now = unix_now()
        status = await self._in_worker(lambda: self._node_status(now))
        new = self._status is None or significant(status) != significant(self._status)
        if not new and now < self._status_refresh:
            return max(DEBOUNCE, self._status_refresh - now)
        if now < self._status_due:
            return self._status_due - now
        try:
            await self._directory.publish_status(self.worker.settings.node, to_json(self.worker.settings.node, status))
        except DirectoryError as error:
            _LOG.debug("status not written: %s", error)
            return PUBLISH_RETRY
        self._status = status
        self._status_due = now + self.worker.settings.status_interval
        self._status_refresh = now + STATUS_REFRESH * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        return STATUS_REFRESH

    def _log_findings(self) -> None:
        levels = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}
        for line in self.worker.findings.log_lines(unix_now()):
            _LOG.log(levels[line.severity], "%s", line.text)

    async def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The control socket's requests."""
        match request["do"]:
            case "status":
                status = await self._in_worker(lambda: self._node_status(unix_now()))
                counts = {"passes": self._passes, "writes": self.worker.host.writes}
                return {"status": to_json(self.worker.settings.node, status), **counts}
            case "plan":
                return await self._in_worker(self._plan)
            case "rotate":
                number = await self._in_worker(lambda: self.worker.speaker.request_rotation(unix_now()))
            case "abort":
                number = await self._in_worker(self.worker.speaker.request_abort)
            case "reconcile":
                self._on_dirty(ALL)
                self._look = True
                return {}
            case other:
                return {
                    "ok": False,
                    "error": f"unknown request {str(other)[:40]!r}: status, plan, rotate, abort, reconcile",
                }
        self._on_dirty(frozenset())
        return {"generation": number}

    def _node_status(self, now: float) -> NodeStatus:
        return node_status(self.worker, self.desk.states(now), self._published_serial, now)

    def _plan(self) -> Mapping[str, Any]:
        desired, _, steps = self.worker.plan_now()
        return {"desired": list(render(desired, Observed())), "steps": list(render_steps(steps))}

    async def _in_worker(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

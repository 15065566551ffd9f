"""The agent's process: watchers mark what is dirty, one task does the passes, timers only wake it.

directory ─┐
netlink   ─┼─► dirty ──► pass (worker thread) ──► probe targets, publication, status ──► sleep until the next
probes    ─┤
control   ─┘
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from linkseal.keys.errors import DirectoryError, LinksealError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.bootunit import BootUnit
from linkseal.tunnels.agent.control import ControlServer
from linkseal.tunnels.agent.enrolment import Enrolment
from linkseal.tunnels.agent.evidence import News
from linkseal.tunnels.agent.insight import Insight
from linkseal.tunnels.agent.memory import settle
from linkseal.tunnels.agent.outgoing import PUBLISHING, REPORTING, Outgoing
from linkseal.tunnels.agent.paths import PathMeter
from linkseal.tunnels.agent.picture import picture_of
from linkseal.tunnels.agent.planning import planned
from linkseal.tunnels.agent.prober import Picture, Prober, latest
from linkseal.tunnels.agent.proofs import Proofs
from linkseal.tunnels.agent.requests import RequestDesk
from linkseal.tunnels.agent.silence import Silence
from linkseal.tunnels.agent.trouble import Alarms, Trouble
from linkseal.tunnels.agent.worker import Job, Result, Worker, steady_now, unix_now
from linkseal.tunnels.directory.base import Directory, DirectoryView
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.host.events import Events
from linkseal.tunnels.host.host import ALL, Aspect
from linkseal.tunnels.probe.outcomes import Outcome
from linkseal.tunnels.status import NodeStatus, to_json

_LOG: Final = logging.getLogger("linkseal.agent")
_T = TypeVar("_T")

DEBOUNCE, GATHER = 0.03, 0.005
"""Seconds: one change of the kernel comes as several events; of the directory, all of it by one answer as a rule."""
POLLED: Final = frozenset({Aspect.WIREGUARD, Aspect.LINKS, Aspect.REDIRECT})
"""What has no events: WireGuard's configuration, and accept_local and rp_filter of interfaces when set by netlink.
Reading 120 interfaces takes 25 ms: 0.25 % of a core at a poll every 10 s."""
FULL_LOOK_EVERY: Final = 6
"""Polls after which everything is looked at: nothing depends on events alone."""
SECOND_LOOK: Final = 2.5
"""Seconds after a node disappeared from the directory: a deletion counts when it is seen twice, two seconds apart."""
RESTS: Final = 3.0
"""Times the length of a pass until the next one by the clock: a young link is looked at often, which with many peers
would fill the time, and what has changed would wait."""
DIRECTORY_LOOK: Final = 60.0
"""Seconds one wait for a change of the directory lasts."""
SAVE_RETRY: Final = 60.0
"""Seconds until what could not be saved is tried again, if nothing changes before."""
LOOK_RETRY: Final = 5.0
"""Seconds until a directory that cannot be read is looked at again: of an API server that asks nothing."""

PASS, TURN, LOOKING, COMPARING = "a pass", "a turn of the agent", "looking at the directory", "comparing with it"
ENROLLING, PROBING = "enrolling", "probing"
_LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}


class Done(NamedTuple):
    """A pass, and what the loop may know of the state after it: taken in the worker's thread, changed by nobody."""

    result: Result
    picture: Picture | None
    retry_in: float
    unsaved: bool
    log: list[tuple[int, str]]


class Agent:
    """One node's agent. `run` returns after `stop`, when what it stands on is to change, or all is to be removed."""

    def __init__(self, worker: Worker, directory: Directory, executor: ThreadPoolExecutor) -> None:
        self.worker = worker
        self._node = worker.settings.node
        self._directory = directory
        self._executor = executor
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._dirty: set[Aspect] = set(ALL)
        self._look = True
        self._view: DirectoryView | None = None
        self._outcomes: list[Outcome] = []
        self._news = News()
        self._path_mtus: dict[str, int] = {}
        self._polls = 0
        self._polled = True
        """Whether the kernel was polled when it was due last; a look at the directory may go before it once."""
        self._settled = self._yielded = self._unsaid = False  # the last pass ended early, the last report was put off
        self._next = 0.0
        self._poll_due = 0.0
        self._passes = 0
        self._unprobed: tuple[float, str] | None = None
        """Since when (Unix seconds) and why no link is probed."""
        self._trouble = Trouble(steady_now)
        self._again = Alarms(self._look_again)
        self._tasks: list[asyncio.Task[None]] = []
        self.desk = RequestDesk(worker)
        self.insight = Insight(worker)
        self._outgoing = Outgoing(worker, directory, self._trouble, self._in_worker, self._look_again)
        self._enrolment = Enrolment(worker.keyring, worker.knowledge, directory, self._trouble.warn)
        self._events = Events(self._on_dirty, worker.host.table, worker.host.guard.table)
        self._paths = PathMeter(self._on_path)
        self._control = ControlServer(worker.settings.run_directory, self._answer)
        self._prober = Prober(self._on_outcome, steady_now)
        self._proofs = Proofs(worker, self.desk, self._in_worker, self._wake.set)

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until stopped. Raises HostError if it cannot begin; what fails later is tried again."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._callback_failed)
        await self._control.start()
        self._events.start(loop)
        self._spawn("watching the directory", self._watch_directory)
        self._spawn("measuring paths", self._paths.run)
        self._spawn("verifying", self._proofs.run)
        self._spawn("asking for reports", Silence(self.worker, self._directory, self._in_worker).run)
        self._spawn("serving metrics", self.insight.serve)
        self._spawn("keeping the boot unit", BootUnit(self.worker, self._in_worker).run)
        try:
            while not self._stopping.is_set() and not self.worker.knowledge.over and not self.desk.removal:
                pause = await self._trouble.guard(TURN, self._turn())
                self._next = loop.time() + pause
                await self._rest(self._trouble.paused(TURN))
        finally:
            await self._close()

    def stop(self) -> None:
        """End after the pass under way."""
        self._stopping.set()
        self._wake.set()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._again.cancel()
        self._events.close()
        self._prober.close()
        self._proofs.close()
        await self._control.close()

    def _spawn(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.ensure_future(self._trouble.keep(what, work)))

    def _callback_failed(self, _: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self._trouble.failed("a callback", context.get("exception") or RuntimeError(str(context.get("message"))))

    # --- what wakes a pass --------------------------------------------------------------------------------------

    def _on_dirty(self, aspects: frozenset[Aspect]) -> None:
        self._dirty |= aspects
        self._wake.set()

    def _on_outcome(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        if self._news.brought_by(outcome):  # what is known already can wait for the next poll
            self._wake.set()

    def _on_path(self, peer: str, mtu: int) -> None:
        self._path_mtus[peer] = mtu
        self._wake.set()

    async def _watch_directory(self) -> None:
        while True:
            try:
                changed = await self._directory.wait_for_change(DIRECTORY_LOOK)
            except DirectoryError:
                await asyncio.sleep(LOOK_RETRY)
                changed = True
            if changed:
                self._look_again()

    def _look_again(self) -> None:
        self._look = True
        self._wake.set()

    async def _rest(self, seconds: float) -> None:
        """Wait for this long, whatever happens, unless the agent is to stop."""
        if seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _wait(self, seconds: float) -> None:
        """Wait for something to do, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(GATHER if self._look else DEBOUNCE)

    # --- one pass -----------------------------------------------------------------------------------------------

    async def _turn(self) -> float:
        """Wait for something to do and do it; returns the seconds until the next turn at the latest."""
        clock = asyncio.get_running_loop().time
        await self._wait(max(0.0, min(self._next, self._poll_due) - clock()))
        overdue = clock() >= self._poll_due
        polled = overdue and not (self._look and self._polled)  # what the directory has goes first, but once
        self._polled = polled or not overdue
        if polled:
            self._polls += 1
            self._dirty |= ALL if self._polls % FULL_LOOK_EVERY == 0 else POLLED | self.worker.host.granted
        self._wake.clear()
        self._passes += 1
        view = await self._look_at_directory()
        began = clock()
        done = await self._pass(view)
        if done is None:
            return 0.0
        if done.result.yielded:
            if polled:  # what it saw is what the next pass goes by
                self._poll_due = clock() + self.worker.settings.poll
            return 0.0
        self._after(done)
        result = done.result
        wake_in = max(result.wake_in, RESTS * (clock() - began))
        # Only ever sooner until it has been: proofs that keep waking us must not put it off.
        due = clock() + wake_in
        self._poll_due = due if polled else min(self._poll_due, due)
        # before the first look nobody knows whose directory it is
        publish = result.publish if self._view is not None and self.worker.knowledge.is_at_home(self._view) else None
        announced = await self._trouble.guard(PUBLISHING, self._outgoing.publish(publish))
        self._unsaid = self._look and not self._unsaid  # what the directory has goes before a report, but once
        report = None if self._unsaid else self._outgoing.report(self._node_status)
        reported = 0.0 if report is None else await self._trouble.guard(REPORTING, report)
        wake = min(wake_in, announced, reported)
        if result.again:
            self._dirty |= result.again
            wake = min(wake, done.retry_in or DEBOUNCE)
        return wake

    async def _pass(self, view: DirectoryView | None) -> Done | None:
        """One pass in the worker's thread; None if it failed, after a pause: what it was given is kept for the next."""
        job = Job(unix_now(), frozenset(self._dirty), view, tuple(self._outcomes), dict(self._path_mtus), steady_now())
        if not self._yielded:  # once: however often the directory changes, passes go on
            job = replace(job, yields=lambda: self._look)
        self._dirty.clear()
        self._outcomes.clear()
        self._path_mtus.clear()
        try:
            done = await self._in_worker(lambda: self.insight.measured(lambda: self._work(job)))
        except Exception as error:  # noqa: BLE001 - whatever it is, tunnels must go on being looked after
            self._keep(job)
            self._dirty |= ALL
            self._look = self._look or view is not None
            await self._rest(self._trouble.failed(PASS, error))
            return None
        self._trouble.over(PASS)
        self._yielded = done.result.yielded
        if self._yielded:
            self._keep(job)
        return done

    def _keep(self, job: Job) -> None:
        """Have the next pass take in what this one was given and did not."""
        self._outcomes[:0] = job.outcomes
        self._outcomes = latest(self._outcomes)
        self._path_mtus = {**job.path_mtus, **self._path_mtus}

    def _work(self, job: Job) -> Done:
        """What a pass does in the worker's thread; requests wait until the first pass has made a world to act on."""
        if self._view is not None and self.worker.knowledge.is_at_home(self._view):
            self.desk.take(self._view.requests, job.now)
        worker = self.worker
        try:
            result = worker.run(job)
        except Exception:
            self.desk.put_off()
            raise
        if result.yielded:
            self.desk.put_off()
            return Done(result, None, 0.0, unsaved=False, log=[])
        if not self._settled:  # what was made to begin with stays
            self._settled = True
            settle()
        self.desk.reconsider()
        worker.knowledge.cross(worker.settings.state_directory, job.now)
        picture = picture_of(worker, result)
        if (unprobed := self._unprobed) is not None:
            worker.findings.raise_(codes.PORT_IN_USE, HOST_SUBJECT, unprobed[1], unprobed[0])
        lines = [(_LEVELS[line.severity], line.text) for line in worker.findings.log_lines(job.now)]
        return Done(result, picture, worker.retry_in, worker.knowledge.unsaved, lines)

    def _after(self, done: Done) -> None:
        for level, text in done.log:  # at once: what is written to the directory may take long
            _LOG.log(level, "%s", text)
        if done.unsaved:
            self._again.within("saving", SAVE_RETRY)
        self._again.within(ENROLLING, self._enrolment.soon())
        if done.picture is None:
            return
        self._paths.set_world(done.picture.world)
        self._news.keep(done.picture.targets)
        self._probe(done.picture)
        self._proofs.show(done.picture)

    def _probe(self, picture: Picture) -> None:
        if self._trouble.paused(PROBING):
            return
        try:
            self._prober.show(picture)
        except Exception as error:  # noqa: BLE001 - a port that is taken, or whatever it is: the agent goes on
            self._trouble.failed(PROBING, error)
            text = str(error) if isinstance(error, LinksealError) else type(error).__name__
            self._unprobed = (self._unprobed[0] if self._unprobed else unix_now(), f"no link is probed: {text}")
        else:
            self._trouble.over(PROBING)
            self._unprobed = None

    # --- directory ----------------------------------------------------------------------------------------------

    async def _look_at_directory(self) -> DirectoryView | None:
        if not self._look:
            return None
        self._look = False
        try:
            view = await self._directory.view(self._node, await self._in_worker(self._known_names))
            if not self.desk.ready:
                await self.desk.remember(self._directory)
                self.insight.recall(self.desk.conditions)
            self._trouble.over(LOOKING)
        except DirectoryError as error:
            message = str(error)
            await self._in_worker(
                lambda: self.worker.findings.raise_(codes.DIRECTORY_UNREADABLE, HOST_SUBJECT, message, unix_now())
            )
            self._again.within(LOOKING, LOOK_RETRY)
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, tunnels must go on being looked after
            self._again.within(LOOKING, self._trouble.failed(LOOKING, error))
            return None
        if self._view is not None and set(self._view.snapshot.nodes) - set(view.snapshot.nodes):
            self._again.within("a second look", SECOND_LOOK)
        self._view = view
        if not self.worker.knowledge.is_at_home(view):
            return view
        self._again.within(COMPARING, await self._trouble.guard(COMPARING, self._outgoing.compare(view)))
        self._again.within(ENROLLING, await self._trouble.guard(ENROLLING, self._enrolment.step()))
        return view

    def _known_names(self) -> tuple[str, ...]:
        register = self.worker.knowledge.register
        return () if register is None else tuple(register.peers)

    # --- what others see ----------------------------------------------------------------------------------------

    async def _answer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The control socket's requests."""
        match request["do"]:
            case "status":
                now = unix_now()
                status = await self._in_worker(lambda: self._node_status(now, fresh=True))
                writes = self.worker.host.writes
                return {"status": to_json(self._node, status), "passes": self._passes, "writes": writes}
            case "plan":
                plan = await self._in_worker(lambda: planned(self.worker))
                return {"desired": list(plan.desired), "steps": list(plan.steps)}
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

    def last_report(self) -> NodeStatus:
        """The report as it is when no pass comes any more. For the worker's thread."""
        return self._node_status(unix_now())

    def _node_status(self, now: float, *, fresh: bool = False) -> NodeStatus:
        status = self.insight.status(self.desk.states(now), self._outgoing.serial, now, fresh=fresh)
        return self.insight.conditioned(replace(status, verified=self._proofs.results(), plan=self.desk.plan(now)))

    async def _in_worker(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

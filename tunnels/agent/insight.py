"""What is known of this agent from outside: its counts, its report, and the picture that /metrics shows.

`measured` and `status` run in the worker's thread, `serve` in the event loop. Between them goes a `Picture` that nobody
changes, put in place whole.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest
from typing import Final, Protocol, TypeVar

from linkseal.keys.errors import HostError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.clock import steady_now, unix_now
from linkseal.tunnels.agent.report import node_status
from linkseal.tunnels.agent.surroundings import Surroundings
from linkseal.tunnels.agent.worker import Result, Worker
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.guard.diff import is_whole
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.metrics import BUCKETS, MAX_PEERS, Heard, LoopFigures, Picture
from linkseal.tunnels.model import Desired, LinkKey, Observed, Stage
from linkseal.tunnels.nodeconditions import conditions
from linkseal.tunnels.settings import EndpointSetting
from linkseal.tunnels.status import NodeStatus, RequestStatus
from linkseal.tunnels.statustypes import Condition
from linkseal.tunnels.truth import Untrue, untrue
from linkseal.tunnels.world import World, stage_towards

_LOG: Final = logging.getLogger("linkseal.agent")

LISTEN_RETRY: Final = 60.0
"""Seconds until an address that could not be listened on is tried again."""

POLLS: Final = 3
GRACE: Final = 60.0
"""An agent that has not turned for three polls and this many seconds hangs: nft may take 30 s, twice in a pass."""


UNTRUE_CODES: Final = frozenset({codes.DATA_PATH, codes.FOREIGN_RULE, codes.ROUTING_COLLISION})


class _Done(Protocol):
    @property
    def result(self) -> Result: ...
    @property
    def picture(self) -> object | None: ...


DoneT = TypeVar("DoneT", bound=_Done)


class Insight:
    """One agent's."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._turned = steady_now()
        self._touched = False
        """The last pass changed something, so that what it had seen before is out of date."""
        self._surroundings = Surroundings()
        self._unserved: tuple[float, str] | None = None
        """Since when (Unix seconds) and why no metrics are served."""
        self._conditions: tuple[Condition, ...] = ()
        """Those of the last report."""
        self.picture = Picture()

    # --- in the worker's thread ---------------------------------------------------------------------------------

    def measured(self, work: Callable[[], DoneT]) -> DoneT:
        """Do a pass, and count it. Raises what it raises."""
        self._tell_unserved()
        began = steady_now()
        try:
            done = work()
        except Exception:
            self._touched = True
            self._count(began, failed=1, ready=False)
            raise
        if done.result.yielded:  # it is half a pass, and the next one is the other half
            self._turned = steady_now()
            return done
        self._touched = bool(done.result.steps)
        refused = bool(done.result.failures)
        self._count(began, refused=int(refused), ready=done.picture is not None and not refused)
        return done

    def _count(self, began: float, *, failed: int = 0, refused: int = 0, ready: bool) -> None:
        self._turned = steady_now()
        took, loop = self._turned - began, self.picture.loop
        at = bisect_left(BUCKETS, took)
        counts = tuple(count + (number == at) for number, count in enumerate(loop.by_bucket))
        figures = LoopFigures(
            loop.passes + 1,
            loop.seconds + took,
            counts,
            loop.failed + failed,
            loop.refused + refused,
            self._worker.healed,
            self._worker.host.writes,
            ready,
        )
        self.picture = replace(self.picture, loop=figures)

    def status(
        self, requests: Mapping[str, RequestStatus], published: int, now: float, *, fresh: bool = False
    ) -> NodeStatus:
        """This node's report. `fresh`: by the kernel as it is now, not as the last pass saw it. HostError."""
        worker, against = self._worker, self._untrue(fresh=fresh)
        self._tell(against, now)
        status = node_status(worker, requests, published, now, against)
        status = replace(status, guard=self._surroundings.added(status.guard, worker, fresh=fresh))
        self.picture = replace(self.picture, status=status, heard=_heard(worker.book))
        return status

    def conditioned(self, status: NodeStatus) -> NodeStatus:
        """The report with its conditions."""
        self._conditions = conditions(status, self._conditions)
        return replace(status, conditions=self._conditions)

    def recall(self, said: Sequence[Condition]) -> None:
        """Take up since when conditions have been as they are, by what was reported before the agent was restarted."""
        times = {(one.type, one.status): one.last_transition_time for one in said}
        self._conditions = tuple(
            replace(one, last_transition_time=times.get((one.type, one.status), one.last_transition_time))
            for one in self._conditions or said
        )

    def _untrue(self, *, fresh: bool) -> Mapping[str, Untrue]:
        """What the kernel says against links that the book calls sealed.

        What the last pass saw is out of date where it changed something. Looking once more writes nothing (law 8).
        """
        worker, world = self._worker, self._worker.world
        if world is None or world.layout.stage in (Stage.OFF, Stage.PREPARE):
            return {}
        try:
            observed = worker.host.observe() if fresh or self._touched else worker.observed
        except HostError as error:
            unknown = Untrue(codes.DATA_PATH, f"the kernel cannot be looked at: {error}")
            return dict.fromkeys(world.peers, unknown)
        return untrue(world, worker.desired, observed, _of_guard(world, worker.desired, observed))

    def _tell(self, against: Mapping[str, Untrue], now: float) -> None:
        """Say it of each peer; what is the same for all, of the host."""
        reasons = set(against.values())
        if len(reasons) == 1 and len(against) > 1:
            current = {(one.code, HOST_SUBJECT): one.why for one in reasons}
        else:
            current = {(one.code, peer): one.why for peer, one in against.items()}
        ours = {key: why for key, why in current.items() if key[0] in UNTRUE_CODES}  # the guard tells of itself
        self._worker.findings.replace(UNTRUE_CODES, ours, now)

    def _tell_unserved(self) -> None:
        findings, unserved = self._worker.findings, self._unserved
        if unserved is None:
            findings.clear(codes.METRICS_UNAVAILABLE, HOST_SUBJECT)
        else:
            findings.raise_(codes.METRICS_UNAVAILABLE, HOST_SUBJECT, unserved[1], unserved[0])

    # --- in the event loop --------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve /metrics, /healthz and /readyz for ever, if the settings say where; tried again where that fails."""
        listen = self._worker.settings.metrics
        if listen is None:
            await asyncio.get_running_loop().create_future()
        else:
            while True:
                await self._serve(listen)
                await asyncio.sleep(LISTEN_RETRY)

    async def _serve(self, listen: EndpointSetting) -> None:
        from linkseal.tunnels.agent.web import WebServer  # noqa: PLC0415 - 2 MiB that most agents do not need

        server = WebServer(listen, lambda: self.picture, self.hangs)
        try:
            await server.start()
        except HostError as error:
            self._unserved = (self._unserved[0] if self._unserved else unix_now(), str(error))
            return
        self._unserved = None
        try:
            await server.serve()
        finally:
            await server.close()

    def hangs(self) -> str | None:
        """Why the agent's loop must be thought to hang; None: it turns."""
        still = steady_now() - self._turned
        if still <= POLLS * self._worker.settings.poll + GRACE:
            return None
        return f"no pass has ended for {still:.0f} s"


def _of_guard(world: World, desired: Desired, observed: Observed) -> Untrue | None:
    """Where plaintext is to be dropped, no link is sealed while a part of what drops it is missing."""
    enforced = any(stage_towards(world, peer) is Stage.ENFORCE for peer in world.peers.values())
    if not enforced or is_whole(desired.guard, observed.guard, observed.interfaces):
        return None
    return Untrue(codes.GUARD_NOT_WHOLE, "a part of the guard is missing in the kernel")


def _heard(book: LinkBook) -> Heard:
    carrying = [book.records.get(LinkKey(name, *pair)) for name, pair in book.current.items()]
    times = [(one.handshake_at, one.key.peer) for one in carrying if one is not None and one.handshake_at is not None]
    oldest = nsmallest(MAX_PEERS, times)
    return Heard(oldest[0][0] if oldest else None, len(carrying) - len(times), tuple((peer, at) for at, peer in oldest))

"""Requests to this node: taken once, answered in the status.

An id that the status already answers is not carried out again, also not after a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from linkseal.keys.errors import ConfigError, DirectoryError, HostError, PeerError
from linkseal.tunnels.agent.planning import planned
from linkseal.tunnels.agent.worker import Worker
from linkseal.tunnels.directory.base import Directory
from linkseal.tunnels.model import Stage
from linkseal.tunnels.status import MAX_REQUESTS, NOT_OFF, Request, RequestStatus, parse_report
from linkseal.tunnels.statusparts import PlanStatus, plan_status
from linkseal.tunnels.statustypes import Condition

_LOG: Final = logging.getLogger("linkseal.agent")

REMOVABLE: Final = 900.0
"""Seconds for which a request to remove everything stands: an agent that reads it much later was not meant."""


PLAN_KEPT: Final = 600.0
"""Seconds after which a plan goes out of the report: it is of its moment, and large."""


_WORLDLESS: Final = frozenset({"plan", "remove"})


class RequestDesk:
    """Remembers requests and what became of them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._states: dict[str, RequestStatus] = {}
        self.conditions: tuple[Condition, ...] = ()
        """Those of the last status."""
        self._rotations: dict[str, int] = {}
        self.removal = ""
        """The request to remove everything of ours from this host; empty: there is none."""
        self._plan: PlanStatus | None = None
        self._to_verify: dict[str, tuple[str, ...]] = {}
        self.ready = False
        """The last status has been read; before that a request may have been answered already, so none is taken."""

    async def remember(self, directory: Directory) -> None:
        """Take up what this node's last status answered; to be called again while the directory is out of reach."""
        node = self._worker.settings.node
        try:
            text = await directory.status(node)
            report = None if text is None else parse_report(text, node)
        except DirectoryError:
            return
        except PeerError:  # not by an agent of ours: it answers nothing
            report = None
        self.ready = True
        if report is not None and report.status is not None:
            self._states = dict(report.status.requests)
            self.conditions = report.status.conditions
        generations = self._worker.keyring.generations
        for request, state in self._states.items():
            if generations is not None and (state.type, state.state) == ("rotate", "running"):
                self._rotations[request] = generations.newest.number
        for request, state in list(self._states.items()):
            if state.type in ("verify", "remove") and state.state == "running":
                self._states[request] = RequestStatus(state.type, "failed", "the agent was restarted: ask again")

    def take(self, requests: Sequence[Request], now: float) -> None:
        """Carry out what is new. Called in the worker's thread; before there is a world none is taken that needs one.

        A node without a grant never has one, and can be asked to remove everything all the same.
        """
        if not self.ready:
            return
        for request in requests:
            if request.id not in self._states and (self._worker.world is not None or request.type in _WORLDLESS):
                self._states[request.id] = self._carry_out(request, now)
        asked = {request.id for request in requests}  # these must stay answered, or they would be carried out again
        past = [known for known in self._states if known not in asked]
        for known in past[: max(0, len(self._states) - MAX_REQUESTS)]:
            del self._states[known]

    def states(self, now: float) -> dict[str, RequestStatus]:
        """What became of each; a rotation is done when its old generation has been retired."""
        del now
        generations = self._worker.keyring.generations
        live = () if generations is None else generations.numbers
        for request, number in list(self._rotations.items()):
            if number not in live:
                self._finish(request, "failed", f"generation {number} was aborted")
            elif len(live) == 1:
                self._finish(request, "done", f"generation {number} alone is live")
        return self._states

    def verifications(self) -> dict[str, tuple[str, ...]]:
        """Return what is to be verified since the last call: id → peers, none: all."""
        taken, self._to_verify = self._to_verify, {}
        return taken

    def verified(self, request: str, message: str, *, over: bool) -> None:
        """Take in how a verification goes."""
        if request in self._states:
            self._states[request] = RequestStatus("verify", "done" if over else "running", message)

    def _finish(self, request: str, state: str, message: str) -> None:
        del self._rotations[request]
        if request in self._states:
            self._states[request] = RequestStatus("rotate", state, message)  # type: ignore[arg-type]

    def _carry_out(self, request: Request, now: float) -> RequestStatus:
        try:
            if request.type == "rotate":
                number = self._worker.speaker.request_rotation(now)
                self._rotations[request.id] = number
                return RequestStatus("rotate", "running", f"generation {number} raised")
            if request.type == "abort":
                return RequestStatus("abort", "done", f"generation {self._worker.speaker.request_abort()} aborted")
            return self._others(request, now)
        except ConfigError as error:
            return RequestStatus(request.type, "refused", str(error))
        except HostError as error:  # the disk; other passes must not fail for it
            return RequestStatus(request.type, "failed", str(error))

    def _others(self, request: Request, now: float) -> RequestStatus:
        match request.type:
            case "plan":
                return self._plan_for(request, now)
            case "remove":
                return self._remove(request, now)
            case "verify":
                return self._verify(request)
            case other:
                return RequestStatus(other, "refused", "this agent's version does not know such requests")

    def _plan_for(self, request: Request, now: float) -> RequestStatus:
        """Plan as the last pass left it: what is asked for now, and not done yet."""
        try:
            found = planned(self._worker)
        except HostError:
            raise
        except Exception as error:  # whatever it is, passes must go on
            _LOG.exception("a plan that was asked for failed")
            raise HostError(f"planning failed: {type(error).__name__}; see the agent's log") from error
        self._plan = plan_status(request.id, now, found.steps, found.desired)
        return RequestStatus("plan", "done")

    def plan(self, now: float) -> PlanStatus | None:
        """Return the last plan that was asked for, while it is worth reading."""
        if self._plan is not None and abs(now - self._plan.at) > PLAN_KEPT:
            self._plan = None
        return self._plan

    def _remove(self, request: Request, now: float) -> RequestStatus:
        if abs(now - request.requested_at) > REMOVABLE:
            return RequestStatus("remove", "refused", "asked for too long ago, or by a clock that differs: ask again")
        self.removal = request.id
        return RequestStatus("remove", "running", "")

    def reconsider(self) -> None:
        """After a pass: all is removed at stage off alone, and what the pass learnt may have led there or away."""
        if self.removal:
            self._states |= dict.fromkeys(self._removals(), self._checked())

    def put_off(self) -> None:
        """After a pass that failed: what it has learnt is not known, so the request is taken again with the next."""
        for request in self._removals() if self.removal else ():
            del self._states[request]
        self.removal = ""

    def _removals(self) -> list[str]:
        """Those under way: it may have been asked for more than once."""
        return [one for one, state in self._states.items() if (state.type, state.state) == ("remove", "running")]

    def _checked(self) -> RequestStatus:
        if self._stage() is Stage.OFF:
            return RequestStatus("remove", "running", "")
        self.removal = ""
        return RequestStatus("remove", "refused", f"{NOT_OFF}: `linkseal disable` first")

    def _stage(self) -> Stage | None:
        """This node's stage; None: that is not known."""
        world, policy = self._worker.world, self._worker.knowledge.policy
        if world is not None:
            return world.layout.stage
        return None if policy is None else policy.stage_of(self._worker.settings.node)

    def _verify(self, request: Request) -> RequestStatus:
        world = self._worker.world
        stage = Stage.OFF if world is None else world.layout.stage
        if stage in (Stage.OFF, Stage.PREPARE):
            return RequestStatus("verify", "refused", f"at stage {stage.value} traffic is plaintext: nothing to prove")
        self._to_verify[request.id] = request.peers
        return RequestStatus("verify", "running", "")

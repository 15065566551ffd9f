"""Proof on the wire as the agent has it: what was asked for and what is due, one session at a time.

    requests ─┐
    schedule ─┼─► next peer ─► errand ─► engine ─► judge ─► results, findings, answers to requests
    rechecks ─┘

A peer that was not proven is looked at again soon, and then less and less often, so that a finding does not outlive
what it tells of. Owned by the event loop; `results` is never changed, only replaced, so that any thread may read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.clock import unix_now
from linkseal.tunnels.agent.prober import Picture
from linkseal.tunnels.findings import MAX_MESSAGE, printable
from linkseal.tunnels.model import LinkKey, Stage
from linkseal.tunnels.statusparts import Verification, VerifyResult
from linkseal.tunnels.verify.agenda import Agenda, Progress, Task
from linkseal.tunnels.verify.chance import Chance
from linkseal.tunnels.verify.engine import Acquaintance, Proof, VerifyEngine, VerifySettings
from linkseal.tunnels.verify.errand import errand, tunnel_to, verify_port
from linkseal.tunnels.verify.judge import Evidence, Verdict, judge
from linkseal.tunnels.verify.packet import Answer
from linkseal.tunnels.world import World, encrypts
from linkseal.wireguard.model import Endpoint

BUSY_PAUSE: Final = 2.0
"""Seconds until a peer that is busy with others is asked again."""

KEEP_STRANGERS: Final = 3600.0
"""Seconds a result is kept for a node that is not known: whoever asked for it wants to read it."""

CODES: Final[Mapping[VerifyResult, str]] = {
    "leaked": codes.VERIFY_LEAKED,
    "blind": codes.VERIFY_BLIND,
    "unreachable": codes.VERIFY_UNREACHABLE,
}

VERIFY_CODES: Final = frozenset(CODES.values())

Results = Mapping[str, Verification]


class Verifier:
    """Owned by the event loop.

    `roamed` tells where the kernel sends a link's packets. `told` takes results that changed and progress of requests,
    and is awaited before anything else is begun.
    """

    def __init__(
        self,
        roamed: Callable[[LinkKey], Awaitable[Endpoint | None]],
        told: Callable[[Results, Progress | None], Awaitable[None]],
        clock: Callable[[], float],
        chance: Chance,
    ) -> None:
        self._roamed = roamed
        self._told = told
        self._clock = clock
        self._chance = chance
        self._agenda = Agenda(chance)
        self._picture: Picture | None = None
        self._engine: VerifyEngine | None = None
        self._settings: VerifySettings | None = None
        self._unusable = ""
        self._unanswered: list[Progress] = []
        self._awake = asyncio.Event()
        self.results: Results = {}

    def show(self, picture: Picture) -> None:
        """Take the state after a pass."""
        self._picture = picture
        self._agenda.policy(picture.verify.interval, picture.verify.sample, self._clock())
        try:
            self._run_engine(picture.world)
            self._unusable = ""
        except HostError as error:
            self._unusable = str(error)
        self._awake.set()

    def ask(self, requests: Mapping[str, tuple[str, ...]]) -> None:
        """Take requests: id → the peers asked for, none: all."""
        everybody = () if self._picture is None else tuple(sorted(self._picture.world.peers))
        for request, peers in requests.items():
            progress = self._agenda.ask(request, peers or everybody)
            self._unanswered += [] if progress is None else [progress]
            self._awake.set()

    def close(self) -> None:
        """Verify and answer no more."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._settings = None

    async def run(self) -> None:
        """For ever: verify what is due."""
        while True:
            self._awake.clear()
            await self._tell()
            due = self._agenda.due(self._candidates, self._clock())
            if self._picture is None or due is None or due > self._clock():
                await self._rest(None if due is None else due - self._clock())
                continue
            task = self._agenda.take(self._clock())
            if task is not None:
                await self._do(task)

    async def _rest(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            return

    # --- what is due ----------------------------------------------------------------------------------------------

    def _candidates(self) -> tuple[str, ...]:
        """Peers whose traffic is to be encrypted now, as far as this node knows."""
        picture = self._picture
        if picture is None:
            return ()
        peers = picture.world.peers
        return tuple(name for name in picture.uses if name in peers and encrypts(picture.world, peers[name]))

    async def _do(self, task: Task) -> None:
        result = await self._verify(task.peer)
        if result is None:
            if self._agenda.postpone(task, self._clock() + BUSY_PAUSE):
                return
            result = self._said(task.peer, "unreachable", f"{task.peer} is busy with other verifications: try again")
        self.results = {**self.results, task.peer: result}
        self._agenda.learned(task.peer, result.result, self._clock())
        progress = self._agenda.finished(task, result.result)
        await self._told(self.results, progress)

    async def _tell(self) -> None:
        """Answer what needed no session, and forget nodes that are gone."""
        waiting, self._unanswered = self._unanswered, []
        for progress in waiting:
            await self._told(self.results, progress)
        gone = self._outlived()
        if gone:
            for name in gone:
                self._agenda.forget(name)
            self.results = {name: result for name, result in self.results.items() if name not in gone}
            await self._told(self.results, None)

    def _outlived(self) -> list[str]:
        """Results that say nothing any more: of nodes that are gone, or of traffic that is plaintext on purpose."""
        if self._picture is None:
            return []
        world = self._picture.world
        if world.layout.stage in (Stage.OFF, Stage.PREPARE):
            return list(self.results)
        strangers = (name for name in self.results if name not in world.peers)
        return [name for name in strangers if unix_now() - self.results[name].at > KEEP_STRANGERS]

    # --- one peer -------------------------------------------------------------------------------------------------

    async def _verify(self, name: str) -> Verification | None:
        """Verify the traffic to one peer; None: it is busy."""
        picture = self._picture
        assert picture is not None
        peer = picture.world.peers.get(name)
        if peer is None or not peer.generations:
            return self._said(name, "unreachable", f"there is no tunnel to {name}: its agent is not known here")
        if not encrypts(picture.world, peer):
            return self._said(name, "unreachable", f"traffic to {name} is plaintext by the present stage")
        if self._engine is None:
            return self._said(name, "blind", self._unusable or "verify has no sockets here")
        pair = picture.uses.get(name)
        roamed = None if pair is None else await self._roamed(LinkKey(name, *pair))
        proof = await self._engine.prove(errand(picture.world, peer, pair, roamed, self._chance))
        if proof.answer is not None and proof.answer.answer is Answer.BUSY:
            return None
        verdict = _judged(picture.world.me.name, name, proof, linked=pair is not None)
        return self._said(name, verdict.result, verdict.message, verdict.ciphertext)

    def _said(self, name: str, result: VerifyResult, message: str, ciphertext: int = 0) -> Verification:
        return Verification(name, result, unix_now(), printable(message, MAX_MESSAGE), ciphertext)

    # --- the engine -----------------------------------------------------------------------------------------------

    def _run_engine(self, world: World) -> None:
        """Have an engine with the present settings. HostError: its port is taken."""
        me, layout = world.me, world.layout
        if layout.stage in (Stage.OFF, Stage.PREPARE):
            self.close()
            return
        settings = VerifySettings(me.name, me.index, layout.probe, verify_port(layout.probe_port), layout.fwmark)
        if settings == self._settings:
            return
        self.close()
        engine = VerifyEngine(settings, self._acquaintance, self._nics)
        engine.start()
        self._engine, self._settings = engine, settings

    def _nics(self) -> tuple[str, ...]:
        return () if self._picture is None else self._picture.nics

    def _acquaintance(self, name: str) -> Acquaintance | None:
        picture = self._picture
        peer = None if picture is None else picture.world.peers.get(name)
        if picture is None or peer is None:
            return None
        hosts = (*(endpoint.host for endpoint in peer.endpoints), *peer.addresses)
        return Acquaintance(peer.index, tunnel_to(picture.world, peer), tuple(dict.fromkeys(hosts)))


def current_findings(results: Results) -> dict[tuple[str, str], str]:
    """Return what the results are as findings: (code, peer) → message."""
    return {(CODES[result.result], peer): result.message for peer, result in results.items() if result.result in CODES}


def _judged(own: str, name: str, proof: Proof, *, linked: bool) -> Verdict:
    trouble, unable = proof.trouble, proof.answer is not None and proof.answer.answer is Answer.UNABLE
    if unable and proof.answer is not None:
        trouble = proof.answer.note
    elif not linked:
        trouble = f"no link carries traffic to {name}"
    return judge(Evidence(own, name, proof.ways, proof.own, proof.far, trouble, unable))

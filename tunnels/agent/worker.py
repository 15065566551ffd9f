"""One pass of the agent: evidence in, kernel changed, conclusions out. Owned by one thread; blocking.

    view, outcomes, what is dirty ─► learn ─► observe ─► book ─► plan ─► diff ─► apply ─► targets, announcement

A pass that finds nothing to do writes nothing, to the kernel or to the disk (law 8).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import HostError, LinksealError
from linkseal.keys.grant import Grant
from linkseal.tunnels import codes
from linkseal.tunnels.addressing import slot_name
from linkseal.tunnels.agent.adoption import adopt
from linkseal.tunnels.agent.applied import applied, not_applied
from linkseal.tunnels.agent.breakglass import BreakGlass
from linkseal.tunnels.agent.clock import steady_now, unix_now, utc
from linkseal.tunnels.agent.evidence import take_outcomes
from linkseal.tunnels.agent.facts import (
    Peers,
    addresses_on,
    behind,
    endpoints_to_announce,
    layout_of,
    me_of,
    nics_of,
    opted_out,
    overrides_of,
    underlay_of,
)
from linkseal.tunnels.agent.firstguard import FirstGuard
from linkseal.tunnels.agent.guardwatch import GuardWatch
from linkseal.tunnels.agent.job import Job, Result
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.loosened import Loosened
from linkseal.tunnels.agent.memory import BURST, give_back
from linkseal.tunnels.agent.observations import OBSERVED_CODES, observations
from linkseal.tunnels.agent.speaker import Speaker
from linkseal.tunnels.agent.state import KnownGood, SavedLink
from linkseal.tunnels.agent.targets import targets
from linkseal.tunnels.agent.tellings import tell_drift, tell_failures, touched
from linkseal.tunnels.agent.unfit import unfit
from linkseal.tunnels.diff import diff
from linkseal.tunnels.findings import HOST_SUBJECT, ActiveFindings
from linkseal.tunnels.guard.exemption import Exemption
from linkseal.tunnels.guard.model import GuardTransaction
from linkseal.tunnels.host.host import ALL, Aspect, Failure, Host
from linkseal.tunnels.links import PROOF_LASTS, LinkBook, Move
from linkseal.tunnels.model import Desired, LinkKey, NftTransaction, Observed, SetRoute, Stage, Step
from linkseal.tunnels.plan import plan
from linkseal.tunnels.settings import AgentSettings
from linkseal.tunnels.statusparts import AppliedStatus, BootStatus
from linkseal.tunnels.ways import ways
from linkseal.tunnels.world import Underlay, World, encrypts, endpoint_of
from linkseal.wireguard.model import ConfigureDevice, PeerSpec, ReprovokePeer, SetPeer

__all__ = ["Job", "Result", "Worker", "steady_now", "unix_now", "utc"]

_LOG: Final = logging.getLogger("linkseal.agent")

YOUNG: Final = 2.0
RECENT: Final = 30.0
"""Seconds since a link was made during which its handshake is looked for often, and fairly often."""

STEP: Final = 1.0
"""Seconds by which the wall clock must have stepped to count: less is the time between reading the two clocks."""

FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0
"""Seconds between attempts at steps the kernel refuses: doubled from the first to the last."""


class Worker:
    """State of the agent between passes."""

    def __init__(
        self,
        settings: AgentSettings,
        host: Host,
        keyring: Keyring,
        knowledge: Knowledge,
        known: KnownGood,
        findings: ActiveFindings,
    ) -> None:
        self.settings = settings
        self.host = host
        self.keyring = keyring
        self.knowledge = knowledge
        knowledge.held = True
        self.findings = findings
        self.book = LinkBook()
        self.speaker = Speaker(keyring, findings)
        self.guard = GuardWatch(host.guard.readings, findings)
        self._glass = BreakGlass(settings.state_directory)
        self.first_guard = FirstGuard(settings.state_directory, findings)
        self.observed = Observed()
        self.desired = Desired()
        self.world: World | None = None
        self._planned: World | None = None
        """Of which `desired` was made."""
        self._peers = Peers()
        self.features = host.features()
        self.door = self.features.door
        self.healed = 0
        """Steps that undid what others had done."""
        self._known = known
        self._adopted = False
        self._settled = False
        self._retry = 0.0
        self._saved_links: dict[str, SavedLink] = {}
        self._loosened = Loosened(known, findings)
        self.ahead = 0.0
        """Seconds the wall clock is ahead of the book's, which never jumps."""
        self._saved_underlay: Underlay | None = None
        self.applied = AppliedStatus()
        self.boot = BootStatus()
        self.carried: frozenset[str] = frozenset()
        """Peers to whom the kernel was to send all by the tunnels after the last pass."""
        self.unfit: frozenset[str] | None = frozenset()
        """Peers whose traffic may not take the way it should, because the kernel refused a step; None: every peer."""

    @property
    def retry_in(self) -> float:
        """Seconds until refused steps are tried again; 0.0: none were."""
        return self._retry

    # --- the pass -----------------------------------------------------------------------------------------------

    def run(self, job: Job) -> Result:
        """Do one pass. Raises HostError only if this host cannot be looked at."""
        steady = job.now if job.steady is None else job.steady
        if abs(job.now - steady - self.ahead) > STEP:
            self.ahead = job.now - steady
        changed = self.knowledge.learn(job.view, job.now) if job.view is not None else frozenset[str]()
        anew = self._peers.own_anew(self.knowledge.accepted, changed)  # by which ways they are reached nobody tells
        self.observed = self.host.observe(job.aspects | ({Aspect.ROUTES} if anew else frozenset()), self.observed)
        self._ensure_generation(job)
        world = self._world(job, steady)
        if world is None:
            self.applied = AppliedStatus(self.knowledge.policy_serial)
            return Result(wake_in=5.0)
        self.book.observe(self.observed.devices, steady, down=self._down(), wall=job.now)
        if job.view is None and job.yields() and not diff(self.desired, self.observed):  # what is amiss cannot wait
            return Result(yielded=True)
        take_outcomes(self.book, self.findings, job.outcomes, job.path_mtus, job.now, steady)
        moves = self.book.choose(steady)
        world = self.world = replace(world, links=self.book.peer_links(steady))
        self.guard.look(world, self.observed.guard, self.carried, job.now)
        before, seen, settled = self.desired, self.observed, self._settled
        due = self._steps(world)
        steps = due + self._provocations(job, steady)
        failures = self._apply(steps, job.now, steady)
        self._settle_moves(moves, failures)
        self.carried = frozenset(name for name in self.book.current if encrypts(world, world.peers[name]))
        self.unfit = unfit(failures, world)
        self.applied = applied(self.applied, self.knowledge.policy_serial, done=not due, failed=bool(failures))
        if steps and settled:
            self.healed += tell_drift(self.findings, diff(before, seen), failures, job.now)
        self.guard.tell(world, seen, failures, self._exemptions(), job.now)
        uid, registered = self.keyring.uid, self.knowledge.registered
        self.first_guard.look(seen.guard, uid, world.layout.stage, registered, job.now)
        self._note(world, job.now, steady)
        self._save_links(job.now)
        publish = self._speak(world, job, steady, still=not due) if job.speak else None
        if len(changed) >= BURST:
            give_back()
        return Result(
            steps,
            failures,
            targets(world, self.book) if world.layout.stage is not Stage.OFF else {},
            (*self._pokes(steady), *self._reconfigured(steps)),
            publish,
            touched(steps),
            self._wake(steady, failures),
        )

    def _settle_moves(self, moves: Sequence[Move], failures: Sequence[Failure]) -> None:
        """Tell of moves; take them back where the kernel refused them: what carries the traffic is what it says."""
        if any(isinstance(failure.step, NftTransaction | SetRoute) for failure in failures):
            self.book.take_back(moves)
            return
        for move in moves:
            old = "nothing" if move.old is None else f"link {move.old[0]}→{move.old[1]}"
            _LOG.info("traffic to %s moves from %s to link %d→%d", move.peer, old, *move.new)

    def plan_now(self) -> tuple[Desired, Observed, tuple[Step, ...]]:
        """What would be done now, without doing it."""
        observed = self.host.observe(ALL, None)
        desired = self.desired if self.world is None else plan(self.world)
        return desired, observed, diff(desired, observed)

    # --- from knowledge to world --------------------------------------------------------------------------------

    def _ensure_generation(self, job: Job) -> None:
        register = self.knowledge.register
        if register is None or self.knowledge.grant is None:
            return
        own = register.peers.get(self.knowledge.node)
        if self.keyring.ensure(None if own is None else own.announcement, utc(job.now), keep=job.speak):
            _LOG.info("made the key of generation %d", self.keyring.own_keys()[-1].number)

    def _world(self, job: Job, steady: float) -> World | None:
        now = job.now
        policy, register, grant = self.knowledge.policy, self.knowledge.register, self.knowledge.grant
        if policy is None or register is None:
            return None
        if grant is None or not self.keyring.own_keys():
            self.findings.raise_(codes.OWN_GRANT_MISSING, HOST_SUBJECT, f"no grant for {self.knowledge.node}", now)
            return None
        self.findings.clear(codes.OWN_GRANT_MISSING, HOST_SUBJECT)
        underlay = self._underlay(grant, now)
        if underlay is None:
            return None
        reachable = self.settings.endpoints is None or bool(self.settings.endpoints)
        me = me_of(grant, self.keyring.own_keys(), reachable=reachable)
        world = World(
            me,
            layout_of(policy, opted_out=grant.opted_out, node=me.name),
            underlay,
            self.book.retain(self._peers.of(register.peers, me.name, policy)),
            {},
            self.door,
            overrides_of(self.settings.peer_endpoints, policy.wireguard.port),
            ipv6=any(":" in address for address in self.observed.host_addresses),
            nics=nics_of(self.observed, grant.addresses),
            redirect=self.features.redirect,
            no_redirect=self.features.no_redirect,
            own_addresses=addresses_on(self.observed, underlay.interface),
            exemptions=tuple(one for one in self._exemptions() if one.is_open(now)),
            broken_glass=self._broken_glass(now),
            opted_out=opted_out(register.peers, me.name),
            behind=behind(register.peers, me.name, policy),
        )
        world = replace(world, ways=ways(self.observed, world.peers.values(), policy.scope))
        self.book.proof_lasts = max(PROOF_LASTS, 3.0 * policy.probe.interval + 60.0)
        self.book.leaving = self.keyring.withdrawing()
        self.book.sync(me, world.peers, {n: endpoint_of(world, peer) for n, peer in world.peers.items()}, steady)
        if not self._adopted:
            self.book.observe(self.observed.devices, steady, down=self._down(), wall=now)
            adopt(self.book, world, self.observed, self._known.links(), steady)
            self._adopted = True
        return world

    def _exemptions(self) -> tuple[Exemption, ...]:
        return () if self.knowledge.policy is None else self.knowledge.policy.exemptions

    def _broken_glass(self, now: float) -> bool:
        broken = self._glass.in_force(now)
        self.guard.broken = None if broken is None else f"{broken.reason} ({broken.by})"
        return broken is not None

    def _underlay(self, grant: Grant, now: float) -> Underlay | None:
        """The NIC as it is; while it or its address is missing, as it was last."""
        found = underlay_of(self.observed, self.settings.interface, grant.addresses)
        if found is not None:
            self.findings.clear(codes.NO_UNDERLAY, HOST_SUBJECT)
            self._keep_underlay(found, now)
            return found
        if self.settings.interface is not None:
            message = f"interface {self.settings.interface} is not there"
        else:
            message = f"none of the granted addresses {', '.join(grant.addresses)} is on this host"
        self.findings.raise_(codes.NO_UNDERLAY, HOST_SUBJECT, message, now)
        return self.world.underlay if self.world is not None else self._known.underlay()

    def _keep_underlay(self, found: Underlay, now: float) -> None:
        """What `agent restore` plans from when the network is not up yet."""
        if self._saved_underlay == found:
            return
        try:
            self._known.save_underlay(found)
            self._saved_underlay = found
        except HostError as error:
            self.findings.raise_(codes.STATE_NOT_SAVED, HOST_SUBJECT, str(error), now)

    # --- steps --------------------------------------------------------------------------------------------------

    def _steps(self, world: World) -> tuple[Step, ...]:
        if world != self._planned:  # as a rule only handshakes and counters are new
            self.desired, self._planned = plan(world), world
        return (*diff(self.desired, self.observed), *self._loosened.due(world.layout.stage, self.observed))

    def _provocations(self, job: Job, now: float) -> tuple[Step, ...]:
        """Peers to remove and add anew; looked at once more before, so that none is taken that has just answered."""
        due = self.book.provocations(now)
        if not due:
            return ()
        self.observed = self.host.observe(frozenset({Aspect.WIREGUARD}), self.observed)
        self.book.observe(self.observed.devices, now, down=self._down(), wall=job.now)
        steps: list[Step] = []
        for key in due:
            record = self.book.records[key]
            device = self.desired.devices.get(record.slot)
            spec = None if device is None else device.peers.get(record.remote_key)
            if spec is not None and record.installed and not record.fresh(now):
                steps.append(ReprovokePeer(record.slot, self._initiating(spec, key)))
        return tuple(steps)

    def _down(self) -> set[str]:
        """Interfaces that are down: a slot that is has forgotten its sessions."""
        return {name for name, state in self.observed.interfaces.items() if not state.up}

    def _initiating(self, spec: PeerSpec, key: LinkKey) -> PeerSpec:
        keepalive = spec.keepalive or (self.world.layout.keepalive if self.world else 0) or 1
        roamed = self.book.records[key].endpoint
        return spec._replace(endpoint=spec.endpoint or roamed or self.book.announced_endpoint(key), keepalive=keepalive)

    def _apply(self, steps: Sequence[Step], now: float, steady: float) -> tuple[Failure, ...]:
        if not steps:
            self._retry = 0.0
            self.findings.replace({codes.STEP_REFUSED, codes.PORT_IN_USE}, {}, now)
            self._settled = True
            return ()
        self._loosened.before(steps, now)
        if self.world is not None and any(isinstance(step, GuardTransaction) for step in steps):  # counters go too
            self.guard.count(self.world, self.observed.guard, self.carried, now)
        failures = self.host.apply(steps, self.keyring.secret)
        failed = {id(failure.step) for failure in failures}
        self._loosened.after(steps, failed, now)
        for step in steps:
            if isinstance(step, SetPeer) and step.endpoint is not None and id(step) not in failed:
                self.book.endpoint_written(step.device, step.public_key, steady)
        tell_failures(self.findings, failures, now)
        return failures

    # --- what follows -------------------------------------------------------------------------------------------

    def _note(self, world: World, now: float, steady: float) -> None:
        """Say what is wrong with host and peers as they are now."""
        accepted = {} if self.knowledge.register is None else self.knowledge.register.peers
        heard = {key.peer for key, record in self.book.records.items() if record.fresh(steady)}
        found = observations(world, self.observed, accepted, self._loosened.values, heard)
        found |= not_applied(self.applied, world.layout.stage)
        self.findings.replace({*OBSERVED_CODES, codes.STAGE_NOT_APPLIED}, found, now)

    def _save_links(self, now: float) -> None:
        links = {name: SavedLink(pair, self.book.announced.get(name)) for name, pair in self.book.current.items()}
        if links == self._saved_links:
            return
        try:
            self._known.save_links(links)
            self._saved_links = links
        except HostError as error:
            self.findings.raise_(codes.STATE_NOT_SAVED, HOST_SUBJECT, str(error), now)

    def _speak(self, world: World, job: Job, steady: float, *, still: bool) -> SignedAnnouncement | None:
        """`still`: the kernel was found as it should be, so that a generation may go."""
        now, grant = job.now, self.knowledge.grant
        if grant is None:
            return None
        before = () if self.keyring.last_parsed is None else self.keyring.last_parsed.endpoints
        endpoints = endpoints_to_announce(self.settings, grant, self.observed, world.layout.port, before)
        try:
            self.speaker.watch_clock(now, steady)
            if still:
                self.speaker.rotate(self.book, steady, now)
                self._rotate_by_schedule(world, now)
            return self.speaker.announcement(
                endpoints, self.door, self.observed, self.knowledge.published_serial(), self.knowledge.trust, now
            )
        except LinksealError as error:
            self.findings.raise_(codes.NOT_PUBLISHED, HOST_SUBJECT, str(error), now)
            return None

    def _rotate_by_schedule(self, world: World, now: float) -> None:
        policy = self.knowledge.policy
        if policy is not None and self.desired.devices:  # without tunnels a new key would be announced to nobody
            self.speaker.rotate_by_schedule(world.me.name, policy.rotation, now)

    def _pokes(self, now: float) -> tuple[LinkKey, ...]:
        """While generations change, replies are wanted every second: they say when the old one may go.

        And packets of ours where a peer has a new endpoint: it answers from where it is sent to.
        """
        changing = {key.peer for key in self.book.records if self.book.changing(key, now)}
        return tuple(LinkKey(name, *pair) for name, pair in sorted(self.book.current.items()) if name in changing)

    def _reconfigured(self, steps: Sequence[Step]) -> Iterator[LinkKey]:
        """Links of devices just given their key, port or mark: peers go on sending to the old port until they hear."""
        slots = {step.device for step in steps if isinstance(step, ConfigureDevice)}
        return (LinkKey(name, *pair) for name, pair in self.book.current.items() if slots and slot_name(*pair) in slots)

    def _wake(self, now: float, failures: Sequence[Failure]) -> float:
        if failures:
            self._retry = min(LAST_RETRY, max(FIRST_RETRY, 2 * self._retry))
            return self._retry
        wake = float(self.settings.poll)
        for record in self.book.records.values():
            if record.handshake_at is None and now - record.since < RECENT:
                wake = min(wake, 0.1 if now - record.since < YOUNG else 1.0)
            elif self.book.changing(record.key, now):
                wake = min(wake, 1.0)
        return wake

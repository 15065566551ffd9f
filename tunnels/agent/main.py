"""What the `linkseal agent` commands do: run, restore, cleanup.

`restore` needs the disk alone: no directory, no peer, no proof. It puts back what last carried traffic, so that a node
comes up encrypted before anything else is offered to it (law 5).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from linkseal.keys.errors import ConfigError, DirectoryError, HostError
from linkseal.keys.store import KeyStore
from linkseal.tunnels.agent.breakglass import BreakGlass
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import POLICY_CODES, Knowledge
from linkseal.tunnels.agent.logs import start_logging
from linkseal.tunnels.agent.loop import Agent
from linkseal.tunnels.agent.memory import no_core, one_arena
from linkseal.tunnels.agent.onlyone import only_one
from linkseal.tunnels.agent.pinned import pinned
from linkseal.tunnels.agent.removal import answer, clean, floor_of, removed
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.agent.waiting import answering
from linkseal.tunnels.agent.worker import Job, Worker, steady_now, unix_now
from linkseal.tunnels.boot.install import FAILED
from linkseal.tunnels.boot.install import remove as remove_boot
from linkseal.tunnels.directory.base import Directory, DirectoryView
from linkseal.tunnels.directory.choice import open_directory
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.host.host import Host
from linkseal.tunnels.host.nft import Nft
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.settings import AgentSettings, BootSettings
from linkseal.wireguard.choose import choose_driver
from linkseal.wireguard.driver import Driver
from linkseal.wireguard.missing import MissingDriver
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

_LOG: Final = logging.getLogger("linkseal.agent")

ResultT = TypeVar("ResultT")

FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 15.0
"""Seconds between looks at a directory that is not there yet: growing from the first to the last."""

BEGIN_ANEW: Final = 1.0
"""Seconds until an agent whose numbers changed begins anew: no loop without a pause, whatever the directory says."""

CAP_NET_ADMIN: Final = 12
"""Bit of CapEff in /proc/self/status (capabilities(7))."""


def run(settings: AgentSettings) -> int:
    """Run the agent until SIGTERM or SIGINT; tunnels stay. Raises HostError, ConfigError."""
    no_core()
    start_logging(settings)
    require_net_admin()
    one_arena()
    with only_one(settings.run_directory):
        asyncio.run(_run(settings))
    return 0


def restore(settings: AgentSettings) -> int:
    """Rebuild the data path from disk alone; returns how many steps it took. Raises HostError, ConfigError.

    Without WireGuard on this host what needs none is put back all the same, the guard above all; then HostError.
    """
    no_core()
    start_logging(settings)
    require_net_admin()
    require_nft()
    with only_one(settings.run_directory), driver_of(settings, alone=True) as driver:
        keyring, known, findings = _state(settings)
        if not keyring.open_existing():
            raise HostError(f"there is nothing to restore in {settings.state_directory}: this node was never set up")
        knowledge = Knowledge(settings.node, keyring, known, findings)
        knowledge.recall()
        if knowledge.policy is None:
            raise HostError(f"{settings.state_directory} knows no cluster policy: start the agent, which reads it")
        host = Host(driver, knowledge.policy.routing.table, knowledge.policy.guard.table)
        worker = Worker(settings, host, keyring, knowledge, known, findings)
        if keyring.damage and any(keyring.is_announced(d.public_key) for d in worker.host.observe().devices.values()):
            raise HostError(f"{keyring.damage}; the tunnels that stand are left as they are")
        steps = 0
        for _ in range(3):  # the second pass puts in what the first made possible, the third finds nothing to do
            result = worker.run(Job(unix_now(), steady=steady_now(), speak=False))
            steps += len(result.steps)
            if not result.steps:
                break
        host.close()
        if worker.world is None:
            raise HostError(
                "; ".join(found.message for found in findings.shown(unix_now())) or "nothing is known to restore"
            )
        if result.failures:
            raise HostError(f"not everything could be restored: {result.failures[0].error}")
        if keyring.damage:
            raise HostError(f"restored as far as possible, so the guard is there: {keyring.damage}")
        _LOG.info("restored from %s: %d steps, %d peers", settings.state_directory, steps, len(worker.book.current))
        return steps


def break_glass(settings: AgentSettings, reason: str | None, seconds: float | None) -> bool:
    """Lift the guard of this host for `reason`, or with None let it close; whether anything changed.

    Takes effect at once: the agent that runs is woken, and where none runs the kernel is changed from here. Raises
    HostError; the file says what is meant then, and the next agent or `agent restore` does it.
    """
    require_net_admin()
    glass = BreakGlass(settings.state_directory)
    if reason is None:
        if not glass.end():
            return False
    else:
        glass.begin(reason, unix_now(), seconds)
    try:
        ask(settings.run_directory, {"do": "reconcile"})
    except DirectoryError:
        restore(settings)
    return True


def trust_ca(settings: AgentSettings, fingerprint: str) -> str:
    """Have this host trust the CA of this SHA-256 fingerprint, when it comes; returns it as it is written elsewhere.

    Raises ConfigError, HostError.
    """
    require_net_admin()
    name = fingerprint.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        raise ConfigError(f"{fingerprint[:80]!r} is no fingerprint of a CA: give its SHA-256, 64 hexadecimal digits")
    store = KeyStore(settings.state_directory)
    if store.load_ca_bundle() is None:
        raise HostError(f"{settings.state_directory} trusts no CA yet: the agent takes the first that it sees")
    store.save_named_ca(name)
    with contextlib.suppress(DirectoryError):  # the next agent reads it
        ask(settings.run_directory, {"do": "reconcile"})
    return name


def cleanup(settings: AgentSettings, *, withdraw: bool) -> list[str]:
    """Remove everything of ours from this host and nothing else; returns it as lines. The keys stay on disk.

    A line that begins with `failed:` or `left alone:` is about something that is still there. `withdraw`: take this
    node's announcement out of the directory too. Peers keep what they accepted: they go on sending into the tunnel
    until the node is removed from the directory or opted out.
    """
    require_net_admin()
    with only_one(settings.run_directory), driver_of(settings) as driver:
        keyring, known, findings = _state(settings)
        policy = Policy()
        with contextlib.suppress(HostError, ConfigError):
            if keyring.open_existing():
                knowledge = Knowledge(settings.node, keyring, known, findings)
                knowledge.recall()
                policy = knowledge.policy or policy
        lines = [_withdraw(settings)] if withdraw else []
        units = (settings.boot or BootSettings()).units
        return lines + remove_boot(settings.state_directory, units) + clean(driver, policy, known)


def _withdraw(settings: AgentSettings) -> str:
    what = f"announcement of {settings.node}"
    try:
        asyncio.run(open_directory(settings.directory, settings.node).withdraw(settings.node))
    except (ConfigError, DirectoryError) as error:
        return f"{FAILED} {what}: {error}"
    return what


def require_nft() -> None:
    """Raise HostError unless nft is there: without its rules no link is proven, and the door has no map."""
    if Nft().version() is None:
        raise HostError("nft is not installed, or does not run: install the package nftables (1.0.6 or later)")


def fit_driver(settings: AgentSettings) -> Driver:
    """The WireGuard driver of a host that has all an agent needs. HostError."""
    require_nft()
    return choose_driver(settings.driver, settings.daemons)


@contextlib.contextmanager
def driver_of(settings: AgentSettings, *, alone: bool = False) -> Iterator[Driver]:
    """The WireGuard driver of this host. HostError where there is none.

    `alone`: nobody else runs yet, as at boot: wireguard-go is started from here, and its supervisor takes it over; and
    where there is no WireGuard one is returned that can make no device.
    """
    try:
        driver = choose_driver(settings.driver, None if alone else settings.daemons)
    except HostError as error:
        if not alone:
            raise
        _LOG.error("no tunnels: %s", error)
        driver = MissingDriver(error)
    try:
        yield driver
    finally:
        driver.close()


def require_net_admin() -> None:
    """Raise HostError unless this process may change the network."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    if not int(effective, 16) >> CAP_NET_ADMIN & 1:
        raise HostError("the agent changes this host's network and may not: run it as root, or with CAP_NET_ADMIN")


def _state(settings: AgentSettings) -> tuple[Keyring, KnownGood, ActiveFindings]:
    return Keyring(settings.state_directory, settings.node), KnownGood(settings.state_directory), ActiveFindings()


async def _run(settings: AgentSettings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    directory = open_directory(settings.directory, settings.node)
    try:
        with ThreadPoolExecutor(1, "worker") as executor:
            await _work(settings, directory, executor, stop)
    finally:
        await directory.close()


async def _work(
    settings: AgentSettings, directory: Directory, executor: ThreadPoolExecutor, stop: asyncio.Event
) -> None:
    """Prepare the agent and let it work until `stop`; at stage off it begins anew where its numbers change."""
    loop = asyncio.get_running_loop()
    driver = await loop.run_in_executor(executor, fit_driver, settings)  # before anything is written or waited for
    stopped = asyncio.ensure_future(stop.wait())
    anew, left = False, False
    while not stop.is_set():
        agent = await _until(stop, _prepare(settings, directory, driver, executor, anew=anew, left=left))
        if agent is None:
            return
        work = asyncio.ensure_future(agent.run())
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        agent.stop()
        await work
        if agent.desk.removal:
            await _until(stop, _removal(settings, directory, driver, agent, executor))
        await loop.run_in_executor(executor, agent.worker.host.close)
        if not stop.is_set():
            knowledge = agent.worker.knowledge
            anew, left = knowledge.outgrown, knowledge.is_off
            if anew:
                _LOG.info("ports, marks or tables change: the agent begins anew with them")
            await asyncio.wait({stopped}, timeout=BEGIN_ANEW)
    _LOG.info("stopped; tunnels stay as they are")


async def _until(stop: asyncio.Event, working: Coroutine[Any, Any, ResultT]) -> ResultT | None:
    """What comes of it, or None if the agent was stopped before."""
    work = asyncio.ensure_future(working)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not work.done():
        work.cancel()
        return None
    return work.result()


async def _removal(
    settings: AgentSettings, directory: Directory, driver: Driver, agent: Agent, executor: ThreadPoolExecutor
) -> None:
    """Remove everything, as was asked, and answer; where all is gone, wait for the end."""
    loop = asyncio.get_running_loop()
    last = await loop.run_in_executor(executor, agent.last_report)
    policy, known = agent.worker.knowledge.policy or Policy(), KnownGood(settings.state_directory)
    failed = await loop.run_in_executor(executor, removed, settings, driver, policy, known)
    if await answer(directory, settings.node, agent.desk.removal, last, failed):
        await loop.create_future()


async def _prepare(
    settings: AgentSettings,
    directory: Directory,
    driver: Driver,
    executor: ThreadPoolExecutor,
    *,
    anew: bool = False,
    left: bool = False,
) -> Agent:
    """Wait until the cluster's policy is known, from the directory or from disk; then build everything.

    `anew`: the agent before was outgrown: the policy that the directory has wants other numbers. `left`: and it went to
    stage off by that policy; else what it stood on stays until there is something else to stand on.
    """
    loop = asyncio.get_running_loop()
    keyring, known, findings = _state(settings)
    saved = known.cluster() if settings.state_directory.is_dir() else None
    knowledge = Knowledge(settings.node, keyring, known, findings)
    async with answering(settings.metrics if saved is None else None):
        view = await _first_view(directory, settings.node, patient=saved is None)
    # What another cluster calls this node says nothing of the one it belongs to (LS1023).
    there = "" if view is None else view.snapshot.cluster_uid
    cluster = there if saved is None else saved.uid
    named = view.uid if view is not None and there == cluster else None
    keyring.open(settings.uid or keyring.uid_in(cluster) or named, cluster)  # another UID is for its grant to say
    if keyring.last_parsed is None:  # nothing of it was ever announced from this disk
        keyring.floor = await floor_of(directory, settings.node)
    knowledge.recall()
    recalled = knowledge.policy
    serial = knowledge.policy_serial
    if anew:
        knowledge.leave()
    if recalled is None and view is None:
        async with answering(settings.metrics):
            view = await _first_view(directory, settings.node, patient=True)
    # At stage off nothing stands on the policy's numbers: this is when they change.
    free = anew or recalled is None or knowledge.register is None or recalled.stage_of(settings.node) is Stage.OFF
    if view is not None and free:
        knowledge.deferred = recalled is not None
        knowledge.learn(view, unix_now())
    if anew and not left and knowledge.policy_serial == serial:
        knowledge.policy = recalled

    def build() -> Worker:
        if knowledge.policy is None:
            found = [one.message for one in findings.shown(unix_now()) if one.code in POLICY_CODES]
            raise ConfigError(f"the cluster has no usable policy, so correct it: {'; '.join(found)}")
        if recalled is not None and pinned(recalled) != pinned(knowledge.policy):
            guarded = knowledge.policy.stage_of(settings.node) is not Stage.OFF
            kept = guarded and recalled.guard.table == knowledge.policy.guard.table
            for line in clean(driver, recalled, known, guard=not kept):
                _LOG.info("ports, marks or tables have changed, removed what was left: %s", line)
        if view is not None and knowledge.deferred:
            knowledge.write(view, unix_now())
        host = Host(driver, knowledge.policy.routing.table, knowledge.policy.guard.table)
        return Worker(settings, host, keyring, knowledge, known, findings)

    worker = await loop.run_in_executor(executor, build)
    features = worker.features
    _LOG.info(
        "agent of %s: %s WireGuard, %s, kernel %s",
        settings.node,
        features.driver,
        "door" if features.door else "no door: routes per slot",
        features.kernel,
    )
    return Agent(worker, directory, executor)


async def _first_view(directory: Directory, node: str, *, patient: bool) -> DirectoryView | None:
    """The directory's first view; `patient`: wait for it, since nothing is known without it."""
    if not patient:
        try:
            return await directory.view(node)
        except DirectoryError as error:
            _LOG.warning("the directory cannot be read, starting from the last known good: %s", error)
            return None
    waiting = AsyncRetrying(
        retry=retry_if_exception_type(DirectoryError),
        wait=wait_random_exponential(min=FIRST_RETRY, max=LAST_RETRY),  # jitter: all nodes may be waiting
        before_sleep=_tell_once(),
    )
    return await waiting(directory.view, node)


def _tell_once() -> Callable[[RetryCallState], None]:
    """Log the first reason to wait, not each."""
    told: set[str] = set()

    def tell(state: RetryCallState) -> None:
        reason = str(state.outcome.exception()) if state.outcome is not None else ""
        if reason not in told:
            told.add(reason)
            _LOG.warning("waiting for the directory: %s", reason)

    return tell

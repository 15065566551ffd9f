"""What the event loop is shown after a pass."""

from __future__ import annotations

from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.agent.prober import Picture
from linkseal.tunnels.agent.worker import Result, Worker
from linkseal.tunnels.model import Observed
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.world import World


def picture_of(worker: Worker, result: Result) -> Picture | None:
    """Return the state after a pass, None without a world. Called in the worker's thread."""
    world, policy = worker.world, worker.knowledge.policy or Policy()
    if world is None:
        return None
    return Picture(
        world,
        dict(worker.book.current),
        float(policy.probe.interval),
        result.targets,
        result.poke,
        _carriers(world, worker.observed),
        policy.verify,
    )


def _carriers(world: World, observed: Observed) -> tuple[str, ...]:
    """Interfaces that have this node's granted addresses, and the one that carries the tunnels."""
    holders = (observed.host_addresses.get(address) for address in world.me.addresses)
    names = (*(name for name in holders if name is not None), world.underlay.interface)
    return tuple(name for name in dict.fromkeys(names) if name not in OURS)

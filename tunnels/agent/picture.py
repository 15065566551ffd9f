"""What the event loop is shown after a pass."""

from __future__ import annotations

from linkseal.tunnels.agent.prober import Picture
from linkseal.tunnels.agent.worker import Result, Worker
from linkseal.tunnels.policy import Policy


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
        tuple(dict.fromkeys((world.underlay.interface, *world.nics))),
        policy.verify,
    )

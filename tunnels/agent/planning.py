"""What this host's agent would do now, as lines."""

from __future__ import annotations

from typing import NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.agent.worker import Worker
from linkseal.tunnels.model import Observed
from linkseal.tunnels.render import render, render_steps


class Planned(NamedTuple):
    """What should be on this host, and the steps that lead there from what is, as `ip`, `wg` and `nft` lines."""

    desired: tuple[str, ...]
    steps: tuple[str, ...]


def planned(worker: Worker) -> Planned:
    """Look at the kernel and plan; nothing is changed. For the worker's thread.

    Raises HostError, also where nothing is known to plan from: the agent does nothing then.
    """
    if worker.world is None:
        raise HostError("it has nothing to plan from yet: see its findings (`linkseal status NODE`)")
    desired, _, steps = worker.plan_now()
    return Planned(render(desired, Observed()), render_steps(steps))

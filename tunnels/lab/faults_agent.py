"""Faults of the agent and the controller: ended, started, told to change keys."""

from __future__ import annotations

import random
import signal
import time
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import LINKS, STATUS, TRAFFIC, Fault, Faults
from linkseal.tunnels.lab.lab import CONTROLLER, Lab

RESTARTS: Final = 20
LONGEST_LIFE: Final = 1.5
"""Seconds an agent may live before it is ended again: some have done their first pass by then, some have not."""


def _stop(lab: Lab, node: Node) -> str:
    return _ended(lab, node.name, f"the agent of {node.name}", signal.SIGTERM)


def _kill(lab: Lab, node: Node) -> str:
    return _ended(lab, node.name, f"the agent of {node.name}", signal.SIGKILL)


def _controller_stop(lab: Lab, _: Node) -> str:
    return _ended(lab, CONTROLLER, "the controller", signal.SIGTERM)


def _ended(lab: Lab, process: str, title: str, number: signal.Signals) -> str:
    if not lab.stop(process, number):
        raise HostError(f"{title} does not run")
    return f"ended {title} ({number.name})"


def _start(lab: Lab, node: Node) -> str:
    if not lab.start_agent(node):
        raise HostError(f"the agent of {node.name} runs already")
    return f"started the agent of {node.name}"


def _controller_start(lab: Lab, _: Node) -> str:
    if lab.running(CONTROLLER):
        raise HostError("the controller runs already")
    lab.start_controller()
    return "started the controller"


def _restarts(lab: Lab, node: Node) -> str:
    """End it in the middle of whatever it does, with either signal, and start it again."""
    dice = random.Random(node.index)  # noqa: S311 - the same each time, so that a failure comes back
    killed = 0
    for _ in range(RESTARTS):
        number = dice.choice((signal.SIGTERM, signal.SIGKILL))
        killed += lab.stop(node.name, number) and number == signal.SIGKILL
        lab.start_agent(node)
        time.sleep(dice.uniform(0, LONGEST_LIFE))
    return f"ended and started the agent of {node.name} {RESTARTS} times, {killed} of them with SIGKILL"


def _rotate(lab: Lab, node: Node) -> str:
    return f"{node.name} raised generation {lab.ask(node, 'rotate')['generation']}"


def _rotate_all(lab: Lab, _: Node) -> str:
    return "; ".join(_rotate(lab, node) for node in lab.cluster)


_ADOPTS: Final = f"it adopts the tunnels it finds: {STATUS}"

AGENT: Final[Faults] = {
    "agent-stop": Fault(_stop, "end a node's agent with SIGTERM", TRAFFIC, "agent-start"),
    "agent-kill": Fault(_kill, "end a node's agent with SIGKILL", TRAFFIC, "agent-start"),
    "agent-start": Fault(_start, "start a node's agent again", _ADOPTS),
    "agent-restarts": Fault(_restarts, f"end and start a node's agent {RESTARTS} times at random moments", TRAFFIC),
    "controller-stop": Fault(
        _controller_stop, "end the controller", "nothing that works stops: " + STATUS, "controller-start"
    ),
    "controller-start": Fault(_controller_start, "start the controller again", STATUS),
    "rotate": Fault(_rotate, "raise a node's generation: new keys", LINKS),
    "rotate-all": Fault(_rotate_all, "raise every node's generation at once", LINKS),
}

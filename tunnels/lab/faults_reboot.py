"""Reboots: all that a node has in its kernel is lost; what is on its disk must bring it back, encrypted."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import STATUS, TRAFFIC, WIRE, Fault, Faults
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.lab.reset import forget_kernel


def _power(lab: Lab, nodes: Sequence[Node], state: str) -> None:
    lab.cluster.wire.ip(*(f"link set up{node.index} {state}" for node in nodes))


def _down(lab: Lab, nodes: Sequence[Node]) -> str:
    """Power off: the cable is dead first, so that nothing a dying node does is seen."""
    _power(lab, nodes, "down")
    for node in nodes:
        lab.stop(node.name, signal.SIGKILL)
        forget_kernel(lab, node)
    return f"{', '.join(node.name for node in nodes)} lost power"


def _boot(lab: Lab, nodes: Sequence[Node]) -> str:
    """What the boot unit does before the network is there for anybody; then the network, without any agent."""
    for node in nodes:
        lab.restore(node)
    _power(lab, nodes, "up")
    return f"{', '.join(node.name for node in nodes)}: restored from disk alone, no agent runs"


def _start(lab: Lab, nodes: Sequence[Node]) -> str:
    for node in nodes:
        lab.start_agent(node)
    return "agents started"


def _reboot(lab: Lab, nodes: Sequence[Node]) -> str:
    return "; ".join(step(lab, nodes) for step in (_down, _boot, _start))


_ALIVE: Final = f"{TRAFFIC}; {WIRE}"

REBOOT: Final[Faults] = {
    "power-off": Fault(
        lambda lab, node: _down(lab, [node]), "a node loses power: its kernel, /run and processes", STATUS, "power-on"
    ),
    "power-on": Fault(
        lambda lab, node: _boot(lab, [node]), "restore it from disk alone, without an agent", _ALIVE, "agent-start"
    ),
    "reboot": Fault(lambda lab, node: _reboot(lab, [node]), "power-off, power-on and agent-start of a node", _ALIVE),
    "power-off-all": Fault(
        lambda lab, _: _down(lab, lab.cluster), "every node loses power at once", STATUS, "power-on-all"
    ),
    "power-on-all": Fault(
        lambda lab, _: _boot(lab, lab.cluster), "restore all from disk alone, without agents", _ALIVE, "agent-start-all"
    ),
    "agent-start-all": Fault(lambda lab, _: _start(lab, lab.cluster), "start every agent that does not run", STATUS),
    "reboot-all": Fault(lambda lab, _: _reboot(lab, lab.cluster), "all three for every node at once", _ALIVE),
}

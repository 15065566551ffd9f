"""What can be broken in a lab on purpose, and what to watch then. Faults of a node act in its namespace."""

from __future__ import annotations

from typing import Final

from linkseal.keys.errors import ConfigError
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import Faults
from linkseal.tunnels.lab.faults_agent import AGENT
from linkseal.tunnels.lab.faults_clock import CLOCK
from linkseal.tunnels.lab.faults_directory import DIRECTORY
from linkseal.tunnels.lab.faults_disk import DISKS
from linkseal.tunnels.lab.faults_drift import DRIFT
from linkseal.tunnels.lab.faults_path import PATH
from linkseal.tunnels.lab.faults_reboot import REBOOT
from linkseal.tunnels.lab.faults_redirect import REDIRECT
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.lab.sabotage import SABOTAGE
from linkseal.tunnels.lab.state import DEFAULT_NAME

FAULTS: Final[Faults] = {**AGENT, **DRIFT, **PATH, **REDIRECT, **DISKS, **DIRECTORY, **CLOCK, **REBOOT, **SABOTAGE}

ON_KUBERNETES: Final = frozenset({*DRIFT, *PATH, *REDIRECT, "rotate", "rotate-all"} - {"flush", "nic"})
"""What can be broken where agents are pods; `flush` and `nic` would take what a kube-proxy and a CNI put there too."""


def break_it(lab: Lab, name: str, node: Node) -> tuple[str, str]:
    """Carry out a fault; returns what was done, and what to watch. ConfigError for an unknown one, HostError."""
    fault = FAULTS.get(name)
    if fault is None:
        raise ConfigError(f"there is no fault {name!r}: {', '.join(FAULTS)}")
    if lab.record.spec.kubernetes and name not in ON_KUBERNETES:
        there = ", ".join(one for one in FAULTS if one in ON_KUBERNETES)
        raise ConfigError(
            f"{name} is a fault of labs without --kubernetes; here there are {there}, and what kubectl can do: delete "
            "a pod, scale the controller"
        )
    option = "" if lab.record.spec.name == DEFAULT_NAME else f"--name {lab.record.spec.name} "
    others = [other for other in lab.cluster if other is not node] or [node]
    pod = others[0].pods[0]
    names = {
        "node": f"{option}{node.name}",
        "pod": f"{option}{node.name}.p1",
        "wire": f"{option}wire",
        "other": pod.address4 or pod.address6,
    }
    return fault.act(lab, node), fault.watch.format(**names)

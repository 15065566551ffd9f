"""Faults of the clock. Network namespaces share the kernel's: only a lab kernel has one that may be set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import STATUS, TRAFFIC, Fault, Faults
from linkseal.tunnels.lab.lab import Lab

HOUR: Final = 3600.0

_CPU: Final = Path("/proc/cpuinfo")
_LAB_KERNEL: Final = "User Mode Linux"


def in_lab_kernel() -> bool:
    """Whether the running kernel is a lab kernel."""
    return _LAB_KERNEL in _CPU.read_text(encoding="utf-8", errors="replace")


def _jump(seconds: float) -> str:
    """Set the clock of this kernel. HostError unless it is a lab kernel's."""
    if not in_lab_kernel():
        raise HostError(
            "here the clock is this machine's, and namespaces cannot have another: use a lab with --backend lab"
        )
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
    return f"the clock of all nodes went {'on' if seconds > 0 else 'back'} by {abs(seconds) / HOUR:g} h"


def _forward(_: Lab, __: Node) -> str:
    return _jump(HOUR)


def _back(_: Lab, __: Node) -> str:
    return _jump(-HOUR)


CLOCK: Final[Faults] = {
    "clock-forward": Fault(_forward, "set the clock on by an hour (lab kernel only)", TRAFFIC, "clock-back"),
    "clock-back": Fault(
        _back,
        "set the clock back by an hour (lab kernel only)",
        f"peers refuse handshakes of the past, so every node raises a generation: {STATUS}",
        "clock-forward",
    ),
}

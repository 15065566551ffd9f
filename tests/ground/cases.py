"""What the fault matrix walks: which faults, how long, in which cells. How it is walked is in ground/matrix.py."""

from __future__ import annotations

from ground.matrix import RECOVERY, Case, Cell

BOOTED = RECOVERY + 5.0
"""Seconds until a node that booted may be back: what it sent while its cable was dead began a handshake, and WireGuard
tries again after 5 s (whitepaper 6.4). Where all boot at once two such may cross."""

DRIFT = [
    Case(name)
    for name in (
        *("device", "door", "peer", "route", "routes", "rule", "address", "element", "table", "guard", "flush"),
        *("rp-filter", "nic"),
    )
]
"""Healed by the agent, without anybody's doing."""

DEAD = [Case(name, 4.0, dead=True) for name in ("device", "door", "peer", "routes", "rule", "element", "table", "nic")]
"""The same while there is no agent that could: what is left must not let anything out."""

AGENT = [
    Case("agent-stop", 4.0),
    Case("agent-kill", 4.0),
    Case("agent-restarts"),
    Case("controller-stop", 3.0),
    Case("rotate-all", keys=True),
]

PATH = [
    Case("link-down", 5.0),
    Case("mtu-hole", 5.0),
    Case("narrow", 8.0),
    Case("redirect", 4.0),
    Case("redirect-ebpf", 4.0),
    Case("forward-drop", 5.0),
]

DISK = [Case("disk-full", 8.0), Case("key", keys=True)]

DIRECTORY = [
    Case("directory-away", 60.0),
    Case("directory-wipe", 10.0),
    Case("directory-rollback", keys=True),
    Case("forged"),
    Case("unsigned"),
    Case("copied"),
]

REBOOT = [
    Case("power-off", 2.0, 6.0, recovery=BOOTED),
    Case("power-off-all", 2.0, 6.0, recovery=BOOTED),
    Case("reboot", recovery=BOOTED),
    Case("reboot-all", recovery=BOOTED),
    Case("recreate", keys=True),
]

SABOTAGE = [Case("sabotage")]

WHOLE = [*AGENT, *DRIFT, *DEAD, *PATH, *DISK, *DIRECTORY, *REBOOT, *SABOTAGE]
"""Every fault that shows itself at once."""

OVER = 25.0
"""Seconds: a session ends after 18 in the fast kernel."""

LONG = [
    *(Case(name, OVER) for name in ("agent-stop", "link-down", "directory-away", "disk-full", "controller-stop")),
    *(Case(name, OVER, dead=True) for name in ("device", "routes", "element")),
    Case("mtu-hole", OVER),
    Case("clock-forward", OVER, OVER, keys=True),
    Case("clock-back", OVER, OVER, keys=True),
    Case("power-off", OVER, OVER, recovery=BOOTED),
    Case("power-off-all", OVER, OVER, recovery=BOOTED),
    Case("sabotage"),
]
"""Those that bite when a session ends, and not before: on the fast kernel, past the end of every session."""

FIXED = [
    *(Case(name) for name in ("device", "rule", "guard", "nic")),
    Case("routes", 2.0, dead=True),
    Case("link-down", 2.0),
    Case("redirect", 2.0),
    Case("copied"),
    Case("power-off-all", 1.0, 4.0, recovery=BOOTED),
]
"""What `make test` walks: one of each kind."""

LEAKS = [Case("routes", 4.0, dead=True), Case("rule", 4.0, dead=True), Case("redirect", 3.0)]
"""What leaks where there is no guard, and for as long as nobody heals it."""

CELLS = [
    Cell(driver, scope, family)
    for driver in ("kernel", "userspace")
    for scope in ("overlay", "transparent")
    for family in ("4", "6")
]

CONTROLS = [Cell("kernel", "overlay", "4", "prefer"), Cell("userspace", "transparent", "6", "prefer")]
"""The same faults without a guard that drops: they must be seen to leak."""

FAST = [Cell("kernel", "overlay", "46"), Cell("kernel", "transparent", "46")]

"""What a reboot takes from a node: its processes, everything of ours in its kernel, and /run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Final

from linkseal.tunnels.addressing import DOOR, PROBE, SLOTS
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.lab.namespaces import OWN_FOLDERS, processes_in
from linkseal.tunnels.policy import RoutingPolicy

DAEMON: Final = "wireguard-go"
"""A process that a reboot ends: it is no pod's."""

_LOOPS: Final = 64
"""More rules of ours than there can be."""


def forget_kernel(lab: Lab, node: Node) -> None:
    """Take everything of ours out of a node's kernel, with its NIC; all its nftables and /run too. HostError."""
    _end_daemons(node)
    routing = RoutingPolicy()
    lines = [f"ip link del {name} 2>/dev/null" for name in (DOOR, *SLOTS, PROBE)]
    for family in ("-4", "-6"):
        lines += [
            f"for i in $(seq {_LOOPS}); do ip {family} rule del {what} 2>/dev/null || break; done"
            for what in (f"table {routing.table}", f"pref {routing.rule_priority}")
        ]
        lines += [f"ip {family} route flush table {table} 2>/dev/null" for table in (routing.table, "default")]
    lines.append("nft flush ruleset")
    lines += [f"rm -rf {folder}/*" for folder in OWN_FOLDERS]
    node.run("; ".join([*lines, "true"]))
    lab.cluster.new_nic(node)
    shutil.rmtree(lab.node_folder(node) / "run", ignore_errors=True)


def _end_daemons(node: Node) -> None:
    for pid in processes_in([node.ns]):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == DAEMON:
                os.kill(pid, signal.SIGKILL)

"""What a reboot takes from a node: its processes, everything of ours in its kernel, and /run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Final

from linkseal.tunnels.addressing import DOOR, PROBE, SLOTS
from linkseal.tunnels.lab.cluster import Cluster, Node
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.lab.namespaces import OWN_FOLDERS, processes_in

DAEMON: Final = "wireguard-go"
"""A process that a reboot ends: it is no pod's."""

_RULES: Final = {32766: "main", 32767: "default"}
"""Priority of a rule → its table, at boot (ip-rule(8))."""


def forget_kernel(lab: Lab, node: Node) -> None:
    """Take from a node of a lab what a reboot takes: of its kernel, and its agent's /run. HostError."""
    empty_kernel(lab.cluster, node)
    shutil.rmtree(lab.node_folder(node) / "run", ignore_errors=True)


def empty_kernel(cluster: Cluster, node: Node) -> None:
    """Take everything of ours out of a node's kernel, with its NIC; all its nftables and /run too. HostError.

    Its cable is dead then: whoever boots it plugs it in when the node is ready to be seen.
    """
    cluster.wire.ip(f"link set up{node.index} down")
    _end_daemons(node)
    lines = [f"ip link del {name} 2>/dev/null" for name in (DOOR, *SLOTS, PROBE)]
    for family in ("-4", "-6"):
        # The kernel's own rule 0 stays; main and default are what it has at boot.
        lines.append(f"ip {family} rule flush 2>/dev/null")
        lines += [f"ip {family} rule add pref {pref} lookup {name}" for pref, name in _RULES.items()]
        tables = f"ip {family} route show table all | grep -o 'table [0-9a-z]*' | sort -u | grep -v local"
        lines.append(f"{tables} | while read t; do ip {family} route flush $t; done 2>/dev/null")
    lines.append("nft flush ruleset")
    lines += [f"rm -rf {folder}/*" for folder in OWN_FOLDERS]
    node.run("; ".join([*lines, "true"]))
    cluster.new_nic(node, plugged=False)


def _end_daemons(node: Node) -> None:
    for pid in processes_in([node.ns]):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == DAEMON:
                os.kill(pid, signal.SIGKILL)

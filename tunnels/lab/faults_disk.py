"""Faults of a node's own disk: a key file lost, a full disk, a node that was made anew under its old name."""

from __future__ import annotations

import json
import re
import shlex
import signal
import uuid
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.files import atomic_write
from linkseal.tunnels.guard.policy import TABLE as GUARD_TABLE
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.fault import LINKS, STATUS, Fault, Faults
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.lab.reset import forget_kernel

BALLAST: Final = ".ballast"
"""File in a state directory that fills its disk."""

DISK: Final = "1M"
"""Size of the disk that is filled: a state directory of some nodes is 40 KB."""


def _key(lab: Lab, node: Node) -> str:
    """Lose the key of the newest generation while the agent does not run: one that runs knows it by heart."""
    lab.stop(node.name, signal.SIGKILL)
    keys = f"{lab.state(node)}/keys"
    numbers = [int(number) for number in re.findall(r"gen-(\d+)\.key", node.run(f"ls {shlex.quote(keys)}"))]
    if not numbers:
        raise HostError(f"{node.name} has no key yet")
    file = f"{keys}/gen-{max(numbers)}.key"
    node.run(f"rm {shlex.quote(file)}")
    lab.start_agent(node)
    return f"{node.name}: rm {file}, and its agent was started again"


def _full(lab: Lab, node: Node) -> str:
    """Give the state directory a disk of its own, in the node's mount namespace, and fill it."""
    state = shlex.quote(str(lab.state(node)))
    node.run(
        f"mountpoint -q {state} || {{ aside=$(mktemp -d) && cp -a {state}/. $aside && "
        f"mount -t tmpfs -o size={DISK},mode=0700 tmpfs {state} && cp -a $aside/. {state} && rm -rf $aside; }}"
    )
    node.run(f"dd if=/dev/zero of={state}/{BALLAST} bs=4k 2>/dev/null", check=False)
    return f"{node.name}: no space is left on the disk of {lab.state(node)}"


def _full_ok(lab: Lab, node: Node) -> str:
    node.run(f"rm {shlex.quote(str(lab.state(node) / BALLAST))}")
    return f"{node.name}: there is space again"


def _recreate(lab: Lab, node: Node) -> str:
    """Another machine under the same name: nothing of the old one is left, and the cluster gives it another UID.

    It is plugged in when its agent has loaded the guard, as a node's pods are kept back until then by a start-up taint:
    before, it has no notion of what to protect.
    """
    lab.stop(node.name, signal.SIGKILL)
    forget_kernel(lab, node)
    node.run(f"find {shlex.quote(str(lab.state(node)))} -mindepth 1 -delete")
    uid = f"uid-{node.name}-{uuid.uuid4().hex[:8]}"
    inventory = json.loads((lab.folder / "inventory.yaml").read_text(encoding="utf-8"))
    for entry in inventory["nodes"]:
        entry["uid"] = uid if entry["name"] == node.name else entry["uid"]
    config = json.loads(lab.config(node).read_text(encoding="utf-8")) | {"uid": uid}
    atomic_write(lab.config(node), json.dumps(config, indent=2).encode() + b"\n")
    atomic_write(lab.folder / "inventory.yaml", json.dumps(inventory, indent=2).encode() + b"\n")
    lab.start_agent(node)
    if lab.record.spec.stage != "off":
        lab.wait(lambda: GUARD_TABLE in node.run("nft list tables"), f"a guard on {node.name}")
    lab.cluster.wire.ip(f"link set up{node.index} up")
    return f"{node.name} was made anew: no keys, no state, UID {uid}; its agent was started"


DISKS: Final[Faults] = {
    "key": Fault(_key, "lose the key file of a node's newest generation", f"it raises another generation: {LINKS}"),
    "disk-full": Fault(_full, "fill the disk of a node's state directory", STATUS, "disk-ok"),
    "disk-ok": Fault(_full_ok, "undo disk-full", STATUS),
    "recreate": Fault(_recreate, "make a node anew under its old name: new UID, new keys", STATUS),
}

"""The command line that runs a program in a place of a lab: a node, a pod, the wire."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.lab import HOLDER, cluster_of, kind_of
from linkseal.tunnels.lab.state import LabRecord


def command_in(record: LabRecord, place: str, words: Sequence[str], folder: Path) -> list[str]:
    """Return the command line that runs `words` in a place of a lab, in `folder`; here or in its lab kernel.

    Needs nothing of Python's, whose start takes three seconds in a lab kernel. ConfigError for an unknown place.
    """
    lab = kind_of(record.spec)(replace(record, processes={}), cluster_of(record.spec))
    space = lab.place(place)
    variables = [f"{name}={value}" for name, value in lab.variables(space).items()]
    mounts = ""
    if isinstance(space, Node):
        mounts = f'--mount="/proc/$(cat {shlex.quote(str(lab.node_folder(space) / HOLDER))})/ns/mnt"'
    enter = f'exec nsenter --net=/run/netns/{space.ns} {mounts} -- env -C "$0" "$@"'
    return ["sh", "-c", enter, str(folder), *variables, *words]

"""Network namespaces and processes in them: the product's own (linkseal.tunnels.lab)."""

from __future__ import annotations

from linkseal.tunnels.lab.forked import ForkedProcess
from linkseal.tunnels.lab.namespaces import (
    NETNS_FOLDER,
    Namespace,
    enter,
    ip_batch,
    private_mounts,
    processes_in,
    remove,
)

__all__ = [
    "NETNS_FOLDER",
    "ForkedProcess",
    "Namespace",
    "enter",
    "ip_batch",
    "private_mounts",
    "processes_in",
    "remove",
]

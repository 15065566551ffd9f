"""Clusters for tests: the product's (linkseal.tunnels.lab.cluster), built at once, under names no other test has."""

from __future__ import annotations

import itertools
import os
from typing import Any

from linkseal.tunnels.lab import cluster
from linkseal.tunnels.lab.cluster import VXLAN_PORT, Cni, Node, Pod

__all__ = ["VXLAN_PORT", "Cluster", "Cni", "Node", "Pod"]

_serial = itertools.count(1)


class Cluster(cluster.Cluster):
    """Built when made (`a, b, c = Cluster(3)`); its nodes are node1, node2 … Made by the fixture `nodes`."""

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(count, prefix=f"t{os.getpid()}x{next(_serial)}", stem="node", **options)
        self.build()

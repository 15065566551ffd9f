"""A real Kubernetes control plane for tests: the product's own, and what the cache lacks of it is built first.

with ControlPlane(tmp_path) as plane:
    create_node(plane.admin, "a")
    plane.stop_api()
    plane.start_api()                                       # same port, same data
    assert len(plane.requests(user="admin", verb="create", resource="nodes")) == 1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ground import controlbuild
from linkseal.tunnels.lab.kube import controlplane

__all__ = ["ControlPlane"]


class ControlPlane(controlplane.ControlPlane):
    """As the product's. Made after a build, which takes minutes the first time; BuildError where that fails."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, controlbuild.build(), **options)

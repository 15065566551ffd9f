"""A real Kubernetes control plane for tests: the product's own, and what the cache lacks of it is built first.

with ControlPlane(tmp_path) as plane:
    create_node(plane.admin, "a")
    plane.stop_api()
    plane.start_api()                                       # same port, same data
    assert len(plane.requests(user="admin", verb="create", resource="nodes")) == 1
    plane.snapshot("before")
    plane.restore("before")                                 # what was written since is lost
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import urllib3
from ground import controlbuild
from linkseal.tunnels.lab.kube import controlplane

__all__ = ["ControlPlane"]


class ControlPlane(controlplane.ControlPlane):
    """As the product's. Made after a build, which takes minutes the first time; BuildError where that fails."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, controlbuild.build(), **options)

    def snapshot(self, name: str) -> None:
        """Keep all objects as they are now, as a backup of etcd's disk does, under a name for `restore`."""
        shutil.rmtree(self._kept(name), ignore_errors=True)
        daemon = self._daemons["etcd"]
        daemon.pause()
        try:
            shutil.copytree(self.folder / "etcd", self._kept(name))
        finally:
            daemon.resume()

    def restore(self, name: str, *, writes: int = 0) -> None:
        """Go back to a snapshot: what was written since is lost, and versions are given a second time.

        `writes`: how many versions are given again before the API server can be asked.
        """
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
        shutil.rmtree(self.folder / "etcd")
        shutil.copytree(self._kept(name), self.folder / "etcd")
        self._start_etcd()
        for _ in range(writes):
            self._etcd("kv/put", {"key": "bm9i", "value": "b2R5"})  # "nob": "ody"
        self.start_api()
        self._start_others()

    def compact(self) -> None:
        """Have etcd forget all versions but the present: a watch from an earlier one is answered with 410."""
        now = self._etcd("kv/range", {"key": "AA=="})["header"]["revision"]
        self._etcd("kv/compaction", {"revision": now, "physical": True})

    def _etcd(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = urllib3.request("POST", f"{self._etcd_url}/v3/{what}", json=body, timeout=30.0)
        assert answer.status == 200, answer.data
        found: dict[str, Any] = answer.json()
        return found

    def _kept(self, name: str) -> Path:
        return self.folder / f"etcd-{name}"

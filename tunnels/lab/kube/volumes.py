"""Volumes of a pod, as its kubelet lays them out: configuration and tokens fetched in the node's name, host paths.

What comes from the API server is written to the pod's folder, again when a token has lived for most of its time.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from stat import S_ISCHR
from typing import Any, Final

from linkseal.keys.errors import ConfigError
from linkseal.keys.files import atomic_write
from linkseal.tunnels.lab.kube.api import Api
from linkseal.tunnels.lab.kube.container import Bound
from linkseal.tunnels.lab.kube.podspec import ContainerSpec, PodSpec

RENEW_AT: Final = 0.8
"""Of a token's life, as kubelets do."""

_FOLDER, _FILE = 0o755, 0o644
_TOKEN: Final = 0o644
"""Of a token's file: the container's user reads it, and nobody else sees the volume."""


class Volumes:
    """Those of one pod, below `folder`. Methods raise ApiError, ConfigError (a volume is not known), OSError."""

    def __init__(self, api: Api, pod: PodSpec, folder: Path) -> None:
        self._api, self._pod, self._folder = api, pod, folder
        self._renew = float("inf")

    def lay_out(self) -> None:
        """Write what is to be written, and make the host's folders that may be made."""
        for name, volume in self._pod.volumes.items():
            self._lay_out(name, volume)

    def renew(self) -> None:
        """Fetch tokens anew if it is time."""
        if time.monotonic() >= self._renew:
            self._renew = float("inf")
            for name, volume in self._pod.volumes.items():
                if "projected" in volume:
                    self._lay_out(name, volume)

    def of(self, container: ContainerSpec) -> list[Bound]:
        """Return where a container's volumes are, outer targets first."""
        mounts = sorted(container.mounts, key=lambda mount: mount.target)
        return [self._bound(one.volume, one.target, one.sub_path, read_only=one.read_only) for one in mounts]

    def _bound(self, name: str, target: str, sub_path: str, *, read_only: bool) -> Bound:
        volume = self._pod.volumes[name]
        host = volume.get("hostPath")
        source = Path(host["path"]) if host else self._folder / name
        source = source / sub_path if sub_path else source
        written = "configMap" in volume or "projected" in volume or "secret" in volume
        return Bound(source, target, read_only or written, is_file=not source.is_dir())

    def _lay_out(self, name: str, volume: Mapping[str, Any]) -> None:
        folder = self._folder / name
        if host := volume.get("hostPath"):
            _host_path(Path(host["path"]), host.get("type", ""))
        elif "emptyDir" in volume:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
        elif "configMap" in volume:
            self._config_map(folder, volume["configMap"])
        elif "projected" in volume:
            for source in volume["projected"]["sources"]:
                self._project(folder, source)
        else:
            raise ConfigError(f"volume {name}: {sorted(set(volume) - {'name'})} is not known here")

    def _project(self, folder: Path, source: Mapping[str, Any]) -> None:
        if token := source.get("serviceAccountToken"):
            self._token(folder / token["path"], token)
        elif "configMap" in source:
            self._config_map(folder, source["configMap"])
        elif "downwardAPI" in source:
            fields = {"metadata.namespace": self._pod.namespace, "metadata.name": self._pod.name}
            for item in source["downwardAPI"]["items"]:
                _write(folder / item["path"], fields[item["fieldRef"]["fieldPath"]].encode())
        else:
            raise ConfigError(f"a projected volume's {sorted(source)} is not known here")

    def _token(self, path: Path, asked: Mapping[str, Any]) -> None:
        """Ask for a token bound to this pod, in the node's name: the API server lets it for pods of its own."""
        pod, seconds = self._pod, int(asked.get("expirationSeconds", 3600))
        reference = {"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.uid}
        spec = {"expirationSeconds": seconds, "boundObjectRef": reference}
        spec |= {"audiences": [asked["audience"]] if asked.get("audience") else []}
        where = f"/api/v1/namespaces/{pod.namespace}/serviceaccounts/{pod.account}/token"
        answer = self._api.post(where, {"spec": spec})
        _write(path, str(answer["status"]["token"]).encode(), _TOKEN)
        self._renew = min(self._renew, time.monotonic() + seconds * RENEW_AT)

    def _config_map(self, folder: Path, asked: Mapping[str, Any]) -> None:
        found = self._api.get(f"/api/v1/namespaces/{self._pod.namespace}/configmaps/{asked['name']}")
        data = {name: text.encode() for name, text in (found.get("data") or {}).items()}
        data |= {name: base64.b64decode(text) for name, text in (found.get("binaryData") or {}).items()}
        items: Sequence[Mapping[str, str]] = asked.get("items") or [{"key": name, "path": name} for name in data]
        folder.mkdir(parents=True, exist_ok=True)
        for item in items:
            _write(folder / item["path"], data[item["key"]])


def _host_path(path: Path, kind: str) -> None:
    """Do what a host path's type says. ConfigError if what must be there is not."""
    if kind == "DirectoryOrCreate":
        path.mkdir(_FOLDER, parents=True, exist_ok=True)
        return
    fits = {
        "": path.exists,
        "Directory": path.is_dir,
        "File": path.is_file,
        "CharDevice": lambda: path.exists() and S_ISCHR(path.stat().st_mode),
        "Socket": path.is_socket,
    }
    if kind not in fits:
        raise ConfigError(f"hostPath {path}: type {kind} is not known here")
    if not fits[kind]():
        raise ConfigError(f"hostPath {path}: there is no {kind or 'such path'} on the node")


def _write(path: Path, content: bytes, mode: int = _FILE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        atomic_write(path, content, mode)

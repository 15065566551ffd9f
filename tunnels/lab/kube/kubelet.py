"""A stand-in for a node's kubelet: runs the pods that are bound to the node, with the rights that they ask for.

It has a kubelet's credentials and no others (Node authorizer, NodeRestriction): its pods' tokens and configuration come
from the real API server by the real rules. A container is a process of this machine in namespaces of its own
(container.py); a pod on the host's network is in the node's. There is no image and no `kubectl logs`: what a container
prints is in its pod's folder.

    folder/NAMESPACE_POD_UID/CONTAINER.log      what it printed
    folder/NAMESPACE_POD_UID/volumes/           its volumes but those of the host
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import urllib3
from linkseal.keys.errors import ConfigError, LinksealError
from linkseal.tunnels.lab.kube.api import Api, ApiError, Object
from linkseal.tunnels.lab.kube.container import Image, command_line
from linkseal.tunnels.lab.kube.network import WITH_PARENT, PodNetwork
from linkseal.tunnels.lab.kube.objects import timestamp
from linkseal.tunnels.lab.kube.podspec import Around, ContainerSpec, PodSpec, Probe, read_pod
from linkseal.tunnels.lab.kube.volumes import Volumes

_LOG: Final = logging.getLogger("linkseal.kubelet")

LOOK: Final = 0.5
"""Seconds between two looks at the node's pods. A kubelet watches; here that would be a thread for each node."""

BACKOFF: Final = 1.0
MOST_BACKOFF: Final = 15.0
"""Seconds until a container that ended is started again: doubled each time (a kubelet's are 10 s to 5 min)."""

STAYED: Final = 30.0
"""Seconds after which a container counts as one that runs: its next end is the first one again."""


class Container:
    """One container: its process, and whether it is ready."""

    def __init__(self, spec: ContainerSpec, folder: Path) -> None:
        self.spec = spec
        self.log = folder / f"{spec.name}.log"
        self.root = folder / f"{spec.name}.root"
        self.restarts = -1
        self.ready = False
        self.started = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._since = 0.0
        self._again, self._pause = 0.0, BACKOFF
        self._asked = 0.0

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def due(self) -> bool:
        """Whether it is to be started (again) now."""
        if self.runs:
            return False
        if self.process is not None and not self._again:
            stayed = time.monotonic() - self._since > STAYED
            self._pause = BACKOFF if stayed else min(2 * self._pause, MOST_BACKOFF)
            self._again, self.ready = time.monotonic() + self._pause, False
            _LOG.info("container %s ended with %s", self.spec.name, self.process.returncode)
        return time.monotonic() >= self._again

    def start(self, command: Sequence[str]) -> None:
        """Start it."""
        self.root.mkdir(exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.restarts, self.started = self.restarts + 1, timestamp()
        self._since, self._again, self._asked = time.monotonic(), 0.0, 0.0

    def look(self) -> None:
        """Ask its readiness probe if it is time; without one it is ready once it runs."""
        probe = self.spec.probe
        if not self.runs:
            self.ready = False
        elif probe is None:
            self.ready = True
        elif time.monotonic() >= self._asked:
            # often while it starts, as a probe's period would have a lab wait for nothing
            self.ready = _answers(probe)
            self._asked = time.monotonic() + (probe.period if self.ready else LOOK)

    def first_process(self) -> int | None:
        """Number of the container's own first process: the only child of the one that made its namespaces."""
        if self.process is None:
            return None
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and _parent(entry) == self.process.pid:
                    return int(entry.name)
        return None


def _parent(process: Path) -> int:
    """Return field 4 of /proc/PID/stat (proc(5)). OSError if it has ended."""
    return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])


def _answers(probe: Probe) -> bool:
    host = f"[{probe.host}]" if ":" in probe.host else probe.host
    try:
        answer = urllib3.request("GET", f"http://{host}:{probe.port}{probe.path}", timeout=probe.timeout, retries=False)
    except urllib3.exceptions.HTTPError:
        return False
    return HTTPStatus.OK <= answer.status < HTTPStatus.BAD_REQUEST


class Pod:
    """A pod that is being run. `network`: of a pod that has one of its own."""

    def __init__(self, spec: PodSpec, folder: Path, volumes: Volumes, network: PodNetwork | None) -> None:
        self.spec, self.folder, self.volumes, self.network = spec, folder, volumes, network
        self.containers = [Container(one, folder) for one in spec.containers]
        self.told: Object | None = None
        self.ending = 0.0
        self.trouble = ""

    @property
    def running(self) -> bool:
        """Whether any process of it is there."""
        return any(one.runs for one in self.containers)


@dataclass(frozen=True, slots=True)
class Host:
    """What a kubelet is told of its node."""

    name: str
    address: str
    pod_cidr: str
    api_host: str
    api_port: str


class Kubelet:
    """Runs the pods of one node; its process is in the node's network and mount namespaces."""

    def __init__(self, api: Api, host: Host, folder: Path, image: Image) -> None:
        self._api, self._host, self._folder, self._image = api, host, folder, image
        self._pods: dict[str, Pod] = {}
        self._taken: set[str] = set()

    def run(self, stopping: Sequence[int]) -> None:
        """Work until `stopping` is not empty; then end all pods."""
        told = ""
        while not stopping:
            try:
                self.look()
                told = ""
            except (LinksealError, urllib3.exceptions.HTTPError, OSError) as error:
                if str(error) != told:
                    _LOG.warning("%s", error)
                told = str(error)
                self._look_after()
            time.sleep(LOOK)
        for pod in self._pods.values():
            self._kill(pod)

    def look(self) -> None:
        """Do what is to be done now. Raises ApiError, HTTPError; what runs goes on."""
        query = {"fieldSelector": f"spec.nodeName={self._host.name}", "resourceVersion": "0"}
        items = self._api.get("/api/v1/pods", **query)["items"]
        wanted = {item["metadata"]["uid"]: item for item in items}
        for uid in [uid for uid in self._pods if uid not in wanted]:  # deleted without waiting for us
            self._kill(self._pods[uid])
            self._forget(uid)
        for uid, item in wanted.items():
            if item["metadata"].get("deletionTimestamp"):
                self._end(uid, item)
            elif item.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
                self._take_up(uid, item)
        self._look_after()
        for uid, item in wanted.items():
            if uid in self._pods and not item["metadata"].get("deletionTimestamp"):
                self._tell(self._pods[uid], item)

    def _take_up(self, uid: str, item: Object) -> None:
        if uid in self._pods:
            return
        meta = item["metadata"]
        folder = self._folder / f"{meta['namespace']}_{meta['name']}_{uid}"
        folder.mkdir(parents=True, exist_ok=True)
        network = None
        if not item["spec"].get("hostNetwork"):
            network = PodNetwork.make(self._host.pod_cidr, self._taken)
            self._taken.add(network.address)
        address = self._host.address if network is None else network.address
        around = Around(self._host.name, self._host.address, address, self._host.api_host, self._host.api_port)
        try:
            spec = read_pod(item, around)
        except ConfigError:
            if network is not None:  # the pod is looked at again
                network.remove()
                self._taken.discard(network.address)
            raise
        self._pods[uid] = Pod(spec, folder, Volumes(self._api, spec, folder / "volumes"), network)
        _LOG.info("pod %s/%s", spec.namespace, spec.name)

    def _look_after(self) -> None:
        """Start what is to run, ask whether it is ready."""
        for pod in self._pods.values():
            if pod.ending:
                continue
            try:
                pod.volumes.renew()
                for one in pod.containers:
                    if one.due() and self._restarts(pod, one):
                        self._start(pod, one)
                    one.look()
                pod.trouble = ""
            except (LinksealError, urllib3.exceptions.HTTPError, OSError) as error:
                if str(error) != pod.trouble:
                    _LOG.warning("pod %s: %s", pod.spec.name, error)
                pod.trouble = str(error)

    def _restarts(self, pod: Pod, one: Container) -> bool:
        if one.process is None or pod.spec.restart == "Always":
            return True
        return pod.spec.restart == "OnFailure" and one.process.returncode != 0

    def _start(self, pod: Pod, one: Container) -> None:
        pod.volumes.lay_out()
        network_of = None if pod.network is None else pod.network.pid
        bound = pod.volumes.of(one.spec)
        words = command_line(one.spec, one.root, self._image, bound, network_of=network_of, host_pid=pod.spec.host_pid)
        one.start(words)

    def _end(self, uid: str, item: Object) -> None:
        """End a pod in good order, and say that it has ended: its object goes then."""
        pod = self._pods.get(uid)
        meta = item["metadata"]
        if pod is not None and pod.running:
            if not pod.ending:
                pod.ending = time.monotonic() + float(meta.get("deletionGracePeriodSeconds", pod.spec.grace))
                for one in pod.containers:
                    self._signal(one, signal.SIGTERM)
            if time.monotonic() < pod.ending:
                return
        if pod is not None:
            self._kill(pod)
            self._forget(uid)
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        with _unless_gone():
            self._api.request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})

    def _signal(self, one: Container, number: int) -> None:
        pid = one.first_process() if one.runs else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _kill(self, pod: Pod) -> None:
        for one in pod.containers:
            if one.process is not None:
                self._signal(one, signal.SIGKILL)  # a setgid program does not end with its parent (prctl(2))
                one.process.kill()
                one.process.wait()
        if pod.network is not None:
            pod.network.remove()

    def _forget(self, uid: str) -> None:
        pod = self._pods.pop(uid)
        if pod.network is not None:
            self._taken.discard(pod.network.address)
        shutil.rmtree(pod.folder / "volumes", ignore_errors=True)

    # --- what is told -------------------------------------------------------------------------------------------

    def _tell(self, pod: Pod, item: Object) -> None:
        """Write the pod's status if it is not what was told."""
        status = _status(pod, self._host, item)
        if status == pod.told:
            return
        path = f"/api/v1/namespaces/{pod.spec.namespace}/pods/{pod.spec.name}/status"
        with _unless_gone():
            self._api.request("PATCH", path, {"status": status}, content="application/strategic-merge-patch+json")
        pod.told = status


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    """Let what is gone, or was made anew, be."""
    try:
        yield
    except ApiError as error:
        if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
            raise


def _status(pod: Pod, host: Host, item: Mapping[str, Any]) -> Object:
    """Return what the API server is to be told of a pod."""
    ready = bool(pod.containers) and all(one.ready for one in pod.containers)
    ended = [one.process.returncode for one in pod.containers if one.process is not None and not one.runs]
    phase = "Running" if any(one.process is not None for one in pod.containers) else "Pending"
    if len(ended) == len(pod.containers) and pod.spec.restart != "Always":
        phase = "Failed" if any(ended) and pod.spec.restart == "Never" else phase
        phase = phase if any(ended) else "Succeeded"
    address = host.address if pod.network is None else pod.network.address
    kinds = {"Initialized": True, "ContainersReady": ready, "Ready": ready, "PodReadyToStartContainers": True}
    before = {one["type"]: one for one in item.get("status", {}).get("conditions") or ()}
    return {
        "phase": phase,
        "hostIP": host.address,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "message": pod.trouble[:500],
        "conditions": [_condition(kind, before.get(kind), value=value) for kind, value in kinds.items()],
        "containerStatuses": [_container_status(one) for one in pod.containers],
    }


def _condition(kind: str, before: Mapping[str, Any] | None, *, value: bool) -> Object:
    status = "True" if value else "False"
    same = before is not None and before.get("status") == status
    since = before["lastTransitionTime"] if same and before is not None else timestamp()
    return {"type": kind, "status": status, "lastTransitionTime": since}


def _container_status(one: Container) -> Object:
    if one.runs:
        state: Object = {"running": {"startedAt": one.started}}
    elif one.process is not None:
        state = {"terminated": {"exitCode": abs(one.process.returncode), "reason": "Ended"}}
    else:
        state = {"waiting": {"reason": "ContainerCreating"}}
    return {
        "name": one.spec.name,
        "ready": one.ready,
        "started": one.runs,
        "restartCount": max(one.restarts, 0),
        "image": "this-program",
        "imageID": "",
        "state": state,
    }

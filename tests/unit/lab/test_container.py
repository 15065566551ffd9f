"""A pod of the lab gets what it asks for and no more: tried in containers that are really started."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.lab.kube.cluster import image
from linkseal.tunnels.lab.kube.container import Bound, command_line
from linkseal.tunnels.lab.kube.podspec import Around, read_pod

AROUND = Around("n1", "192.0.2.11", "10.244.1.100", "10.96.0.1", "443")

LOOK = """
import json, os, pathlib
def writable(path):
    try:
        pathlib.Path(path, "x").touch()
    except OSError as error:
        return error.strerror
    return True
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
mounts = [line.split()[1] for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
print(json.dumps({
    "caps": int(status["CapEff"], 16), "bounding": int(status["CapBnd"], 16), "nnp": int(status["NoNewPrivs"]),
    "uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid(), "root": writable("/"), "state": writable("/state"),
    "config": writable("/config"), "etc": sorted(os.listdir("/")), "env": dict(os.environ), "hostname": os.uname()[1],
    "sysctl": "ro" in next(line.split()[3] for line in open("/proc/mounts") if " /proc/sys " in line).split(","),
    "mounts": mounts, "dev": sorted(os.listdir("/dev")),
}))
"""

NET_ADMIN, SYS_ADMIN = 12, 21
"""Bits of capabilities (capabilities(7))."""


LONG = 300
"""Seconds that nothing here takes."""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pod(container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    volumes = [{"name": "state", "hostPath": {"path": "/x"}}, {"name": "config", "configMap": {"name": "c"}}]
    mounts = [{"name": "state", "mountPath": "/state"}, {"name": "config", "mountPath": "/config", "readOnly": True}]
    one = {"name": "agent", "command": ["python3", "-c", LOOK], "volumeMounts": mounts, **container}
    meta = {"name": "agent-1", "namespace": "linkseal", "uid": "u1"}
    return {"metadata": meta, "spec": {"hostNetwork": True, "volumes": volumes, "containers": [one], **spec}}


def started(folder: Path, container: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """What a container finds."""
    (one,) = read_pod(pod(container, **spec), AROUND).containers
    for name in ("root", "state", "config"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    bound = [Bound(folder / "state", "/state", read_only=False), Bound(folder / "config", "/config", read_only=True)]
    words = command_line(one, folder / "root", image(), bound)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")
def test_the_agents_container_has_its_capabilities_its_mounts_and_a_root_that_it_cannot_write(tmp_path: Path) -> None:
    env = [{"name": "LINKSEAL_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    capabilities = {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN"]}
    context = {"readOnlyRootFilesystem": True, "capabilities": capabilities}
    found = started(tmp_path, {"securityContext": context, "env": env})
    assert found["caps"] == found["bounding"] == 1 << NET_ADMIN | 1 << SYS_ADMIN
    assert (found["uid"], found["pid"], found["hostname"]) == (0, 1, "n1")
    assert found["root"] == found["config"] == "Read-only file system"
    assert found["state"] is True
    assert (tmp_path / "state" / "x").exists()
    assert found["sysctl"]
    assert found["env"]["LINKSEAL_NODE"] == "n1"
    assert found["env"]["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert not [name for name in ("home", "srv", "mnt", "boot") if name in found["etc"]]
    assert not [path for path in found["mounts"] if path.startswith("/.old")]
    assert "tty" in found["dev"]
    assert not [name for name in found["dev"] if name.startswith(("sd", "vd", "nvme", "loop", "kmsg"))]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")
def test_the_controllers_container_is_nobody_without_any(tmp_path: Path) -> None:
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pods = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532}
    found = started(tmp_path, {"securityContext": context}, securityContext=pods, hostNetwork=False)
    assert (found["caps"], found["bounding"], found["nnp"]) == (0, 0, 1)
    assert (found["uid"], found["gid"], found["hostname"]) == (65532, 65532, "agent-1")
    assert found["root"] == "Permission denied"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces")
@pytest.mark.parametrize("user", [0, 65532])
def test_a_container_ends_with_its_parent_whoever_it_is(user: int, tmp_path: Path) -> None:
    command = ["python3", "-c", f"import time; open('/state/up', 'w').close(); time.sleep({LONG})"]
    (one,) = read_pod(pod({"command": command}, securityContext={"runAsUser": user}), AROUND).containers
    for name in ("root", "state", "config"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    bound = [
        Bound(tmp_path / "state", "/state", read_only=False),
        Bound(tmp_path / "config", "/config", read_only=True),
    ]
    process = subprocess.Popen(command_line(one, tmp_path / "root", image(), bound))
    try:
        until((tmp_path / "state" / "up").exists)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        handle = os.pidfd_open(int(child))  # of that process and no other, also when it has ended
    finally:
        process.kill()
        process.wait()
    ended = bool(select.select([handle], [], [], 10)[0])
    if not ended:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    assert ended, "it goes on without its parent"


@pytest.mark.parametrize(
    ("container", "spec", "words"),
    [
        ({"command": []}, {}, "has no command"),
        ({}, {"initContainers": [{"name": "first"}]}, "init containers"),
        ({"envFrom": [{"configMapRef": {"name": "x"}}]}, {}, "envFrom"),
        ({"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}, {}, "KEY"),
        ({"readinessProbe": {"exec": {"command": ["true"]}}}, {}, "other than httpGet"),
        ({"securityContext": {"runAsNonRoot": True}}, {}, "would run as root"),
        ({"volumeMounts": [{"name": "other", "mountPath": "/x"}]}, {}, "other, which is no volume"),
    ],
)
def test_what_is_not_known_is_refused_and_not_skipped(
    container: dict[str, Any], spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read_pod(pod(container, **spec), AROUND)

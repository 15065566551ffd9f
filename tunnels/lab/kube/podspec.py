"""What a pod asks for, read from its object: pure. What is not understood is refused, not skipped.

Only what a stand-in can honour is read: commands, environment, volumes, securityContext, HTTP readiness probes. Images,
resources and seccomp profiles are not: a container runs from this program's own files (container.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from linkseal.keys.errors import ConfigError

DEFAULT_CAPABILITIES: Final = frozenset(
    [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)
"""Of a container that says nothing (containerd, Docker)."""

_REFERENCE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True, slots=True)
class Around:
    """What a kubelet knows beside the pod: addresses by family, and where the API server is."""

    node: str
    host_address: str
    pod_address: str
    api_host: str
    api_port: str


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume in a container: the volume's name and where it goes."""

    volume: str
    target: str
    sub_path: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP readiness probe; seconds."""

    host: str
    port: int
    path: str
    period: float
    timeout: float


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container as it is to run. `uid` None: root."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    mounts: tuple[Mount, ...]
    capabilities: frozenset[str]
    privileged: bool
    uid: int
    gid: int
    read_only_root: bool
    no_new_privileges: bool
    probe: Probe | None


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod as it is to run."""

    namespace: str
    name: str
    uid: str
    account: str
    host_network: bool
    host_pid: bool
    grace: float
    restart: str
    """`Always`, `OnFailure` or `Never`."""
    volumes: Mapping[str, Mapping[str, Any]]
    containers: tuple[ContainerSpec, ...]


def read_pod(pod: Mapping[str, Any], around: Around) -> PodSpec:
    """Read a Pod. ConfigError names what a stand-in does not know."""
    meta, spec = pod["metadata"], pod["spec"]
    if spec.get("initContainers"):
        raise ConfigError(f"pod {meta['name']} has init containers, which are not known here")
    context = spec.get("securityContext") or {}
    volumes = {one["name"]: one for one in spec.get("volumes") or ()}
    fields = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": around.node,
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": around.host_address,
        "status.podIP": around.pod_address,
        "status.podIPs": around.pod_address,
        "hostname": around.node if spec.get("hostNetwork") else meta["name"],
    }

    found = PodSpec(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        account=fields["spec.serviceAccountName"],
        host_network=bool(spec.get("hostNetwork")),
        host_pid=bool(spec.get("hostPID")),
        grace=float(spec.get("terminationGracePeriodSeconds", 30)),
        restart=spec.get("restartPolicy", "Always"),
        volumes=volumes,
        containers=tuple(_container(one, context, fields, around) for one in spec["containers"]),
    )
    for container in found.containers:
        for mount in container.mounts:
            if mount.volume not in volumes:
                raise ConfigError(f"container {container.name} mounts {mount.volume}, which is no volume of its pod")
    return found


def _container(
    one: Mapping[str, Any], pod_context: Mapping[str, Any], fields: Mapping[str, str], around: Around
) -> ContainerSpec:
    context = {**pod_context, **(one.get("securityContext") or {})}
    env = {"KUBERNETES_SERVICE_HOST": around.api_host, "KUBERNETES_SERVICE_PORT": around.api_port}
    env |= {"KUBERNETES_SERVICE_PORT_HTTPS": around.api_port, "HOSTNAME": fields["hostname"]}
    for variable in one.get("env") or ():
        env[variable["name"]] = _value(variable, fields, env)
    if one.get("envFrom"):
        raise ConfigError(f"container {one['name']}: envFrom is not known here")
    command = [*(one.get("command") or ()), *(one.get("args") or ())]
    if not one.get("command"):
        raise ConfigError(f"container {one['name']} has no command: there is no image here that says one")
    uid = int(context.get("runAsUser", 0))
    if context.get("runAsNonRoot") and uid == 0:
        raise ConfigError(f"container {one['name']}: runAsNonRoot, and it would run as root")
    return ContainerSpec(
        name=one["name"],
        command=tuple(_expanded(word, env) for word in command),
        env=env,
        mounts=tuple(
            Mount(m["name"], m["mountPath"], m.get("subPath", ""), bool(m.get("readOnly")))
            for m in one.get("volumeMounts") or ()
        ),
        capabilities=_capabilities(context.get("capabilities") or {}),
        privileged=bool(context.get("privileged")),
        uid=uid,
        gid=int(context.get("runAsGroup", 0)),
        read_only_root=bool(context.get("readOnlyRootFilesystem")),
        no_new_privileges=context.get("allowPrivilegeEscalation") is False,
        probe=_probe(one, around),
    )


def _value(variable: Mapping[str, Any], fields: Mapping[str, str], env: Mapping[str, str]) -> str:
    source = variable.get("valueFrom")
    if not source:
        return _expanded(str(variable.get("value", "")), env)
    path = (source.get("fieldRef") or {}).get("fieldPath")
    found = fields.get(str(path))
    if found is None:
        raise ConfigError(f"environment variable {variable['name']}: {source} is not known here")
    return found


def _expanded(text: str, env: Mapping[str, str]) -> str:
    """Return a text with `$(NAME)` replaced; what has no value stays, as Kubernetes has it.

    >>> _expanded("--namespace=$(NS) $(OTHER)", {"NS": "linkseal"})
    '--namespace=linkseal $(OTHER)'
    """
    return _REFERENCE.sub(lambda found: env.get(found[1], found[0]), text)


def _capabilities(asked: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return what is left of the default ones, and what is added.

    >>> sorted(_capabilities({"drop": ["ALL"], "add": ["NET_ADMIN"]}))
    ['NET_ADMIN']
    >>> "CHOWN" in _capabilities({"drop": ["KILL"]}), "KILL" in _capabilities({"drop": ["KILL"]})
    (True, False)
    """
    dropped = set(asked.get("drop") or ())
    kept = frozenset() if "ALL" in dropped else DEFAULT_CAPABILITIES - dropped
    return kept | frozenset(asked.get("add") or ())


def _probe(one: Mapping[str, Any], around: Around) -> Probe | None:
    asked = one.get("readinessProbe")
    if not asked:
        return None
    get = asked.get("httpGet")
    if not get:
        raise ConfigError(f"container {one['name']}: a readinessProbe other than httpGet is not known here")
    named = {port.get("name"): port["containerPort"] for port in one.get("ports") or ()}
    return Probe(
        host=get.get("host") or around.pod_address,
        port=int(named.get(get["port"], get["port"])),
        path=get.get("path", "/"),
        period=float(asked.get("periodSeconds", 10)),
        timeout=float(asked.get("timeoutSeconds", 1)),
    )

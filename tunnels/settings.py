"""An agent's own settings: a YAML file of kind AgentConfig → frozen `AgentSettings`.

    apiVersion: linkseal.io/v1alpha1
    kind: AgentConfig
    directory: {path: /srv/linkseal}      # or {kubernetes: {}}: the API of the cluster the node is in

What holds for the whole cluster is in `linkseal.tunnels.policy` (no I/O there; its names can be had from here too).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import yaml
from linkseal.keys.errors import ConfigError
from linkseal.keys.values import check_identity
from linkseal.tunnels.policy import Policy, ProbePolicy, RoutingPolicy, WireguardPolicy, parse_policy
from linkseal.tunnels.validation import Edge, parse_address, validate
from pydantic import Field, field_validator, model_validator

__all__ = [
    "API_VERSION",
    "AgentConfig",
    "AgentSettings",
    "BootSettings",
    "EndpointSetting",
    "FileDirectorySettings",
    "KubeDirectorySettings",
    "Policy",
    "ProbePolicy",
    "RoutingPolicy",
    "WireguardPolicy",
    "load_agent_settings",
    "parse_agent_settings",
    "parse_endpoint",
    "parse_policy",
    "read_yaml",
]

API_VERSION: Final = "linkseal.io/v1alpha1"

NODE_VARIABLE: Final = "LINKSEAL_NODE"
"""Environment: the name of the node, where the agent's file does not say it."""

MAX_FILE: Final = 1 << 20
"""Bytes of a settings or inventory file (1 MiB: an inventory of 5,000 nodes is half of it)."""

NAMESPACE_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
"""RFC 1123 label, as names of namespaces are."""

_IFNAMSIZ: Final = 16

Driver = Literal["auto", "kernel", "userspace"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class EndpointSetting(NamedTuple):
    """An address to be reached at, canonical text; port None: the cluster's (the slot's offset is added to either)."""

    address: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class FileDirectorySettings:
    """A folder of files as directory."""

    path: Path


@dataclass(frozen=True, slots=True)
class KubeDirectorySettings:
    """The Kubernetes API as directory; with neither kubeconfig nor context: as kubectl does, else the pod's account."""

    namespace: str = "linkseal"
    """Where the controller keeps the CA bundle and the signed policy."""
    kubeconfig: Path | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class BootSettings:
    """The host's folders, as the agent sees them: in its pod they are mounted somewhere."""

    units: Path = Path("/etc/systemd/system")
    systemd: Path = Path("/run/systemd")


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What one agent is told about its own host."""

    node: str
    directory: FileDirectorySettings | KubeDirectorySettings
    uid: str | None = None
    """None: the agent keeps one in its state directory."""
    state_directory: Path = Path("/var/lib/linkseal")
    run_directory: Path = Path("/run/linkseal")
    driver: Driver = "auto"
    daemons: Path | None = None
    """Socket of the supervisor that runs wireguard-go (`linkseal agent daemons`); None: the agent runs it itself."""
    endpoints: tuple[EndpointSetting, ...] | None = None
    """What is announced; None: the addresses granted; empty: this node cannot be reached (NAT) and initiates."""
    peer_endpoints: Mapping[str, EndpointSetting] = field(default_factory=dict)
    """Peer → where it is reached from here, whatever it announces."""
    interface: str | None = None
    """The underlay's interface; None: the one the route to a peer takes."""
    poll: int = 10
    """Seconds between two dumps of what has no events."""
    status_interval: int = 10
    """Least seconds between two writes of the status."""
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    metrics: EndpointSetting | None = None
    """Where /metrics, /healthz and /readyz are served; None: nowhere."""
    boot: BootSettings | None = None
    """The agent keeps units on the host that restore it at boot; None: it is not asked to."""


def load_agent_settings(path: Path | str) -> AgentSettings:
    """Read an agent's settings. Raises ConfigError, with every problem of the file on a line of its own.

    Where the file does not name the node LINKSEAL_NODE does (a pod knows the name of its Node), else the host name.
    """
    name = os.environ.get(NODE_VARIABLE) or socket.gethostname()
    return parse_agent_settings(read_yaml(Path(path)), str(path), hostname=name)


def parse_agent_settings(data: object, source: str, *, hostname: str) -> AgentSettings:
    """Return the settings in `data` (parsed YAML). `hostname` names the node where the file does not."""
    config = validate(AgentConfig, data, source)
    node = config.node or hostname.lower()
    try:
        check_identity(node, config.uid or "u")
    except ConfigError as error:
        raise ConfigError(
            f"{source}: node: {error}; the host name (or {NODE_VARIABLE}) does not serve, so set `node`"
        ) from error
    directory = _directory(config.directory)
    if config.uid is not None and isinstance(directory, KubeDirectorySettings):
        raise ConfigError(f"{source}: uid: {config.uid!r} is another's to say: leave it out, the Node has one")
    return AgentSettings(
        node=node,
        directory=directory,
        uid=config.uid,
        state_directory=Path(config.state_directory),
        run_directory=Path(config.run_directory),
        driver=config.wireguard.driver,
        daemons=None if config.wireguard.daemons is None else Path(config.wireguard.daemons),
        endpoints=None if config.endpoints is None else tuple(parse_endpoint(text) for text in config.endpoints),
        peer_endpoints={name: parse_endpoint(text) for name, text in config.peer_endpoints.items()},
        interface=config.interface,
        poll=config.poll,
        status_interval=config.status_interval,
        log_format=config.log_format,
        log_level=config.log_level,
        metrics=None if config.metrics.listen is None else parse_listen(config.metrics.listen),
        boot=None if config.boot is None else BootSettings(Path(config.boot.units), Path(config.boot.systemd)),
    )


def _directory(config: DirectoryConfig) -> FileDirectorySettings | KubeDirectorySettings:
    if config.path is not None:
        return FileDirectorySettings(Path(config.path))
    chosen = config.kubernetes
    assert chosen is not None
    kubeconfig = None if chosen.kubeconfig is None else Path(chosen.kubeconfig)
    return KubeDirectorySettings(chosen.namespace, kubeconfig, chosen.context)


def parse_endpoint(text: str) -> EndpointSetting:
    """Read `192.0.2.1`, `192.0.2.1:51820`, `2001:db8::1` or `[2001:db8::1]:51820`. Raises ValueError."""
    if text.startswith("["):
        address, closing, rest = text[1:].partition("]")
        if not closing or ":" not in address:
            raise ValueError("must be [IPv6 address]:port")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
        rest = f":{port}"
    else:
        return EndpointSetting(parse_address(text))
    if not rest.startswith(":") or not (port.isascii() and port.isdecimal()) or not 0 < int(port[:6]) < 1 << 16:
        raise ValueError("must be an address, or address:port with a port from 1 to 65535")
    return EndpointSetting(parse_address(address), int(port))


def parse_listen(text: str) -> EndpointSetting:
    """Read `127.0.0.1:9586` or `[::1]:9586`. Raises ValueError."""
    found = parse_endpoint(text)
    if found.port is None:
        raise ValueError("must be address:port, such as 127.0.0.1:9586 or [::1]:9586")
    return found


# --- the edge ------------------------------------------------------------------------------------------------------


class KubernetesConfig(Edge):
    """`directory.kubernetes`: the API server that is asked, and as whom."""

    namespace: str = Field(default="linkseal", pattern=NAMESPACE_PATTERN)
    kubeconfig: str | None = None
    context: str | None = Field(default=None, min_length=1, max_length=253)

    @field_validator("kubeconfig")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else _absolute(path)


class DirectoryConfig(Edge):
    """`directory`: where nodes find each other; a folder or the Kubernetes API."""

    path: str | None = None
    kubernetes: KubernetesConfig | None = None

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else _absolute(path)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.path is None) == (self.kubernetes is None):
            raise ValueError("must have either `path` (a folder) or `kubernetes`")
        return self


class WireguardConfig(Edge):
    """`wireguard`: this host's driver."""

    driver: Driver = "auto"
    daemons: str | None = None

    @field_validator("daemons")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return None if path is None else _absolute(path)


class MetricsConfig(Edge):
    """`metrics`: where they are served."""

    listen: str | None = None

    @field_validator("listen")
    @classmethod
    def _listen(cls, text: str | None) -> str | None:
        if text is not None:
            parse_listen(text)
        return text


class BootConfig(Edge):
    """`boot`: where the host has its systemd units, and what systemd itself has in /run."""

    units: str = "/etc/systemd/system"
    systemd: str = "/run/systemd"

    @field_validator("units", "systemd")
    @classmethod
    def _folders(cls, path: str) -> str:
        return _absolute(path)


class AgentConfig(Edge):
    """The file."""

    api_version: Literal["linkseal.io/v1alpha1"]
    kind: Literal["AgentConfig"]
    directory: DirectoryConfig
    node: str | None = None
    uid: str | None = None
    state_directory: str = "/var/lib/linkseal"
    run_directory: str = "/run/linkseal"
    wireguard: WireguardConfig = Field(default_factory=WireguardConfig)
    endpoints: list[str] | None = Field(default=None, max_length=16)
    peer_endpoints: dict[str, str] = Field(default_factory=dict)
    interface: str | None = None
    poll: int = Field(default=10, ge=1, le=3600)
    status_interval: int = Field(default=10, ge=1, le=300)
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    boot: BootConfig | None = None

    @field_validator("node")
    @classmethod
    def _node(cls, name: str | None) -> str | None:
        if name is not None:
            check_identity(name, "u")
        return name

    @field_validator("uid")
    @classmethod
    def _uid(cls, uid: str | None) -> str | None:
        if uid is not None:
            check_identity("n", uid)
        return uid

    @field_validator("state_directory", "run_directory")
    @classmethod
    def _directories(cls, path: str) -> str:
        return _absolute(path)

    @field_validator("endpoints")
    @classmethod
    def _endpoints(cls, texts: list[str] | None) -> list[str] | None:
        for text in texts or ():
            _endpoint(text, text)
        return texts

    @field_validator("peer_endpoints")
    @classmethod
    def _peer_endpoints(cls, texts: dict[str, str]) -> dict[str, str]:
        for name, text in texts.items():
            check_identity(name, "u")
            _endpoint(f"{name}: {text}", text)
        return texts

    @field_validator("interface")
    @classmethod
    def _interface(cls, name: str | None) -> str | None:
        if name is not None and (not 0 < len(name) < _IFNAMSIZ or "/" in name or any(c.isspace() for c in name)):
            raise ValueError("must be the name of an interface, as `ip link` shows it")
        return name


def _endpoint(shown: str, text: str) -> None:
    try:
        parse_endpoint(text)
    except ValueError as error:
        raise ValueError(f"`{shown}` {error}") from None


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("must be an absolute path")
    return path


# --- YAML ----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML without tags, and without two values for one key."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a list or mapping is no key", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key `{key.value}` is there twice", key.start_mark)
        seen.add(key.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> object:
    """Read one YAML document of at most 1 MiB. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if len(raw) > MAX_FILE:
        raise ConfigError(f"{path}: larger than {MAX_FILE} bytes; this is no settings file")
    try:
        return yaml.load(raw, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}: line {line}: {error.problem}; put text with special signs in quotes") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not YAML ({type(error).__name__})") from error

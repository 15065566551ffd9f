"""The agent's file in the copied root: what `agent restore` needs of the agent's settings.

It names the node, so that neither host name nor environment has a say, and no way into the directory's API. What only
an agent that goes on running uses is not in it: a change of it is no reason for a new root.
"""

from __future__ import annotations

from typing import Any

import yaml
from linkseal.tunnels.settings import (
    API_VERSION,
    AgentSettings,
    EndpointSetting,
    FileDirectorySettings,
    KubeDirectorySettings,
)


def restore_config(settings: AgentSettings) -> str:
    """Return the file's text."""
    said: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "AgentConfig",
        "node": settings.node,
        "directory": _directory(settings.directory),
        "stateDirectory": str(settings.state_directory),
        "runDirectory": str(settings.run_directory),
        "wireguard": {"driver": settings.driver},
        "logFormat": settings.log_format,
        "logLevel": settings.log_level,
    }
    if settings.uid is not None:
        said["uid"] = settings.uid
    if settings.endpoints is not None:
        said["endpoints"] = [_endpoint(one) for one in settings.endpoints]
    if settings.peer_endpoints:
        said["peerEndpoints"] = {name: _endpoint(one) for name, one in settings.peer_endpoints.items()}
    if settings.interface is not None:
        said["interface"] = settings.interface
    return yaml.safe_dump(said)


def _directory(chosen: FileDirectorySettings | KubeDirectorySettings) -> dict[str, Any]:
    if isinstance(chosen, FileDirectorySettings):
        return {"path": str(chosen.path)}
    return {"kubernetes": {"namespace": chosen.namespace}}


def _endpoint(one: EndpointSetting) -> str:
    if one.port is None:
        return one.address
    return f"[{one.address}]:{one.port}" if ":" in one.address else f"{one.address}:{one.port}"

"""Write charts/linkseal/values.schema.json: `python charts/values.py`.

`agent.config` is what AgentConfig takes, without what the chart sets itself, and `clusterEncryption.spec` what the CRD
takes; Helm refuses every other key there is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crds import cluster_encryption
from linkseal.tunnels.controller.providers.names import BY_THE_NODE, PROVIDER_NAMES
from linkseal.tunnels.settings import AgentConfig

FILE = Path(__file__).with_name("linkseal") / "values.schema.json"

SET_BY_THE_CHART = frozenset({
    "apiVersion", "boot", "kind", "directory", "metrics", "node", "runDirectory", "stateDirectory", "uid",
})  # fmt: skip

OF_ONE_NODE = frozenset({"endpoints"})
"""One file is for all nodes: each would announce the same. `peerEndpoints` names the node."""

TEXT: dict[str, Any] = {"type": "string"}
NAMED: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}
FREE: dict[str, Any] = {"type": "object"}
"""Passed on as it is: the API server knows better."""

LIST: dict[str, Any] = {"type": "array", "items": FREE}
ADDRESS: dict[str, Any] = {"type": "string", "pattern": r"^[0-9a-f.:]+$"}

ABSOLUTE: dict[str, Any] = {"type": "string", "pattern": "^(/.+)?$"}
SOCKET: dict[str, Any] = {"type": "string", "pattern": "^(/[^/]+/.+)?$"}
"""Not in the root: its folder is a volume."""

NETWORKS: dict[str, Any] = {"type": "array", "items": {"type": "string", "pattern": r"^[0-9a-f.:]+/[0-9]+$"}}

POD_NETWORKS_NAMED: dict[str, Any] = {
    "if": {"properties": {"addressProvider": {"enum": sorted(BY_THE_NODE)}}, "required": ["addressProvider"]},
    "then": {"properties": {"podNetworks": {"minItems": 1}}, "required": ["podNetworks"]},
}
"""The controller would refuse to start without them."""


def fields(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def spec() -> dict[str, Any]:
    """The spec of a ClusterEncryption, as the API server has it."""
    (version,) = cluster_encryption()["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as one of JSON, which knows no `x-kubernetes-…`; what it does not name is refused."""
    found = {key: of for key, of in schema.items() if not key.startswith("x-kubernetes-") and key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        found = {"type": ["integer", "string"]}
    if "properties" in schema:
        found |= {"additionalProperties": False, "properties": {k: plain(v) for k, v in schema["properties"].items()}}
    if "items" in schema:
        found["items"] = plain(schema["items"])
    return found


def agent_config(defs: dict[str, Any]) -> dict[str, Any]:
    """What an agent's file may say beside what the chart says; what it refers to is added to `defs`."""
    schema = AgentConfig.model_json_schema(by_alias=True)
    of = {name: field for name, field in schema["properties"].items() if name not in SET_BY_THE_CHART | OF_ONE_NODE}
    text = json.dumps(of)
    defs.update({name: one for name, one in schema["$defs"].items() if f'"#/$defs/{name}"' in text})
    return fields(**of)


def schema() -> dict[str, Any]:
    """Return the schema of values.yaml."""
    defs: dict[str, Any] = {}
    toggle = {"enabled": {"type": "boolean"}, "labels": NAMED}
    # `global` is what Helm itself puts there for a chart that is part of another
    properties = {
        "global": FREE,
        "image": fields(
            repository={"type": "string", "minLength": 1},
            tag=TEXT,
            pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        ),
        "imagePullSecrets": LIST,
        "agent": fields(
            config=agent_config(defs),
            bootUnit=fields(enabled={"type": "boolean"}),
            metrics=fields(address=ADDRESS, port={"type": "integer", "minimum": 1, "maximum": 65535}),
            resources=FREE,
            maxUnavailable={"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]+%$"}]},
        ),
        "daemons": fields(enabled={"type": "boolean"}, resources=FREE),
        "controller": fields(
            replicas={"type": "integer", "minimum": 0, "maximum": 10},
            addressProvider={"enum": [*PROVIDER_NAMES]},
            nodeNetworks=NETWORKS,
            podNetworks=NETWORKS,
            liftTaint={"type": "boolean"},
            sshAgent=fields(socket=SOCKET, hostPath=ABSOLUTE, containers=LIST, volumes=LIST),
            nodeAffinity=FREE,
            tolerations=LIST,
            resources=FREE,
        )
        | POD_NETWORKS_NAMED,
        "clusterEncryption": fields(create={"type": "boolean"}, spec=plain(spec())),
        "uninstall": fields(clean={"enum": [True, False, "always"]}),
        "userRoles": fields(view=LIST, operate=LIST),
        "monitoring": fields(
            podMonitor=fields(**toggle, interval=TEXT),
            prometheusRule=fields(**toggle),
            grafanaDashboard=fields(**toggle, annotations=NAMED),
        ),
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", "$defs": defs, **fields(**properties)}


def text() -> str:
    """Return the file."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")

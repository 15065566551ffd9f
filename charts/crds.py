"""Write charts/linkseal/crds from the models that agents and controller read with: `python charts/crds.py`.

    PolicySpec, OptOutSpec, CaSpec, ClusterStatus   ─► clusterencryptions.linkseal.io
    NodeEncryption (report_schema)                  ─► nodeencryptions.linkseal.io

pydantic's JSON schema becomes a structural one: no references, no `anyOf` but for numbers that may be text, integers of
64 bits, and whatever the API server has to know of lists. What is not in it is pruned, or refused where the client asks
for strict validation, as kubectl does.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from columns import CLUSTER_COLUMNS, NODE_COLUMNS
from linkseal.tunnels import clusterobject, status, statusparts
from linkseal.tunnels.clusterobject import CaSpec, OptOutSpec, WalkSpec, status_schema
from linkseal.tunnels.guard import policy as guard_policy
from linkseal.tunnels.policy import Policy, PolicySpec, standing
from linkseal.tunnels.status import report_schema
from pydantic.alias_generators import to_camel

FOLDER = Path(__file__).with_name("linkseal") / "crds"

GROUP, VERSION = "linkseal.io", "v1alpha1"

WIDTH = 110

MAX_NUMBER = 40
"""Characters of a number that is text. What is compared in a rule must have an end, or the rule costs too much."""

CIDR = "^[0-9a-fA-F.:]+/[0-9]{1,3}$"

INT64 = 2**63 - 1
"""Whole numbers of the API server end here; ours may go to 2**64, which no counter reaches."""

DEFAULTED = frozenset({"protocol", "scope", "stage"})
"""Fields whose defaults the API server fills in: rules compare them, and columns show them. For all others the default
of the controller's version holds, so that a better one takes effect by upgrading."""

MAPS = {"exemptions": "name", "requests": "id", "conditions": "type"}
"""Lists whose entries have a key: it is there once, and several parties may each apply entries of their own."""

SETS = frozenset({"passThrough", "nodes", "labels"})

SPEC_WORDS = {
    "protocol": "How packets are encrypted. Changes only at stage off.",
    "scope": "overlay: Linkseal carries the pod networks. transparent: all traffic between nodes is carried, a CNI's "
    "own encapsulation included. Changes only at stage off.",
    "stage": "Where the cluster is to be; status.stage says where it is. Raised, the controller goes there step by "
    "step; lowered, only if lowerTo says the same.",
    "lowerTo": "The new stage once more, in the very update that lowers it; absent otherwise. An old file that is "
    "applied again lowers nothing without it.",
    "pool": "Nodes that go before the others, to a stage of their own; they count while that is further. Taken back "
    "only if its lowerTo says so: without pool here the nodes stay where they are.",
    "askedAt": "When a command asked last; a new time begins once more what was taken back.",
    "stepTimeout": "How long one step may take on all nodes before it is taken back; in seconds or as text, such as "
    "5m (120s by default).",
    "optOut": "Nodes that take no part, by name or label.",
    "ca": "The CA that signs certificates, grants and the policy.",
    "exemptions": "What may pass outside the tunnels.",
    "guard": "What counts or drops plaintext.",
    "protectedCIDRs": "Networks of pods. Packets to and from an address in them that no node is known to have are "
    "counted as plaintext, and dropped at stage enforce.",
    "probe": "Packets that prove a link; their addresses and UDP port are used inside the tunnels only.",
    "routing": "Where our routes are, and the mark of packets that pass them by.",
    "wireguard": "First UDP port of four, MTU of the tunnels (by default that of the underlay less the overhead), "
    "seconds between keepalives (0: none).",
    "restoredAt": "The time now, once the API server's store was restored from a backup, or many nodes went at once: "
    "what it holds is right. Grants and policy are signed again; for an hour, nodes that are gone are removed.",
    "formerClusters": "UIDs of clusters from which this one goes on, since the API server's store was lost and the CA "
    "was not: their nodes are this one's, with keys and tunnels. The cluster begins where they are, up to `stage`.",
    "rotation": "How old a node's key may be before the node makes itself another (interval, such as 30d; 0, the "
    "default: never by itself). Nodes have their turns in the last tenth of that time. No packet is lost.",
    "verify": "How often each node verifies by itself that nothing leaves in plaintext, and with how many peers.",
}

POOL_RULES = [
    {
        "rule": "!has(self.lowerTo) || self.lowerTo == self.stage",
        "message": "goes with the stage that it names: set both to where the pool is to come back to, or leave it out",
        "fieldPath": ".lowerTo",
    },
]

ORDER = "{'off': 0, 'prepare': 1, 'prefer': 2, 'enforce': 3}"

SPEC_RULES = [
    {
        "rule": "self.protocol != 'ipsec'",
        "message": "IPsec is not in this version; use wireguard",
        "fieldPath": ".protocol",
    },
    {
        "rule": "!has(self.lowerTo) || self.lowerTo == self.stage",
        "message": "goes with the stage that it names: set both to where the cluster is to go back to, or leave it out",
        "fieldPath": ".lowerTo",
    },
    {
        "rule": f"{ORDER}[self.stage] >= {ORDER}[oldSelf.stage] || (has(self.lowerTo) && self.lowerTo == self.stage)",
        "message": "would lower the stage; if that is meant, set lowerTo to the same stage beside it",
        "fieldPath": ".stage",
    },
    {
        "rule": "!has(oldSelf.protectedCIDRs) || size(oldSelf.protectedCIDRs) == 0 || has(self.protectedCIDRs)",
        "message": "would be given up by being left out, as by an old file; if that is meant, say `protectedCIDRs: []`",
        "fieldPath": ".protectedCIDRs",
    },
]

OFF = "oldSelf.spec.stage == 'off' && oldSelf.?status.?stage.orValue('off') == 'off'"
"""The cluster is not encrypted and is not to be: by what was asked for, and by what the controller has reached."""


def _said(path: str, default: str | int) -> str:
    """Return the rule's words for a field of the spec of `{0}`: its default if it is left out.

    Not `orValue`: what comes of it has no end to the API server, and comparing that costs too much.
    """
    if path in DEFAULTED:
        return "{0}.spec." + path
    section = path.partition(".")[0]
    return f"(has({{0}}.spec.{section}) && has({{0}}.spec.{path}) ? {{0}}.spec.{path} : {default!r})"


STANDING = {path: _said(path, default) for path, default in standing(Policy()).items()}
"""What nodes stand on, by its path."""

CLUSTER_RULES = [
    {
        "rule": "self.metadata.name == 'default'",
        "message": "there is one ClusterEncryption, and its name is default",
    },
    *(
        {
            "rule": f"{value.format('self')} == {value.format('oldSelf')} || ({OFF})",
            "message": f"{path} changes only at stage off: lower the stage first",
            "fieldPath": f".spec.{path}",
        }
        for path, value in STANDING.items()
    ),
    {
        "rule": "!has(self.spec.pool) || !has(oldSelf.status) || !has(oldSelf.status.pool) || "
        "(has(oldSelf.spec.pool) && self.spec.pool.stage == oldSelf.spec.pool.stage) || "
        f"{ORDER}[self.spec.pool.stage] >= {ORDER}[oldSelf.status.pool.stage] || "
        "(has(self.spec.pool.lowerTo) && self.spec.pool.lowerTo == self.spec.pool.stage)",
        "message": "would take the pool back; if that is meant, set its lowerTo to the same stage beside it",
        "fieldPath": ".spec.pool.stage",
    },
    {
        "rule": "!has(self.spec.ca) || !has(self.spec.ca.rotate) || !has(oldSelf.status) || !has(oldSelf.status.ca) || "
        "!has(oldSelf.status.ca.phase) || oldSelf.status.ca.phase == 'steady' || (has(oldSelf.spec.ca) && "
        "has(oldSelf.spec.ca.rotate) && self.spec.ca.rotate == oldSelf.spec.ca.rotate)",
        "message": "the CA is being replaced (see status.ca): ask again when that has ended",
        "fieldPath": ".spec.ca.rotate",
    },
]

EXEMPTION_RULES = [
    {
        "rule": "has(self.port) == (self.protocol in ['tcp', 'udp', 'sctp'])",
        "message": "tcp, udp and sctp need a port (without one everything would be exempt), others have none",
    },
]

REQUEST_RULES = [
    {
        "rule": "self.type == 'verify' || !has(self.peers) || self.peers.size() == 0",
        "message": "only a request to verify names peers",
        "fieldPath": ".peers",
    },
]


# --- a structural schema -------------------------------------------------------------------------------------------


def structural(schema: Mapping[str, Any], *, nullable: bool) -> dict[str, Any]:
    """Return a model's JSON schema as the API server takes it. `nullable`: what may be null is kept as null."""
    return _Converter(schema.get("$defs", {}), nullable=nullable).convert(schema)


class _Converter:
    def __init__(self, defs: Mapping[str, Any], *, nullable: bool) -> None:
        self._defs, self._nullable = defs, nullable

    def convert(self, schema: Mapping[str, Any], name: str = "") -> dict[str, Any]:
        if "$ref" in schema:
            return self.convert(self._defs[schema["$ref"].rpartition("/")[2]], name)
        if "anyOf" in schema:
            return self._choice(schema["anyOf"], name)
        kept = ("type", "format", "pattern", "enum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties")
        found = {key: schema[key] for key in kept if key in schema}
        if schema["type"] == "object":
            found |= self._object(schema)
        elif schema["type"] == "array":
            found |= {"items": self.convert(schema["items"])} | _list_type(name)
        elif schema["type"] == "integer":
            limits = {key: schema[key] for key in ("minimum", "maximum") if abs(schema.get(key, INT64)) < INT64}
            found |= {"format": "int64"} | limits
        return found

    def _choice(self, choices: list[Any], name: str) -> dict[str, Any]:
        others = [choice for choice in choices if choice.get("type") != "null"]
        if {choice.get("type") for choice in others} == {"integer", "string"}:
            return {"x-kubernetes-int-or-string": True, "maxLength": MAX_NUMBER}
        (only,) = others
        found = self.convert(only, name)
        return found | {"nullable": True} if self._nullable else found

    def _object(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        if "patternProperties" in schema:  # names that are free: their pattern cannot be said here
            ((_, of),) = schema["patternProperties"].items()
            return {"additionalProperties": self.convert(of)}
        title = schema.get("title", "")
        properties: dict[str, Any] = {}
        for name, of in schema["properties"].items():
            words = DESCRIPTIONS.get((title, name))
            properties[name] = ({"description": words} if words else {}) | self.convert(of, name)
        required = {"required": schema["required"]} if "required" in schema else {}
        return {"properties": properties, **required}


def _list_type(name: str) -> dict[str, Any]:
    if name in MAPS:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [MAPS[name]]}
    return {"x-kubernetes-list-type": "set" if name in SETS else "atomic"}


def _descriptions(*modules: ModuleType) -> dict[tuple[str, str], str]:
    """What stands below the fields of a module's classes, by (class, name of the field in JSON)."""
    found = {}
    for module in modules:
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                for field, text in zip(node.body, node.body[1:], strict=False):
                    if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                        name = ast.unparse(field.target)
                        found[node.name, to_camel(name)] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


DESCRIPTIONS = _descriptions(status, statusparts, clusterobject, guard_policy) | {
    ("PolicySpec", name): words for name, words in SPEC_WORDS.items()
}


# --- the two definitions -------------------------------------------------------------------------------------------


def cluster_encryption() -> dict[str, Any]:
    """ClusterEncryption. Of `pool` the policy has where it is, the object where it is to be. The status: as below."""
    spec = structural(PolicySpec.model_json_schema(by_alias=True), nullable=False)
    fields = spec["properties"]
    del fields["pool"]
    for name, default in (("protocol", "wireguard"), ("scope", "overlay"), ("stage", "off")):
        fields[name]["default"] = default
    beside = structural(WalkSpec.model_json_schema(by_alias=True), nullable=False)["properties"]
    beside["pool"] |= {"x-kubernetes-map-type": "atomic", "x-kubernetes-validations": POOL_RULES}
    beside["pool"]["properties"]["nodes"] |= _list_type("")  # else the pools of two who ask would be mixed
    for name, model in (("optOut", OptOutSpec), ("ca", CaSpec)):
        beside[name] = structural(model.model_json_schema(by_alias=True), nullable=False)
    fields |= {name: {"description": SPEC_WORDS[name]} | of for name, of in beside.items()}
    fields["restoredAt"] |= {"format": "date-time", "maxLength": 40}
    exemption = fields["exemptions"]["items"]
    # that there are no host bits is for an admission policy to say, where the API server can (1.31)
    exemption["properties"]["cidr"]["pattern"] = CIDR
    fields["protectedCIDRs"]["items"]["pattern"] = CIDR
    exemption["properties"]["cidr"]["maxLength"] = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128")
    exemption["properties"]["expires"] |= {"format": "date-time", "maxLength": 40}
    exemption["x-kubernetes-validations"] = EXEMPTION_RULES
    spec["x-kubernetes-validations"] = SPEC_RULES
    shown = structural(status_schema(), nullable=True) | {"x-kubernetes-map-type": "atomic"}
    schema = {
        "description": "What the cluster decides for all nodes. Deleting it changes nothing on nodes.",
        "type": "object",
        "required": ["spec"],
        "properties": {"spec": spec, "status": shown},
        "x-kubernetes-validations": CLUSTER_RULES,
    }
    return definition("ClusterEncryption", schema, CLUSTER_COLUMNS)


def node_encryption() -> dict[str, Any]:
    """NodeEncryption. The status has one writer, which applies it as a whole, or empty to take it back.

    It is atomic, so that what becomes of a field is nobody's business but the writer's: of a mapping that was applied
    with entries and is then applied without, server-side apply would make null, and refuse that.
    """
    report = structural(report_schema(), nullable=True)["properties"]
    shown = report["status"]
    del shown["required"], shown["nullable"]
    shown["x-kubernetes-map-type"] = "atomic"
    report["spec"]["properties"]["requests"]["items"]["x-kubernetes-validations"] = REQUEST_RULES
    schema = {
        "description": "What one node reports of itself, and what is asked of its agent.",
        "type": "object",
        "properties": {"spec": report["spec"], "status": shown},
    }
    return definition("NodeEncryption", schema, NODE_COLUMNS)


def definition(kind: str, schema: dict[str, Any], columns: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return a CustomResourceDefinition of our group."""
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "categories": ["linkseal"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, words: str, priority: int = 0) -> dict[str, Any]:
    said = {"description": words} if words else {}
    return {"name": name, "type": kind, "jsonPath": path} | said | ({"priority": priority} if priority else {})


class _Plain(yaml.SafeDumper):
    """Without anchors: what stands in two places is written twice."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def files() -> dict[str, str]:
    """Return name → text of the files in `charts/linkseal/crds`."""
    head = "# Written by `python charts/crds.py`; do not edit.\n"
    return {
        f"{made['spec']['names']['plural']}.yaml": head
        + yaml.dump(made, Dumper=_Plain, sort_keys=False, width=WIDTH, allow_unicode=True)
        for made in (cluster_encryption(), node_encryption())
    }


if __name__ == "__main__":
    for file, text in files().items():
        (FOLDER / file).write_text(text, encoding="utf-8")

"""What objects of the Kubernetes API hold of ours: annotations of Nodes, ConfigMaps, NodeEncryptions. Pure.

Nothing is trusted; sizes are limited before anything is read. A parser gets what it made last time as `before`, and
returns just that where nothing of ours has changed: a kubelet's heartbeat is no news.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from linkseal.keys import codes
from linkseal.keys import grant as grants
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.ca import MAX_CERTIFICATE
from linkseal.keys.documents import MAX_SIGNATURE, MAX_TEXT
from linkseal.keys.errors import PeerError
from linkseal.keys.grant import SignedGrant
from linkseal.keys.policydoc import MAX_POLICY, SignedPolicy
from linkseal.keys.values import is_node_name
from linkseal.tunnels.register import Finding, NodeDocuments
from linkseal.tunnels.status import NodeEncryption, parse_report
from linkseal.tunnels.statustypes import parse_time

ANNOUNCEMENT: Final = "linkseal.io/announcement"
SIGNATURE: Final = "linkseal.io/signature"
CERTIFICATE: Final = "linkseal.io/certificate"
GRANT: Final = "linkseal.io/grant"
CA_MAP, CA_KEY, CROSS_KEY = "linkseal-ca", "ca.crt", "cross.crt"
SIGNER: Final = "linkseal.io/node"
CLUSTER_ENCRYPTIONS: Final = "/apis/linkseal.io/v1alpha1/clusterencryptions"
DEFAULT: Final = "default"
"""The one ClusterEncryption there is."""
OPT_OUT, CA = "optOut", "ca"
RESTRICTED: Final = "node-restriction.kubernetes.io/"
"""Labels below this a kubelet may neither set nor change on its Node (admission plugin NodeRestriction)."""
WALK: Final = ("pool", "stepTimeout", "askedAt")
"""How stages are walked (`linkseal.tunnels.clusterobject.WalkSpec`)."""
BESIDE: Final = frozenset({OPT_OUT, CA, *WALK})
"""What of a ClusterEncryption's spec is for the controller alone, and not in the policy."""
POLICY_MAP, POLICY_KEY, POLICY_SIGNATURE = "linkseal-policy", "policy", "signature"


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """What is kept of a Node. `annotations`: ours, as they are there."""

    uid: str
    annotations: Mapping[str, str]
    documents: NodeDocuments
    problems: tuple[Finding, ...] = ()
    made: float | None = None
    """When the Node was, Unix seconds."""


def config_map(name: str, data: Mapping[str, str], version: str | None = None) -> dict[str, Any]:
    """Return a ConfigMap to be written. `version`: it is refused if what is there has another resourceVersion."""
    meta = {"name": name} if version is None else {"name": name, "resourceVersion": version}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": dict(data)}


def node_entry(item: Mapping[str, Any], before: NodeEntry | None) -> NodeEntry | None:
    """Return what is kept of a Node: `before` itself if nothing of ours has changed; None: its name cannot be ours."""
    meta = item["metadata"]
    name, uid = str(meta.get("name", "")), str(meta.get("uid", ""))
    present = meta.get("annotations") or {}
    ours = {key: str(present[key]) for key in (ANNOUNCEMENT, SIGNATURE, CERTIFICATE, GRANT) if key in present}
    if before is not None and (before.uid, before.annotations) == (uid, ours):
        return before
    if not is_node_name(name):
        return None
    problems: list[Finding] = []
    documents = NodeDocuments(_announcement(name, ours, problems), _grant(name, ours, problems))
    return NodeEntry(uid, ours, documents, tuple(problems), _made(meta))


def _made(meta: Mapping[str, Any]) -> float | None:
    try:
        return parse_time(meta.get("creationTimestamp"))
    except ValueError:
        return None


def _announcement(name: str, ours: Mapping[str, str], problems: list[Finding]) -> SignedAnnouncement | None:
    parts = [ours.get(key) for key in (ANNOUNCEMENT, SIGNATURE, CERTIFICATE)]
    if all(part is None for part in parts):
        return None
    text, signature, certificate = (part or "" for part in parts)
    if any(part is None for part in parts):
        lacking = next(key for key in (ANNOUNCEMENT, SIGNATURE, CERTIFICATE) if key not in ours)
        problems.append(Finding(codes.MALFORMED, name, f"the Node {name} lacks the annotation {lacking}"))
        return None
    if len(text) > MAX_TEXT or len(signature) > MAX_SIGNATURE or len(certificate) > MAX_CERTIFICATE:
        problems.append(Finding(codes.TOO_LARGE, name, f"the announcement on the Node {name} is too large"))
        return None
    return SignedAnnouncement(text, signature, certificate)


def _grant(name: str, ours: Mapping[str, str], problems: list[Finding]) -> SignedGrant | None:
    if GRANT not in ours:
        return None
    try:
        return grants.unwrap(ours[GRANT], node=name)
    except PeerError as error:
        problems.append(Finding(error.code, name, str(error)))
        return None


def uid_of(item: Mapping[str, Any], before: str | None) -> str | None:
    """What is kept of a namespace: its UID."""
    uid = str(item["metadata"].get("uid", ""))
    return before if uid == before else uid


def map_parser(*names: str) -> Callable[[Mapping[str, Any], Mapping[str, str] | None], Mapping[str, str] | None]:
    """Return what keeps the data of the ConfigMaps of these names, and of no other."""

    def parse(item: Mapping[str, Any], before: Mapping[str, str] | None) -> Mapping[str, str] | None:
        if item["metadata"].get("name") not in names:
            return None
        data = {str(key): str(value) for key, value in (item.get("data") or {}).items()}
        return before if data == before else data

    return parse


map_data: Final = map_parser(CA_MAP, POLICY_MAP)
"""What an agent keeps of ConfigMaps."""


def spec_text(item: Mapping[str, Any], before: str | None) -> str | None:
    """What is kept of a NodeEncryption: its spec as text."""
    spec = json.dumps(item.get("spec") or {"requests": []}, sort_keys=True)
    return before if spec == before else spec


def signed_policy(data: Mapping[str, str]) -> SignedPolicy | None:
    """Return the policy that a ConfigMap holds; None: none, or none that could be one."""
    text, signature = data.get(POLICY_KEY, ""), data.get(POLICY_SIGNATURE, "")
    if not text or not signature or len(text) > MAX_POLICY or len(signature) > MAX_SIGNATURE:
        return None
    return SignedPolicy(text, signature)


def report_text(item: Mapping[str, Any]) -> str:
    """Return what a NodeEncryption reports as the text that `linkseal.tunnels.status.parse_report` reads."""
    fields = {"apiVersion": "linkseal.io/v1alpha1", "kind": "NodeEncryption"}
    name = str(item["metadata"].get("name", ""))
    return json.dumps({**fields, "metadata": {"name": name}, "status": item.get("status")})


def read_report(text: str, name: str) -> NodeEncryption | None:
    """Return a node's report, None if it cannot be read or says nothing."""
    try:
        found = parse_report(text, name)
    except PeerError:
        return None
    return found if found.status is not None else None


def opted_out(spec: Mapping[str, Any], labels: Mapping[str, Collection[str]]) -> frozenset[str]:
    """Return the nodes that a ClusterEncryption takes out of scope, by name and by label.

    `labels`: those of each node that begin with RESTRICTED, as `key=value`; not looked at without `opt_out_labels`.
    """
    said, out = opt_out_labels(spec), spec.get(OPT_OUT) or {}
    named = frozenset(map(str, out.get("nodes") or ())) if isinstance(out, dict) else frozenset()
    return named | {node for node, has in labels.items() if not said.isdisjoint(has)} if said else named


def opt_out_labels(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the labels by which a ClusterEncryption takes nodes out of scope."""
    out = spec.get(OPT_OUT) or {}
    said = map(str, out.get("labels") or ()) if isinstance(out, dict) else ()
    return frozenset(label for label in said if label.startswith(RESTRICTED))


def restricted_labels(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of a Node that no kubelet may set, as `key=value`."""
    return tuple(
        sorted(f"{key}={value}" for key, value in (meta.get("labels") or {}).items() if key.startswith(RESTRICTED))
    )


def restored_at(spec: Mapping[str, Any]) -> datetime | None:
    """Return when the operator said, in a ClusterEncryption, that the store is right; None: never, or unreadable."""
    try:
        found = datetime.fromisoformat(str(spec.get("restoredAt")))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None

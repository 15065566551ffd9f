"""Who asks for a node's certificate, by what the API server itself attests of the asker. Pure.

A token bound to a Pod carries its node's name and UID and the Pod's own into every request, beyond the asker's reach
(Kubernetes ≥ 1.30, ServiceAccountTokenPodNodeInfo). All four must be there, once, and fit the Node that is asked for;
whether that Pod lives there is for the caller to ask. That the asker has the key is what the request's signature says.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from linkseal.keys.ca import MAX_CERTIFICATE
from linkseal.tunnels.directory.kubedocs import SIGNER

_EXTRA: Final = "authentication.kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Asker:
    """The Pod that asks, as the API server attests it."""

    node: str
    node_uid: str
    pod: str
    pod_uid: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A CertificateSigningRequest that waits. `refused`: why it is to be denied; None: it is good as far as it says."""

    name: str
    pem: str
    asker: Asker | None
    refused: str | None = None


def asked(item: Mapping[str, Any], account: str) -> Asked | None:
    """Read a request; None if it is another signer's, or has been answered. `account`: the user that agents are."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    ended = any(one.get("type") in {"Denied", "Failed"} for one in status.get("conditions") or ())
    if spec.get("signerName") != SIGNER or status.get("certificate") or ended:
        return None
    name = str((item.get("metadata") or {}).get("name", ""))
    if spec.get("username") != account:
        return Asked(name, "", None, f"{spec.get('username')} asks; only {account} may")
    asker = _asker(spec.get("extra") or {})
    if isinstance(asker, str):
        return Asked(name, "", None, asker)
    pem = _pem(str(spec.get("request", "")))
    return Asked(name, pem, asker, None if pem else "the request is no PEM text, or too large")


def _asker(extra: Mapping[str, Any]) -> Asker | str:
    """Return who asks, or what is missing."""
    found = {key: extra.get(_EXTRA + key) or [] for key in ("node-name", "node-uid", "pod-name", "pod-uid")}
    for key, values in found.items():
        if len(values) != 1 or not values[0]:
            return f"the asker's token is bound to no pod on a node: {_EXTRA}{key} is missing"
    return Asker(*(str(values[0]) for values in found.values()))


def _pem(encoded: str) -> str:
    try:
        pem = b64decode(encoded, validate=True).decode("ascii")
    except ValueError:
        return ""
    return pem if len(pem) <= MAX_CERTIFICATE else ""


def node_refused(asker: Asker, uid: str | None) -> str | None:
    """Return why the Node of the asker does not fit, None if it does. `uid`: of the Node of that name; None: none."""
    if uid is None:
        return f"there is no Node {asker.node}"
    if uid != asker.node_uid:
        return f"the asker's Node {asker.node} has UID {asker.node_uid}, the one that is there {uid}"
    return None


def pod_refused(asker: Asker, pod: Mapping[str, Any] | None, account: str) -> str | None:
    """Return why the asker's Pod, as it is now (None: it is gone), does not fit; None if it does."""
    if pod is None:
        return f"the asker's pod {asker.pod} is gone"
    meta, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    if meta.get("uid") != asker.pod_uid or meta.get("deletionTimestamp"):
        return f"the asker's pod {asker.pod} is not the one that is there now"
    if spec.get("nodeName") != asker.node or spec.get("serviceAccountName") != account.rpartition(":")[2]:
        return f"the asker's pod {asker.pod} does not run as the agent of {asker.node}"
    return None

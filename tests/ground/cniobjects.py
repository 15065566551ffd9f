"""Kinds and objects of CNIs, as they make them."""

from __future__ import annotations

from collections.abc import Mapping

from ground.charts import DEFINITIONS, exists
from ground.controllers import until
from ground.kubeapi import Api, Object

CALICO = ("crd.projectcalico.org", "v1", "IPAMBlock", "ipamblocks")
CILIUM = ("cilium.io", "v2", "CiliumNode", "ciliumnodes")

BLOCKS = "/apis/crd.projectcalico.org/v1/ipamblocks"


async def defined(kube: Api, group: str, version: str, kind: str, plural: str) -> None:
    """Make a kind as its CNI does, and wait until it is served."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    made = {
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    await until(lambda: not exists(kube, f"{DEFINITIONS}/{plural}.{group}"))  # that of the test before goes slowly
    kube.post(DEFINITIONS, made)

    def served() -> bool:
        conditions = kube.get(f"{DEFINITIONS}/{plural}.{group}").get("status", {}).get("conditions") or ()
        return any((one["type"], one["status"]) == ("Established", "True") for one in conditions)

    await until(served)


def block(cidr: str, owner: str, taken: Mapping[int, str]) -> Object:
    names = sorted(set(taken.values()))
    allocations = [names.index(taken[ordinal]) if ordinal in taken else None for ordinal in range(8)]
    attributes = [{"handle_id": "h", "secondary": {"node": name, "pod": "p"}} for name in names]
    return {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMBlock",
        "metadata": {"name": cidr.replace(".", "-").replace("/", "-")},
        "spec": {"cidr": cidr, "affinity": f"host:{owner}", "allocations": allocations, "attributes": attributes},
    }

"""The copies of the API server's objects that a controller works from, kept by list-then-watch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from linkseal.keys.errors import DirectoryError
from linkseal.keys.policydoc import PolicyDocument, SignedPolicy
from linkseal.tunnels.controller.apiserver import OF_API_SERVER, SLICES, Endpoint, endpoints_of
from linkseal.tunnels.controller.comers import Comers, comers, named_in
from linkseal.tunnels.controller.csrs import Asked
from linkseal.tunnels.controller.kubesigner import KubeSigner
from linkseal.tunnels.controller.nodefacts import NodeFacts, node_facts
from linkseal.tunnels.directory.kube import CSRS, NODE_ENCRYPTIONS, NODES
from linkseal.tunnels.directory.kubeapi import KubeApi
from linkseal.tunnels.directory.kubedocs import (
    CA_MAP,
    CLUSTER_ENCRYPTIONS,
    POLICY_KEY,
    POLICY_MAP,
    POLICY_SIGNATURE,
    SIGNER,
    map_parser,
    opt_out_labels,
    opted_out,
    read_report,
    report_text,
    signed_policy,
)
from linkseal.tunnels.directory.mirror import Mirror
from linkseal.tunnels.status import NodeEncryption

STAGE_MAP, STAGE_KEY = "linkseal-stage", "stage.json"
"""Where the walk of the stages is kept."""


class Wanted(NamedTuple):
    """What the ClusterEncryption asks for, as text: parsed where it is used, so that an error can be told."""

    spec: str
    generation: int
    status: str
    """What was reported last."""
    uid: str


class MapStore:
    """The stage's text between two passes; `due`: it is to be written to its ConfigMap.

    `signed`: the policy that was signed last stands beside it. The text is signed by nobody, so it counts no more than
    that: whoever may write ConfigMaps could else lower the stage.
    """

    where = f"the ConfigMap {STAGE_MAP}"

    def __init__(self, text: str | None, signed: SignedPolicy | None = None) -> None:
        self.text, self.signed, self.due = text, signed, False

    @property
    def data(self) -> dict[str, str]:
        """Of the ConfigMap."""
        signed = self.signed
        proof = {} if signed is None else {POLICY_KEY: signed.text, POLICY_SIGNATURE: signed.signature}
        return {STAGE_KEY: self.text or "", **proof}

    def read(self) -> bytes | None:
        """What is there, as far as this process knows."""
        return None if self.text is None else self.text.encode()

    def write(self, text: bytes) -> bool:
        """Keep it; returns whether it is another one."""
        if self.text == text.decode():
            return False
        self.text, self.due = text.decode(), True
        return True


class Reported(NamedTuple):
    """A NodeEncryption's report as text, and read; None: there is none that can be."""

    text: str
    report: NodeEncryption | None


class Copies(NamedTuple):
    """One mirror for each collection."""

    nodes: Mirror[NodeFacts]
    requests: Mirror[Asked]
    reports: Mirror[Reported]
    wanted: Mirror[Wanted]
    maps: Mirror[Mapping[str, str]]
    slices: Mirror[frozenset[Endpoint]]


def begun(api: KubeApi, namespace: str, signer: KubeSigner, told: Callable[[], None]) -> Copies:
    """Return the copies, which nobody keeps yet; `told` is called after each change."""
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    ours = {"fieldSelector": f"spec.signerName={SIGNER}"}
    return Copies(
        Mirror(api, NODES, node_facts, changed=told),
        Mirror(api, CSRS, signer.request_of, changed=told, query=ours),
        Mirror(api, NODE_ENCRYPTIONS, _reported, changed=told),
        Mirror(api, CLUSTER_ENCRYPTIONS, _wanted, changed=told),
        Mirror(api, maps, map_parser(CA_MAP, POLICY_MAP, STAGE_MAP), changed=told),
        Mirror(api, SLICES, endpoints_of, changed=told, query=OF_API_SERVER),
    )


def _wanted(item: Mapping[str, Any], before: Wanted | None) -> Wanted | None:
    generation = int(item["metadata"].get("generation", 0))
    spec, status = (json.dumps(item.get(part) or {}, sort_keys=True) for part in ("spec", "status"))
    found = Wanted(spec, generation, status, str(item["metadata"].get("uid", "")))
    return before if found == before else found


def _reported(item: Mapping[str, Any], before: Reported | None) -> Reported | None:
    name, text = str(item["metadata"].get("name", "")), report_text(item)
    if before is not None and before.text == text:
        return before
    return Reported(text, read_report(text, name))


async def current(copies: Copies, seconds: float) -> None:
    """Wait for the first lists; raises DirectoryError if one cannot be had, or is no longer kept up to date."""
    for mirror in copies:
        await mirror.first(seconds)
        if mirror.trouble is not None:
            raise DirectoryError(mirror.trouble)


def comers_of(copies: Copies, spec: Mapping[str, Any]) -> Comers:
    """Return what nodes report of the clusters from which this one goes on by its `spec`."""
    named = named_in(spec)
    if not named:
        return Comers()
    found = ((name, one.report) for name, one in copies.reports.objects.items() if name in copies.nodes.objects)
    return comers(named, ((name, one.status) for name, one in found if one is not None and one.status is not None))


def staying_out(spec: Mapping[str, Any], nodes: Mapping[str, NodeFacts]) -> frozenset[str]:
    """Return the nodes that take no part."""
    labels = {name: facts.labels for name, facts in nodes.items()} if opt_out_labels(spec) else {}
    return opted_out(spec, labels)


def remembered(
    copies: Copies, present: PolicyDocument | None, read: Callable[[SignedPolicy | None], PolicyDocument | None]
) -> tuple[MapStore, PolicyDocument | None]:
    """Return what is kept of the stages, and the newest policy: the one in force (`present`) or the one beside that.

    `read` returns what our CA signed. What is kept is of no worth without one.
    """
    data = copies.maps.objects.get(STAGE_MAP, {})
    signed = signed_policy(data)
    newest = newest_of(present, read(signed))
    return MapStore(None if newest is None else data.get(STAGE_KEY), signed), newest


def newest_of(*policies: PolicyDocument | None) -> PolicyDocument | None:
    """Return the one with the highest serial."""
    return max((one for one in policies if one is not None), key=lambda one: one.serial, default=None)

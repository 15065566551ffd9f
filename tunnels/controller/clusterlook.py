"""What an API server says of its cluster, for `linkseal check`: read once, with the rights of whoever asks.

What may not be read, or is not there, is said in `ClusterFacts.unknown`, by topic.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller.fitness import CNIS, ClusterFacts, Cover, Machine, cover
from linkseal.tunnels.controller.nodefacts import NodeFacts, node_facts
from linkseal.tunnels.controller.providers.base import PerNode, Provider
from linkseal.tunnels.controller.providers.choice import PROVIDERS
from linkseal.tunnels.controller.providers.pods import PODS
from linkseal.tunnels.directory.kubeapi import Access, ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import CLUSTER_ENCRYPTIONS, DEFAULT
from linkseal.tunnels.policy import Policy, PolicySpec, parse_policy

PAGE: Final = 500
MOST_PODS: Final = 5000
"""Objects asked for at once, and pods that are looked at: a wrong provider shows with the first."""

MOST: Final = 50_000
"""Objects of any other collection."""


async def look(access: Access, namespace: str) -> tuple[ClusterFacts, Policy]:
    """Read what the checks need. Raises ApiError if the server does not answer, ConfigError without credentials."""
    api = KubeApi(access)
    try:
        version = str((await api.get("/version")).get("gitVersion", ""))
        found = _Look(api, namespace)
        policy, decided = await found.policy()
        nodes, machines = await found.nodes()
        covers = {} if "nodes" in found.unknown else await found.covers(nodes)
        return (
            ClusterFacts(
                version, machines, covers, *await found.controller(), await found.cnis(), decided, found.unknown
            ),
            policy,
        )
    finally:
        await api.close()


async def conditions(access: Access) -> tuple[Mapping[str, Any], ...]:
    """Return the conditions of the ClusterEncryption, none if there is none. Raises ApiError, ConfigError."""
    api = KubeApi(access)
    try:
        found = await api.find(f"{CLUSTER_ENCRYPTIONS}/{DEFAULT}")
        return tuple(((found or {}).get("status") or {}).get("conditions") or ())
    finally:
        await api.close()


class _Look:
    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.unknown: dict[str, str] = {}
        self._api, self._namespace = api, namespace

    async def policy(self) -> tuple[Policy, bool]:
        """The cluster's, else the default one; and whether there is a ClusterEncryption."""
        try:
            found = await self._api.find(f"{CLUSTER_ENCRYPTIONS}/{DEFAULT}")
            spec = {} if found is None else found.get("spec") or {}
            known = {field.alias or name for name, field in PolicySpec.model_fields.items()}
            return parse_policy({key: value for key, value in spec.items() if key in known}), found is not None
        except (ApiError, ConfigError) as error:
            self.unknown["policy"] = str(error)
            return Policy(), False

    async def nodes(self) -> tuple[dict[str, NodeFacts], dict[str, Machine]]:
        """By name: what grants are made from, and the hosts."""
        facts: dict[str, NodeFacts] = {}
        machines: dict[str, Machine] = {}
        try:
            async for item in self._listed("/api/v1/nodes", MOST):
                name = str(item["metadata"].get("name", ""))
                if (one := node_facts(item, None)) is not None:
                    facts[name] = one
                info = (item.get("status") or {}).get("nodeInfo") or {}
                said = (str(info.get(key, "")) for key in ("kernelVersion", "operatingSystem", "osImage"))
                machines[name] = Machine(*said)
        except ApiError as error:
            self.unknown["nodes"] = self.unknown["pods"] = str(error)
        return facts, machines

    async def covers(self, nodes: Mapping[str, NodeFacts]) -> dict[str, Cover]:
        """By provider: how many pods it covers."""
        try:
            pods: Mapping[str, PerNode] = await self._objects(PODS, MOST_PODS)
        except ApiError as error:
            self.unknown["pods"] = str(error)
            return {}
        found: dict[str, Cover] = {}
        for name, provider in PROVIDERS.items():
            try:
                objects = pods if provider is PODS else await self._objects(provider, MOST)
            except ApiError as error:
                if error.status != 404:  # noqa: PLR2004 - not there: another CNI
                    self.unknown[f"provider {name}"] = str(error)
                continue
            found[name] = cover(provider.offer(nodes, objects), pods)
        return found

    async def controller(self) -> tuple[str | None, tuple[bool, bool] | None]:
        """The address provider of the installed controller, and whether it says where nodes and pods may be."""
        try:
            path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments/linkseal-controller"
            found = await self._api.find(path)
        except ApiError as error:
            self.unknown["controller"] = str(error)
            return None, None
        pod = (((found or {}).get("spec") or {}).get("template") or {}).get("spec") or {}
        words = [str(word) for one in pod.get("containers") or () for word in one.get("args") or ()]
        said = [one[1] for word in words if (one := re.fullmatch(r"--address-provider=(.+)", word))]
        if found is None:
            return None, None
        nodes, pods = (any(one.startswith(f"--{what}-network") for one in words) for what in ("node", "pod"))
        return (said or ["podCIDRs"])[-1], (nodes, pods)

    async def cnis(self) -> tuple[str, ...]:
        """The CNIs whose DaemonSets there are."""
        try:
            names = {
                (str(item["metadata"].get("namespace", "")), str(item["metadata"].get("name", "")))
                async for item in self._listed("/apis/apps/v1/daemonsets", MOST)
            }
            found = {CNIS[name] for _, name in names if name in CNIS}
            if "Cilium" in found and await self._tunnels(next(space for space, name in names if name == "cilium")):
                found = found - {"Cilium"} | {"Cilium, in tunnels of its own"}
        except ApiError as error:
            self.unknown["cni"] = str(error)
            return ()
        return tuple(sorted(found))

    async def _tunnels(self, namespace: str) -> bool:
        """Whether Cilium's own configuration has it wrap pods' packets, as it does unless told otherwise."""
        found = await self._api.find(f"/api/v1/namespaces/{namespace}/configmaps/cilium-config")
        said = (found or {}).get("data") or {}
        return str(said.get("routing-mode", "tunnel")) == "tunnel" and said.get("tunnel") != "disabled"

    async def _objects(self, provider: Provider[Any], most: int) -> dict[str, Any]:
        source, found = provider.source, {}
        if source is not None:
            async for item in self._listed(source.path, most, source.query):
                meta = item["metadata"]
                if (one := source.parse(item, None)) is not None:
                    found["/".join(filter(None, (meta.get("namespace"), meta.get("name"))))] = one
        return found

    async def _listed(
        self, path: str, most: int, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the objects of a collection, in pages, at most so many."""
        seen, rest = 0, ""
        while True:
            page = await self._api.get(
                path, {**(query or {}), "limit": str(PAGE), **({"continue": rest} if rest else {})}
            )
            for item in page.get("items") or ():
                yield item
            seen, rest = seen + PAGE, str((page.get("metadata") or {}).get("continue") or "")
            if not rest or seen >= most:
                return

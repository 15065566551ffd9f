"""The exemption that every cluster needs where node addresses are protected: the API server's own endpoints. No I/O.

A node that is new in stage `enforce` announces its key through the API server; were that behind the guard, it could
never come in. What is exempt is the port of the addresses that `default/kubernetes` names and that are nodes'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from linkseal.keys.errors import ConfigError
from linkseal.tunnels.guard.policy import MAX_EXEMPTIONS
from linkseal.tunnels.model import V6, Scope, family_of
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.validation import parse_address

SLICES: Final = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
OF_API_SERVER: Final = {"labelSelector": "kubernetes.io/service-name=kubernetes"}

NAME: Final = "kube-apiserver"
"""What these exemptions are called, with a number: nobody else's may be."""

FOREVER: Final = "9999-12-31T00:00:00Z"

Endpoint = tuple[str, int]
"""Address and TCP port."""


def endpoints_of(item: Mapping[str, Any], before: frozenset[Endpoint] | None) -> frozenset[Endpoint] | None:
    """Return what an EndpointSlice names: `before` itself if that has not changed. What cannot be read is left out."""
    addresses: set[str] = set()
    for endpoint in item.get("endpoints") or ():
        for text in endpoint.get("addresses") or ():
            try:
                addresses.add(parse_address(str(text)))
            except ValueError:
                continue  # a name (addressType FQDN)
    ports = [one.get("port") for one in item.get("ports") or () if one.get("protocol", "TCP") == "TCP"]
    found = frozenset((address, port) for address in addresses for port in ports if isinstance(port, int))
    return before if found == before else found


def with_api_server(
    spec: Mapping[str, Any], policy: Policy, endpoints: Iterable[Endpoint], nodes: Iterable[str], present: Any
) -> dict[str, Any]:
    """Return the spec with the exemptions of the API server, in scope `transparent`.

    `nodes` are the addresses of all nodes, `present` the spec in force: while the API server names no endpoint at all
    those stay. Raises ConfigError: the operator's own exemptions have such a name.
    """
    wished = list(spec.get("exemptions") or ())
    if any(str(one["name"]).startswith(NAME) for one in wished):
        raise ConfigError(f"exemptions: names that begin with {NAME} are those of the API server; choose another")
    if policy.scope is not Scope.TRANSPARENT:
        return dict(spec)
    named, ours = set(endpoints), frozenset(nodes)
    if named:
        added = [_exemption(number, *one) for number, one in enumerate(sorted(e for e in named if e[0] in ours), 1)]
    else:
        before = (present or {}).get("exemptions") or ()
        added = [one for one in before if str(one["name"]).startswith(NAME)]
    return {**spec, "exemptions": [*wished, *added[: MAX_EXEMPTIONS - len(wished)]]}


def _exemption(number: int, address: str, port: int) -> dict[str, Any]:
    return {
        "name": f"{NAME}-{number}",
        "protocol": "tcp",
        "port": port,
        "cidr": f"{address}/{128 if family_of(address) == V6 else 32}",
        "owner": "linkseal",
        "reason": "the API server, by which a new node comes in; its connections are TLS",
        "expires": FOREVER,
    }

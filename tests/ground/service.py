"""A Kubernetes service as kube-proxy makes it, in nftables: DNAT to one of its backends, MASQUERADE, NodePort."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ground.net import Node, Pod

MASQUERADE_MARK = "0x4000"
"""kube-proxy's own: it masquerades what carries this bit."""


@dataclass
class Service:
    """A service with a cluster address and a node port. Each new connection goes to a backend at random."""

    backends: list[Pod]
    address4: str = "10.96.0.10"
    address6: str = "fd00:96::10"
    port: int = 80
    target_port: int = 8080
    node_port: int = 30080
    external_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    """Cluster: any backend, the client's address is masqueraded. Local: this node's backends only, unmasqueraded."""

    def install(self, nodes: Iterable[Node]) -> None:
        """Add the rules to each node; they go with the node."""
        for node in nodes:
            families = [family for family, used in (("4", node.address4), ("6", node.address6)) if used]
            rules = "\n".join(self._table(node, family) for family in families)
            node.run(f"nft -f - <<'END'\n{rules}\nEND")

    def _table(self, node: Node, family: str) -> str:
        layer, name = ("ip", "address4") if family == "4" else ("ip6", "address6")
        here = [pod for pod in self.backends if pod in node.pods]
        local = self.external_traffic_policy == "Local"
        outer = self._to_backends(here if local else self.backends, family)
        mark = f"meta mark set meta mark or {MASQUERADE_MARK}"
        return f"""
table {layer} test-service {{
  chain services {{
    {layer} daddr {getattr(self, name)} tcp dport {self.port} {mark} {self._to_backends(self.backends, family)}
    fib daddr type local tcp dport {self.node_port} {"" if local else mark} {outer}
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
  chain output {{ type nat hook output priority -100; jump services; }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    meta mark and {MASQUERADE_MARK} == 0 return
    meta mark set meta mark xor {MASQUERADE_MARK} masquerade
  }}
}}"""

    def _to_backends(self, backends: list[Pod], family: str) -> str:
        if not backends:
            return "drop"
        addresses = [pod.address4 if family == "4" else pod.address6 for pod in backends]
        pairs = ", ".join(f"{i} : {address} . {self.target_port}" for i, address in enumerate(addresses))
        layer = "ip" if family == "4" else "ip6"
        return f"dnat {layer} to numgen random mod {len(backends)} map {{ {pairs} }}"

"""Objects that tests put into the control plane: the product's own (linkseal.tunnels.lab.kube)."""

from __future__ import annotations

from linkseal.tunnels.lab.kube.objects import (
    bound_token,
    create_namespace,
    create_node,
    create_pod,
    create_service_account,
    heartbeat,
    node,
    set_pod_ready,
    unbound_token,
)

__all__ = [
    "bound_token",
    "create_namespace",
    "create_node",
    "create_pod",
    "create_service_account",
    "heartbeat",
    "node",
    "set_pod_ready",
    "unbound_token",
]

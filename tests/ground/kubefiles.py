"""Files of a control plane, and what its audit log says: the product's own (linkseal.tunnels.lab.kube)."""

from __future__ import annotations

from linkseal.tunnels.lab.kube.credentials import (
    Credentials,
    Request,
    make_credentials,
    read_audit,
    write_kubeconfig,
)

__all__ = ["Credentials", "Request", "make_credentials", "read_audit", "write_kubeconfig"]

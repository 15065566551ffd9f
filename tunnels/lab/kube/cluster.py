"""A Kubernetes cluster on a lab's nodes: the API server is a machine on their wire, each node has a kubelet's stand-in.

                 wire (bridge br0; 192.0.2.250: etcd, kube-apiserver, its controllers and scheduler)
      ┌─────────────┬───────────────┐
    node n1       node n2         node n3        each: kubelet.py, and the service address of the API server led there

A node is a network namespace and a mount namespace with folders of the host's own (`NODE_FOLDERS`): a pod's host paths
are the node's. The first node is the control-plane node by its label: what wants one is scheduled there.
"""

from __future__ import annotations

import logging
import signal
import sys
import sysconfig
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Final, Self

from linkseal.tunnels.lab.cluster import Cluster, Node
from linkseal.tunnels.lab.forked import ForkedProcess
from linkseal.tunnels.lab.kube.api import Api
from linkseal.tunnels.lab.kube.container import Image
from linkseal.tunnels.lab.kube.controlplane import SERVICE_ADDRESS, ControlPlane
from linkseal.tunnels.lab.kube.kubelet import Host, Kubelet
from linkseal.tunnels.lab.kube.objects import create_node
from linkseal.tunnels.lab.kube.served import Served
from linkseal.tunnels.lab.namespaces import OWN_FOLDERS

API: Final = "192.0.2.250"
"""Address of the machine that the control plane is on, unless it is on a node."""

NODE_FOLDERS: Final = (*OWN_FOLDERS, "/var/lib/linkseal", "/etc/systemd/system", "/run/systemd")
"""What is each node's own of the host's file system, empty at first."""

LASTING: Final = ("/var/lib/linkseal", "/etc/systemd/system")
"""Of these: those that outlast a reboot. An agent looks at their file system, and takes no tmpfs for a disk."""

CONTROL_PLANE: Final = "node-role.kubernetes.io/control-plane"

POD_NETWORKS: Final = "10.244.0.0/16"
"""Of all nodes (cluster.py)."""


def plug_in(cluster: Cluster) -> None:
    """Give the wire the address of the control plane's machine."""
    cluster.wire.run(f"ip link set lo up; ip address add {API}/24 dev br0; ip link set br0 up")


def image() -> Image:
    """Return what containers run from: this program's own files."""
    prefix = Path(sys.prefix)
    places = {prefix, *(Path(path) for path in (sysconfig.get_path("stdlib"), sys.base_prefix))}
    for name in ("keys", "wireguard", "ipsec", "tunnels"):  # an editable install has them elsewhere
        found = import_module(f"linkseal.{name}").__file__
        places.add(Path(str(found)).resolve().parents[1])
    folders = [path for path in sorted(places) if not path.is_relative_to("/usr")]
    outer = [path for path in folders if not any(path != one and path.is_relative_to(one) for one in folders)]
    return Image(tuple(outer), f"{prefix / 'bin'}:/usr/local/bin:/usr/sbin:/usr/bin")


class KubeCluster:
    """Node objects and kubelets for the nodes of a cluster that is built. A context manager; pods end with it."""

    def __init__(self, cluster: Cluster, plane: ControlPlane, folder: Path) -> None:
        self.cluster, self.plane, self.folder = cluster, plane, folder
        self.kubelets: dict[str, ForkedProcess] = {}

    def __enter__(self) -> Self:
        for node in self.cluster:
            self.join(node)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def join(self, node: Node, labels: dict[str, str] | None = None) -> None:
        """Make a node's object and start its kubelet."""
        register(self.plane.admin, self.cluster, node, labels)
        if node.holder is None:
            hold(node)
        serve_api(node, self.plane.address, self.plane.port)
        self.start(node)

    def start(self, node: Node) -> None:
        """Start a node's kubelet."""
        folder = self.pods(node)
        folder.mkdir(parents=True, exist_ok=True)
        self.kubelets[node.name] = start_kubelet(node, self.plane, folder)

    def pods(self, node: Node) -> Path:
        """Where a node's pods have their logs."""
        return self.folder / "pods" / node.name

    def logs(self, component: str = "") -> str:
        """Return the end of what every container and kubelet printed, for a failed test."""
        lines = []
        for node in self.cluster:
            lines += [
                f"--- {node.name} {log.parent.name}\n{log.read_text(errors='replace')[-3000:]}"
                for log in sorted(self.pods(node).rglob("*.log"))
                if component in log.parent.name
            ]
            if node.name in self.kubelets:
                lines.append(f"--- kubelet {node.name}\n{self.kubelets[node.name].text()[-2000:]}")
        return "\n".join(lines)

    def leave(self) -> None:
        """End every kubelet and its pods."""
        for kubelet in self.kubelets.values():
            kubelet.kill(signal.SIGTERM)
        for kubelet in self.kubelets.values():
            kubelet.wait()
        self.kubelets.clear()


def register(admin: Api, cluster: Cluster, node: Node, labels: Mapping[str, str] | None = None) -> None:
    """Make a node's object; the first of the cluster is the control-plane node. ApiError."""
    role = {CONTROL_PLANE: ""} if node is cluster[0] else {}
    more = role | dict(labels or {})
    create_node(admin, node.name, addresses=node.addresses, pod_cidrs=node.pod_cidrs, labels=more)


def hold(node: Node, folder: Path | None = None) -> int:
    """Give a node the folders that are its own; returns the holder of them. HostError. `folder`: of its log."""
    holder = node.hold(folder, folders=NODE_FOLDERS)
    node.run("mkdir /run/systemd/system")  # which says that systemd runs the host
    node.run("; ".join(_overlaid(one) for one in LASTING))
    return holder


def _overlaid(folder: str) -> str:
    """Return the shell line that puts an overlay over a tmpfs."""
    lower, upper, work = (f"{folder}/.{name}" for name in ("lower", "upper", "work"))
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    return f"mkdir {lower} {upper} {work} && mount -t overlay -o {options} disk {folder}"


def start_kubelet(node: Node, plane: ControlPlane | Served, folder: Path, home: Path | None = None) -> ForkedProcess:
    """Start a node's kubelet; `folder`: of its pods; `home`: of its own log. It ends with its pods at SIGTERM."""
    stopping: list[int] = []
    host = Host(node.name, node.addresses[0], node.pod_cidrs[0], SERVICE_ADDRESS, "443")
    token, server, ca_file = plane.kubelet_token(node.name), plane.server, plane.ca_file

    def work() -> None:
        node.enter()
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        logging.getLogger("linkseal").propagate = True
        Kubelet(Api(server, ca_file, token), host, folder, image()).run(stopping)

    return ForkedProcess(work, stopping=stopping, folder=home)


def serve_api(node: Node, address: str, port: int) -> None:
    """Do what kube-proxy and the CNI do of it: lead the service address to the API server, masquerade pods."""
    rules = f"""
table ip lab-services {{
    chain prerouting {{
        type nat hook prerouting priority -100
        ip daddr {SERVICE_ADDRESS} tcp dport 443 dnat to {address}:{port}
    }}
    chain output {{
        type nat hook output priority -100
        ip daddr {SERVICE_ADDRESS} tcp dport 443 dnat to {address}:{port}
    }}
    chain postrouting {{
        type nat hook postrouting priority 100
        ip saddr {node.pod_cidr4} ip daddr != {POD_NETWORKS} masquerade
    }}
}}
"""
    node.run(f"ip route replace {SERVICE_ADDRESS} dev eth0; nft -f - <<'EOF'\n{rules}\nEOF")

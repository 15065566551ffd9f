"""Clusters of network namespaces: nodes on a bridge, each with two pods behind it, as a CNI would leave them.

                 wire (bridge br0, where everything between nodes can be seen)
      ┌─────────────┬──────────────┴──────┐
    eth0          eth0                  router (only for a NAT'd or a narrow node)
   node 1        node 2                  eth0
192.0.2.11      192.0.2.12              node 3   198.51.100.13 behind NAT, 203.0.113.13 behind a narrow router
2001:db8::11    2001:db8::12
    cni0          cni0                  cni0     10.244.<i>.1, fd00:244:<i>::1
   ┌──┴──┐       ┌──┴──┐               ┌──┴──┐
 pod    pod    pod    pod            pod    pod  10.244.<i>.2 and .3, fd00:244:<i>::2 and ::3
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Final, Literal, overload

from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.lab import namespaces
from linkseal.tunnels.lab.capture import Capture
from linkseal.tunnels.lab.forked import ForkedProcess
from linkseal.tunnels.lab.namespaces import OWN_FOLDERS, Namespace

Cni = Literal["none", "host-gw", "vxlan"]

PODS_EACH = 2

MOST_NODES = 89
"""Their last bytes are 11 to 99, those of routers begin at 101."""

VXLAN_PORT = 8472
"""Linux's and flannel's default."""


NODE_NETWORKS: Final = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
POD_NETWORKS: Final = ("10.244.0.0/16", "fd00:244::/32")
"""Where nodes and pods are."""

_CLSACT: Final = "tc qdisc add dev eth0 clsact"
"""Done before there is traffic, as a CNI with an eBPF data path does: the kernel drops what is sent while a NIC gets it
(docs/guard.md). Nobody's filters are there yet."""

_GATEWAYS: Final = {
    "": ("192.0.2.1", "2001:db8::1"),
    "nat": ("198.51.100.1", "2001:db8:a::1"),
    "narrow": ("203.0.113.1", "2001:db8:b::1"),
}
"""Of a node, by what it is behind."""


class Pod(Namespace):
    """A pod: one interface `eth0`, default route by its node. An address is None where its family is not in use."""

    def __init__(self, name: str, address4: str | None, address6: str | None) -> None:
        super().__init__(name)
        self.address4 = address4
        self.address6 = address6


class Node(Namespace):
    """A node: `eth0` to the wire, `cni0` to its pods."""

    def __init__(self, space: str, name: str, index: int, families: Sequence[str], behind: str) -> None:
        super().__init__(space)
        self.index = index
        self.name = name
        self.behind = behind
        """"" on the wire itself, else "nat" or "narrow"."""
        v4, v6 = "4" in families, "6" in families
        prefix = {"": "192.0.2", "nat": "198.51.100", "narrow": "203.0.113"}[behind]
        prefix6 = {"": "2001:db8:", "nat": "2001:db8:a:", "narrow": "2001:db8:b:"}[behind]
        self.address4 = f"{prefix}.{10 + index}" if v4 else None
        self.address6 = f"{prefix6}:{10 + index}" if v6 else None
        self.pod_cidr4 = f"10.244.{index}.0/24" if v4 else None
        self.pod_cidr6 = f"fd00:244:{index}::/64" if v6 else None
        self.pods = [
            Pod(f"{space}p{k}", f"10.244.{index}.{k + 1}" if v4 else None, f"fd00:244:{index}::{k + 1}" if v6 else None)
            for k in range(1, PODS_EACH + 1)
        ]

    def fork(
        self,
        target: Callable[..., Any],
        *args: Any,
        private: Iterable[str] = OWN_FOLDERS,
        folder: Path | None = None,
    ) -> ForkedProcess:
        """As in any namespace, but by default with sockets' folders of its own, as on a machine of its own."""
        return super().fork(target, *args, private=private, folder=folder)

    @property
    def pod_cidrs(self) -> list[str]:
        """Pod CIDRs of the families in use."""
        return [cidr for cidr in (self.pod_cidr4, self.pod_cidr6) if cidr]

    @property
    def addresses(self) -> list[str]:
        """Node addresses of the families in use."""
        return [address for address in (self.address4, self.address6) if address]


class Cluster(Sequence[Node]):
    """A cluster; a sequence of its nodes (`a, b, c = cluster`). It exists after `build`, by whichever process."""

    def __init__(
        self,
        count: int,
        *,
        prefix: str,
        stem: str = "n",
        families: Sequence[str] = ("4",),
        mtu: int = 1500,
        pod_mtu: int | None = None,
        delay_ms: int = 0,
        rp_filter: int = 1,
        cni: Cni = "none",
        nat: Sequence[int] = (),
        narrow: Mapping[int, int] | None = None,
        outside: bool = False,
    ) -> None:
        """Describe it; namespaces begin with `prefix`, names of nodes with `stem`. ConfigError.

        `nat` and `narrow` name nodes by index from 1: behind a masquerading router, or behind one that passes on no
        more than that many bytes. `delay_ms` is added in each direction. `outside` adds a machine at 192.0.2.1 and
        2001:db8::1 that is no node, the nodes' default gateway. rp_filter 1 is strict, as on RHEL.
        """
        if not 0 < count <= MOST_NODES:
            raise ConfigError(f"a cluster here has 1 to {MOST_NODES} nodes, not {count}")
        narrow = narrow or {}
        self._narrow = dict(narrow)
        self._captures: list[Capture] = []
        self.families = tuple(families)
        self.mtu, self.delay_ms, self.rp_filter, self.cni = mtu, delay_ms, rp_filter, cni
        self.pod_mtu = pod_mtu or (mtu if cni != "vxlan" else mtu - (70 if "6" in families else 50))
        behind = dict.fromkeys(nat, "nat") | dict.fromkeys(narrow, "narrow")
        self.nodes = [Node(f"{prefix}n{i}", f"{stem}{i}", i, families, behind.get(i, "")) for i in range(1, count + 1)]
        self.wire = Namespace(f"{prefix}wire")
        self.routers = {node.index: Namespace(f"{node.ns}r") for node in self.nodes if node.behind}
        self.outside = Pod(f"{prefix}out", "192.0.2.1", "2001:db8::1") if outside else None
        if cni != "none" and behind:
            raise ConfigError("host-gw and vxlan are for nodes that share the wire")

    def build(self) -> None:
        """Make it; what has been made goes again if something fails. HostError."""
        try:
            self._build(self._narrow)
        except BaseException:
            self.remove()
            raise

    @overload
    def __getitem__(self, index: int) -> Node: ...
    @overload
    def __getitem__(self, index: slice) -> list[Node]: ...
    def __getitem__(self, index: int | slice) -> Node | list[Node]:
        return self.nodes[index]

    def __len__(self) -> int:
        return len(self.nodes)

    def capture(self) -> Capture:
        """See everything that crosses the bridge while in the `with` block."""
        self._captures.append(Capture(self.wire))
        return self._captures[-1]

    def namespaces(self) -> Iterator[Namespace]:
        """All of them, nodes first."""
        yield from self.nodes
        for node in self.nodes:
            yield from node.pods
        yield from self.routers.values()
        yield from [self.outside] if self.outside else []
        yield self.wire

    def remove(self) -> None:
        """Kill what runs in it and delete it, captures included."""
        for space in self.namespaces():
            space.end_processes()
        for capture in self._captures:
            capture.file.unlink(missing_ok=True)
        namespaces.remove([space.ns for space in self.namespaces()])

    def new_nic(self, node: Node, *, plugged: bool = True) -> None:
        """Delete a node's NIC and make it anew: same name, MAC, addresses and routes, nothing else. HostError.

        `plugged` False: its port on the bridge stays down. With another MAC the neighbours of this lab, where nobody
        announces himself, would go on sending to the old one for half a minute.
        """
        if node.behind or self.cni == "vxlan":
            raise HostError(f"the NIC of {node.name} carries more than is known here (a router, VXLAN devices)")
        uplink = f"up{node.index}"
        mac = json.loads(node.run("ip -j link show eth0"))[0]["address"]
        self.wire.ip(f"link del {uplink}")
        self.wire.ip(_veth(node.ns, "eth0", self.wire.ns, uplink, self.mtu))  # where no other eth0 is in the way
        self.wire.ip(f"link set {uplink} master br0 {'up' if plugged else 'down'}")
        routes = _default_routes(self.families, *_GATEWAYS[""]) if self.outside else ()
        addresses = _addresses(node, "eth0", self.families)
        node.ip(f"link set eth0 address {mac} up", *addresses, *routes, *self._routes_to_peers(node))

    def _build(self, narrow: Mapping[int, int]) -> None:
        namespaces.ip_batch(f"netns add {space.ns}" for space in self.namespaces())
        for space in self.namespaces():
            space.sysctl(self._settings(space))
        namespaces.ip_batch(self._links())
        self.wire.ip("link set br0 up", *self._wire_lines())
        for node in self.nodes:
            node.ip(*self._node_lines(node), *self._routes_to_peers(node))
            for pod in node.pods:
                pod.ip(*self._pod_lines(node, pod))
            node.run(_CLSACT, check=False)  # a kernel without it has no programs on NICs either
            if self.delay_ms:
                node.run(f"tc qdisc add dev eth0 root netem delay {self.delay_ms}ms limit 20000")
        for index, router in self.routers.items():
            self._set_up_router(self.nodes[index - 1], router, narrow.get(index, self.mtu))
        if self.outside:
            self.outside.ip("link set lo up", "link set eth0 up", *_addresses(self.outside, "eth0", self.families))
        if self.cni == "vxlan":
            for family in self.families:
                self._set_up_vxlan(family)

    def _settings(self, space: Namespace) -> dict[str, int | str]:
        """Quiet IPv6 (no router solicitations, no duplicate address detection), forwarding where packets pass."""
        quiet = {"accept_ra": 0, "accept_dad": 0, "dad_transmits": 0, "router_solicitations": 0}
        # the wire only switches: a bridge that spoke IPv6 would add frames of its own
        quiet["disable_ipv6"] = int("6" not in self.families or space is self.wire)
        settings: dict[str, int | str] = {f"ipv6/conf/default/{name}": value for name, value in quiet.items()}
        if not isinstance(space, Pod) and space is not self.wire:
            settings |= {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
            settings |= {"ipv4/conf/all/rp_filter": self.rp_filter, "ipv4/conf/default/rp_filter": self.rp_filter}
        return settings

    def _links(self) -> Iterator[str]:
        wire = self.wire.ns
        yield f"link add br0 netns {wire} type bridge mcast_snooping 0"
        for node in self.nodes:
            uplink = f"up{node.index}"
            if router := self.routers.get(node.index):
                yield _veth(router.ns, "wan", wire, uplink, self.mtu)
                yield _veth(node.ns, "eth0", router.ns, "lan", self.mtu)
            else:
                yield _veth(node.ns, "eth0", wire, uplink, self.mtu)
            # a bridge that was given no address takes one of its ports': pods would lose their gateway as others come
            address = f"0a:58:0a:f4:{node.index % 256:02x}:01"
            yield f"link add cni0 netns {node.ns} address {address} type bridge mcast_snooping 0"
            for k, pod in enumerate(node.pods, 1):
                yield _veth(pod.ns, "eth0", node.ns, f"pod{k}", self.pod_mtu)
        if self.outside:
            yield _veth(self.outside.ns, "eth0", wire, "out", self.mtu)

    def _wire_lines(self) -> Iterator[str]:
        for node in self.nodes:
            yield f"link set up{node.index} master br0 up"
        if self.outside:
            yield "link set out master br0 up"

    def _node_lines(self, node: Node) -> Iterator[str]:
        yield from ("link set lo up", "link set eth0 up", "link set cni0 up")
        for k in range(1, PODS_EACH + 1):
            yield f"link set pod{k} master cni0 up"
        yield from _addresses(node, "eth0", self.families)
        for cidr in node.pod_cidrs:
            yield f"address add {_gateway(cidr)} dev cni0{_nodad(cidr)}"
        gateway4, gateway6 = _GATEWAYS[node.behind]
        if node.behind or self.outside:
            yield from _default_routes(self.families, gateway4, gateway6)

    def _pod_lines(self, node: Node, pod: Pod) -> Iterator[str]:
        yield from ("link set lo up", "link set eth0 up")
        yield from _addresses(pod, "eth0", self.families)
        yield from _default_routes(self.families, f"10.244.{node.index}.1", f"fd00:244:{node.index}::1")

    def _routes_to_peers(self, node: Node) -> Iterator[str]:
        for peer in self.nodes:
            if peer is node:
                continue
            if peer.behind == "narrow" and not node.behind:
                router4, router6 = _router_addresses(peer)
                yield from [f"route add {peer.address4}/32 via {router4}"] if peer.address4 else []
                yield from [f"route add {peer.address6}/128 via {router6}"] if peer.address6 else []
            if self.cni == "host-gw":
                # as flannel does: without `dev` the kernel looks the gateway up by all rules, and may find the door
                yield from [f"route add {peer.pod_cidr4} via {peer.address4} dev eth0"] if peer.address4 else []
                yield from [f"route add {peer.pod_cidr6} via {peer.address6} dev eth0"] if peer.address6 else []

    def _set_up_router(self, node: Node, router: Namespace, mtu: int) -> None:
        """`mtu` is what the router passes on in either direction; the NICs at both ends do not know of it."""
        up4, up6 = _router_addresses(node)
        down4, down6 = ("198.51.100.1", "2001:db8:a::1") if node.behind == "nat" else ("203.0.113.1", "2001:db8:b::1")
        router.ip("link set lo up", "link set wan up", "link set lan up")
        if "4" in self.families:
            router.ip(f"address add {up4}/24 dev wan", f"address add {down4}/24 dev lan")
        if "6" in self.families:
            router.ip(f"address add {up6}/64 dev wan nodad", f"address add {down6}/64 dev lan nodad")
        if mtu < self.mtu:
            router.ip(*self._narrowed(down4, up4, down6, up6, mtu))
        if node.behind == "nat":
            router.run("nft add table inet nat")
            router.run("nft 'add chain inet nat out { type nat hook postrouting priority srcnat; }'")
            router.run("nft add rule inet nat out oifname wan masquerade")

    def _narrowed(self, down4: str, up4: str, down6: str, up6: str, mtu: int) -> Iterator[str]:
        """Give the routes to both sides an MTU: a link's own would drop what arrives by it without a word."""
        for device, address4, address6 in (("lan", down4, down6), ("wan", up4, up6)):
            if "4" in self.families:
                network = ip_interface(f"{address4}/24").network
                yield f"route replace {network} dev {device} src {address4} mtu lock {mtu}"
            if "6" in self.families:
                network = ip_interface(f"{address6}/64").network
                yield f"route replace {network} dev {device} metric 256 mtu lock {mtu}"

    def _set_up_vxlan(self, family: str) -> None:
        """As flannel does: one device, a route, a neighbour and a forwarding entry for each peer."""
        device = "flannel.1" if family == "4" else "flannel-v6.1"
        for node in self.nodes:
            own = node.address4 if family == "4" else node.address6
            subnet = _subnet(node, family)
            tunnel = f"type vxlan id 1 dev eth0 local {own} dstport {VXLAN_PORT} nolearning"
            lines = [
                f"link add {device} address {_mac(node, family)} mtu {self.pod_mtu} {tunnel}",
                f"link set {device} up",
                f"address add {subnet}/{32 if family == '4' else 128} dev {device}{' nodad' * (family == '6')}",
            ]
            entries = []
            for peer in self.nodes:
                if peer is node:
                    continue
                gateway, mac = _subnet(peer, family), _mac(peer, family)
                lines.append(f"neigh add {gateway} lladdr {mac} dev {device} nud permanent")
                cidr = peer.pod_cidr4 if family == "4" else peer.pod_cidr6
                lines.append(f"route add {cidr} via {gateway} dev {device} onlink")
                address = peer.address4 if family == "4" else peer.address6
                entries.append(f"fdb append {mac} dev {device} dst {address}")
            node.ip(*lines)
            namespaces.ip_batch(entries, namespace=node.ns, tool="bridge")


def _veth(space: str, name: str, other: str, other_name: str, mtu: int) -> str:
    return f"link add {name} mtu {mtu} netns {space} type veth peer name {other_name} mtu {mtu} netns {other}"


def _addresses(space: Node | Pod, device: str, families: Sequence[str]) -> Iterator[str]:
    if space.address4 and "4" in families:
        yield f"address add {space.address4}/24 dev {device}"
    if space.address6 and "6" in families:
        yield f"address add {space.address6}/64 dev {device} nodad"


def _default_routes(families: Sequence[str], gateway4: str, gateway6: str) -> Iterator[str]:
    if "4" in families:
        yield f"route add default via {gateway4}"
    if "6" in families:
        yield f"route add default via {gateway6}"


def _router_addresses(node: Node) -> tuple[str, str]:
    """Addresses on the wire of the router in front of a node: what the others see of a NAT'd node."""
    return f"192.0.2.{100 + node.index}", f"2001:db8::{100 + node.index}"


def _gateway(cidr: str) -> str:
    network, length = cidr.split("/")
    return f"{network.removesuffix('.0')}.1/{length}" if "." in network else f"{network}1/{length}"


def _nodad(cidr: str) -> str:
    return " nodad" if ":" in cidr else ""


def _subnet(node: Node, family: str) -> str:
    """The address a node's VXLAN device carries: the network address of its pod CIDR, as flannel has it."""
    return f"10.244.{node.index}.0" if family == "4" else f"fd00:244:{node.index}::"


def _mac(node: Node, family: str) -> str:
    return f"02:00:00:00:0{family}:{node.index:02x}"

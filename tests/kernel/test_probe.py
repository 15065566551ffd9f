"""Probes over a WireGuard link made by hand: a whole path is proven, each broken one told apart, on a real kernel."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from ground.namespaces import ForkedProcess
from ground.net import Cluster, Node
from linkseal.tunnels.addressing import ProbeRange, slot_name, slot_port
from linkseal.tunnels.codes import MTU_HOLE, NO_HANDSHAKE, NOT_FORWARDED, NOTHING_CROSSES, PREFIX_NOT_CARRIED
from linkseal.tunnels.model import Family, LinkKey
from linkseal.tunnels.probe.engine import ProbeEngine, ProbeSettings
from linkseal.tunnels.probe.outcomes import Diagnosis, Outcome, Proof, Source, Target, Way
from linkseal.tunnels.probe.packet import DEFAULT_PORT, Datagram, Request, Rung, encode_packet, parse_packet
from linkseal.tunnels.probe.pmtu import path_mtu
from linkseal.tunnels.probe.sockets import DeviceGone, PacketSocket

pytestmark = pytest.mark.kernel

RANGES = ProbeRange()
FAMILIES: tuple[Family, ...] = (4, 6)
BASE, TABLE, MTU = 51820, 51820, 1420
GENERATIONS = {1: 1, 2: 2}
"""By node index; of different parity, so that the slots at the two ends are not of one name."""

TRIES = 3
"""How often a size is looked for at most: an answer that is late on a busy machine makes one family's smaller."""

GRACE = 3.0
"""Seconds an end goes on answering after its first outcome: the other end may be that late."""


@dataclass(frozen=True)
class Link:
    """One end of the link: what it knows of itself and of the other."""

    node: Node
    peer: Node

    @property
    def key(self) -> LinkKey:
        return LinkKey(self.peer.name, GENERATIONS[self.node.index], GENERATIONS[self.peer.index])

    @property
    def slot(self) -> str:
        return slot_name(self.key.own, self.key.remote)

    def pairs(self, node: Node) -> list[str]:
        """Prefixes of a node's probe addresses of this link."""
        own, remote = (self.key.own, self.key.remote) if node is self.node else (self.key.remote, self.key.own)
        return [str(RANGES.pair(family, node.index, own, remote)) for family in FAMILIES]

    def make(self) -> None:
        """Devices, addresses, routes and door."""
        own = self.node
        own.ip(
            f"link add lsl0 mtu {MTU} type wireguard",
            f"link add {self.slot} mtu {MTU} type wireguard",
            f"address add 169.254.51.82/32 scope host dev {self.slot}",
        )
        own.sysctl({f"ipv4/conf/{name}/rp_filter": 2 for name in ("lsl0", self.slot)})
        own.ip(*(f"link set {name} up" for name in ("lsl0", self.slot)))
        for family in FAMILIES:
            own.run(f"ip -{family} rule add pref 101 lookup {TABLE}")
            own.run(f"ip -{family} route add {RANGES.network(family)} dev lsl0 table {TABLE}")
        own.ip(*(f"route add {cidr} dev lsl0 table {TABLE}" for cidr in self.peer.pod_cidrs))
        own.run(self._door())
        self.make_probe_device()

    def make_probe_device(self) -> None:
        """The veth pair with its addresses, and the route to it."""
        own = self.node
        own.ip(f"link add lslp mtu {MTU} type veth peer name lslq mtu {MTU}")
        own.sysctl({"ipv4/conf/lslp/rp_filter": 2, "ipv4/conf/lslp/accept_local": 1, "ipv6/conf/lslq/disable_ipv6": 1})
        own.ip(
            "address add 169.254.51.82/32 scope host dev lslp",
            f"address add {RANGES.local(4, own.index, self.key.own, self.key.remote)}/32 scope host dev lslp",
            f"address add {RANGES.local(6, own.index, self.key.own, self.key.remote)}/128 dev lslp nodad",
            *(f"link set {name} arp off up" for name in ("lslp", "lslq")),
            *(f"route add {RANGES.node(family, own.index)} dev lslp table {TABLE}" for family in FAMILIES),
        )

    def _door(self) -> str:
        prefixes = [*self.pairs(self.peer), *self.peer.pod_cidrs]
        maps = {
            name: ", ".join(f'{prefix} : "{self.slot}"' for prefix in prefixes if (":" in prefix) == (name == "slot6"))
            for name in ("slot4", "slot6")
        }
        return f"""nft -f - <<'END'
            table netdev linkseal {{
                map slot4 {{ type ipv4_addr : iface_index; flags interval; elements = {{ {maps["slot4"]} }} }}
                map slot6 {{ type ipv6_addr : iface_index; flags interval; elements = {{ {maps["slot6"]} }} }}
                chain door {{ type filter hook egress device "lsl0" priority 0;
                    fwd to ip daddr map @slot4
                    fwd to ip6 daddr map @slot6
                }}
            }}\nEND"""

    def connect(self, private: str, public: str, *, without: str = "") -> None:
        """Give the slot its key and its peer; `without` names a prefix left out of AllowedIPs."""
        allowed = [prefix for prefix in [*self.pairs(self.peer), *self.peer.pod_cidrs] if prefix != without]
        listen = slot_port(BASE, self.key.own, self.key.remote)
        endpoint = f"{self.peer.address4}:{slot_port(BASE, self.key.remote, self.key.own)}"
        peer = f"peer {public} endpoint {endpoint} allowed-ips {','.join(allowed)}"
        self.node.run(f"echo {private} | wg set {self.slot} listen-port {listen} private-key /proc/self/fd/0 {peer}")

    def way(self, family: Family) -> Way:
        cidr = next(cidr for cidr in self.node.pod_cidrs if (":" in cidr) == (family == 6))
        return Way(MTU, (Source(self.sources[family][0], cidr),))

    @property
    def sources(self) -> dict[Family, tuple[str, ...]]:
        """A pod address that no pod has: what protected prefixes are proven with."""
        return {4: (f"10.244.{self.node.index}.99",), 6: (f"fd00:244:{self.node.index}::99",)}

    def shaken(self) -> bool:
        return not self.node.run(f"wg show {self.slot} latest-handshakes").strip().endswith("\t0")


Pair = tuple[Link, Link]


def join(cluster: Cluster, *, without: str = "", wrong_key: bool = False) -> Pair:
    """Make the link between both nodes; `without` is a prefix that the second node does not let in."""
    a, b = cluster
    ends = Link(a, b), Link(b, a)
    private = [a.run("wg genkey").strip() for _ in range(3)]
    public = [a.run(f"echo {key} | wg pubkey").strip() for key in private]
    for end in ends:
        end.make()
    ends[0].connect(private[0], public[2 if wrong_key else 1])
    ends[1].connect(private[1], public[0], without=without)
    a.run(f"wg set {ends[0].slot} peer {public[2 if wrong_key else 1]} persistent-keepalive 25")
    deadline = time.monotonic() + 15
    while not wrong_key and not all(end.shaken() for end in ends):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return ends


def probe(end: Link, *, handshake: bool = True, interval: float = 60.0, seconds: float = 0.0) -> list[Outcome]:
    """Run an engine until its first outcome (or for `seconds`) and then some; return the outcomes."""
    outcomes: list[Outcome] = []
    first = asyncio.Event()

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        first.set()

    async def run() -> None:
        settings = ProbeSettings(end.node.name, end.node.index, RANGES, interval=interval)
        peers = {end.peer.name: end.peer.index}
        theirs = Link(end.peer, end.node)
        owned = {end.peer.name: [address for addresses in theirs.sources.values() for address in addresses]}
        engine = ProbeEngine(settings, note, lambda _: (end.key.own, end.key.remote), peers.get, owned.__getitem__)
        engine.set_own_sources(end.sources)
        engine.start()
        ways = {family: end.way(family) for family in FAMILIES}
        engine.set_targets({end.key: Target(end.peer.index, handshake=handshake, ways=ways)})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait() if seconds else first.wait(), seconds or 60)
        await asyncio.sleep(GRACE)
        engine.close()

    asyncio.run(run())
    return outcomes


def both(ends: Pair, act: Callable[[], None] = lambda: None, **options: float) -> tuple[list[Outcome], list[Outcome]]:
    """Probe at both ends at once; `act` runs meanwhile."""
    started: list[ForkedProcess] = [end.node.fork(lambda end=end: probe(end, **options)) for end in ends]
    try:
        act()
        first, second = (process.result(90) for process in started)
        return first, second
    finally:
        for process in started:
            process.forget()


def diagnoses(outcomes: list[Outcome], code: str) -> list[Diagnosis]:
    """All of them, which must be diagnoses of that code."""
    found = [one for one in outcomes if isinstance(one, Diagnosis)]
    assert found == outcomes
    assert [one.code for one in found] == [code] * len(found) != []
    return found


def test_a_whole_path_is_proven_at_both_ends_in_both_families(nodes: Callable[..., Cluster]) -> None:
    ends = join(nodes(2, families=("4", "6")))
    for end, outcomes in zip(ends, both(ends), strict=True):
        (proof,) = outcomes
        assert isinstance(proof, Proof)
        assert (proof.key, proof.sizes, proof.rewritten) == (end.key, {4: MTU, 6: MTU}, frozenset())
        assert proof.uses == (end.key.remote, end.key.own)
        assert 0 < proof.rtt < 1


@pytest.mark.parametrize("where", [0, 1])
def test_a_forward_policy_at_one_end_is_told_and_where(nodes: Callable[..., Cluster], where: int) -> None:
    ends = join(nodes(2, families=("4", "6")))
    ends[where].node.run("nft add table inet firewall")
    ends[where].node.run("nft 'add chain inet firewall forward { type filter hook forward priority 0; policy drop; }'")
    outcomes = both(ends)
    (there,) = diagnoses(outcomes[where], NOT_FORWARDED)
    (other,) = diagnoses(outcomes[1 - where], NOT_FORWARDED)
    assert "FORWARD policy here" in there.detail
    assert f"FORWARD policy at {ends[where].node.name}" in other.detail
    for family in FAMILIES:
        assert f"IPv{family}" in there.detail


def test_a_forward_policy_for_one_family_fails_that_family(nodes: Callable[..., Cluster]) -> None:
    ends = join(nodes(2, families=("4", "6")))
    ends[0].node.run("nft add table ip6 firewall")
    ends[0].node.run("nft 'add chain ip6 firewall forward { type filter hook forward priority 0; policy drop; }'")
    for outcomes in both(ends):
        (told,) = diagnoses(outcomes, NOT_FORWARDED)
        assert "IPv6" in told.detail
        assert "IPv4" not in told.detail


def test_an_mtu_hole_is_told_with_the_size_that_crosses(nodes: Callable[..., Cluster]) -> None:
    ends = join(nodes(2, families=("4", "6")))
    ends[1].node.run("nft add table netdev hole")
    ends[1].node.run("nft 'add chain netdev hole in { type filter hook ingress device \"eth0\" priority -300; }'")
    ends[1].node.run("nft add rule netdev hole in meta length gt 1400 drop")
    for _ in range(TRIES):
        outcomes = both(ends)
        (first,) = diagnoses(outcomes[0], MTU_HOLE)
        (second,) = diagnoses(outcomes[1], MTU_HOLE)
        sizes = [one.size or 0 for one in (first, second)]
        assert max(sizes) <= 1340, "1400 outer: 60 of WireGuard, and the inner packet padded to 16"
        if min(sizes) >= 1340 - 32:
            break
    assert min(sizes) >= 1340 - 32, (first, second)
    assert f"do not cross to {ends[0].peer.name}" in first.detail
    assert f"from {ends[1].peer.name} to here" in second.detail


def test_a_prefix_missing_in_allowed_ips_is_named_with_its_side(nodes: Callable[..., Cluster]) -> None:
    cluster = nodes(2, families=("4", "6"))
    assert cluster[0].pod_cidr4
    ends = join(cluster, without=cluster[0].pod_cidr4)
    outcomes = both(ends)
    (first,) = diagnoses(outcomes[0], PREFIX_NOT_CARRIED)
    (second,) = diagnoses(outcomes[1], PREFIX_NOT_CARRIED)
    assert f"packets from {cluster[0].pod_cidr4} (sent from 10.244.1.99) are not let in at node2" in first.detail
    assert "packets from 10.244.1.99 of node1 are not let in here" in second.detail
    assert "IPv6" not in first.detail + second.detail


def test_a_silent_peer_is_told_from_a_broken_path(nodes: Callable[..., Cluster]) -> None:
    ends = join(nodes(2, families=("4", "6")))
    process = ends[0].node.fork(lambda: probe(ends[0]))
    try:
        diagnoses(process.result(90), NOTHING_CROSSES)
    finally:
        process.forget()


def test_without_handshake_nothing_is_sent_and_that_is_told(nodes: Callable[..., Cluster]) -> None:
    ends = join(nodes(2, families=("4", "6")), wrong_key=True)
    process = ends[1].node.fork(lambda: probe(ends[1], handshake=ends[1].shaken()))
    try:
        diagnoses(process.result(90), NO_HANDSHAKE)
    finally:
        process.forget()
    _, received, sent = ends[1].node.run(f"wg show {ends[1].slot} transfer").split()
    assert (received, sent) == ("0", "0")  # a probe would have provoked an initiation from this end


def test_the_engine_outlives_its_device(nodes: Callable[..., Cluster]) -> None:
    ends = join(nodes(2, families=("4", "6")))
    gone_at, back_at = 0.0, 0.0

    def renew() -> None:
        nonlocal gone_at, back_at
        time.sleep(4)
        ends[0].node.ip("link del lslp")
        gone_at = time.monotonic()
        time.sleep(4)
        back_at = time.monotonic()  # before: on a slow machine a link is proven while the last of it is made
        ends[0].make_probe_device()

    outcomes, _ = both(ends, renew, interval=1.0, seconds=14.0)
    assert {type(one) for one in outcomes} == {Proof}
    proven_at = [one.at for one in outcomes if isinstance(one, Proof)]
    assert any(at < gone_at for at in proven_at)
    assert not any(gone_at + 0.5 < at < back_at for at in proven_at), "what was under way is read within a moment"
    assert any(at > back_at for at in proven_at)


def read_all(packets: PacketSocket) -> list[Datagram | None]:
    """Everything the socket gives within a moment, parsed."""
    found = []
    for _ in range(20):
        time.sleep(0.01)
        while (data := packets.receive()) is not None:
            found.append(parse_packet(data, DEFAULT_PORT))
    return found


def test_the_packet_socket_gives_probes_only_and_not_its_own(nodes: Callable[..., Cluster]) -> None:
    cluster = nodes(2, families=("4", "6"))
    here = Link(cluster[0], cluster[1])
    here.make()
    request = Request(b"n" * 16, "node2", 2, 1, Rung.SMALL, 400, 0)
    with here.node.entered():
        packets = PacketSocket("lslq", "lslp", DEFAULT_PORT)
        for family in FAMILIES:
            to = RANGES.forwarded(family, here.node.index, here.key.own, here.key.remote)
            domain = socket.AF_INET if family == 4 else socket.AF_INET6
            with socket.socket(domain, socket.SOCK_DGRAM) as foreign:
                foreign.sendto(b"scan", (to, DEFAULT_PORT + 1))
                foreign.sendto(b"scan", (to, 53))
                assert read_all(packets) == []
                foreign.sendto(b"no probe", (to, DEFAULT_PORT))
                assert read_all(packets) == [None]  # let through by the filter, refused by the parser
            source = here.sources[family][0]
            packets.send(encode_packet(request, source, to, DEFAULT_PORT, MTU), family)  # comes back, forwarded
            assert [one and (one.source, one.destination, one.size) for one in read_all(packets)] == [(source, to, MTU)]
            packets.send(
                encode_packet(request, source, "203.0.113.9" if family == 4 else "2001:db8::9", 51829, 400), family
            )
            assert read_all(packets) == []
        packets.close()
        with pytest.raises(DeviceGone):
            PacketSocket("lslx", "lslp", DEFAULT_PORT)


@pytest.mark.parametrize("family", ["4", "6"])
def test_the_path_mtu_is_what_the_narrowest_router_says(nodes: Callable[..., Cluster], family: str) -> None:
    cluster = nodes(3, families=(family,), narrow={2: 1300})

    def measured(address: str | None) -> int | None:
        return asyncio.run(path_mtu(address or "", BASE, mark=0x51820, settle=0.3))

    for peer, expected in ((cluster[1], 1300), (cluster[2], 1500)):
        process = cluster[0].fork(measured, peer.address4 or peer.address6)
        assert process.result() == expected
        process.forget()
    nowhere = cluster[0].fork(measured, "240.0.0.1" if family == "4" else "2001:db8:ffff::1")
    assert nowhere.result() is None
    nowhere.forget()

"""The kernel driver against the kernel, judged by `wg show`."""

from __future__ import annotations

import base64
import ctypes
import os
import random
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

import pytest
from linkseal.keys.errors import HostError
from linkseal.keys.secrets import PrivateKey, fingerprint
from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard.diff import diff_device
from linkseal.wireguard.kernel import KernelDriver
from linkseal.wireguard.links import create_link, link_exists
from linkseal.wireguard.model import (
    ConfigureDevice,
    DeviceSpec,
    DeviceState,
    Endpoint,
    PeerSpec,
    RemovePeer,
    ReprovokePeer,
    SetPeer,
)
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkError, NetlinkSocket, message

pytestmark = pytest.mark.kernel

CLONE_NEWNET = 0x40000000
OWN = PrivateKey.generate()


def secrets(key: PublicKey) -> PrivateKey:
    assert key == OWN.public_key
    return OWN


@pytest.fixture
def namespace() -> Iterator[None]:
    """A fresh network namespace around the test."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.fixture
def driver(namespace: None) -> Iterator[KernelDriver]:
    made = KernelDriver()
    made.create("lsl00", 1420)
    yield made
    made.close()


def key(n: int) -> PublicKey:
    return PublicKey(base64.b64encode(random.Random(n).randbytes(31) + b"\x42").decode())


def peer(n: int, *prefixes: str, endpoint: Endpoint | None = None, keepalive: int = 0) -> PeerSpec:
    return PeerSpec(key(n), frozenset(map(Prefix, prefixes)), endpoint, keepalive)


def device(*peers: PeerSpec, port: int = 51820, mark: int = 0x200000) -> DeviceSpec:
    return DeviceSpec("lsl00", OWN.public_key, port, mark, {one.public_key: one for one in peers})


def install(driver: KernelDriver, spec: DeviceSpec) -> DeviceState:
    driver.apply(diff_device(spec, driver.dump(["lsl00"])["lsl00"]), secrets)
    return driver.dump(["lsl00"])["lsl00"]


def shown(name: str) -> tuple[tuple[str, int, int], dict[str, tuple[frozenset[str], str | None, int]]]:
    """What `wg show NAME dump` says: (public key, port, mark) and peers."""
    text = subprocess.run(["wg", "show", name, "dump"], check=True, capture_output=True, text=True).stdout
    head, *lines = [line.split("\t") for line in text.splitlines()]
    peers = {
        fields[0]: (
            frozenset() if fields[3] == "(none)" else frozenset(fields[3].split(",")),
            None if fields[2] == "(none)" else fields[2],
            0 if fields[7] == "off" else int(fields[7]),
        )
        for fields in lines
    }
    return (head[1], int(head[2]), 0 if head[3] == "off" else int(head[3], 16)), peers


def assert_agrees(state: DeviceState) -> None:
    head, peers = shown(state.name)
    assert head == (state.public_key or "(none)", state.listen_port, state.fwmark)
    assert {
        one.public_key: (one.allowed_ips, str(one.endpoint) if one.endpoint else None, one.keepalive)
        for one in state.peers.values()
    } == peers


def random_spec(seed: int, count: int) -> DeviceSpec:
    """`count` peers with any mix of families, endpoints and keepalives; prefixes are distinct."""
    rng = random.Random(seed)

    def prefixes(n: int) -> list[str]:
        some = [
            str(IPv4Network((0x0A000000 + (n << 8), 24))),
            str(IPv4Network((0xC0000200 + (n << 8) % (1 << 24) + n % 256, 32))),
            str(IPv6Network(((0xFD00 << 112) + (n << 64), 64))),
            str(IPv6Network(((0x2001_0DB8 << 96) + n, 128))),
        ]
        return rng.sample(some, rng.randint(0, 4))

    def endpoint() -> Endpoint | None:
        host = rng.choice([None, "192.0.2.1", "2001:db8::1", "fe80::1%1", "198.51.100.7"])
        return Endpoint(host, rng.randint(1, 65535)) if host else None

    peers = [peer(n, *prefixes(n), endpoint=endpoint(), keepalive=rng.choice([0, 0, 25, 65535])) for n in range(count)]
    return device(*peers, port=rng.randint(1024, 65535), mark=rng.choice([0, 1, 0x200000, 0xFFFFFFFF]))


@pytest.mark.parametrize(("seed", "count"), [(1, 0), (2, 1), (3, 40), (4, 2000)])
def test_our_dump_agrees_with_wg_and_with_what_was_asked_for(driver: KernelDriver, seed: int, count: int) -> None:
    spec = random_spec(seed, count)
    state = install(driver, spec)
    # `wg` prints a scope as the interface's name where it has one
    head, peers = shown("lsl00")
    assert head == (state.public_key, state.listen_port, state.fwmark)
    assert {
        one.public_key: (
            one.allowed_ips,
            str(one.endpoint).replace("%1]", "%lo]") if one.endpoint else None,
            one.keepalive,
        )
        for one in state.peers.values()
    } == peers
    assert diff_device(spec, state) == ()
    assert len(state.peers) == count


def test_an_idle_reconcile_writes_nothing(driver: KernelDriver) -> None:
    spec = random_spec(5, 50)
    install(driver, spec)
    before = driver.writes
    install(driver, spec)
    assert driver.writes == before


def test_one_random_state_becomes_another_and_no_prefix_is_lost(driver: KernelDriver) -> None:
    for seed in range(6, 12):
        rng = random.Random(seed)
        owners = {f"10.9.{n}.0/24": rng.randrange(8) for n in range(30)}
        spec = device(*(peer(n, *(p for p, owner in owners.items() if owner == n)) for n in range(rng.randint(4, 8))))
        state = install(driver, spec)
        assert diff_device(spec, state) == ()
        assert_agrees(state)


def test_a_prefix_moves_to_its_new_peer_and_the_old_one_no_longer_has_it(driver: KernelDriver) -> None:
    install(driver, device(peer(1, "10.1.0.0/24", "10.2.0.0/24"), peer(2)))
    state = install(driver, device(peer(1, "10.1.0.0/24"), peer(2, "10.2.0.0/24")))
    assert {one.public_key: one.allowed_ips for one in state.peers.values()} == {
        key(1): {"10.1.0.0/24"},
        key(2): {"10.2.0.0/24"},
    }
    assert_agrees(state)


def test_two_peers_swap_their_prefixes(driver: KernelDriver) -> None:
    install(driver, device(peer(1, "10.1.0.0/24"), peer(2, "10.2.0.0/24")))
    spec = device(peer(1, "10.2.0.0/24"), peer(2, "10.1.0.0/24"))
    assert diff_device(spec, install(driver, spec)) == ()


def test_a_peer_with_more_prefixes_than_a_message_holds_gets_all_of_them(driver: KernelDriver) -> None:
    prefixes = [str(IPv4Network((0x0A000000 + (n << 8), 24))) for n in range(3000)]
    prefixes += [str(IPv6Network(((0xFD00 << 112) + (n << 64), 64))) for n in range(2000)]
    spec = device(peer(1, "192.0.2.0/24"), peer(2, *prefixes), peer(3, "198.51.100.0/24"))
    state = install(driver, spec)
    assert len(state.peers[key(2)].allowed_ips) == 5000
    assert diff_device(spec, state) == ()
    assert_agrees(state)


def test_ipv4_mapped_and_other_odd_prefixes_are_canonical(driver: KernelDriver) -> None:
    odd = [str(IPv6Network(text)) for text in ("::ffff:1.2.3.4/128", "::1.2.3.4/128", "::/0", "1:0:0:2::/64")]
    spec = device(peer(1, "0.0.0.0/0", *odd))
    assert diff_device(spec, install(driver, spec)) == ()


def test_an_endpoint_of_a_peer_is_changed_and_nothing_else_of_it(driver: KernelDriver) -> None:
    old = peer(1, "10.1.0.0/24", endpoint=Endpoint("192.0.2.1", 1), keepalive=25)
    install(driver, device(old))
    state = install(driver, device(old._replace(endpoint=Endpoint("2001:db8::9", 2))))
    one = state.peers[key(1)]
    assert (one.endpoint, one.keepalive, one.allowed_ips) == (Endpoint("2001:db8::9", 2), 25, {"10.1.0.0/24"})


def test_removed_peers_are_gone_and_the_others_stay(driver: KernelDriver) -> None:
    install(driver, random_spec(20, 300))
    spec = random_spec(20, 100)
    assert diff_device(spec, install(driver, spec)) == ()


def test_a_provoked_peer_is_new_to_the_kernel_and_has_all_it_had(driver: KernelDriver) -> None:
    one = peer(1, "10.1.0.0/24", endpoint=Endpoint("127.0.0.1", 9), keepalive=25)
    install(driver, device(one))
    driver.up("lsl00")
    subprocess.run(["ip", "route", "add", "10.1.0.0/24", "dev", "lsl00"], check=True)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.sendto(b"x", ("10.1.0.1", 9))
    sender.close()
    assert driver.dump(["lsl00"])["lsl00"].peers[key(1)].tx_bytes > 0
    driver.apply([SetPeer("lsl00", key(1), add=False, keepalive=0)], secrets)
    driver.apply([ReprovokePeer("lsl00", one._replace(keepalive=0))], secrets)
    state = driver.dump(["lsl00"])["lsl00"].peers[key(1)]
    assert (state.tx_bytes, state.allowed_ips, state.endpoint) == (0, one.allowed_ips, one.endpoint)


def test_a_handshake_shows_its_time_and_bytes(driver: KernelDriver) -> None:
    other = PrivateKey.generate()
    driver.create("lsl11", 1420)
    here = PeerSpec(other.public_key, frozenset({Prefix("10.1.0.0/24")}), Endpoint("127.0.0.1", 51821), 1)
    there = PeerSpec(OWN.public_key, frozenset({Prefix("10.2.0.0/24")}))
    for name in ("lsl00", "lsl11"):
        driver.up(name)
    keys = {OWN.public_key: OWN, other.public_key: other}
    driver.apply(
        [ConfigureDevice("lsl11", other.public_key, 51821), SetPeer("lsl11", *_parts(there))], keys.__getitem__
    )
    driver.apply([ConfigureDevice("lsl00", OWN.public_key, 51820), SetPeer("lsl00", *_parts(here))], keys.__getitem__)
    for _ in range(100):
        state = driver.dump(["lsl00", "lsl11"])
        if all(one.last_handshake for both in state.values() for one in both.peers.values()):
            break
        subprocess.run(["sleep", "0.05"], check=True)
    here_state, there_state = state["lsl00"].peers[other.public_key], state["lsl11"].peers[OWN.public_key]
    text = subprocess.run(["wg", "show", "lsl00", "latest-handshakes"], check=True, capture_output=True, text=True)
    assert int(text.stdout.split()[1]) == int(here_state.last_handshake) > 0
    assert here_state.rx_bytes >= 92
    assert here_state.tx_bytes >= 148
    assert there_state.endpoint == Endpoint("127.0.0.1", 51820)


def _parts(spec: PeerSpec) -> tuple[PublicKey, bool, frozenset[Prefix], Endpoint | None, int]:
    return (spec.public_key, True, spec.allowed_ips, spec.endpoint, spec.keepalive)


def test_an_absent_device_is_missing_from_the_dump(driver: KernelDriver) -> None:
    assert set(driver.dump(["lsl00", "lsl11"])) == {"lsl00"}


def test_a_device_of_another_kind_is_an_error_that_says_so(driver: KernelDriver) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        create_link(route, "lsl11", "bridge", 1420)
    with pytest.raises(HostError, match="lsl11 exists but is no kernel WireGuard device"):
        driver.dump(["lsl11"])


def test_a_device_is_created_with_its_mtu_and_deleted_twice_without_complaint(driver: KernelDriver) -> None:
    driver.create("lsl11", 1380)
    text = subprocess.run(["ip", "link", "show", "lsl11"], check=True, capture_output=True, text=True).stdout
    assert "mtu 1380" in text
    driver.delete("lsl11")
    driver.delete("lsl11")
    with NetlinkSocket(NETLINK_ROUTE) as route:
        assert not link_exists(route, "lsl11")


def test_creating_a_device_twice_says_that_it_exists(driver: KernelDriver) -> None:
    with pytest.raises(HostError, match=r"cannot create wireguard device lsl00.*a device of that name exists"):
        driver.create("lsl00", 1420)


def test_a_port_in_use_is_named_when_the_device_is_up(driver: KernelDriver) -> None:
    driver.up("lsl00")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 51820))
        with pytest.raises(HostError, match="lsl00: UDP port 51820 is in use"):
            driver.apply([ConfigureDevice("lsl00", OWN.public_key, 51820)], secrets)
    driver.apply([ConfigureDevice("lsl00", OWN.public_key, 51820)], secrets)


def test_a_port_in_use_is_named_when_the_device_comes_up(driver: KernelDriver) -> None:
    driver.apply([ConfigureDevice("lsl00", OWN.public_key, 51820)], secrets)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 51820))
        with pytest.raises(HostError, match="lsl00: UDP port 51820 is in use"):
            driver.up("lsl00")
    driver.up("lsl00")


def test_one_bad_peer_is_named_the_others_are_set_and_nothing_is_removed(driver: KernelDriver) -> None:
    install(driver, device(peer(0, "10.0.0.0/24")))
    good = [SetPeer("lsl00", key(n), add=True, allowed_ips=frozenset({Prefix(f"10.7.{n}.0/24")})) for n in (1, 2, 3)]
    bad = SetPeer("lsl00", key(9), add=True, allowed_ips=frozenset({Prefix("10.8.0.0/99")}))
    steps = [good[0], bad, good[1], good[2], RemovePeer("lsl00", key(0))]
    with pytest.raises(HostError, match=f"lsl00: peer {fingerprint(key(9))} refused: Invalid argument") as caught:
        driver.apply(steps, secrets)
    assert caught.value.errno == 22
    peers = driver.dump(["lsl00"])["lsl00"].peers
    assert {key(n) for n in (0, 1, 2, 3)} <= peers.keys()


def test_steps_for_a_device_that_is_gone_fail_once_and_name_it(driver: KernelDriver) -> None:
    steps = [SetPeer("lsl11", key(n), add=True, allowed_ips=frozenset()) for n in range(3000)]
    before = driver.writes
    with pytest.raises(HostError, match=r"lsl11: peer .* refused: No such device. The device is gone"):
        driver.apply(steps, secrets)
    assert driver.writes - before < 20


def test_no_error_holds_the_private_key(driver: KernelDriver) -> None:
    with pytest.raises(HostError) as caught:
        driver.apply([ConfigureDevice("lsl11", OWN.public_key, 1)], secrets)
    for text in (str(caught.value), repr(caught.value), repr(caught.value.__cause__)):
        assert OWN.reveal().hex() not in text
        assert base64.b64encode(OWN.reveal()).decode() not in text


def test_errors_of_a_batch_carry_the_place_of_the_message_and_the_kernels_words(namespace: None) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        fine = message(16, bytes(16) + b"\x08\x00\x03\x00lo\0\0")
        wrong = message(16, bytes(16) + b"\x0a\x00\x03\x00nope0\0\0\0")
        with pytest.raises(NetlinkError) as caught:
            route.request_batch([fine, fine, wrong, fine, wrong])
        assert (caught.value.index, caught.value.errno) == (2, 19)
        assert route.writes == 5
        route.request_batch([fine] * 2500)
        many = [fine] * 2400 + [wrong] + [fine] * 99
        with pytest.raises(NetlinkError) as caught:
            route.request_batch(many)
        assert caught.value.index == 2400

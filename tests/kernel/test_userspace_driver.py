"""The userspace driver against wireguard-go, on whatever kernel this is; judged by `wg show`."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from linkseal.keys.errors import HostError
from linkseal.keys.secrets import PrivateKey, fingerprint
from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard.choose import choose_driver
from linkseal.wireguard.diff import diff_device
from linkseal.wireguard.launch import BINARY_VARIABLE
from linkseal.wireguard.links import create_link
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
from linkseal.wireguard.netlink import NETLINK_ROUTE, NetlinkSocket
from linkseal.wireguard.uapisocket import SOCKET_FOLDER
from linkseal.wireguard.userspace import UserspaceDriver

pytestmark = pytest.mark.userspace

CLONE_NEWNET = 0x40000000
OWN = PrivateKey.generate()
_libc = ctypes.CDLL(None, use_errno=True)


def secrets(key: PublicKey) -> PrivateKey:
    assert key == OWN.public_key
    return OWN


@contextlib.contextmanager
def fresh_namespace() -> Iterator[None]:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert _libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert _libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.fixture
def name() -> Iterator[str]:
    """A device name that no other test on this host uses: the folder of sockets is shared."""
    made = f"lslu{os.urandom(4).hex()}"
    yield made
    (SOCKET_FOLDER / f"{made}.sock").unlink(missing_ok=True)


@pytest.fixture
def driver(name: str) -> Iterator[UserspaceDriver]:
    with fresh_namespace():
        made = UserspaceDriver()
        made.create(name, 1420)
        yield made
        made.delete(name)
        made.close()


def key(n: int) -> PublicKey:
    return PublicKey(base64.b64encode(random.Random(n).randbytes(31) + b"\x42").decode())


def peer(n: int, *prefixes: str, endpoint: Endpoint | None = None, keepalive: int = 0) -> PeerSpec:
    return PeerSpec(key(n), frozenset(map(Prefix, prefixes)), endpoint, keepalive)


def device(name: str, *peers: PeerSpec, port: int = 51820) -> DeviceSpec:
    return DeviceSpec(name, OWN.public_key, port, 0x200000, {one.public_key: one for one in peers})


def install(driver: UserspaceDriver, spec: DeviceSpec) -> DeviceState:
    driver.apply(diff_device(spec, driver.dump([spec.name])[spec.name]), secrets)
    return driver.dump([spec.name])[spec.name]


def daemon(name: str) -> int:
    found = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if (folder / "cmdline").read_bytes().split(b"\0")[1:2] == [name.encode()]
    ]
    assert len(found) == 1
    return found[0]


def test_our_dump_agrees_with_wg_and_with_what_was_asked_for(driver: UserspaceDriver, name: str) -> None:
    hosts = [None, "192.0.2.1", "2001:db8::1"]
    peers = [
        peer(
            n,
            f"10.{n >> 8}.{n & 255}.0/24",
            f"fd00:{n + 1:x}::/64",
            endpoint=Endpoint(hosts[n % 3], n + 1) if hosts[n % 3] else None,
            keepalive=n % 2 * 25,
        )
        for n in range(2000)
    ]
    spec = device(name, *peers)
    state = install(driver, spec)
    assert diff_device(spec, state) == ()
    text = subprocess.run(["wg", "show", name, "dump"], check=True, capture_output=True, text=True).stdout
    head, *lines = [line.split("\t") for line in text.splitlines()]
    assert (head[1], head[2], head[3]) == (OWN.public_key, "51820", "0x200000")
    assert {fields[0]: (set(fields[3].split(",")), fields[2], fields[7]) for fields in lines} == {
        one.public_key: (one.allowed_ips, str(one.endpoint or "(none)"), str(one.keepalive or "off"))
        for one in state.peers.values()
    }


def test_an_idle_reconcile_writes_nothing(driver: UserspaceDriver, name: str) -> None:
    spec = device(name, peer(1, "10.1.0.0/24", endpoint=Endpoint("fe80::1%1", 5), keepalive=25))
    install(driver, spec)
    before = driver.writes
    install(driver, spec)
    assert driver.writes == before


def test_a_prefix_moves_and_a_peer_goes(driver: UserspaceDriver, name: str) -> None:
    install(driver, device(name, peer(1, "10.1.0.0/24", "10.2.0.0/24"), peer(2), peer(3, "10.3.0.0/24")))
    state = install(driver, device(name, peer(1, "10.1.0.0/24"), peer(2, "10.2.0.0/24")))
    assert {one.public_key: one.allowed_ips for one in state.peers.values()} == {
        key(1): {"10.1.0.0/24"},
        key(2): {"10.2.0.0/24"},
    }


def test_two_peers_swap_their_prefixes(driver: UserspaceDriver, name: str) -> None:
    install(driver, device(name, peer(1, "10.1.0.0/24"), peer(2, "10.2.0.0/24")))
    spec = device(name, peer(1, "10.2.0.0/24"), peer(2, "10.1.0.0/24"))
    assert diff_device(spec, install(driver, spec)) == ()


def test_a_change_of_an_absent_peer_adds_none(driver: UserspaceDriver, name: str) -> None:
    driver.apply([SetPeer(name, key(1), add=False, keepalive=25), RemovePeer(name, key(2))], secrets)
    assert driver.dump([name])[name].peers == {}


def test_a_provoked_peer_has_all_it_had(driver: UserspaceDriver, name: str) -> None:
    one = peer(1, "10.1.0.0/24", endpoint=Endpoint("127.0.0.1", 9), keepalive=25)
    install(driver, device(name, one))
    driver.apply([ReprovokePeer(name, one)], secrets)
    assert diff_device(device(name, one), driver.dump([name])[name]) == ()


def test_two_devices_shake_hands(driver: UserspaceDriver, name: str) -> None:
    other, other_key = f"{name}b", PrivateKey.generate()
    driver.create(other, 1420)
    keys = {OWN.public_key: OWN, other_key.public_key: other_key}
    try:
        here = SetPeer(name, other_key.public_key, add=True, endpoint=Endpoint("127.0.0.1", 51911), keepalive=1)
        driver.apply([ConfigureDevice(other, other_key.public_key, 51911)], keys.__getitem__)
        driver.apply([SetPeer(other, OWN.public_key, add=True)], keys.__getitem__)
        driver.up(other)
        driver.apply([ConfigureDevice(name, OWN.public_key, 51910), here], keys.__getitem__)
        driver.up(name)
        deadline = time.monotonic() + 10
        while not (state := driver.dump([name])[name].peers[other_key.public_key]).last_handshake:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert abs(state.last_handshake - time.time()) < 10
        assert state.rx_bytes >= 92
        assert driver.dump([other])[other].peers[OWN.public_key].endpoint == Endpoint("127.0.0.1", 51910)
    finally:
        driver.delete(other)


def test_the_daemon_outlives_the_driver_and_the_next_one_finds_it(driver: UserspaceDriver, name: str) -> None:
    spec = device(name, peer(1, "10.1.0.0/24"))
    install(driver, spec)
    driver.close()
    second = UserspaceDriver()
    assert diff_device(spec, second.dump([name])[name]) == ()
    pid = daemon(name)
    assert os.getsid(pid) != os.getsid(0)
    second.delete(name)
    assert second.dump([name]) == {}
    second.close()
    driver.__init__()  # type: ignore[misc]  # the fixture deletes once more


def test_a_killed_daemon_leaves_a_socket_which_is_cleared_away(driver: UserspaceDriver, name: str) -> None:
    os.kill(daemon(name), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while subprocess.run(["ip", "link", "show", name], check=False, capture_output=True).returncode == 0:
        assert time.monotonic() < deadline
    assert (SOCKET_FOLDER / f"{name}.sock").exists()
    assert driver.dump([name]) == {}
    driver.create(name, 1380)
    assert set(driver.dump([name])) == {name}
    text = subprocess.run(["ip", "link", "show", name], check=True, capture_output=True, text=True).stdout
    assert "mtu 1380" in text


def test_a_daemon_of_another_namespace_is_not_taken_for_ours(driver: UserspaceDriver, name: str) -> None:
    with fresh_namespace():
        stranger = UserspaceDriver()
        with pytest.raises(HostError, match="belongs to a daemon of another network namespace"):
            stranger.dump([name])
        with pytest.raises(HostError, match="belongs to a daemon of another network namespace"):
            stranger.create(name, 1420)
        with pytest.raises(HostError, match="belongs to a daemon of another network namespace"):
            stranger.delete(name)
        stranger.close()
    assert set(driver.dump([name])) == {name}


def test_a_device_without_daemon_is_an_error_that_says_so(driver: UserspaceDriver, name: str) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        create_link(route, "lsl11", "bridge", 1420)
    with pytest.raises(HostError, match="lsl11 exists but no wireguard-go serves it"):
        driver.dump(["lsl11"])


def test_an_absent_device_is_missing_from_the_dump_and_deleted_without_complaint(
    driver: UserspaceDriver, name: str
) -> None:
    assert driver.dump(["lslnone"]) == {}
    driver.delete("lslnone")


def test_creating_a_device_twice_says_that_it_exists(driver: UserspaceDriver, name: str) -> None:
    with pytest.raises(HostError, match=f"cannot create device {name}: one of that name exists"):
        driver.create(name, 1420)


def test_a_port_in_use_is_named_when_the_device_is_up(driver: UserspaceDriver, name: str) -> None:
    driver.up(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 51820))
        with pytest.raises(HostError, match=f"{name}: UDP port 51820 is in use"):
            driver.apply([ConfigureDevice(name, OWN.public_key, 51820)], secrets)
    driver.apply([ConfigureDevice(name, OWN.public_key, 51820)], secrets)
    assert driver.dump([name])[name].listen_port == 51820


def test_a_port_in_use_is_named_at_the_latest_when_the_device_comes_up(driver: UserspaceDriver, name: str) -> None:
    """Whether the daemon binds before the device is up depends on its version and the kernel's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 51820))
        with pytest.raises(HostError, match=f"{name}: UDP port 51820 is in use"):  # noqa: PT012 - either may notice
            driver.apply([ConfigureDevice(name, OWN.public_key, 51820)], secrets)
            driver.up(name)
    driver.apply([ConfigureDevice(name, OWN.public_key, 51820)], secrets)
    driver.up(name)
    driver.up(name)
    assert driver.dump([name])[name].listen_port == 51820


def test_one_bad_peer_is_named_the_others_are_set_and_nothing_is_removed(driver: UserspaceDriver, name: str) -> None:
    install(driver, device(name, peer(0, "10.0.0.0/24")))
    good = [SetPeer(name, key(n), add=True, allowed_ips=frozenset({Prefix(f"10.7.{n}.0/24")})) for n in (1, 2)]
    bad = SetPeer(name, key(9), add=True, allowed_ips=frozenset({Prefix("10.8.0.0/99")}))
    with pytest.raises(HostError, match=f"{name}: peer {fingerprint(key(9))} refused: Invalid argument"):
        driver.apply([good[0], bad, good[1], RemovePeer(name, key(0))], secrets)
    assert {key(n) for n in (0, 1, 2)} <= driver.dump([name])[name].peers.keys()


def test_steps_for_a_device_that_is_gone_name_it_and_no_key(driver: UserspaceDriver) -> None:
    with pytest.raises(HostError, match="lsl11: configuration refused: No such device") as caught:
        driver.apply([ConfigureDevice("lsl11", OWN.public_key, 1)], secrets)
    assert OWN.reveal().hex() not in f"{caught.value!r} {caught.value.__context__!r}"


def test_a_missing_binary_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, "/nonexistent/wireguard-go")
    with pytest.raises(HostError, match="/nonexistent/wireguard-go cannot be run; install it"):
        choose_driver("userspace")


def test_a_binary_that_makes_no_device_is_an_error_that_says_how_to_find_out(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, "/bin/false")
    with fresh_namespace():
        driver = choose_driver("userspace")
        with pytest.raises(HostError, match=f"made no device {name} .exit status 1.: see what it says"):
            driver.create(name, 1420)
        driver.close()


def test_auto_takes_what_this_host_has() -> None:
    with fresh_namespace():
        has_kernel = subprocess.run("ip link add probe type wireguard", shell=True, check=False).returncode == 0
        driver = choose_driver("auto")
        assert driver.kind == ("kernel" if has_kernel else "userspace")
        links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
        assert "lslt" not in links
        driver.close()


def test_no_wireguard_at_all_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, "/nonexistent/wireguard-go")
    with fresh_namespace():
        if subprocess.run("ip link add probe type wireguard", shell=True, check=False).returncode == 0:
            pytest.skip("this kernel has WireGuard")
        with pytest.raises(HostError, match="no WireGuard on this host") as caught:
            choose_driver("auto")
        assert "modprobe wireguard" in str(caught.value)
        assert "no wireguard-go" in str(caught.value)

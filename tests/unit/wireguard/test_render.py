"""Every kind of step as a `wg` line and as wireguard-go's text, against goldens."""

from __future__ import annotations

import base64
from pathlib import Path

from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard import uapi
from linkseal.wireguard.model import (
    ConfigureDevice,
    DeviceState,
    Endpoint,
    PeerSpec,
    PeerState,
    RemovePeer,
    ReprovokePeer,
    SetPeer,
    WireguardStep,
)
from linkseal.wireguard.render import render_steps

GOLDEN = Path(__file__).parents[2] / "golden" / "wireguard"
A = PublicKey(base64.b64encode(bytes(range(32))).decode())
B = PublicKey(base64.b64encode(bytes(range(32, 64))).decode())
V4, V6 = Prefix("10.244.1.0/24"), Prefix("fd00:0:0:1::/64")
HERE = Endpoint("192.0.2.1", 51820)

STEPS: list[WireguardStep] = [
    ConfigureDevice("lsl00", A, 51820, 0x200000),
    ConfigureDevice("lsl00", listen_port=51821),
    SetPeer("lsl00", B, add=True, allowed_ips=frozenset({V6, V4}), endpoint=HERE, keepalive=25),
    SetPeer("lsl00", B, add=False, endpoint=Endpoint("fe80::1%3", 51820)),
    SetPeer("lsl00", B, add=False, allowed_ips=frozenset({V4}), keep=True),
    SetPeer("lsl00", B, add=False, allowed_ips=frozenset()),
    SetPeer("lsl00", B, add=False, keepalive=0),
    RemovePeer("lsl00", B),
    ReprovokePeer("lsl00", PeerSpec(B, frozenset({V4}), HERE, 25)),
]


class Secret:
    def reveal(self) -> bytes:
        return b"\xee" * 32


def test_steps_read_as_wg_lines() -> None:
    assert "\n".join(render_steps(STEPS)) + "\n" == (GOLDEN / "steps.txt").read_text()


def test_steps_read_as_wireguard_gos_text() -> None:
    requests = uapi.encode(STEPS, lambda _key: Secret())
    text = "".join(f"# {one.device} from step {one.first}\n{one.payload.decode()}" for one in requests)
    assert text == (GOLDEN / "uapi.txt").read_text()
    assert "ee" * 8 not in repr(requests)


def test_steps_of_two_devices_go_in_two_requests() -> None:
    requests = uapi.encode(
        [RemovePeer("lsl00", A), RemovePeer("lsl00", B), RemovePeer("lsl01", B)], lambda _key: Secret()
    )
    assert [(one.device, one.first) for one in requests] == [("lsl00", 0), ("lsl01", 2)]


def test_an_answer_of_wireguard_go_is_read_and_its_private_key_forgotten() -> None:
    lines = [
        "private_key=90982efeece24f3b90d31544bc2e326f22e1428a5256788de88a97a8d7813349",
        "listen_port=51999",
        "fwmark=5",
        "public_key=" + bytes(range(32, 64)).hex(),
        "preshared_key=" + "00" * 32,
        "protocol_version=1",
        "endpoint=[fe80::1%3]:5",
        "last_handshake_time_sec=1800000000",
        "last_handshake_time_nsec=250000000",
        "tx_bytes=7",
        "rx_bytes=9",
        "persistent_keepalive_interval=25",
        "allowed_ip=10.244.1.0/24",
        "allowed_ip=fd00:0:0:1::/64",
    ]
    peer = PeerState(B, frozenset({V4, V6}), Endpoint("fe80::1%3", 5), 25, 1_800_000_000.25, 9, 7)
    own = PublicKey("FjjAe7/8XYncL/+m4z+Egzb2aknvogKTyUiEMegN43Y=")
    state = uapi.decode_device("lsl00", lines)
    assert state == DeviceState("lsl00", own, 51999, 5, {B: peer})
    assert "90982e" not in repr(state)


def test_a_device_without_key_has_no_public_key() -> None:
    assert uapi.decode_device("lsl0", ["private_key=" + "00" * 32]).public_key is None
    assert uapi.decode_device("lsl0", []).public_key is None

"""wg-quick text: what goes out comes back in, secrets never do, and what is wrong is named by line and field."""

from __future__ import annotations

import base64
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys.errors import ConfigError
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard.model import DeviceSpec, Endpoint, PeerSpec
from linkseal.wireguard.quick import QuickConfig, export, parse

KEYS = [PrivateKey(bytes([n]) * 32) for n in range(1, 5)]  # fixed: parameter ids must be the same in every process
OWN, PEER = KEYS[:2]
OWN_TEXT = base64.b64encode(OWN.reveal()).decode()

GOOD = f"""
[Interface]
PrivateKey = {OWN_TEXT} # mine
ListenPort = 51820
FwMark = 0x200000
Address = 10.0.0.1/24, fd00::1/64
MTU = 1420

# the other node
[Peer]
PublicKey = {PEER.public_key}
AllowedIPs = 10.244.1.0/24
AllowedIPs = FD00:0:0:1::/64, 10.9.1.7/24
Endpoint = [2001:db8::1]:51821
PersistentKeepalive = 25

#! [Peer]
#! PublicKey = {KEYS[2].public_key}
"""


def test_a_file_is_read() -> None:
    peer = PeerSpec(
        PEER.public_key,
        frozenset(map(Prefix, ("10.244.1.0/24", "fd00:0:0:1::/64", "10.9.1.0/24"))),
        Endpoint("2001:db8::1", 51821),
        25,
    )
    assert parse(GOOD, "wg7") == QuickConfig(
        DeviceSpec("wg7", OWN.public_key, 51820, 0x200000, {PEER.public_key: peer}),
        ("10.0.0.1/24", "fd00::1/64"),
        1420,
    )


def test_the_smallest_file_is_read() -> None:
    assert parse("[Interface]\n") == QuickConfig(DeviceSpec("wg0"))


def test_wg_itself_reads_what_we_write() -> None:
    device = parse(GOOD).device
    text = export(device).replace("(hidden)", OWN_TEXT)
    done = subprocess.run(
        ["wg", "setconf", "lslnone", "/dev/stdin"], input=text, capture_output=True, text=True, check=False
    )
    assert "Line unrecognized" not in done.stderr
    assert "Configuration parsing error" not in done.stderr


@given(
    st.dictionaries(
        st.sampled_from([key.public_key for key in KEYS]),
        st.tuples(
            st.frozensets(st.sampled_from(["10.1.0.0/16", "10.2.0.0/24", "fd00::/64", "0.0.0.0/0"])),
            st.sampled_from([None, Endpoint("192.0.2.1", 1), Endpoint("fe80::1%3", 65535)]),
            st.integers(0, 65535),
        ),
    ),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from(["10.0.0.1/24", "fd00::1/64"]), unique=True),
    st.none() | st.integers(1280, 65535),
)
def test_what_goes_out_comes_back_without_the_key(
    peers: dict[PublicKey, tuple[frozenset[Prefix], Endpoint | None, int]],
    port: int,
    mark: int,
    addresses: list[str],
    mtu: int | None,
) -> None:
    specs = {key: PeerSpec(key, *rest) for key, rest in peers.items()}
    text = export(DeviceSpec("wg0", OWN.public_key, port, mark, specs), addresses, mtu)
    assert "PrivateKey = (hidden)\n" in text
    assert parse(text) == QuickConfig(DeviceSpec("wg0", None, port, mark, specs), tuple(addresses), mtu)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[Interface]", "[Interfaces]", "line 2: only"),
        ("[Interface]", "[Interface]\n[Interface]", "line 3: a second"),
        ("\n[Interface]", "MTU = 1420\n[Interface]", "line 1: comes before any"),
        ("MTU = 1420", "MTU", "line 7: is no"),
        ("MTU = 1420", "PostUp = iptables -F", "line 7: PostUp is not supported in .Interface.: remove it"),
        ("MTU = 1420", "MTU = 90", "line 7: MTU must be a number from 1280 to 65535"),
        ("MTU = 1420", "MTU = ²", "wgconfig cannot read this text"),
        ("MTU = 1420", "MTU = 1420\nMTU = 1430", "line 8: MTU is given more than once"),
        ("ListenPort = 51820", "ListenPort = 65536", "line 4: ListenPort must be a number from 0 to 65535"),
        ("10.0.0.1/24", "10.0.0.1/33", "line 6: Address has a value that is no address"),
        ("10.244.1.0/24", "10.244.1/24", "line 13: AllowedIPs has a value that is no address"),
        ("Endpoint = [2001:db8::1]:51821", "Endpoint = node7:51820", "line 14: Endpoint must be .* host name"),
        ("[2001:db8::1]:51821", "2001:db8::1:51821", "line 14: Endpoint must be"),
        ("[2001:db8::1]:51821", "[2001:db8::1]:0", "line 14: Endpoint .* port from 1"),
        (f"PublicKey = {PEER.public_key}", "", r"line 10: this \[Peer\] has no PublicKey"),
        (PEER.public_key, "abc", "line 11: PublicKey is refused: a public key is 44 characters"),
        (PEER.public_key, "A" * 43 + "=", "line 11: PublicKey is refused: .*low-order"),
        ("PersistentKeepalive = 25", "PresharedKey = x", "line 15: PresharedKey is not supported"),
        ("# the other node", f"[Peer]\nPublicKey = {PEER.public_key}\n", "line 13: PublicKey: the peer of line 10 has"),
        (OWN_TEXT, OWN_TEXT[:-4], "line 3: PrivateKey must be 44 characters of base64"),
        (OWN_TEXT, "ä", "line 3: PrivateKey must be 44 characters of base64"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_line_and_field(old: str, new: str, problem: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=problem):
        parse(GOOD.replace(old, new, 1))


def test_a_file_without_interface_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there is no \[Interface\] section"):
        parse(f"[Peer]\nPublicKey = {PEER.public_key}\n")


@pytest.mark.parametrize(
    "text",
    [
        f"[Interface]\n{OWN_TEXT}\n",
        f"[Interface]\nPrivateKey = {OWN_TEXT}{OWN_TEXT}\n",
        f"[Interface]\nPrivateKey {OWN_TEXT}\n",
        f"[Interface]\nAddress = {OWN_TEXT}\n",
        f"[Interface]\nMTU = {OWN_TEXT}\n",
        f"[{OWN_TEXT}]\n",
        f"[Interface]\n[Peer]\nPublicKey = {OWN_TEXT}0\n",
        f"[Interface]\n[Peer]\nPublicKey = {PEER.public_key}\nEndpoint = {OWN_TEXT}\n",
    ],
)
def test_no_error_repeats_a_secret_wherever_it_was_pasted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert OWN_TEXT[:12] not in shown


def test_two_thousand_peers_are_written_and_read_within_a_second() -> None:
    """Through one wgconfig object it would take minutes: each line added parses all the others."""
    keys = [PublicKey(base64.b64encode(n.to_bytes(32, "little")).decode()) for n in range(100, 2100)]
    peers = {key: PeerSpec(key, frozenset({Prefix(f"10.{n >> 8}.{n & 255}.0/24")})) for n, key in enumerate(keys)}
    start = time.perf_counter()
    text = export(DeviceSpec("wg0", OWN.public_key, 51820, 0, peers))
    assert parse(text).device.peers == peers
    assert time.perf_counter() - start < 1

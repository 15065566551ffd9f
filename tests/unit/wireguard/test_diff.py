"""What `diff_device` asks for, one case each, and the laws it keeps whatever the device holds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard.diff import diff_device
from linkseal.wireguard.model import (
    ConfigureDevice,
    DeviceSpec,
    DeviceState,
    Endpoint,
    PeerSpec,
    PeerState,
    RemovePeer,
    SetPeer,
)

from .fake_device import FakeDevice, Misuse

KEYS = [PublicKey(letter * 43 + "=") for letter in "ABCDEFGH"]
A, B, C = KEYS[:3]
PREFIXES = [Prefix(f"10.244.{n}.0/24") for n in range(6)] + [Prefix("fd00::/64"), Prefix("fd00:0:0:1::/64")]
X, Y, Z = PREFIXES[:3]
ENDPOINTS = [Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 51820), Endpoint("fe80::1%3", 51821)]
HERE, THERE = ENDPOINTS[:2]


def spec(*peers: PeerSpec, **device: object) -> DeviceSpec:
    return DeviceSpec("lsl00", peers={peer.public_key: peer for peer in peers}, **device)  # type: ignore[arg-type]


def state(*peers: PeerState, **device: object) -> DeviceState:
    return DeviceState("lsl00", peers={peer.public_key: peer for peer in peers}, **device)  # type: ignore[arg-type]


def want(key: PublicKey, *prefixes: Prefix, endpoint: Endpoint | None = None, keepalive: int = 0) -> PeerSpec:
    return PeerSpec(key, frozenset(prefixes), endpoint, keepalive)


def have(key: PublicKey, *prefixes: Prefix, endpoint: Endpoint | None = None, keepalive: int = 0) -> PeerState:
    return PeerState(key, frozenset(prefixes), endpoint, keepalive, last_handshake=5.0, rx_bytes=7, tx_bytes=9)


def test_a_new_peer_is_one_step_with_all_it_has() -> None:
    steps = diff_device(spec(want(A, X, endpoint=HERE, keepalive=25)), state())
    assert steps == (SetPeer("lsl00", A, add=True, allowed_ips=frozenset({X}), endpoint=HERE, keepalive=25),)


def test_a_changed_endpoint_is_one_step_with_only_the_endpoint() -> None:
    steps = diff_device(spec(want(A, X, endpoint=THERE, keepalive=25)), state(have(A, X, endpoint=HERE, keepalive=25)))
    assert steps == (SetPeer("lsl00", A, add=False, endpoint=THERE),)


def test_a_roamed_endpoint_is_left_when_the_spec_names_none() -> None:
    assert diff_device(spec(want(A, X)), state(have(A, X, endpoint=THERE))) == ()


def test_keepalive_is_set_back_to_zero() -> None:
    steps = diff_device(spec(want(A, X)), state(have(A, X, keepalive=25)))
    assert steps == (SetPeer("lsl00", A, add=False, keepalive=0),)


def test_a_gained_prefix_clears_nothing() -> None:
    steps = diff_device(spec(want(A, X, Y)), state(have(A, X)))
    assert steps == (SetPeer("lsl00", A, add=False, allowed_ips=frozenset({Y}), keep=True),)


def test_a_lost_prefix_that_nobody_takes_is_cleared() -> None:
    steps = diff_device(spec(want(A, X)), state(have(A, X, Y)))
    assert steps == (SetPeer("lsl00", A, add=False, allowed_ips=frozenset({X})),)


def test_a_moved_prefix_goes_to_its_new_peer_before_the_old_one_lets_go() -> None:
    steps = diff_device(spec(want(A, X), want(B, Y)), state(have(A, X, Y), have(B)))
    assert steps == (SetPeer("lsl00", B, add=False, allowed_ips=frozenset({Y}), keep=True),)


def test_a_moved_prefix_goes_before_the_loser_is_cleared_of_another() -> None:
    steps = diff_device(spec(want(A, X), want(B, Y)), state(have(A, X, Y, Z), have(B)))
    assert steps == (
        SetPeer("lsl00", B, add=False, allowed_ips=frozenset({Y}), keep=True),
        SetPeer("lsl00", A, add=False, allowed_ips=frozenset({X})),
    )


def test_a_peer_with_a_new_key_takes_the_prefix_before_the_old_key_is_removed() -> None:
    steps = diff_device(spec(want(B, X)), state(have(A, X)))
    assert steps == (SetPeer("lsl00", B, add=True, allowed_ips=frozenset({X})), RemovePeer("lsl00", A))


def test_two_peers_swap_prefixes_and_neither_prefix_is_ever_missing() -> None:
    device = FakeDevice(state(have(A, X), have(B, Y)))
    device.apply(diff_device(spec(want(A, Y), want(B, X)), device.state()))
    assert {key: peer.allowed_ips for key, peer in device.peers.items()} == {A: {Y}, B: {X}}
    assert device.missing == set()


def test_only_device_attributes_that_differ_are_set() -> None:
    steps = diff_device(
        spec(public_key=B, listen_port=51820, fwmark=0x200000), state(public_key=A, listen_port=51820, fwmark=1)
    )
    assert steps == (ConfigureDevice("lsl00", B, None, 0x200000),)


def test_port_zero_leaves_the_port_the_kernel_picked() -> None:
    assert diff_device(spec(), state(listen_port=40001)) == ()


def test_a_door_that_got_a_key_and_a_peer_loses_the_peer() -> None:
    assert diff_device(spec(), state(have(B, X), public_key=A)) == (RemovePeer("lsl00", B),)


def test_five_thousand_equal_peers_take_less_than_ten_milliseconds() -> None:
    keys = [PublicKey(f"{n:043}=") for n in range(5000)]
    wanted = spec(*(want(key, Prefix(f"10.{n >> 8}.{n & 255}.0/24"), endpoint=HERE) for n, key in enumerate(keys)))
    held = state(*(have(key, Prefix(f"10.{n >> 8}.{n & 255}.0/24"), endpoint=HERE) for n, key in enumerate(keys)))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert diff_device(wanted, held) == ()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.010


@pytest.mark.parametrize(
    "steps",
    [
        (SetPeer("lsl00", A, add=True, allowed_ips=frozenset()),),
        (SetPeer("lsl00", B, add=False, allowed_ips=frozenset()),),
        (RemovePeer("lsl00", B),),
        (SetPeer("lsl00", A, add=False, allowed_ips=frozenset({X}), keep=True),),
        (SetPeer("lsl00", A, add=False),),
    ],
    ids=["double add", "change of the absent", "removal of the absent", "add of a prefix it has", "empty change"],
)
def test_the_fake_refuses_misuse(steps: tuple[SetPeer | RemovePeer, ...]) -> None:
    with pytest.raises(Misuse):
        FakeDevice(state(have(A, X))).apply(steps)


@st.composite
def peers(draw: st.DrawFn) -> list[tuple[PublicKey, frozenset[Prefix], Endpoint | None, int]]:
    """Peers with distinct keys, each prefix with one of them at most."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=5))
    owner = {prefix: draw(st.sampled_from([*keys, None])) for prefix in PREFIXES} if keys else {}
    return [
        (
            key,
            frozenset(prefix for prefix, at in owner.items() if at == key),
            draw(st.sampled_from([None, *ENDPOINTS])),
            draw(st.sampled_from([0, 25])),
        )
        for key in keys
    ]


numbers = st.sampled_from([0, 51820, 51823])
specs = st.builds(
    lambda own, port, mark, held: spec(
        *(PeerSpec(*peer) for peer in held), public_key=own, listen_port=port, fwmark=mark
    ),
    st.sampled_from([None, A, B]),
    numbers,
    numbers,
    peers(),
)
states = st.builds(
    lambda own, port, mark, held: state(
        *(PeerState(*peer, last_handshake=1.0) for peer in held), public_key=own, listen_port=port, fwmark=mark
    ),
    st.sampled_from([None, A, B]),
    numbers,
    numbers,
    peers(),
)


@given(specs, states)
def test_applying_the_diff_reaches_the_spec_and_then_nothing_is_left(wanted: DeviceSpec, held: DeviceState) -> None:
    device = FakeDevice(held)
    device.apply(diff_device(wanted, held))
    reached = device.state()
    assert diff_device(wanted, reached) == ()
    assert reached.peers.keys() == wanted.peers.keys()
    for key, peer in wanted.peers.items():
        assert reached.peers[key].allowed_ips == peer.allowed_ips
        assert reached.peers[key].keepalive == peer.keepalive
        assert peer.endpoint in (None, reached.peers[key].endpoint)


@given(specs, states)
def test_adds_and_changes_come_before_removes_and_the_device_before_its_peers(
    wanted: DeviceSpec, held: DeviceState
) -> None:
    order = [(ConfigureDevice, SetPeer, RemovePeer).index(type(step)) for step in diff_device(wanted, held)]  # type: ignore[arg-type]
    assert order == sorted(order)


@given(specs, states)
def test_a_prefix_in_use_before_and_after_misses_its_peer_only_beside_one_that_is_given_up(
    wanted: DeviceSpec, held: DeviceState
) -> None:
    """Only a peer that loses a prefix nobody takes is cleared, so only prefixes it keeps can be missing."""
    device = FakeDevice(held)
    device.apply(diff_device(wanted, held))
    everything = frozenset().union(*(peer.allowed_ips for peer in wanted.peers.values()))
    given_up = [
        wanted.peers[key].allowed_ips
        for key, peer in held.peers.items()
        if key in wanted.peers and peer.allowed_ips - everything
    ]
    assert device.missing <= frozenset().union(*given_up)


@given(specs, states)
def test_peers_that_do_not_differ_are_not_touched(wanted: DeviceSpec, held: DeviceState) -> None:
    touched = {step.public_key for step in diff_device(wanted, held) if isinstance(step, SetPeer | RemovePeer)}
    for key in touched & wanted.peers.keys() & held.peers.keys():
        peer, old = wanted.peers[key], held.peers[key]
        assert (peer.allowed_ips, peer.keepalive) != (old.allowed_ips, old.keepalive) or peer.endpoint != old.endpoint

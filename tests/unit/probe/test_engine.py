"""The engine over a device that only notes and hands in packets: what it accepts, how fast it sends, what it keeps.

The real device is in tests/kernel/test_probe.py.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Self

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.addressing import ProbeRange
from linkseal.tunnels.model import Family, LinkKey
from linkseal.tunnels.probe import engine as engine_module
from linkseal.tunnels.probe.engine import ProbeEngine, ProbeSettings
from linkseal.tunnels.probe.outcomes import Outcome, Proof, Source, Target, Way
from linkseal.tunnels.probe.packet import Datagram, Reply, Request, Rung, encode_packet, parse_packet
from linkseal.tunnels.probe.responder import Responder
from linkseal.tunnels.probe.sockets import DeviceGone

RANGES = ProbeRange()
PORT = 0
"""Any free one: nothing here goes by UDP."""

KEY = LinkKey("peer", 3, 8)
TARGET = Target(2, handshake=True, ways={4: Way(1420, (Source("10.0.1.1", "10.0.1.0/24"),))})


class Device:
    """Stands for the probe device; a socket pair gives it a file descriptor to wake the loop by."""

    present = True

    def __init__(self, *_: object) -> None:
        if not Device.present:
            raise DeviceGone("lslq")
        self.sent: list[bytes] = []
        self.answers = True
        self._read, self._write = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._read.settimeout(0)

    def fileno(self) -> int:
        return self._read.fileno()

    def receive(self) -> bytes | None:
        try:
            return self._read.recv(65535)
        except BlockingIOError:
            return None

    def send(self, packet: bytes, _: Family) -> None:
        self.sent.append(packet)
        if self.answers:
            self.hand_in(reply_of(packet))

    def hand_in(self, packet: bytes) -> None:
        self._write.send(packet)

    def close(self) -> None:
        self._read.close()
        self._write.close()


def requested(packet: bytes) -> tuple[Datagram, Request]:
    datagram = parse_packet(packet, PORT)
    assert datagram is not None
    assert isinstance(datagram.probe, Request)
    return datagram, datagram.probe


def reply_of(packet: bytes, change: Callable[[Reply], Reply] = lambda reply: reply, **more: Any) -> bytes:
    """What the peer (index 2, whatever its name) answers; `change` and `more` falsify it."""
    datagram, request = requested(packet)
    peer = Responder("peer", 2, RANGES, lambda _: (8, 3), lambda _: 1, lambda _: (datagram.source,))
    peer.set_own_sources({4: ("10.0.2.1",)})
    out = peer.answer(datagram, request, 0.0, by_host=False)
    assert out is not None
    assert isinstance(out.probe, Reply)
    out = out._replace(probe=change(out.probe), **more)
    return encode_packet(out.probe, out.source, out.destination, PORT, out.size)


class Running:
    """An engine with its device, for the length of a `with` block."""

    def __init__(self, *, rate: float = 500, interval: float = 60.0) -> None:
        self.outcomes: list[Outcome] = []
        settings = ProbeSettings("me", 1, RANGES, PORT, interval, rate)
        self.engine = ProbeEngine(
            settings, self.outcomes.append, lambda _: None, {"peer": 2}.get, lambda _: ("10.0.2.1",)
        )

    def __enter__(self) -> Self:
        self.engine.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    @property
    def device(self) -> Device:
        device = self.engine._packets
        assert isinstance(device, Device)
        return device


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PacketSocket", Device)
    monkeypatch.setattr(Device, "present", True)


async def test_a_link_whose_probes_are_answered_is_proven() -> None:
    with Running() as running:
        running.engine.set_targets({KEY: TARGET})
        await asyncio.sleep(0.1)
        (proof,) = running.outcomes
        assert isinstance(proof, Proof)
        assert (proof.key, proof.sizes, proof.uses) == (KEY, {4: 1420}, (8, 3))


FALSE: dict[str, tuple[Callable[[Reply], Reply], dict[str, object]]] = {
    "nonce": (lambda reply: reply._replace(nonce=b"x" * 16), {}),
    "node": (lambda reply: reply._replace(node="other"), {}),
    "own generation": (lambda reply: reply._replace(own=10), {}),
    "remote generation": (lambda reply: reply._replace(remote=5), {}),
    "rung": (lambda reply: reply._replace(rung=Rung.SOURCE), {}),
    "link it came by": (lambda reply: reply, {"destination": RANGES.forwarded(4, 1, 3, 7)}),
    "size": (lambda reply: reply, {"size": 1419}),
}


@pytest.mark.parametrize("what", FALSE)
async def test_a_reply_that_is_not_to_what_was_asked_proves_nothing(what: str) -> None:
    change, more = FALSE[what]
    with Running() as running:
        running.device.answers = False
        running.engine.set_targets({KEY: TARGET})
        await asyncio.sleep(0.02)
        running.device.hand_in(reply_of(running.device.sent[-1], change, **more))
        await asyncio.sleep(0.02)
        assert len(running.device.sent) == 1
        running.device.hand_in(reply_of(running.device.sent[-1]))  # the true one takes it a rung further
        await asyncio.sleep(0.02)
        assert len(running.device.sent) == 2


async def test_a_reply_counts_once() -> None:
    with Running() as running:
        running.device.answers = False
        running.engine.set_targets({KEY: TARGET})
        await asyncio.sleep(0.02)
        for _ in range(3):
            running.device.hand_in(reply_of(running.device.sent[0]))
        await asyncio.sleep(0.02)
        assert len(running.device.sent) == 2
        assert list(running.engine._pending) == [requested(running.device.sent[1])[1].nonce]


async def test_sending_is_paced_though_all_links_start_at_once() -> None:
    with Running(rate=200) as running:
        running.device.answers = False
        running.engine.set_targets({LinkKey(f"n{n}", 3, 8): TARGET for n in range(500)})
        await asyncio.sleep(0.5)
        assert 80 <= len(running.device.sent) <= 200 * 0.5 + 20 + 10


async def test_unchanged_targets_keep_their_state_and_removed_ones_are_asked_no_more() -> None:
    with Running() as running:
        running.engine.set_targets({KEY: TARGET})
        await asyncio.sleep(0.05)
        asked = len(running.device.sent)
        running.engine.set_targets({KEY: Target(2, handshake=True, ways=dict(TARGET.ways))})
        await asyncio.sleep(0.05)
        assert len(running.device.sent) == asked
        running.engine.poke(KEY)
        await asyncio.sleep(0.05)
        assert len(running.outcomes) == 2
        asked = len(running.device.sent)
        running.engine.set_targets({})
        running.engine.poke(KEY)
        await asyncio.sleep(0.05)
        assert len(running.device.sent) == asked


async def test_without_device_nothing_is_asked_and_no_link_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "present", False)
    monkeypatch.setattr(engine_module, "REOPEN_SECONDS", 0.05)
    with Running() as running:
        running.engine.set_targets({KEY: TARGET})
        await asyncio.sleep(0.2)
        assert running.outcomes == []
        monkeypatch.setattr(Device, "present", True)
        await asyncio.sleep(0.2)
        assert [type(one) for one in running.outcomes] == [Proof]


async def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        nobody = ProbeSettings("me", 1, RANGES, port)
        engine = ProbeEngine(nobody, lambda _: None, lambda _: None, lambda _: None, lambda _: ())
        with pytest.raises(HostError, match=f"UDP port {port} .* set another probe port"):
            engine.start()


async def test_a_request_of_a_known_peer_is_answered_by_the_device() -> None:
    with Running() as running:
        running.engine.set_own_sources({4: ("10.0.1.1",)})
        request = Request(b"n" * 16, "peer", 8, 3, Rung.SMALL, 400, 0)
        for node in ("peer", "stranger"):
            ask = request._replace(node=node)
            running.device.answers = False
            running.device.hand_in(encode_packet(ask, "10.0.2.1", RANGES.forwarded(4, 1, 3, 8), PORT, 400))
        await asyncio.sleep(0.05)
        (answer,) = (parse_packet(packet, PORT) for packet in running.device.sent)
        assert answer is not None
        assert (answer.source, answer.destination) == ("10.0.1.1", RANGES.forwarded(4, 2, 8, 3))

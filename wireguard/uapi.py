"""WireGuard's cross-platform configuration text, as wireguard-go speaks it on its socket (pure).

    set=1 / key=value … / empty line          →  errno=0 / empty line
    get=1 / empty line                        →  key=value … / errno=0 / empty line

Keys are hexadecimal. `get` answers with the *private* key and without the public one, so the public key is derived here
and the private one forgotten. The protocol: https://www.wireguard.com/xplatform/#configuration-protocol
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard.driver import Secrets
from linkseal.wireguard.model import (
    ConfigureDevice,
    DeviceState,
    Endpoint,
    PeerState,
    RemovePeer,
    ReprovokePeer,
    SetPeer,
    WireguardStep,
)

GET_REQUEST = b"get=1\n\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One `set` that carries out `steps[first:]` up to the next request; its bytes may hold a private key."""

    device: str
    payload: bytes = field(repr=False)
    first: int


def encode(steps: Sequence[WireguardStep], secrets: Secrets) -> list[Request]:
    """Return the requests for `steps`, in order; consecutive steps of a device share one."""
    requests: list[Request] = []
    lines: list[str] = []
    device, first = "", 0

    def flush() -> None:
        if lines:
            requests.append(Request(device, ("set=1\n" + "\n".join(lines) + "\n\n").encode(), first))
            lines.clear()

    for index, step in enumerate(steps):
        # A device's own attributes come before its peers in a request.
        if step.device != device or isinstance(step, ConfigureDevice):
            flush()
            device, first = step.device, index
        lines.extend(_lines(step, secrets))
    flush()
    return requests


def _lines(step: WireguardStep, secrets: Secrets) -> Iterator[str]:
    if isinstance(step, ConfigureDevice):
        yield from _device_lines(step, secrets)
    elif isinstance(step, SetPeer):
        yield from _peer_lines(step)
    elif isinstance(step, RemovePeer):
        yield from _remove_lines(step.public_key)
    else:
        yield from _provoke_lines(step)


def _device_lines(step: ConfigureDevice, secrets: Secrets) -> Iterator[str]:
    if step.public_key is not None:
        yield f"private_key={secrets(step.public_key).reveal().hex()}"
    if step.listen_port is not None:
        yield f"listen_port={step.listen_port}"
    if step.fwmark is not None:
        yield f"fwmark={step.fwmark}"


def _peer_lines(step: SetPeer) -> Iterator[str]:
    yield f"public_key={_hex(step.public_key)}"
    if not step.add:
        yield "update_only=true"
    if step.endpoint is not None:
        yield f"endpoint={step.endpoint}"
    if step.keepalive is not None:
        yield f"persistent_keepalive_interval={step.keepalive}"
    if step.allowed_ips is not None:
        if not step.keep:
            yield "replace_allowed_ips=true"
        for prefix in sorted(step.allowed_ips):
            yield f"allowed_ip={prefix}"


def _remove_lines(key: PublicKey) -> Iterator[str]:
    yield f"public_key={_hex(key)}"
    yield "update_only=true"
    yield "remove=true"


def _provoke_lines(step: ReprovokePeer) -> Iterator[str]:
    key, allowed, endpoint, keepalive = step.spec
    yield from _remove_lines(key)
    yield from _peer_lines(
        SetPeer(step.device, key, add=True, allowed_ips=allowed, endpoint=endpoint, keepalive=keepalive or None)
    )


def _hex(key: PublicKey) -> str:
    return a2b_base64(key).hex()


def _text(key: str) -> PublicKey:
    return PublicKey(b2a_base64(bytes.fromhex(key), newline=False).decode())


class _PeerDraft:
    """A peer while its lines come in."""

    __slots__ = ("allowed_ips", "endpoint", "numbers")

    def __init__(self) -> None:
        self.allowed_ips: list[Prefix] = []
        self.endpoint: Endpoint | None = None
        self.numbers: dict[str, int] = {}

    def take(self, field_: str, value: str) -> None:
        if field_ == "allowed_ip":
            self.allowed_ips.append(Prefix(value))
        elif field_ == "endpoint":
            self.endpoint = decode_endpoint(value)
        elif field_ in _NUMBERS:
            self.numbers[field_] = int(value)

    def finish(self, key: PublicKey) -> PeerState:
        keepalive, seconds, nanoseconds, received, sent = (self.numbers.get(name, 0) for name in _NUMBERS)
        allowed = frozenset(self.allowed_ips)
        return PeerState(key, allowed, self.endpoint, keepalive, seconds + nanoseconds / 1e9, received, sent)


_NUMBERS = (
    "persistent_keepalive_interval",
    "last_handshake_time_sec",
    "last_handshake_time_nsec",
    "rx_bytes",
    "tx_bytes",
)


def decode_device(name: str, lines: Iterable[str]) -> DeviceState:
    """Return the device that the lines of a `get` describe, without `errno`; ValueError where they are malformed."""
    public_key: PublicKey | None = None
    numbers = {"listen_port": 0, "fwmark": 0}
    drafts: dict[PublicKey, _PeerDraft] = {}
    draft: _PeerDraft | None = None
    for line in lines:
        field_, _, value = line.partition("=")
        if field_ == "public_key":
            draft = drafts.setdefault(_text(value), _PeerDraft())
        elif draft is not None:
            draft.take(field_, value)
        elif field_ == "private_key":
            public_key = _public(value)
        elif field_ in numbers:
            numbers[field_] = int(value)
    peers = {key: draft.finish(key) for key, draft in drafts.items()}
    return DeviceState(name, public_key, numbers["listen_port"], numbers["fwmark"], peers)


def _public(private: str) -> PublicKey | None:
    raw = bytes.fromhex(private)
    if not any(raw):
        return None
    return _text(X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw().hex())


def decode_endpoint(text: str) -> Endpoint:
    """Return what `192.0.2.1:5` or `[fe80::1%3]:5` names."""
    host, _, port = text.rpartition(":")
    return Endpoint(host.strip("[]"), int(port))

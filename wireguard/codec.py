"""WireGuard's generic netlink, both ways (pure).

    encode(family, steps, secrets)   steps → messages, hundreds of peers in each
    decode_device(name, answers)     the answers of a dump → DeviceState; a private key in them is not looked at

A message holds up to 60 kB (an attribute's length is a u16). A peer whose prefixes do not fit is continued in the next
entry by its key alone, and the kernel cuts its dumps the same way, so fragments are merged by key.
Attribute numbers and flags are those of <linux/wireguard.h>.
"""

from __future__ import annotations

import ipaddress
import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from socket import AF_INET, AF_INET6, htons, inet_ntop, inet_pton, ntohs

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
from linkseal.wireguard.netlink import Answer, generic_message
from linkseal.wireguard.nlattr import (
    ATTRIBUTE,
    NESTED,
    attribute,
    attribute_text,
    attribute_u8,
    attribute_u16,
    attribute_u32,
    attributes,
    nested,
)

FAMILY_NAME = "wireguard"
_VERSION = 1
_GET_DEVICE, _SET_DEVICE = 0, 1

_IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _LISTEN_PORT, _FWMARK, _PEERS = 2, 3, 4, 6, 7, 8
_P_PUBLIC_KEY, _P_FLAGS, _P_ENDPOINT, _P_KEEPALIVE, _P_HANDSHAKE, _P_RX, _P_TX, _P_ALLOWED = 1, 3, 4, 5, 6, 7, 8, 9
_A_FAMILY, _A_ADDRESS, _A_BITS = 1, 2, 3
_REMOVE_ME, _REPLACE_ALLOWED, _UPDATE_ONLY = 1, 2, 4

MAX_PEERS_BYTES = 60_000
"""Peers in one message: the nest must stay below 65,536 bytes. About 480 peers of two prefixes each."""

_CACHED = 1 << 15
"""A poll reads the same keys, prefixes and endpoints as the one before: their texts are kept, which halves its time."""

_GENL_HEADER_BYTES = 4
_IPV4_BYTES = 4
_SOCKADDR_IN = struct.Struct("=HH4s8x")
_SOCKADDR_IN6 = struct.Struct("=HHI16sI")
_TIMESPEC = struct.Struct("=qq")
_U16, _U32, _U64 = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One message that carries out `steps[first:stop]`; its bytes may hold a private key and are never shown."""

    payload: bytes = field(repr=False)
    first: int
    stop: int


def encode(family: int, steps: Sequence[WireguardStep], secrets: Secrets) -> list[Encoded]:
    """Return the messages for `steps`, in order; consecutive peers of a device share messages."""
    packer = _Packer(family)
    for index, step in enumerate(steps):
        if isinstance(step, ConfigureDevice):
            packer.flush(index)
            packer.messages.append(Encoded(_set_message(family, _device_attributes(step, secrets)), index, index + 1))
        else:
            packer.add(index, step)
    packer.flush(len(steps))
    return packer.messages


class _Packer:
    """Fills messages with entries of WGDEVICE_A_PEERS."""

    def __init__(self, family: int) -> None:
        self.messages: list[Encoded] = []
        self._family = family
        self._device = ""
        self._entries: list[bytes] = []
        self._size = 0
        self._first = 0

    def add(self, index: int, step: SetPeer | RemovePeer | ReprovokePeer) -> None:
        if step.device != self._device:
            self.flush(index)
            self._device = step.device
        for number, entry in enumerate(_peer_entries(step)):
            if self._size + len(entry) > MAX_PEERS_BYTES:
                self.flush(index + (number > 0))
            if not self._entries:
                self._first = index
            self._entries.append(entry)
            self._size += len(entry)

    def flush(self, stop: int) -> None:
        """End the message; it carries out the steps up to `stop`."""
        if self._entries:
            body = attribute_text(_IFNAME, self._device) + nested(_PEERS, b"".join(self._entries))
            self.messages.append(Encoded(_set_message(self._family, body), self._first, stop))
        self._entries, self._size = [], 0


def _set_message(family: int, body: bytes) -> bytes:
    return generic_message(family, _SET_DEVICE, _VERSION, body)


def _device_attributes(step: ConfigureDevice, secrets: Secrets) -> bytes:
    body = attribute_text(_IFNAME, step.device)
    if step.public_key is not None:
        body += attribute(_PRIVATE_KEY, secrets(step.public_key).reveal())
    if step.listen_port is not None:
        body += attribute_u16(_LISTEN_PORT, step.listen_port)
    if step.fwmark is not None:
        body += attribute_u32(_FWMARK, step.fwmark)
    return body


def _peer_entries(step: SetPeer | RemovePeer | ReprovokePeer) -> Iterator[bytes]:
    """Yield the entries of WGDEVICE_A_PEERS for a step; those after the first continue its prefixes."""
    if isinstance(step, SetPeer):
        flags = 0 if step.add else _UPDATE_ONLY
        if step.allowed_ips is not None and not step.keep:
            flags |= _REPLACE_ALLOWED
        yield from _set_entries(step.public_key, flags, step.endpoint, step.keepalive, step.allowed_ips or ())
    elif isinstance(step, RemovePeer):
        yield nested(0, _key(step.public_key) + _FLAGS[_REMOVE_ME | _UPDATE_ONLY])
    else:
        spec = step.spec
        remove = nested(0, _key(spec.public_key) + _FLAGS[_REMOVE_ME | _UPDATE_ONLY])
        add = _set_entries(spec.public_key, 0, spec.endpoint, spec.keepalive or None, spec.allowed_ips)
        yield remove + next(add)
        yield from add


def _set_entries(
    key: PublicKey, flags: int, endpoint: Endpoint | None, keepalive: int | None, allowed_ips: Iterable[Prefix]
) -> Iterator[bytes]:
    head = _key(key)
    body = head + (_FLAGS[flags] if flags else b"")
    if endpoint is not None:
        body += attribute(_P_ENDPOINT, encode_endpoint(endpoint))
    if keepalive is not None:
        body += attribute_u16(_P_KEEPALIVE, keepalive)
    prefixes = [_encode_prefix(prefix) for prefix in allowed_ips]
    first = 0
    while len(prefixes) - first > _MAX_PREFIXES:
        yield nested(0, body + nested(_P_ALLOWED, b"".join(prefixes[first : first + _MAX_PREFIXES])))
        body, first = head + _FLAGS[_UPDATE_ONLY], first + _MAX_PREFIXES
    yield nested(0, body + nested(_P_ALLOWED, b"".join(prefixes[first:])) if prefixes else body)


_KEY_HEAD = ATTRIBUTE.pack(36, _P_PUBLIC_KEY)
_FLAGS = [attribute_u32(_P_FLAGS, flags) for flags in range(8)]
_MAX_PREFIXES = MAX_PEERS_BYTES // 40 - 5
"""In one entry: an IPv6 prefix takes 40 bytes, the rest of one or two entries less than 200."""


def _key(key: PublicKey) -> bytes:
    return _KEY_HEAD + a2b_base64(key)


_HEAD4 = ATTRIBUTE.pack(28, NESTED) + attribute_u16(_A_FAMILY, AF_INET) + ATTRIBUTE.pack(8, _A_ADDRESS)
_HEAD6 = ATTRIBUTE.pack(40, NESTED) + attribute_u16(_A_FAMILY, AF_INET6) + ATTRIBUTE.pack(20, _A_ADDRESS)
_BITS = [attribute_u8(_A_BITS, bits) for bits in range(129)]
"""The parts of an entry of WGPEER_A_ALLOWEDIPS that do not depend on the address: one is made per prefix."""


def _encode_prefix(prefix: Prefix) -> bytes:
    address, _, bits = prefix.partition("/")
    if ":" in address:
        return _HEAD6 + inet_pton(AF_INET6, address) + _BITS[int(bits)]
    return _HEAD4 + inet_pton(AF_INET, address) + _BITS[int(bits)]


def encode_endpoint(endpoint: Endpoint) -> bytes:
    """Return struct sockaddr_in or sockaddr_in6; a scope (`fe80::1%3`) is an interface number."""
    if ":" not in endpoint.host:
        return _SOCKADDR_IN.pack(AF_INET, htons(endpoint.port), inet_pton(AF_INET, endpoint.host))
    host, _, scope = endpoint.host.partition("%")
    return _SOCKADDR_IN6.pack(AF_INET6, htons(endpoint.port), 0, inet_pton(AF_INET6, host), int(scope or 0))


def dump_message(family: int, device: str) -> bytes:
    """Return the question for a device with all its peers."""
    return generic_message(family, _GET_DEVICE, _VERSION, attribute_text(_IFNAME, device))


class _PeerDraft:
    """A peer while its fragments come in."""

    __slots__ = ("allowed_ips", "endpoint", "handshake", "keepalive", "rx", "tx")

    def __init__(self) -> None:
        self.allowed_ips: list[Prefix] = []
        self.endpoint: Endpoint | None = None
        self.keepalive = self.rx = self.tx = 0
        self.handshake = 0.0

    def finish(self, key: PublicKey) -> PeerState:
        allowed = frozenset(self.allowed_ips)
        return PeerState(key, allowed, self.endpoint, self.keepalive, self.handshake, self.rx, self.tx)


def decode_device(name: str, answers: Iterable[Answer]) -> DeviceState:
    """Return the device that the answers of one dump describe; ValueError where they are cut."""
    public_key: PublicKey | None = None
    port = mark = 0
    drafts: dict[bytes, _PeerDraft] = {}
    for answer in answers:
        data = answer.data
        for kind, start, end in attributes(data, answer.start + _GENL_HEADER_BYTES, answer.end):
            if kind == _PEERS:
                for _, begin, stop in attributes(data, start, end):
                    _decode_peer(data, begin, stop, drafts)
            elif kind == _PUBLIC_KEY:
                public_key = _text(data[start:end])
            elif kind == _LISTEN_PORT:
                (port,) = _U16.unpack_from(data, start)
            elif kind == _FWMARK:
                (mark,) = _U32.unpack_from(data, start)
    finished = ((_text(raw), draft) for raw, draft in drafts.items())
    return DeviceState(name, public_key, port, mark, {key: draft.finish(key) for key, draft in finished})


@lru_cache(maxsize=_CACHED)
def _text(key: bytes) -> PublicKey:
    return PublicKey(b2a_base64(key, newline=False).decode())


def _decode_peer(data: bytes, start: int, end: int, drafts: dict[bytes, _PeerDraft]) -> None:
    draft = _PeerDraft()
    for kind, begin, stop in attributes(data, start, end):
        if kind == _P_PUBLIC_KEY:
            draft = drafts.setdefault(data[begin:stop], draft)
        elif kind == _P_ALLOWED:
            for _, first, last in attributes(data, begin, stop):
                draft.allowed_ips.append(_decode_prefix(data[first:last]))
        elif kind == _P_ENDPOINT:
            draft.endpoint = decode_endpoint(data[begin:stop])
        elif kind == _P_KEEPALIVE:
            (draft.keepalive,) = _U16.unpack_from(data, begin)
        elif kind == _P_HANDSHAKE:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data, begin)
            draft.handshake = seconds + nanoseconds / 1e9
        elif kind == _P_RX:
            (draft.rx,) = _U64.unpack_from(data, begin)
        elif kind == _P_TX:
            (draft.tx,) = _U64.unpack_from(data, begin)


@lru_cache(maxsize=_CACHED)
def _decode_prefix(entry: bytes) -> Prefix:
    address, bits = b"", 0
    for kind, begin, stop in attributes(entry, 0, len(entry)):
        if kind == _A_ADDRESS:
            address = entry[begin:stop]
        elif kind == _A_BITS:
            bits = entry[begin]
    return Prefix(f"{_address(address)}/{bits}")


def _address(packed: bytes) -> str:
    """Return an address as `ipaddress` writes it; inet_ntop is 20 times faster and differs for ::a.b.c.d alone."""
    if len(packed) == _IPV4_BYTES:
        return inet_ntop(AF_INET, packed)
    text = inet_ntop(AF_INET6, packed)
    return str(ipaddress.IPv6Address(packed)) if "." in text else text


@lru_cache(maxsize=_CACHED)
def decode_endpoint(packed: bytes) -> Endpoint | None:
    """Return what a struct sockaddr_in or sockaddr_in6 names; None for another family."""
    (family,) = _U16.unpack_from(packed)
    if family == AF_INET:
        _, port, raw = _SOCKADDR_IN.unpack_from(packed)
        return Endpoint(_address(raw), ntohs(port))
    if family == AF_INET6:
        _, port, _, raw, scope = _SOCKADDR_IN6.unpack_from(packed)
        return Endpoint(_address(raw) + (f"%{scope}" if scope else ""), ntohs(port))
    return None

"""wg-quick files in and out, as text, through wgconfig.

    export(device, addresses, mtu)   text with `PrivateKey = (hidden)`, always
    parse(text)                      what the text describes; ConfigError names line and field, never a secret's value

Only what Linkseal itself can do is taken: a file with hooks, DNS, a preshared key or a host name is refused rather than
half understood.
"""

from __future__ import annotations

import io
import ipaddress
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import wgconfig
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from linkseal.keys.errors import ConfigError
from linkseal.keys.secrets import parse_public_key
from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard.model import DeviceSpec, Endpoint, PeerSpec

_WGConfig: Any = wgconfig.WGConfig  # ships no types

HIDDEN = "(hidden)"
"""Stands where the private key would."""

_INTERFACE = {"PrivateKey", "ListenPort", "FwMark", "Address", "MTU"}
_PEER = {"PublicKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"}
_LISTS = {"Address", "AllowedIPs"}
_KEY_BYTES = 32
_NAME_LENGTH = 20
_MTU = range(1280, 65536)
"""IPv6 needs 1,280 (RFC 8200 §5)."""


@dataclass(frozen=True, slots=True)
class QuickConfig:
    """What a wg-quick file describes."""

    device: DeviceSpec
    addresses: tuple[str, ...] = ()
    """The device's own, each with its prefix length (`10.0.0.1/24`)."""
    mtu: int | None = None


def export(device: DeviceSpec, addresses: Iterable[str] = (), mtu: int | None = None) -> str:
    """Return the wg-quick text of a device; the private key is hidden."""
    config = _WGConfig()
    config.add_attr(None, "PrivateKey", HIDDEN, leading_comment=_own_key(device))
    for name, value in (
        ("ListenPort", device.listen_port or None),
        ("FwMark", f"{device.fwmark:#x}" if device.fwmark else None),
        ("Address", ", ".join(addresses) or None),
        ("MTU", mtu),
    ):
        if value is not None:
            config.add_attr(None, name, value)
    # A wgconfig of its own for each peer: every add_attr parses all lines that a config has.
    config.lines += [line for peer in device.peers.values() for line in _peer_lines(peer)]
    text = io.StringIO()
    config.write_to_fileobj(text)
    return text.getvalue()


def _own_key(device: DeviceSpec) -> str | None:
    return f"# public key {device.public_key}" if device.public_key is not None else None


def _peer_lines(peer: PeerSpec) -> list[str]:
    config = _WGConfig()
    config.add_peer(peer.public_key)
    for name, value in (
        ("AllowedIPs", ", ".join(sorted(peer.allowed_ips)) or None),
        ("Endpoint", peer.endpoint),
        ("PersistentKeepalive", peer.keepalive or None),
    ):
        if value is not None:
            config.add_attr(peer.public_key, name, value)
    return list(config.lines[1:])  # without its [Interface]


def parse(text: str, name: str = "wg0") -> QuickConfig:
    """Return what a wg-quick text describes, as device `name`; ConfigError where it is wrong or asks for more.

    A private key is read for its public key and forgotten; `(hidden)` gives none.
    """
    config = _WGConfig()
    config.read_from_fileobj(io.StringIO(text))
    lines = [line.replace("#! ", "").strip() for line in config.lines]  # wgconfig's mark of a disabled peer
    _check_lines(lines)
    try:
        config.parse_lines()
    except ValueError:
        raise ConfigError("wgconfig cannot read this text: are its numbers plain digits?") from None
    interface = _Section(lines, config.get_interface(include_details=True), _INTERFACE, "[Interface]")
    peers = [
        _peer(_Section(lines, data, _PEER, "[Peer]"))
        for data in config.get_peers(keys_only=False, include_disabled=False, include_details=True).values()
    ]
    return QuickConfig(
        DeviceSpec(
            name,
            _public(interface),
            interface.number("ListenPort", range(65536)),
            interface.number("FwMark", range(1 << 32)),
            {peer.public_key: peer for peer in peers},
        ),
        tuple(interface.each("Address", lambda value: str(ipaddress.ip_interface(value)))),
        interface.number("MTU", _MTU) or None,
    )


def _check_lines(lines: Sequence[str]) -> None:
    """Refuse what wgconfig would pass over: unknown sections, second [Interface]s, lines without a section or a `=`."""
    section, seen = "", set[str]()
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.partition("#")[0].strip().lower()
            if section not in ("[interface]", "[peer]"):
                raise ConfigError(f"line {number}: only [Interface] and [Peer] sections are known")
            if section == "[interface]" and section in seen:
                raise ConfigError(f"line {number}: a second [Interface] section")
            seen.add(section)
        elif not section:
            raise ConfigError(f"line {number}: comes before any [Interface] or [Peer]")
        elif "=" not in line:
            raise ConfigError(f"line {number}: is no `Name = value`")
    if "[interface]" not in seen:
        raise ConfigError("there is no [Interface] section")
    _check_peer_keys(lines)


def _check_peer_keys(lines: Sequence[str]) -> None:
    """Refuse [Peer]s without a key of their own: wgconfig would let the last one win."""
    keys: dict[str, int] = {}
    peer, key = 0, ""
    for number, line in enumerate([*lines, "[end]"], 1):
        if line.startswith("["):
            if peer and not key:
                raise ConfigError(f"line {peer}: this [Peer] has no PublicKey")
            peer, key = (number if line.lower().startswith("[peer]") else 0), ""
        elif peer and line.partition("=")[0].strip() == "PublicKey":
            key = line.partition("=")[2].partition("#")[0].strip()
            if key in keys:
                raise ConfigError(f"line {number}: PublicKey: the peer of line {keys[key]} has the same")
            keys[key] = number


class _Section:
    """One section as wgconfig read it, with the lines its fields stand on."""

    def __init__(self, lines: Sequence[str], data: dict[str, Any], known: set[str], title: str) -> None:
        first, last = data["_index_firstline"], data["_index_lastline"]
        self._line = {
            line.partition("=")[0].strip(): number
            for number, line in enumerate(lines[first : last + 1], first + 1)
            if line and line[0] not in "#["
        }
        self._data = data
        for field in self._line:
            if field not in known:
                # A key without its `Name =` would be taken for the name.
                shown = field if field.isalpha() and len(field) <= _NAME_LENGTH else "this field"
                raise ConfigError(
                    f"line {self._line[field]}: {shown} is not supported in {title}: remove it "
                    f"(known: {', '.join(sorted(known))})"
                )

    def refuse(self, field: str, problem: str) -> NoReturn:
        raise ConfigError(f"line {self._line[field]}: {field} {problem}")

    def each(self, field: str, read: Any) -> Iterator[str]:
        value = self._data.get(field, [])
        for one in value if isinstance(value, list) else [value]:
            if one == "":
                continue  # `AllowedIPs =` is allowed
            try:
                yield read(one)
            except ValueError:
                self.refuse(field, "has a value that is no address or prefix")

    def text(self, field: str) -> str | None:
        value = self._data.get(field)
        if isinstance(value, list):
            self.refuse(field, "is given more than once")
        return None if value is None else str(value)

    def number(self, field: str, allowed: range) -> int:
        """Return a number, 0 if it is absent or `off`."""
        text = self.text(field)
        if text is None or text == "off":
            return 0
        try:
            value = int(text, 0)
        except ValueError:
            value = -1
        if value not in allowed:
            self.refuse(field, f"must be a number from {allowed.start} to {allowed.stop - 1}")
        return value


def _public(interface: _Section) -> PublicKey | None:
    text = interface.text("PrivateKey")
    if text is None or text == HIDDEN:
        return None
    try:
        raw = a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        interface.refuse("PrivateKey", "must be 44 characters of base64 (32 bytes), as `wg genkey` prints it")
    public = X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    return PublicKey(b2a_base64(public, newline=False).decode())


def _peer(section: _Section) -> PeerSpec:
    try:
        key = parse_public_key(section.text("PublicKey") or "")
    except ConfigError as error:
        section.refuse("PublicKey", f"is refused: {error}")
    allowed = section.each("AllowedIPs", lambda value: str(ipaddress.ip_network(value, strict=False)))
    return PeerSpec(
        key,
        frozenset(Prefix(prefix) for prefix in allowed),
        _endpoint(section),
        section.number("PersistentKeepalive", range(65536)),
    )


def _endpoint(section: _Section) -> Endpoint | None:
    text = section.text("Endpoint")
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    try:
        address = ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        section.refuse("Endpoint", "must be ADDRESS:PORT or [IPv6 ADDRESS]:PORT, not a host name")
    if bracketed != (address.version == 6) or not 0 < number < 1 << 16:  # noqa: PLR2004 - IPv6
        section.refuse("Endpoint", "must be ADDRESS:PORT or [IPv6 ADDRESS]:PORT with a port from 1 to 65535")
    return Endpoint(str(address), number)

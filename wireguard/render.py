"""Steps as the `wg` lines that would do the same, for `linkseal plan` and goldens (pure; private keys are hidden)."""

from __future__ import annotations

from collections.abc import Iterable

from linkseal.keys.values import Prefix
from linkseal.wireguard.model import ConfigureDevice, RemovePeer, ReprovokePeer, SetPeer, WireguardStep


def render_steps(steps: Iterable[WireguardStep]) -> tuple[str, ...]:
    """Return one line per step, two for a peer that is provoked again.

    `allowed-ips +PREFIX` adds to what the peer has (wireguard-tools 1.0.20250521 reads it so too).
    """
    return tuple(line for step in steps for line in _lines(step))


def _lines(step: WireguardStep) -> tuple[str, ...]:
    if isinstance(step, ConfigureDevice):
        return (_configure(step),)
    if isinstance(step, SetPeer):
        return (_set(step),)
    if isinstance(step, RemovePeer):
        return (f"wg set {step.device} peer {step.public_key} remove",)
    return _reprovoke(step)


def _configure(step: ConfigureDevice) -> str:
    words = [f"wg set {step.device}"]
    if step.public_key is not None:
        words.append("private-key <hidden>")
    if step.listen_port is not None:
        words.append(f"listen-port {step.listen_port}")
    if step.fwmark is not None:
        words.append(f"fwmark {step.fwmark:#x}")
    if step.public_key is not None:
        words.append(f"  # public key {step.public_key}")
    return " ".join(words)


def _set(step: SetPeer) -> str:
    words = [f"wg set {step.device} peer {step.public_key}"]
    if step.endpoint is not None:
        words.append(f"endpoint {step.endpoint}")
    if step.keepalive is not None:
        words.append(f"persistent-keepalive {step.keepalive or 'off'}")
    if step.allowed_ips is not None:
        words.append(f"allowed-ips {_prefixes(step.allowed_ips, '+' if step.keep else '')}")
    return " ".join(words)


def _prefixes(prefixes: frozenset[Prefix], sign: str) -> str:
    return ",".join(sign + prefix for prefix in sorted(prefixes)) or '""'


def _reprovoke(step: ReprovokePeer) -> tuple[str, str]:
    key, allowed, endpoint, keepalive = step.spec
    add = SetPeer(step.device, key, add=True, allowed_ips=allowed, endpoint=endpoint, keepalive=keepalive or None)
    return f"wg set {step.device} peer {key} remove", _set(add)

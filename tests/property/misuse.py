"""How the hosts in memory refuse what the kernel refuses."""

from __future__ import annotations

from unit.wireguard.fake_device import Misuse


def need(condition: object, message: str) -> None:
    """Raise Misuse unless the condition holds."""
    if not condition:
        raise Misuse(message)

"""Agents that know of a kernel whose WireGuard timers are divided by ten (tests/ground/kernel.py, FAST).

The product's own constants are those of the WireGuard paper. Agents of tests are forked from the test, so that what is
set here, in the test's process, is theirs too.
"""

from __future__ import annotations

from typing import Any

import pytest
from linkseal.tunnels import linkrecord, links
from linkseal.tunnels.agent import worker
from linkseal.tunnels.probe import ladder

TIMERS = [
    (linkrecord, "HANDSHAKE_FRESH", 18.0),
    (links, "DEAD_AFTER", 60.0),
    (links, "ENDPOINT_PATIENCE", 3.0),
    (links, "HELP_AFTER", 6.0),
    (links, "PROOF_LASTS", 24.0),
    (worker, "PROOF_LASTS", 24.0),
    (ladder, "HANDSHAKE_PATIENCE", 3.0),
]
"""What follows from WireGuard's timers, and so is a tenth of what it is; three or six of the retries of 1 s that the
fast kernel makes (one is 5 s in life)."""

POLICY: dict[str, Any] = {"wireguard": {"keepalive": 3}, "probe": {"interval": 6}}
"""Of the cluster, beside its scope and stage."""


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set them until the test is over."""
    for module, name, seconds in TIMERS:
        monkeypatch.setattr(module, name, seconds)

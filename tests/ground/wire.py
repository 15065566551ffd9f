"""Capture on the bridge: the product's own (linkseal.tunnels.lab.capture)."""

from __future__ import annotations

from linkseal.tunnels.lab.capture import ALLOWED, Capture

__all__ = ["ALLOWED", "Capture"]

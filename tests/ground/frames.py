"""What an Ethernet frame is: the product's own judge (linkseal.tunnels.lab.frames)."""

from __future__ import annotations

from linkseal.tunnels.lab.frames import WIREGUARD_PORTS, Fragments, Frame, classify

__all__ = ["WIREGUARD_PORTS", "Fragments", "Frame", "classify"]

"""Programs in the background of a test: the product's own (linkseal.tunnels.lab.daemons)."""

from __future__ import annotations

from linkseal.tunnels.lab.daemons import Daemon, DaemonError, Port

__all__ = ["Daemon", "DaemonError", "Port"]

"""What an agent stands on once it runs, of the cluster's policy. Pure."""

from __future__ import annotations

from linkseal.tunnels.policy import Policy, standing


def pinned(policy: Policy) -> dict[str, str | int]:
    """What the host driver, sockets and peers' endpoints stand on. The scope is none of it at stage off."""
    return {path: value for path, value in standing(policy).items() if path != "scope"}

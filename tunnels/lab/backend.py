"""Where the lab runs: the running kernel, the lab kernel, or wireguard-go. The choice is pure; `look` finds the facts.

auto    the running kernel if it has WireGuard, else the cached lab kernel, else wireguard-go at once
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.lab.kernelcache import find_lab_kernel
from linkseal.wireguard.launch import find_binary

TOOLS: Final = {"ip": "iproute2", "bridge": "iproute2", "nft": "nftables", "nsenter": "util-linux"}
"""Programs that the lab runs → Debian package."""


class Backend(StrEnum):
    """What carries the tunnels."""

    KERNEL = "kernel"
    LAB = "lab"
    USERSPACE = "userspace"


@dataclass(frozen=True, slots=True)
class Facts:
    """What this machine has; a text says why not."""

    kernel: str | None
    """None: WireGuard devices can be made; else why not."""
    lab_kernel: Path | None
    userspace: str | None
    """None: wireguard-go runs; else why not and what to install."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend, and why."""

    backend: Backend
    why: str


def choose(wish: str, facts: Facts) -> Choice:
    """Return what a wish (`auto` or a backend) comes to. Raises HostError if it cannot be had here."""
    if wish == Backend.KERNEL:
        if facts.kernel is not None:
            raise HostError(f"the running kernel cannot do it: {facts.kernel}; leave --backend out to see what can")
        return Choice(Backend.KERNEL, "asked for")
    if wish == Backend.LAB:
        if facts.lab_kernel is None:
            raise HostError("no lab kernel has been built here: run `make test` once, or leave --backend out")
        return Choice(Backend.LAB, "asked for")
    if wish == Backend.USERSPACE:
        if facts.userspace is not None:
            raise HostError(facts.userspace)
        return Choice(Backend.USERSPACE, "asked for")
    if wish != "auto":
        raise ConfigError(f"there is no backend {wish!r}: auto, {', '.join(Backend)}")
    return _best(facts)


def _best(facts: Facts) -> Choice:
    if facts.kernel is None:
        return Choice(Backend.KERNEL, "the running kernel has WireGuard")
    if facts.lab_kernel is not None:
        return Choice(Backend.LAB, f"the running kernel cannot ({facts.kernel}), and a lab kernel is in the cache")
    if facts.userspace is None:
        return Choice(Backend.USERSPACE, f"the running kernel cannot ({facts.kernel}), and no lab kernel is cached")
    raise HostError(f"nothing here can carry WireGuard. Running kernel: {facts.kernel}. {facts.userspace}")


def without_lab_kernel(facts: Facts) -> Facts:
    """Return the facts as they are once the lab kernel has been found not to boot."""
    return Facts(facts.kernel, None, facts.userspace)


def look() -> Facts:
    """Find out what this machine has. Raises ConfigError if LINKSEAL_LAB_KERNEL names no program."""
    return Facts(_kernel_refusal(), find_lab_kernel(), _userspace_refusal())


def require_host() -> None:
    """Raise HostError unless the lab can work here: root, and the programs it runs."""
    if os.geteuid() != 0:
        raise HostError("the lab makes network namespaces: run it as root")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        raise HostError(f"the lab needs {', '.join(missing)}: apt-get install {' '.join(missing)}")


def _kernel_refusal() -> str | None:
    """Try to make a WireGuard device where it disturbs nobody."""
    command = ["unshare", "--net", "ip", "link", "add", "lsl0", "type", "wireguard"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return "no `unshare` to try with: apt-get install util-linux"
    if done.returncode == 0:
        return None
    return "no WireGuard in it" if "not supported" in done.stderr or "Unknown" in done.stderr else done.stderr.strip()


def _userspace_refusal() -> str | None:
    try:
        find_binary()
    except HostError as error:
        return str(error)
    return None

"""Which WireGuard this host can run: found out by trying, as a version number says nothing of modules."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Literal

from linkseal.keys.errors import HostError
from linkseal.wireguard.driver import Driver
from linkseal.wireguard.kernel import KernelDriver
from linkseal.wireguard.launch import Supervised
from linkseal.wireguard.userspace import UserspaceDriver

Preference = Literal["auto", "kernel", "userspace"]


def choose_driver(preference: Preference = "auto", daemons: Path | None = None) -> Driver:
    """Return a driver for the network namespace of this thread; HostError says what was tried and what to install.

    `daemons`: socket of the supervisor that runs wireguard-go; None: it is run from here.
    """
    tried: list[HostError] = []
    if preference in ("auto", "kernel"):
        try:
            return _try_kernel()
        except HostError as error:
            tried.append(error)
    if preference in ("auto", "userspace"):
        try:
            return UserspaceDriver(None if daemons is None else Supervised(daemons))
        except HostError as error:
            tried.append(error)
    reasons = "; ".join(f"{error}" for error in tried)
    raise HostError(f"no WireGuard on this host ({preference}): {reasons}", errno=tried[0].errno)


def _try_kernel() -> KernelDriver:
    driver = KernelDriver()
    name = f"lslt{secrets.token_hex(4)}"
    try:
        driver.create(name, 1420)
        driver.delete(name)
    except HostError:
        driver.close()
        raise
    return driver

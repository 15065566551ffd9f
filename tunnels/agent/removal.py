"""Taking what is ours from this host: by `linkseal agent cleanup`, or all of it because an operator asked for that.

The answer to a request is a last report; what is announced goes after it, so that nobody takes a node for removed that
is not. Nothing comes back by itself: the agent that was asked waits for its end.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from linkseal.keys.errors import DirectoryError, HostError
from linkseal.tunnels.agent.clock import unix_now
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.boot.install import remove as remove_boot
from linkseal.tunnels.directory.base import Directory
from linkseal.tunnels.findings import MAX_MESSAGE, printable
from linkseal.tunnels.host.cleanup import cleanup as clean_host
from linkseal.tunnels.host.host import Host
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.settings import AgentSettings, BootSettings
from linkseal.tunnels.status import NodeStatus, RequestStatus, to_json
from linkseal.tunnels.statusparts import BootStatus
from linkseal.wireguard.driver import Driver

_LOG: Final = logging.getLogger("linkseal.agent")

LOCK: Final = "agent.lock"
"""In the run directory: held while an agent runs."""

FAILED: Final = "failed:"
LEFT: Final = "left alone:"
"""How lines of `cleanup` begin that tell of something that was not removed."""


def clean(driver: Driver, policy: Policy, known: KnownGood) -> list[str]:
    """Remove from this host what stands on the numbers of a policy. HostError if the host cannot be read."""
    host = Host(driver, policy.routing.table, policy.guard.table)
    recorded = known.changed_rp_filter()
    lines = clean_host(host, recorded)
    failed = [line for line in lines if line.startswith(FAILED)]
    kept = {n: v for n, v in recorded.items() if any(f"rp_filter of {n} back to " in line for line in failed)}
    known.save_changed_rp_filter(kept)
    host.close()
    return lines


def removed(settings: AgentSettings, driver: Driver, policy: Policy, known: KnownGood) -> str:
    """Remove what stands in the kernel, the boot units with their root, and what is kept on the disk, keys included.

    Returns what is still there and why, empty: nothing is. What is kept on the disk goes last: without it nobody
    would know what to remove.
    """
    units = (settings.boot or BootSettings()).units
    try:
        lines = [*remove_boot(settings.state_directory, units), *clean(driver, policy, known)]
    except HostError as error:
        return f"{FAILED} {error}"
    if not (left := [line for line in lines if line.startswith((FAILED, LEFT))]):
        left = list(_emptied(settings.state_directory))
        with contextlib.suppress(OSError):  # gone with the next boot anyway; the other files there are the supervisor's
            (settings.run_directory / LOCK).unlink()
    for line in lines:
        _LOG.info("asked to remove everything: %s", line)
    return "; ".join(left)


def _emptied(folder: Path) -> Iterator[str]:
    """Empty a folder that is ours; yields what could not go. It itself may be a mount."""
    try:
        for one in folder.iterdir():
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink()
    except OSError as error:
        yield f"{FAILED} {error.filename or folder}: {error.strerror}"


async def answer(directory: Directory, node: str, request: str, last: NodeStatus, failed: str) -> bool:
    """Report what became of the request, and take back what this node has announced; whether all of that is done."""
    if not failed:
        try:
            await directory.withdraw(node)
        except DirectoryError as error:
            failed = f"{FAILED} the announcement: {error}"
    state = RequestStatus("remove", "failed" if failed else "done", printable(failed, MAX_MESSAGE))
    report = replace(last, observed_at=unix_now(), requests={**last.requests, request: state})
    if not failed:
        report = replace(report, serial=0, announced_serial=0, generations=(), boot=BootStatus())
    try:
        await directory.publish_status(node, to_json(node, report))
    except DirectoryError as error:
        _LOG.warning("what became of the request %s could not be reported: %s", request, error)
    if failed:
        _LOG.error("not everything could be removed: %s", failed)
    else:
        _LOG.info("everything of Linkseal was removed from this host, as was asked; it waits to be ended")
    return not failed

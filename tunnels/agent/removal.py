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

from linkseal.keys.errors import DirectoryError, HostError, PeerError
from linkseal.tunnels.agent.clock import unix_now
from linkseal.tunnels.agent.keyring import Floor
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.boot.install import FAILED, LEFT
from linkseal.tunnels.boot.install import remove as remove_boot
from linkseal.tunnels.directory.base import Directory
from linkseal.tunnels.findings import MAX_MESSAGE, printable
from linkseal.tunnels.host.cleanup import cleanup as clean_host
from linkseal.tunnels.host.host import Host
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.settings import AgentSettings, BootSettings
from linkseal.tunnels.status import NodeStatus, RequestStatus, parse_report, to_json
from linkseal.tunnels.statusparts import BootStatus
from linkseal.wireguard.driver import Driver
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

_LOG: Final = logging.getLogger("linkseal.agent")

FIRST_RETRY: Final = 0.5
LAST_RETRY: Final = 5.0
TOLD: Final = 60.0
"""Seconds between two tries to write or read a report, from the first to the last, and for how long."""

_NONE: Final = RequestStatus("remove", "running")

LOCK: Final = "agent.lock"
"""In the run directory: held while an agent runs."""


def clean(driver: Driver, policy: Policy, known: KnownGood, *, guard: bool = True) -> list[str]:
    """Remove from this host what stands on the numbers of a policy, with the guard or without.

    HostError if the host cannot be read.
    """
    host = Host(driver, policy.routing.table, policy.guard.table)
    recorded = known.changed_rp_filter()
    lines = clean_host(host, recorded, guard=guard)
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
    """Take back what this node has announced, and report what became of the request; whether all of that is done.

    The last report keeps the serial and the numbers of the generations: an agent that begins from nothing begins above
    them (`floor_of`), or peers who still know of them would refuse it.
    """
    if not failed:
        try:
            await directory.withdraw(node)
        except DirectoryError as error:
            failed = f"{FAILED} the announcement: {error}"
    state = RequestStatus("remove", "failed" if failed else "done", printable(failed, MAX_MESSAGE))
    report = replace(last, observed_at=unix_now(), requests={**last.requests, request: state})
    if failed:
        _LOG.error("not everything could be removed: %s", failed)
    else:
        gone = tuple(replace(one, state="removed") for one in last.generations)
        report = replace(report, announced_serial=0, generations=gone, boot=BootStatus())
        _LOG.info("everything of Linkseal was removed from this host, as was asked; it waits to be ended")
    try:
        await _told(directory, node, to_json(node, report), request)
    except DirectoryError as error:
        _LOG.warning("what became of the request %s could not be reported: %s", request, error)
    return not failed


def _trying() -> AsyncRetrying:
    """Tries again for a while where the directory does not answer; then its error."""
    return AsyncRetrying(
        retry=retry_if_exception_type(DirectoryError),
        wait=wait_random_exponential(min=FIRST_RETRY, max=LAST_RETRY),
        stop=stop_after_delay(TOLD),
        reraise=True,
    )


async def _told(directory: Directory, node: str, report: str, request: str) -> None:
    """Write the report until it is there: nobody else will answer."""
    async for attempt in _trying():
        with attempt:
            await directory.publish_status(node, report)
            found = await _report(directory, node)
            if found is None or found.requests.get(request, _NONE).state == "running":
                raise DirectoryError("the report is not there yet")


async def floor_of(directory: Directory, node: str) -> Floor:
    """Return what peers may have seen of this node before everything was removed from it, by its last report."""
    try:
        found: NodeStatus | None = await _trying()(_report, directory, node)
    except DirectoryError as error:
        _LOG.warning("what this node said before is not known: %s", error)
        return Floor()
    if found is None:
        return Floor()
    return Floor(found.serial, max((one.number for one in found.generations), default=0))


async def _report(directory: Directory, node: str) -> NodeStatus | None:
    text = await directory.status(node)
    try:
        return None if text is None else parse_report(text, node).status
    except PeerError:
        return None

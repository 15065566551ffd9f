"""How both drivers carry out steps: in bulk, and one by one where bulk fails (pure: `send` does the I/O)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from errno import ENODEV, EOPNOTSUPP, EPERM
from itertools import groupby
from typing import NamedTuple

from linkseal.wireguard.driver import step_refused
from linkseal.wireguard.model import RemovePeer, WireguardStep

_WHOLE_DEVICE = frozenset({ENODEV, EOPNOTSUPP, EPERM})
"""Reasons that hold for every peer of a device: the others need not be tried."""


class SendRefused(Exception):  # noqa: N818 - it is told to `apply_steps`, which makes the error
    """`send` failed: the steps before `first` were carried out, any from there on may not have been."""

    def __init__(self, first: int, errno: int, reason: str = "") -> None:
        super().__init__(first, errno)
        self.first = first
        self.errno = errno
        self.reason = os.strerror(errno) + (f": {reason}" if reason else "")


Send = Callable[[Sequence[WireguardStep]], None]


class _Failure(NamedTuple):
    step: WireguardStep
    errno: int
    reason: str


def apply_steps(steps: Sequence[WireguardStep], send: Send) -> None:
    """Carry out steps in order, as many at once as `send` can.

    A step that fails keeps no other from being tried, but its device's later removals are left out: what should replace
    them may be missing. HostError for the first that failed.
    """
    failures: list[_Failure] = []
    for removing, group in groupby(steps, lambda step: isinstance(step, RemovePeer)):
        failed = {failure.step.device for failure in failures} if removing else set()
        failures.extend(_apply_run([step for step in group if step.device not in failed], send))
    if failures:
        step, errno, reason = failures[0]
        more = f" ({len(failures) - 1} more steps failed)" if len(failures) > 1 else ""
        raise step_refused(step, errno, reason + more)


def _apply_run(steps: list[WireguardStep], send: Send) -> Iterator[_Failure]:
    if not steps:
        return
    try:
        send(steps)
    except SendRefused as refused:
        # Bulk stops at the first bad step without saying which: find that one, do the others.
        yield from _apply_singly(steps[refused.first :], send)


def _apply_singly(steps: list[WireguardStep], send: Send) -> Iterator[_Failure]:
    hopeless: set[str] = set()
    for step in steps:
        if step.device in hopeless:
            continue
        try:
            send([step])
        except SendRefused as refused:
            if refused.errno in _WHOLE_DEVICE:
                hopeless.add(step.device)
            yield _Failure(step, refused.errno, refused.reason)

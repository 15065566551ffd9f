"""Asking agents for something, and waiting for their answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from linkseal.tunnels.cli.output import age, note
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.cli.verifyview import unfinished
from linkseal.tunnels.directory.base import Directory, reports
from linkseal.tunnels.status import NodeEncryption, Request

INTERVAL: Final = 1.0
"""Seconds between two looks at the reports."""

Reports = Mapping[str, NodeEncryption | None]


def answered(session: Session, asked: Mapping[str, Request], timeout: float, doing: str) -> tuple[Reports, bool]:
    """Ask each node its request and wait; returns the reports, and whether somebody has not finished in time."""

    async def ask(directory: Directory) -> None:
        for node, request in asked.items():
            await directory.request(node, request)

    session.with_directory(ask)
    ids = {node: request.id for node, request in asked.items()}
    start, said = time.monotonic(), ""
    while True:
        found = session.with_directory(reports)
        waiting, waited = unfinished(ids, found), time.monotonic() - start
        if not waiting or waited >= timeout:
            return found, bool(waiting)
        if waiting != said:
            note(f"{doing} ({age(waited)} of {age(timeout)}): {waiting}")
            said = waiting
        time.sleep(min(INTERVAL, timeout - waited))

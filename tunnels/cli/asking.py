"""Asking agents for something, and waiting for their answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from linkseal.tunnels.cli.output import age, note
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.cli.verifyview import unfinished
from linkseal.tunnels.directory.base import Directory, report_of, reports
from linkseal.tunnels.status import NodeEncryption, Request

INTERVAL: Final = 1.0
"""Seconds between two looks at the reports."""

FEW: Final = 3
"""Nodes whose reports are read one by one: there may be thousands of others, which need not be read each time."""

Reports = Mapping[str, NodeEncryption | None]


def answered(session: Session, asked: Mapping[str, Request], timeout: float, doing: str) -> tuple[Reports, bool]:
    """Ask each node its request and wait; returns the reports, and whether somebody has not finished in time."""

    async def ask(directory: Directory) -> None:
        for node, request in asked.items():
            await directory.request(node, request)

    async def look(directory: Directory) -> Reports:
        return {name: await report_of(directory, name) for name in asked} if few else await reports(directory)

    few = len(asked) <= FEW
    session.with_directory(ask)
    ids = {node: request.id for node, request in asked.items()}
    start, said = time.monotonic(), ""
    while True:
        found = session.with_directory(look)
        waiting, waited = unfinished(ids, found), time.monotonic() - start
        if not waiting or waited >= timeout:
            return found, bool(waiting)
        if waiting != said:
            note(f"{doing} ({age(waited)} of {age(timeout)}): {waiting}")
            said = waiting
        time.sleep(min(INTERVAL, timeout - waited))

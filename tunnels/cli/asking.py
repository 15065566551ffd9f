"""Asking agents for something, and waiting for their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Final

from linkseal.keys.errors import DirectoryError
from linkseal.tunnels.cli.output import age, clean, note
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.cli.verifyview import unfinished
from linkseal.tunnels.directory.base import Directory, report_of, reports
from linkseal.tunnels.status import NodeEncryption, Request, RequestStatus, answer_to

INTERVAL: Final = 1.0
"""Seconds between two looks at the reports."""

FEW: Final = 3
"""Nodes whose reports are read one by one: there may be thousands of others, which need not be read each time."""

AGAIN: Final = 5.0
"""Seconds after which who answered that it cannot be yet is asked once more."""

Reports = Mapping[str, NodeEncryption | None]


Anew = Callable[[RequestStatus], Request | None]
"""What is asked in place of a request that was answered so; None: the answer stands."""


def stands(_: RequestStatus) -> None:
    """Take any answer."""


def answered(
    session: Session, asked: dict[str, Request], timeout: float, doing: str, anew: Anew = stands
) -> tuple[Reports, bool]:
    """Ask each node its request and wait; returns the reports, and whether somebody has not finished in time.

    `asked` is left with who was asked, and what at last: a node that is gone is out of it. Once all were asked, what
    the directory refuses for a while is tried again as long as there is time.
    """

    async def ask(directory: Directory) -> None:
        for node, request in new.items():
            try:
                await directory.request(node, request)
            except DirectoryError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                note(f"{node} is gone: {clean(str(error))}")
                del asked[node]
            else:
                asked[node] = request

    async def look(directory: Directory) -> Reports:
        return {name: await report_of(directory, name) for name in asked} if few else await reports(directory)

    few, new, said, trouble = len(asked) <= FEW, dict(asked), "", ""
    found: Reports = {}
    session.with_directory(ask)
    start, due, new = time.monotonic(), time.monotonic() + AGAIN, {}
    while True:
        try:
            if new:
                due = time.monotonic() + AGAIN
                session.with_directory(ask)
            found, trouble = session.with_directory(look), ""
        except DirectoryError as error:
            trouble = clean(str(error))
        repeated = dict(_repeated(asked, found, anew))
        ids = {node: request.id for node, request in (asked | repeated).items()}
        waiting, waited = trouble or unfinished(ids, found), time.monotonic() - start
        if not waiting or waited >= timeout:
            return found, bool(waiting)
        if waiting != said:
            note(f"{doing} ({age(waited)} of {age(timeout)}): {waiting}")
            said = waiting
        time.sleep(min(INTERVAL, timeout - waited))
        new = repeated if time.monotonic() >= due else {}


def _repeated(asked: Mapping[str, Request], found: Reports, anew: Anew) -> Iterator[tuple[str, Request]]:
    """Yield who has answered so that it is asked again."""
    for name, request in asked.items():
        answer = answer_to(found.get(name), request.id)
        if answer is not None and (again := anew(answer)) is not None:
            yield name, again

"""What an agent serves over HTTP before it knows a policy: that it is there, and what it waits for.

A node that was just installed waits for its cluster's first policy, for days if nobody asks for encryption: there is
nothing for it to do, and so nothing that it is not ready for. A rollout must not hang on that.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final, NoReturn

from linkseal.keys.errors import HostError
from linkseal.tunnels.settings import EndpointSetting

_LOG: Final = logging.getLogger("linkseal.agent")

WAITS: Final = (
    "waiting for the cluster's first policy; nothing is encrypted and no traffic changes (`linkseal enable`)\n"
)


@contextlib.asynccontextmanager
async def answering(listen: EndpointSetting | None) -> AsyncIterator[None]:
    """Answer /healthz and /readyz at `listen` (None: nowhere) while in the block. A port that is taken is no error."""
    if listen is None:
        yield
        return
    from linkseal.tunnels.agent.web import PLAIN, WebServer  # noqa: PLC0415 - 2 MiB that most agents do not need

    class Waiting(WebServer):
        def _page(self, target: str, accept: str) -> tuple[HTTPStatus, str, str]:
            if target == "/metrics":
                return HTTPStatus.OK, "", PLAIN
            if target in ("/healthz", "/readyz"):
                return HTTPStatus.OK, WAITS, PLAIN
            return super()._page(target, accept)

    server = Waiting(listen, _nothing, lambda: None)
    try:
        await server.start()
    except HostError as error:
        _LOG.warning("%s", error)  # the agent that works later makes a finding of it
    try:
        yield
    finally:
        await server.close()


def _nothing() -> NoReturn:
    raise AssertionError

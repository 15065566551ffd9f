"""What an agent answers while it waits for its cluster's first policy."""

from __future__ import annotations

import asyncio
import socket

import urllib3
from linkseal.tunnels.agent.waiting import answering
from linkseal.tunnels.settings import EndpointSetting


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def get(port: int, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{port}{path}"
    answer = await asyncio.to_thread(urllib3.request, "GET", url, retries=False, timeout=10.0)
    return answer.status, answer.data.decode()


async def test_it_is_ready_since_there_is_nothing_to_do_and_says_what_it_waits_for() -> None:
    port = free_port()
    async with answering(EndpointSetting("127.0.0.1", port)):
        for path in ("/readyz", "/healthz"):
            status, text = await get(port, path)
            assert status == 200
            assert "waiting for the cluster's first policy" in text
        assert await get(port, "/metrics") == (200, "")
        assert (await get(port, "/else"))[0] == 404
    with socket.socket() as again:  # the agent that works listens there next
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


async def test_a_port_that_is_taken_keeps_no_agent_from_waiting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        async with answering(EndpointSetting("127.0.0.1", other.getsockname()[1])):
            pass
    async with answering(None):
        pass

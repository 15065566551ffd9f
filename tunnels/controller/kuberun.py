"""The controller's process on a cluster: one of several works, whoever holds the Lease."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from uuid import uuid4

from linkseal.tunnels.controller.kube import KubeController
from linkseal.tunnels.controller.lease import Lease, while_leading
from linkseal.tunnels.controller.providers.choice import Granting
from linkseal.tunnels.directory.kubeapi import Access, KubeApi


def run(
    access: Access, namespace: str, chosen: Granting, *, lift_taint: bool = False, ssh_agent: Path | None = None
) -> None:
    """Work until SIGTERM or SIGINT, whenever this process holds the Lease. Raises ConfigError, ApiError."""

    async def work() -> None:
        stop, api = asyncio.Event(), KubeApi(access)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        controller = KubeController(api, namespace, chosen, lift_taint=lift_taint, ssh_agent=ssh_agent)
        try:
            identity = f"{socket.gethostname()}_{uuid4()}"  # pods on the host's network share its name
            await api.opened()
            await while_leading(Lease(api, namespace, identity), controller.run, stop)
        finally:
            await api.close()

    asyncio.run(work())

"""A controller of this repository on a control plane, with the rights of the chart, and what it granted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ground.charts import CONTROLLER, NAMESPACE
from ground.controlplane import ControlPlane
from ground.kubeapi import Api
from ground.kubeobjects import unbound_token
from linkseal.keys import grant as grants
from linkseal.keys.grant import Grant
from linkseal.tunnels.controller.kube import KubeController
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.directory.kubedocs import GRANT


@asynccontextmanager
async def running(plane: ControlPlane, kube: Api, folder: Path, **options: Any) -> AsyncIterator[KubeController]:
    """A controller with its own token."""
    config = plane.kubeconfig(folder / "controller", unbound_token(kube, NAMESPACE, CONTROLLER))
    api, stop = KubeApi(Access(config)), asyncio.Event()
    made = KubeController(api, NAMESPACE, **options)
    work = asyncio.ensure_future(made.run(stop))
    try:
        yield made
        assert not work.done(), work.result()
    finally:
        stop.set()
        await work
        await api.close()


async def until(look: Callable[[], Any], seconds: float = 30.0, pause: float = 0.1) -> Any:
    """What `look` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := await asyncio.to_thread(look)):
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(pause)
    return found


def granted(kube: Api, name: str) -> Grant | None:
    text = kube.get(f"/api/v1/nodes/{name}")["metadata"].get("annotations", {}).get(GRANT)
    return None if text is None else grants.parse(grants.unwrap(text, node=name).text, node=name)

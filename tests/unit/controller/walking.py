"""A controller in a folder, and nodes that report what they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from linkseal.keys import policydoc
from linkseal.tunnels.controller.files import FileController
from linkseal.tunnels.directory.files import read_cluster
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.status import LinkCounts, NodeStatus, PairStatus, to_json
from linkseal.tunnels.statusparts import AppliedStatus, GuardStatus

NAMES = ("n1", "n2", "n3")


def inventory(stage: str = "off", *, scope: str = "overlay", **spec: Any) -> str:
    nodes = [
        {"name": f"n{i}", "uid": f"u{i}", "index": i, "addresses": [f"192.0.2.{i}"], "prefixes": [f"10.244.{i}.0/24"]}
        for i in (1, 2, 3)
    ]
    policy = {"scope": scope, "stage": stage, **spec}
    return json.dumps({"apiVersion": "linkseal.io/v1alpha1", "kind": "Inventory", "spec": policy, "nodes": nodes})


@dataclass
class Site:
    """The folder of a controller."""

    path: Path
    behind: set[str] = field(default_factory=set)
    """Nodes that do not take up a new policy."""
    guard: GuardStatus = field(default_factory=lambda: GuardStatus(mode="count", redirects="none"))

    def write(self, stage: str = "off", **spec: Any) -> None:
        (self.path / "inventory.json").write_text(inventory(stage, **spec))

    def controller(self) -> FileController:
        return FileController(self.path / "d", self.path / "inventory.json", self.path / "ca")

    def policy(self) -> policydoc.PolicyDocument:
        found = read_cluster(self.path / "d")
        assert found is not None
        assert found.signed is not None
        return policydoc.parse(found.signed.text)

    @property
    def stage(self) -> str:
        return str(self.policy().spec["stage"])

    def report(self, *names: str, at: float | None = None) -> None:
        """Let nodes report that they are where the policy is, those behind that they are where they were."""
        policy = self.policy()
        for name in names or NAMES:
            if name in self.behind:
                continue
            stage = Stage(policy.spec["stage"])
            state = LinkState.PROVEN if stage is Stage.PREPARE else LinkState.SEALED
            now = time.time() if at is None else at
            pairs = tuple(
                PairStatus(peer, 1, 1, "lsl11", state, now, last_handshake=now, carries=True)
                for peer in NAMES
                if peer != name and stage is not Stage.OFF
            )
            door, applied = True, True
            status = NodeStatus(
                now,
                stage,
                Scope.OVERLAY,
                "wireguard",
                "kernel",
                door,
                "1",
                "6",
                1420,
                1,
                1,
                (),
                LinkCounts(2),
                (),
                pairs,
            )
            status = replace(status, policy=AppliedStatus(policy.serial, applied), guard=self.guard)
            folder = self.path / "d/nodes" / name
            aside = folder / ".status"
            aside.write_text(to_json(name, status))
            aside.rename(folder / "status.json")


@contextlib.contextmanager
def running(site: Site) -> Iterator[FileController]:
    """The controller in a thread of its own, and nodes that follow."""
    controller = site.controller()
    controller.sign()
    site.report()
    ending = threading.Event()

    async def work() -> None:
        stop = asyncio.Event()
        serving = asyncio.ensure_future(controller.run(stop))
        await asyncio.to_thread(ending.wait)
        stop.set()
        await serving

    def follow() -> None:
        while not ending.wait(0.05):
            site.report()

    threads = [threading.Thread(target=lambda: asyncio.run(work())), threading.Thread(target=follow)]
    for thread in threads:
        thread.start()
    try:
        until((site.path / "ca/controller.sock").exists)
        yield controller
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def until(condition: Callable[[], bool], patience: float = 30.0) -> None:
    """Wait for a condition."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience, "it did not come"
        time.sleep(0.02)

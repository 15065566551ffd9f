"""What an agent asks a Kubernetes API server for, and what it loads for that: no whole Nodes, no typed models."""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.tunnels.directory import base, kube, outbox
from linkseal.tunnels.directory.kube import KubeDirectory, kube_directory
from linkseal.tunnels.settings import KubeDirectorySettings

METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

AGENT = """
import asyncio, importlib, json, pkgutil, re, sys
from pathlib import Path
from linkseal.tunnels import agent
from linkseal.tunnels.directory.choice import open_directory
from linkseal.tunnels.settings import KubeDirectorySettings

for module in pkgutil.iter_modules(agent.__path__, "linkseal.tunnels.agent."):
    importlib.import_module(module.name)

def typed():
    return [name for name in sys.modules if re.match(r"kubernetes\\.(aio\\.)?client\\.(models|api)\\.", name)]

async def ask():
    directory = open_directory(KubeDirectorySettings(kubeconfig=Path(sys.argv[1])), "n1")
    await directory.view("")
    await directory.request_certificate("n1", "csr")
    await directory.certificate("n1")
    await directory.close()

asyncio.run(ask())
found = typed()
from kubernetes.aio.client import V1Node
print(json.dumps([found, len(typed())]))
"""


@dataclass
class Server:
    """An API server of two Nodes; `n3` is missing. `asked`: method, path and accepted type of each request."""

    kubeconfig: Path
    asked: set[tuple[str, str, str]] = field(default_factory=set)
    failing: int = 0
    """How often it does not say whether n3 is there."""
    requests: list[str] = field(default_factory=list)
    """Names of certificate requests, as they were made."""
    kept: set[str] = field(default_factory=set)
    """Those that are there still."""
    slow: float = 0.0
    """Seconds until it says what became of one."""

    async def sign(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            name = yaml.safe_load(await request.text())["metadata"]["name"]
            self.requests.append(name)
            self.kept.add(name)
            return web.json_response(_object(name), status=201)
        await asyncio.sleep(self.slow)
        name = request.path.rpartition("/")[2]
        if name not in self.kept:
            return web.json_response({"message": "there is none"}, status=404)
        return web.json_response({**_object(name), "status": {"certificate": b64encode(b"the certificate").decode()}})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        watched = "watch" in request.query
        path = request.path
        self.asked.add(("WATCH" if watched else request.method, path, request.headers["Accept"]))
        if watched:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.Event().wait()
        if path == "/api/v1/nodes/n3":
            if self.failing:
                self.failing -= 1
                return web.json_response({"message": "too many"}, status=429)
            return web.json_response({"message": "there is none"}, status=404)
        if "/certificatesigningrequests" in path:
            return await self.sign(request)
        return web.json_response(_collection(path) or _object(path.rpartition("/")[2]))

    def of_nodes(self) -> set[tuple[str, str, str]]:
        return {one for one in self.asked if one[1].startswith("/api/v1/nodes")}


def _object(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "7"}}


def _collection(path: str) -> dict[str, Any] | None:
    names = {"nodes": ("n1", "n2"), "namespaces": ("kube-system",), "configmaps": (), "nodeencryptions": ()}
    found = names.get(path.rpartition("/")[2])
    return None if found is None else {"metadata": {"resourceVersion": "7"}, "items": [_object(n) for n in found]}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path / "kubeconfig")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    here = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://{host}:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    made.kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **here}))
    yield made
    await runner.cleanup()


@pytest.fixture
async def directory(server: Server) -> AsyncIterator[KubeDirectory]:
    made = kube_directory(KubeDirectorySettings(kubeconfig=server.kubeconfig), "n1")
    yield made
    await made.close()


async def test_of_nodes_an_agent_asks_for_metadata_alone(
    server: Server, directory: KubeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CONFIRM_AFTER", 0.0)
    await directory.view("", known=["n3"])
    await directory.publish("n1", SignedAnnouncement("text", "c2ln", "pem"))
    await directory.publish_status("n1", '{"status": {}}')
    assert await directory.uid("n2") == "uid-n2"
    await directory.withdraw("n1")
    while "n3" not in (await directory.view("", known=["n3"])).snapshot.confirmed_gone:
        assert await directory.wait_for_change(20.0)
    assert server.of_nodes() == {
        ("GET", "/api/v1/nodes", METADATA_LIST),
        ("WATCH", "/api/v1/nodes", METADATA),
        *(("GET", f"/api/v1/nodes/{name}", METADATA) for name in ("n1", "n2", "n3")),
        ("PATCH", "/api/v1/nodes/n1", METADATA),
    }


async def test_a_confirmation_that_failed_is_asked_for_again_though_nothing_else_happens(
    server: Server, directory: KubeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CONFIRM_AFTER", 0.0)
    monkeypatch.setattr(kube, "CONFIRM_AGAIN", (0.01, 0.02))
    server.failing = 3
    while "n3" not in (await directory.view("", known=["n3"])).snapshot.confirmed_gone:
        assert await directory.wait_for_change(20.0)
    assert server.failing == 0


async def test_a_request_is_not_made_again_once_its_certificate_came(server: Server, directory: KubeDirectory) -> None:
    await directory.view("")
    await directory.request_certificate("n1", "csr")
    server.kept.clear()
    assert await directory.certificate("n1") is None
    assert len(server.requests) == 2, "it was lost"
    assert await directory.certificate("n1") == "the certificate"
    server.kept.clear()
    assert await directory.certificate("n1") is None, "the API server forgets what was answered"
    assert len(server.requests) == 2
    await directory.request_certificate("n1", "another")
    assert await directory.certificate("n1") == "the certificate"
    assert len(set(server.requests)) == 2


async def test_a_certificate_that_comes_late_comes(
    server: Server, directory: KubeDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PATIENCE", 0.05)
    await directory.view("")
    await directory.request_certificate("n1", "csr")
    server.slow = 0.3
    assert await directory.certificate("n1") is None
    await asyncio.sleep(0.5)
    assert await directory.certificate("n1") == "the certificate"


async def test_an_agents_process_never_loads_the_typed_models_of_kubernetes(server: Server) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, str(server.kubeconfig), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await child.communicate()
    assert child.returncode == 0
    found, with_one = json.loads(said)
    assert found == []
    assert with_one > 0, "a model that is used is seen"

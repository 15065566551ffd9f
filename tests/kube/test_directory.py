"""The Kubernetes directory on a real API server: what is annotated is seen, and no trouble removes anybody."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground.controlplane import ControlPlane
from ground.kubeapi import Api, Recorder
from ground.kubeobjects import create_namespace, create_node, heartbeat
from ground.kubesigning import opened, signed_cluster
from linkseal.keys import codes as documents
from linkseal.keys.ca import make_csr
from linkseal.keys.errors import CertificateRefusedError, ConfigError, DirectoryError
from linkseal.tunnels import codes
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.directory import mirror
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.directory.choice import open_directory
from linkseal.tunnels.directory.kube import KubeDirectory
from linkseal.tunnels.directory.kubeapi import CLOSING, METADATA, Access, KubeApi
from linkseal.tunnels.directory.kubedocs import (
    ANNOUNCEMENT,
    GRANT,
    POLICY_MAP,
)
from linkseal.tunnels.settings import KubeDirectorySettings
from linkseal.tunnels.statustypes import parse_time
from unit.keys.cluster import GOOD, ONE, authority, policy

pytestmark = [pytest.mark.kube, pytest.mark.timeout(120)]

SPACE = "linkseal"
SIGNED = policy()


@pytest.fixture
def config(plane: ControlPlane, tmp_path: Path) -> Path:
    return plane.kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def cluster(kube: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Three nodes with grants, a CA bundle and a policy; the directory waits a fifth of what it does in life."""
    monkeypatch.setattr(mirror, "LAST_PAUSE", 2.0)
    monkeypatch.setattr(mirror, "RELIST_PAUSE", 0.3)
    monkeypatch.setattr(mirror, "STEADY", 1.0)
    monkeypatch.setattr(mirror, "AFTER_OUTAGE", (1.0, 2.0))
    signed_cluster(kube, SIGNED)
    return kube


def annotate(api: Api, name: str, **annotations: str | None) -> None:
    api.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": annotations}})


async def until(directory: KubeDirectory, condition: object, seconds: float = 30.0) -> DirectoryView:
    """Look until a view is as wanted; AssertionError with the last one when it does not come."""
    seen: object = None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            seen = await directory.view("n1")
            if condition(seen):  # type: ignore[operator]
                assert isinstance(seen, DirectoryView)
                return seen
        except DirectoryError as error:
            seen = str(error)
        await directory.wait_for_change(0.5)
    raise AssertionError(f"it did not come: {seen}")


async def trouble(directory: KubeDirectory, seconds: float) -> str:
    """Look until there is trouble; empty if none came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            await directory.view("n1")
        except DirectoryError as error:
            return str(error)
        await directory.wait_for_change(0.2)
    return ""


async def test_what_agents_and_controller_write_is_what_is_seen(cluster: Recorder, config: Path) -> None:
    uid = cluster.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    async with opened(config, "n1") as directory:
        before = await directory.view("n1")
        assert set(before.snapshot.nodes) == {"n1", "n2", "n3"}
        assert (before.snapshot.cluster_uid, before.ca_bundle) == (uid, authority().certificate_pem())
        assert before.policy == SIGNED
        meta = cluster.get("/api/v1/nodes/n1")["metadata"]
        assert (before.uid, before.registered) == (meta["uid"], parse_time(meta["creationTimestamp"]))
        assert before.findings == ()
        for name in ("n1", "n2"):
            signed = GOOD[name].announcement
            assert signed is not None
            await directory.publish(name, signed)
        after = await until(directory, lambda view: view.snapshot.nodes["n2"] == GOOD["n2"])
        assert after.snapshot.nodes["n1"] == GOOD["n1"]
        assert after.snapshot.nodes["n3"].announcement is None
        assert after.snapshot.confirmed_gone == frozenset()
        await directory.withdraw("n2")
        gone = await until(directory, lambda view: view.snapshot.nodes["n2"].announcement is None)
        assert gone.snapshot.nodes["n2"].grant == GOOD["n2"].grant, "the controller's word stays"


async def test_what_is_there_already_is_not_written_and_a_heartbeat_is_no_news(
    plane: ControlPlane, cluster: Recorder, config: Path
) -> None:
    signed = GOOD["n1"].announcement
    assert signed is not None
    async with opened(config, "n1") as directory:
        await directory.publish("n1", signed)
        view = await until(directory, lambda view: view.snapshot.nodes["n1"] == GOOD["n1"])
        await directory.wait_for_change(0.2)
        mark = plane.audit_mark()
        await directory.publish("n1", signed)
        assert plane.requests(resource="nodes", verb="patch", since=mark) == []
        heartbeat(cluster, "n2")
        assert not await directory.wait_for_change(1.0)
        again = await directory.view("n1")
        assert again.snapshot.nodes["n1"] is view.snapshot.nodes["n1"]
        assert plane.requests(resource="nodes", verb="list", since=mark) == []


async def test_a_node_is_gone_when_the_server_itself_says_so(cluster: Recorder, config: Path) -> None:
    async with opened(config, "n1") as directory:
        await directory.view("n1")
        cluster.delete("/api/v1/nodes/n3")
        seen = await until(directory, lambda view: "n3" not in view.snapshot.nodes)
        assert seen.snapshot.confirmed_gone == frozenset(), "not at the first look"
        later = await until(directory, lambda view: view.snapshot.confirmed_gone)
        assert later.snapshot.confirmed_gone == {"n3"}
        create_node(cluster, "n3")
        back = await until(directory, lambda view: "n3" in view.snapshot.nodes)
        assert back.snapshot.confirmed_gone == frozenset()


async def test_an_outage_is_told_and_afterwards_all_is_as_before(
    plane: ControlPlane, cluster: Recorder, config: Path
) -> None:
    async with opened(config, "n1") as directory:
        before = await directory.view("n1")
        plane.stop_api(kill=True)
        try:
            assert re.search(r"does not answer|broke|cut", await trouble(directory, 10.0))
        finally:
            plane.start_api()
        annotate(cluster, "n2", **{GRANT: None})
        after = await until(directory, lambda view: view.snapshot.nodes["n2"].grant is None)
        assert after.snapshot.nodes["n1"] is before.snapshot.nodes["n1"]
        assert after.snapshot.confirmed_gone == frozenset()


async def test_a_half_open_connection_is_noticed(
    plane: ControlPlane, cluster: Recorder, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "SILENCE", 1.0)
    async with opened(config, "n1") as directory:
        await directory.view("n1")
        plane.pause_api()
        try:
            assert await trouble(directory, 30.0)
            began = time.monotonic()
            with pytest.raises(DirectoryError):
                await directory.view("n1")
            assert time.monotonic() - began < 1.0, "who looks does not wait for the server"
        finally:
            plane.resume_api()
        annotate(cluster, "n2", **{GRANT: None})
        await until(directory, lambda view: view.snapshot.nodes["n2"].grant is None)


async def test_an_expired_version_leads_to_one_list_and_loses_nothing(cluster: Recorder, config: Path) -> None:
    """410: the server has forgotten what was before; so it is with a version it never had."""
    async with opened(config, "n1") as directory:
        await directory.view("n1")
        nodes = directory._copies.nodes
        assert nodes.lists == 1
        nodes._version = "1"
        directory._tasks[1].cancel()
        directory._tasks[1] = asyncio.ensure_future(nodes.run())
        cluster.delete("/api/v1/nodes/n3")
        seen = await until(directory, lambda view: "n3" not in view.snapshot.nodes)
        assert set(seen.snapshot.nodes) == {"n1", "n2"}
        assert nodes.lists == 2


async def test_a_store_that_was_wiped_is_another_cluster(plane: ControlPlane, cluster: Recorder, config: Path) -> None:
    async with opened(config, "n1") as directory:
        before = await directory.view("n1")
        plane.wipe()
        create_namespace(cluster, SPACE)
        after = await until(directory, lambda view: not view.snapshot.nodes)
        assert after.snapshot.cluster_uid != before.snapshot.cluster_uid
        assert after.snapshot.confirmed_gone == frozenset()
        assert codes.POLICY_UNSIGNED in {finding.code for finding in after.findings}


@pytest.mark.parametrize("written", [0, 300], ids=["behind what was seen", "grown beyond what was seen"])
async def test_who_came_after_the_backup_is_held_when_it_is_restored(
    plane: ControlPlane, cluster: Recorder, config: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    monkeypatch.setattr(mirror, "AFTER_OUTAGE", (mirror.STEADY, mirror.STEADY + 1.0))
    plane.snapshot("before")
    create_node(cluster, "late")
    async with opened(config, "n1") as directory:
        await until(directory, lambda view: "late" in view.snapshot.nodes)
        uid = (await directory.view("n1")).snapshot.cluster_uid
        await asyncio.to_thread(plane.restore, "before", writes=written)
        after = await until(directory, lambda view: view.snapshot.confirmed_gone, 60.0)
        assert after.snapshot.cluster_uid == uid
        assert (after.snapshot.confirmed_gone, after.snapshot.rolled_back) == ({"late"}, {"late"})
        create_node(cluster, "late")
        back = await until(directory, lambda view: "late" in view.snapshot.nodes)
        assert back.snapshot.rolled_back == frozenset()
        cluster.delete("/api/v1/nodes/late")
        gone = await until(directory, lambda view: view.snapshot.confirmed_gone)
        assert gone.snapshot.rolled_back == frozenset(), "that was a deletion like any other"


@pytest.mark.parametrize(
    ("annotations", "code"),
    [
        ({ANNOUNCEMENT: "{}"}, documents.MALFORMED),
        ({GRANT: "no grant"}, documents.MALFORMED),
        ({GRANT: "x" * 100_000}, documents.TOO_LARGE),
    ],
)
async def test_nonsense_on_one_node_is_its_own_finding(
    cluster: Recorder, config: Path, annotations: dict[str, str], code: str
) -> None:
    annotate(cluster, "n2", **annotations)
    async with opened(config) as directory:
        view = await directory.view("n1")
        assert [(finding.code, finding.node) for finding in view.findings] == [(code, "n2")]
        assert view.snapshot.nodes["n1"].grant == GOOD["n1"].grant


async def test_an_announcement_never_lands_on_a_node_that_was_made_anew(cluster: Recorder, config: Path) -> None:
    signed = GOOD["n1"].announcement
    assert signed is not None
    async with opened(config, "n1") as directory:
        await directory.view("n1")
        cluster.delete("/api/v1/nodes/n1")
        with pytest.raises(DirectoryError, match="there is no Node n1"):
            await directory.publish("n1", signed)
    with pytest.raises(Exception, match="404"):
        cluster.get("/api/v1/nodes/n1")


async def test_a_certificate_is_asked_for_and_a_refusal_is_told(cluster: Recorder, config: Path) -> None:
    csrs = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    async with opened(config, "n1") as directory:
        assert await directory.certificate("n1") is None
        await directory.request_certificate("n1", csr())
        await directory.request_certificate("n1", ASKED[-1])  # the same again is no second request
        [found] = [one for one in cluster.get(csrs)["items"] if one["metadata"]["name"].startswith("linkseal-n1-")]
        try:
            assert found["spec"]["signerName"] == "linkseal.io/node"
            assert await directory.certificate("n1") is None
            cluster.delete(f"{csrs}/{found['metadata']['name']}")
            assert await directory.certificate("n1") is None, "it was lost, and is made again"
            found = cluster.get(f"{csrs}/{found['metadata']['name']}")
            denied = {"type": "Denied", "status": "True", "reason": "WrongNode", "message": "it is n2's"}
            cluster.put(f"{csrs}/{found['metadata']['name']}/approval", {**found, "status": {"conditions": [denied]}})
            with pytest.raises(CertificateRefusedError, match="WrongNode it is n2's"):
                await directory.certificate("n1")
            await directory.request_certificate("n1", ASKED[-1])
            assert await directory.certificate("n1") is None, "another request, that waits"
        finally:
            made = [one["metadata"]["name"] for one in cluster.get(csrs)["items"]]
            for name in made:
                cluster.delete(f"{csrs}/{name}")
        assert len(made) == 2


ASKED: list[str] = []


def csr() -> str:
    """A request of node n1."""
    ASKED.append(make_csr(ONE.identity, ONE.name, ONE.uid))
    return ASKED[-1]


async def test_without_credentials_it_says_how_to_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    directory = open_directory(KubeDirectorySettings(SPACE))
    with pytest.raises(ConfigError, match="kubeconfig"):
        await directory.view("n1")
    await directory.close()


def test_the_commands_read_it(
    cluster: Recorder, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.get("/api/v1/nodes")
    monkeypatch.delenv("LINKSEAL_DIRECTORY", raising=False)
    assert main(["showconf", "n1", "--kubeconfig", str(config)]) != 70
    assert main(["links", "--kubeconfig", str(config), "-o", "json"]) == 3
    assert "nodeencryptions" in capsys.readouterr().err


async def test_an_agent_waits_for_the_first_policy_and_is_told_of_its_loss(cluster: Recorder, config: Path) -> None:
    path = f"/api/v1/namespaces/{SPACE}/configmaps/{POLICY_MAP}"
    kept = cluster.get(path)["data"]
    cluster.delete(path)
    async with opened(config, "n1") as directory:
        with pytest.raises(DirectoryError, match="is not there yet"):
            await directory.view("n1")
        cluster.post(path.rpartition("/")[0], {"metadata": {"name": POLICY_MAP}, "data": kept})
        await until(directory, lambda view: view.policy == SIGNED)
        cluster.delete(path)
        lost = await until(directory, lambda view: view.policy is None)
        assert [finding.code for finding in lost.findings] == [codes.POLICY_UNSIGNED]


def sockets() -> list[str]:
    """The sockets that this process has open."""
    found = []
    for one in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder's own
            found += [str(one.readlink())]
    return sorted(one for one in found if one.startswith("socket:"))


async def test_connections_end_at_once_though_the_api_server_is_frozen(plane: ControlPlane, config: Path) -> None:
    """A pool that is closed leaves nothing open, whether the server says goodbye or not."""
    before = sockets()
    api = KubeApi(Access(config))
    watch = api.watch("/api/v1/nodes", {}, accept=METADATA, silence=60.0)
    assert await anext(watch) == {}
    await api.get("/api/v1/namespaces")
    plane.pause_api()
    try:
        asked = asyncio.ensure_future(api.get("/api/v1/nodes"))
        await asyncio.sleep(0.2)
        assert len(sockets()) >= len(before) + 2
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await watch.aclose()  # type: ignore[attr-defined]
        began = time.monotonic()
        await api.close()
        took = time.monotonic() - began
        assert sockets() == before
        assert took < CLOSING
    finally:
        plane.resume_api()

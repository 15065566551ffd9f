"""Bad servers and bad ways to them: the directory comes to be right in the end, and asks for no more than it may.

What an agent asks for is counted where it passes. Bounds follow from tunnels/directory/mirror.py: an agent has a few
copies; each pause between two tries of one is random up to a bound that grows from FIRST_PAUSE to LAST_PAUSE.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ground.apiproxy import ApiProxy, Refusal
from ground.charts import NODE_ENCRYPTIONS, chart_installed, node_encryption
from ground.controlplane import ControlPlane
from ground.kubeapi import Api, Recorder
from ground.kubeobjects import create_node
from ground.kubesigning import opened, signed_cluster
from linkseal.keys import grant as grants
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels.directory import mirror
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.directory.kube import KubeDirectory
from linkseal.tunnels.directory.kubedocs import (
    GRANT,
)
from unit.keys.cluster import GOOD, Node, policy

pytestmark = [pytest.mark.kube, pytest.mark.timeout(240)]

COPIES = 3
"""The cluster, its nodes, ConfigMaps; that of one's own requests is left out: not all clusters here have its kind."""

NODES = "/api/v1/nodes"
NAMES = ("n1", "n2", "n3")


@pytest.fixture
def cluster(kube: Recorder) -> Recorder:
    """Three nodes with grants, a CA bundle and a policy, in a cluster without admission."""
    signed_cluster(kube, policy())
    return kube


def annotate(api: Api, name: str, grant: str) -> None:
    api.patch(f"{NODES}/{name}", {"metadata": {"annotations": {GRANT: grant}}})


def granted_again(api: Api, name: str, serial: int) -> None:
    """A change of one node that is to be seen."""
    number = int(name[1:])
    annotate(api, name, grants.wrap(Node(name, f"uid-{number}", number).grant(serial)))


def serial_of(view: DirectoryView, name: str) -> int:
    signed = view.snapshot.nodes[name].grant
    assert signed is not None
    return grants.parse(signed.text, node=name).serial


@pytest.fixture
def proxy(plane: ControlPlane) -> Iterator[ApiProxy]:
    with ApiProxy(plane) as made:
        yield made


@asynccontextmanager
async def agent(plane: ControlPlane, proxy: ApiProxy, folder: Path, node: str = "") -> AsyncIterator[KubeDirectory]:
    """The directory of an agent that reaches the server through the proxy."""
    config = proxy.kubeconfig(folder / "kubeconfig", plane.admin_token)
    async with opened(config, node) as directory:
        yield directory


async def until_serial(directory: KubeDirectory, name: str, serial: int, seconds: float = 60.0) -> DirectoryView:
    """Look until a node's grant has this serial."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            view = await directory.view("n1")
            if serial_of(view, name) == serial:
                return view
        except DirectoryError:
            pass
        await directory.wait_for_change(0.2)
    raise AssertionError(f"serial {serial} of {name} was not seen")


def tries(seconds: float, more: float = 0.0) -> int:
    """How often one copy tries in so many seconds, of which each try takes `more`, if pauses are half their bounds.

    And half as often again, since they are random.
    """
    count, at, bound = 1, 0.0, mirror.FIRST_PAUSE
    while (at := at + more + bound / 2) < seconds:
        count, bound = count + 1, min(mirror.LAST_PAUSE, 2 * bound)
    return 2 + count + count // 2


async def test_a_watch_that_is_cut_every_second_misses_nothing_and_is_no_storm(
    plane: ControlPlane, cluster: Recorder, proxy: ApiProxy, tmp_path: Path
) -> None:
    proxy.cut = 1.0
    async with agent(plane, proxy, tmp_path) as directory:
        began = time.monotonic()
        first = await directory.view("n1")
        for serial in range(2, 5):
            granted_again(cluster, "n2", serial)
            cluster.patch(f"{NODES}/n3", {"metadata": {"labels": {"x": str(serial)}}})
            await until_serial(directory, "n2", serial)
        await asyncio.sleep(max(0.0, began + 20 - time.monotonic()))
        seconds = time.monotonic() - began
        asked = proxy.requests(since=began)
        watches = [one for one in asked if one.watch]
        assert 2 * COPIES < len(watches) <= COPIES * tries(seconds, more=1.0)
        assert len(asked) <= 2 * len(watches) + 2 * COPIES, "beside each new watch one look at how far the server is"
        assert directory._copies.nodes.lists <= 2, "nothing is listed again, but for once to be sure"
        proxy.cut = 0.0
        granted_again(cluster, "n2", 9)
        view = await until_serial(directory, "n2", 9)
        assert view.snapshot.confirmed_gone == frozenset()
        assert view.snapshot.nodes["n1"] is first.snapshot.nodes["n1"]


async def test_with_five_seconds_of_latency_everything_arrives(
    plane: ControlPlane, cluster: Recorder, proxy: ApiProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linkseal.tunnels.directory.kube.FIRST_LOOK", 30.0)
    signed = GOOD["n1"].announcement
    assert signed is not None
    proxy.delay = 5.0
    async with agent(plane, proxy, tmp_path) as directory:
        began = time.monotonic()
        await directory.view("n1")
        assert time.monotonic() - began >= 10.0, "a list and a watch"
        assert len(proxy.requests()) == 2 * COPIES
        before = time.monotonic()
        await directory.publish("n1", signed)
        assert time.monotonic() - before < 3.0, "who publishes does not wait for the server"
        with pytest.raises(DirectoryError, match="has not answered yet"):
            await directory.publish("n1", signed)
        async with asyncio.timeout(40):
            while (await directory.view("n1")).snapshot.nodes["n1"].announcement != signed:
                await directory.wait_for_change(1.0)
        assert len(proxy.requests()) == 2 * COPIES + 2, "whose Node it is, and the write"


@pytest.mark.parametrize("refusal", [Refusal(429, retry_after=3), Refusal(503, retry_after=3), Refusal(500)])
async def test_a_server_that_refuses_is_left_alone_as_long_as_it_wants(
    plane: ControlPlane, cluster: Recorder, proxy: ApiProxy, tmp_path: Path, refusal: Refusal
) -> None:
    signed = GOOD["n1"].announcement
    assert signed is not None
    async with agent(plane, proxy, tmp_path) as directory:
        before = await directory.view("n1")
        proxy.refusal = refusal
        began = time.monotonic()
        proxy.cut_now()
        granted_again(cluster, "n2", 2)
        with pytest.raises(DirectoryError, match=str(refusal.status)) as caught:
            await directory.publish("n1", signed)
        assert caught.value.after == refusal.retry_after
        await asyncio.sleep(10)
        seconds = time.monotonic() - began
        asked = [one for one in proxy.requests(since=began) if one.method == "GET"]
        most = seconds / refusal.retry_after + 1 if refusal.retry_after else tries(seconds)
        assert COPIES <= len(asked) - 1 <= COPIES * most, "but for the look at whose Node it is to be published on"
        proxy.refusal = None
        view = await until_serial(directory, "n2", 2)
        assert view.snapshot.nodes["n1"] is before.snapshot.nodes["n1"]
        assert view.snapshot.confirmed_gone == frozenset()
        assert directory._copies.nodes.lists <= 2, "what is known is not listed again, but for once to be sure"


async def test_a_watch_of_a_version_that_was_compacted_leads_to_one_list_of_each_copy(
    plane: ControlPlane, cluster: Recorder, proxy: ApiProxy, tmp_path: Path
) -> None:
    async with agent(plane, proxy, tmp_path) as directory:
        before = await directory.view("n1")
        proxy.refusal = Refusal(410, watches=True)  # to every agent at once, as after a compaction
        proxy.cut_now()
        began = time.monotonic()
        cluster.delete(f"{NODES}/n3")
        await asyncio.sleep(10)
        seconds = time.monotonic() - began
        lists = [one for one in proxy.requests(since=began) if not one.watch]
        assert COPIES <= len(lists) <= 2 * COPIES * tries(seconds)
        proxy.refusal = None
        granted_again(cluster, "n2", 2)
        view = await until_serial(directory, "n2", 2)
        assert set(view.snapshot.nodes) == {"n1", "n2"}
        assert view.snapshot.nodes["n1"] is before.snapshot.nodes["n1"]


async def test_etcd_s_own_compaction_is_survived(
    plane: ControlPlane, cluster: Recorder, proxy: ApiProxy, tmp_path: Path
) -> None:
    """The server forgets what was before while the agent is away, and says so when it asks from there."""
    async with agent(plane, proxy, tmp_path) as directory:
        before = await directory.view("n1")
        proxy.refusal = Refusal(503)
        proxy.cut_now()
        await asyncio.sleep(0.5)
        cluster.delete(f"{NODES}/n3")
        granted_again(cluster, "n2", 2)
        plane.compact()
        plane.stop_api()  # whose cache still knows
        plane.start_api()
        proxy.refusal = None
        view = await until_serial(directory, "n2", 2)
        assert set(view.snapshot.nodes) == {"n1", "n2"}
        assert view.snapshot.nodes["n1"] is before.snapshot.nodes["n1"]
        assert directory._copies.nodes.lists == 2


async def test_a_report_that_the_server_refused_late_is_told(
    plane: ControlPlane, kube: Recorder, proxy: ApiProxy, tmp_path: Path
) -> None:
    told: list[str] = []
    with chart_installed(plane):
        create_node(kube, "n1")
        proxy.delay, proxy.refusal = 2.0, Refusal(429, retry_after=7)
        async with agent(plane, proxy, tmp_path, "n1") as directory:
            report = '{"status": {"stage": "prefer"}}'
            await directory.publish_status("n1", report, lambda error: told.append(f"{error} {error.after}"))  # type: ignore[attr-defined]
            await asyncio.sleep(2)
            assert [one.rpartition(" ")[2] for one in told] == ["7.0"]
            proxy.delay, proxy.refusal = 0.0, None
            kube.post(NODE_ENCRYPTIONS, node_encryption("n1"))
            with pytest.raises(DirectoryError, match="403"):  # by admission: it is no agent
                await directory.publish_status("n1", report)
        assert len(told) == 1

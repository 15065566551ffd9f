"""The supervisor of wireguard-go (`linkseal agent daemons`): real daemons, in namespaces, on any kernel with TUN."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ground.agents import Deployment
from ground.namespaces import ForkedProcess
from ground.net import Cluster, Node
from ground.probes import loss_probe
from linkseal.keys.errors import HostError
from linkseal.tunnels.agent import daemons
from linkseal.tunnels.agent import main as agent
from linkseal.tunnels.agent.daemons import RECORD
from linkseal.wireguard.launch import OwnProcesses, Supervised, ask

pytestmark = [pytest.mark.userspace, pytest.mark.timeout(240)]

SLOT, OTHER = "lsl00", "lsl10"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(2, cni="host-gw")
    for node in made:
        node.hold()  # a folder of sockets of its own, as the pods of one host share
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return next(iter(cluster))


class Supervisor:
    """One on a node; what it started goes with the node."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node, self.path = node, folder / "d" / "control.sock"
        self.process: ForkedProcess | None = None

    def start(self) -> ForkedProcess:
        self.process = self.node.fork(daemons.run, self.path)
        until(lambda: self.answers() or self.process.poll() is not None)  # type: ignore[union-attr]
        assert self.process.poll() is None, self.process.text()
        return self.process

    def answers(self) -> bool:
        with suppress(HostError):
            return ask(self.path, {"do": "list"})["ok"] is True
        return False

    def end(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.kill(number)
        self.process.wait()

    def devices(self) -> dict[str, tuple[int, bool]]:
        """Device → process, and whether it was taken over."""
        return {one["device"]: (one["pid"], one["adopted"]) for one in ask(self.path, {"do": "list"})["daemons"]}


@pytest.fixture
def supervisor(node: Node, tmp_path: Path) -> Supervisor:
    made = Supervisor(node, tmp_path)
    made.start()
    return made


def until(condition: Callable[[], bool], patience: float = 20.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def names(node: Node) -> set[str]:
    return {line.split()[0] for line in node.run("ip -br link").splitlines()}


def test_it_starts_reports_and_ends_daemons_and_leaves_no_zombie(supervisor: Supervisor, node: Node) -> None:
    assert stat.S_IMODE(supervisor.path.stat().st_mode) == 0o600
    Supervised(supervisor.path).start(SLOT)
    answer = ask(supervisor.path, {"do": "start", "device": SLOT})
    assert answer["started"] is False, "there is never a second one"
    pid = answer["pid"]
    assert supervisor.devices() == {SLOT: (pid, False)}
    assert supervisor.process is not None
    assert parent(pid) == supervisor.process.pid
    assert SLOT in names(node)
    assert ask(supervisor.path, {"do": "stop", "device": SLOT})["stopped"] is True
    assert ask(supervisor.path, {"do": "stop", "device": SLOT})["stopped"] is False
    assert SLOT not in names(node)
    assert not Path(f"/proc/{pid}").exists()


def test_one_that_ends_by_itself_is_told_and_can_be_started_again(supervisor: Supervisor, node: Node) -> None:
    pid = ask(supervisor.path, {"do": "start", "device": SLOT})["pid"]
    os.kill(pid, signal.SIGKILL)
    assert supervisor.process is not None
    until(lambda: f"wireguard-go of {SLOT} has ended (status -9)" in supervisor.process.text())  # type: ignore[union-attr]
    assert supervisor.devices() == {}
    assert ask(supervisor.path, {"do": "start", "device": SLOT})["started"] is True
    assert SLOT in names(node)


def test_daemons_outlive_it_and_the_next_one_takes_them_over_and_says_what_is_lost(
    supervisor: Supervisor, node: Node
) -> None:
    kept, gone = (ask(supervisor.path, {"do": "start", "device": name})["pid"] for name in (SLOT, OTHER))
    supervisor.end()
    os.kill(gone, signal.SIGKILL)
    until(lambda: OTHER not in names(node))
    again = supervisor.start()
    assert ask(supervisor.path, {"do": "list"})["lost"] == [OTHER]
    assert f"wireguard-go of {OTHER} is no longer there" in again.text()
    assert supervisor.devices() == {SLOT: (kept, True)}
    assert ask(supervisor.path, {"do": "start", "device": SLOT}) == {
        "ok": True, "device": SLOT, "pid": kept, "started": False,
    }  # fmt: skip
    assert ask(supervisor.path, {"do": "stop", "device": SLOT})["stopped"] is True
    until(lambda: SLOT not in names(node))


def test_one_that_the_boot_unit_started_is_taken_over(supervisor: Supervisor, node: Node) -> None:
    node.fork(lambda: OwnProcesses().start(SLOT)).result(30)
    answer = ask(supervisor.path, {"do": "start", "device": SLOT})
    assert answer["started"] is False
    assert supervisor.devices() == {SLOT: (answer["pid"], True)}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"do": "start", "device": "eth0"}, "device"),
        ({"do": "start", "device": "lsl/../x"}, "device"),
        ({"do": "start", "device": "lsl" + "x" * 13}, "device"),
        ({"do": "start", "device": ""}, "must be the name of a device of ours"),
        ({"do": "start", "device": ["lsl00"]}, "device"),
        ({"do": "start"}, "must be the name of a device of ours"),
        ({"do": "stop", "device": "-f"}, "device"),
        ({"do": "exec", "device": "lsl00"}, "do"),
        ({"do": "start", "device": "lsl00", "binary": "/bin/sh"}, "binary"),
        ({"device": "lsl00"}, "a request is one line of JSON"),
        ({"do": "start", "device": "lsl00", "x": "y" * 70_000}, "at most 65536 bytes"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    supervisor: Supervisor, node: Node, request_: dict[str, object], words: str
) -> None:
    with pytest.raises(HostError, match=words):
        ask(supervisor.path, request_)
    assert supervisor.devices() == {}
    assert not [name for name in names(node) if name.startswith("lsl")]


def test_what_is_no_json_is_refused(supervisor: Supervisor) -> None:
    for raw in (b"\n", b"{\n", b"[1]\n", b"\xff\xfe\n"):
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(supervisor.path))
            link.sendall(raw)
            assert json.loads(link.makefile("rb").readline())["ok"] is False
    assert supervisor.answers()


def test_an_interface_of_that_name_without_daemon_is_not_touched(supervisor: Supervisor, node: Node) -> None:
    node.run(f"ip tuntap add {SLOT} mode tun")
    with pytest.raises(HostError, match=f"{SLOT} exists but no wireguard-go serves it"):
        ask(supervisor.path, {"do": "start", "device": SLOT})
    assert SLOT in names(node)


def test_there_are_no_more_than_a_node_can_need(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor.end()
    monkeypatch.setattr(daemons, "MAX_DAEMONS", 1)
    supervisor.start()
    ask(supervisor.path, {"do": "start", "device": SLOT})
    with pytest.raises(HostError, match="there are 1 daemons already: lsl00"):
        ask(supervisor.path, {"do": "start", "device": OTHER})


def test_a_daemon_that_makes_no_device_is_an_error_that_says_so(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.end()
    monkeypatch.setenv("LINKSEAL_WIREGUARD_GO", "/bin/false")
    supervisor.start()
    with pytest.raises(HostError, match=f"/bin/false made no device {SLOT} .exit status 1.: see what it says"):
        ask(supervisor.path, {"do": "start", "device": SLOT})


@pytest.mark.parametrize("text", ["", "{", "{}", "[1, null]"])
def test_a_damaged_record_is_passed_over(node: Node, tmp_path: Path, text: str) -> None:
    made = Supervisor(node, tmp_path)
    made.path.parent.mkdir()
    (made.path.parent / RECORD).write_text(text)
    made.start()
    assert ask(made.path, {"do": "list"})["lost"] == []


def test_without_it_a_start_says_who_is_missing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"nobody answers at .* is the pod of the DaemonSet linkseal-daemons"):
        Supervised(tmp_path / "control.sock").start(SLOT)


def test_tunnels_outlive_agent_and_supervisor_and_nothing_is_torn_down_without_it(cluster: Cluster) -> None:
    a, b = cluster
    with Deployment(cluster) as linkseal:
        hosts = {node.name: Supervisor(node, linkseal.folder / node.name) for node in cluster}
        for node in cluster:
            driver = {"driver": "userspace", "daemons": str(hosts[node.name].path)}
            linkseal.settings[node.name] = {"wireguard": driver}
        here, there = hosts[a.name], hosts[b.name]
        there.start()
        linkseal.start()
        linkseal.until(lambda: "nobody answers at" in linkseal.log(a), "a finding about the supervisor that is missing")
        assert "LS3010" in linkseal.codes(a)
        assert linkseal.status(b).links.sealed == 0
        here.start()
        linkseal.wait_sealed()
        linkseal.until(lambda: "LS3010" not in linkseal.codes(a), "the finding gone")
        started = {name: one.devices() for name, one in hosts.items()}
        for name, one in hosts.items():
            assert one.process is not None
            assert {parent(pid) for pid, _ in started[name].values()} == {one.process.pid}, "none is the agent's child"
        with loss_probe(a.pods[0], b.pods[0], b.pods[0].address4, pps=200) as loss:
            linkseal.stop(a, signal.SIGKILL)
            time.sleep(1)
            linkseal.start(a)
            linkseal.wait_sealed()
            here.end(signal.SIGKILL)
            time.sleep(1)
            linkseal.stop(a)
            linkseal.start(a)
            linkseal.wait_sealed()
            here.start()
            linkseal.wait_sealed()
            before = {pid for pid, _ in started[a.name].values()}
            assert {pid for pid, _ in here.devices().values()} == before
            assert linkseal.rotate(a) == 2, "new slots come from the supervisor, old ones go without it"
            linkseal.until(linkseal.settled, "the new generation everywhere")
            assert any(not adopted for _, adopted in here.devices().values())
        assert loss.lost == [], loss
        assert loss.sent > 400


def test_after_a_boot_without_supervisor_the_agent_and_it_go_on_with_what_was_restored(cluster: Cluster) -> None:
    a, b = cluster
    with Deployment(cluster) as linkseal:
        here = Supervisor(a, linkseal.folder / a.name)
        linkseal.settings[a.name] = {"wireguard": {"driver": "userspace", "daemons": str(here.path)}}
        linkseal.settings[b.name] = {"wireguard": {"driver": "userspace"}}
        here.start()
        linkseal.start()
        linkseal.wait_sealed()
        linkseal.stop(a)
        here.end()
        for name in names(a):
            if name.startswith("lsl"):
                a.run(f"ip link del {name} || true")
        a.run("rm -f /run/wireguard/*.sock")
        linkseal.run_in(a, agent.restore, linkseal.agent_settings(a))
        here.start()
        restored = here.devices()
        assert restored
        assert all(adopted for _, adopted in restored.values())
        linkseal.start(a)
        linkseal.wait_sealed()
        assert here.devices() == restored

"""What `agent run` and `agent cleanup` do besides the loop: start without usable policy, no core file, honest lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from linkseal.keys.errors import ConfigError, DirectoryError, HostError
from linkseal.keys.store import KeyStore
from linkseal.tunnels.agent import main, onlyone, removal
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.host.host import Features
from linkseal.tunnels.model import Stage
from linkseal.tunnels.register import Snapshot
from linkseal.tunnels.settings import AgentSettings, parse_agent_settings
from unit.agent.pair import NoCounters
from unit.keys.cluster import GOOD, authority, policy

HARDENED = """
import ctypes, resource
from pathlib import Path
from linkseal.tunnels.agent.main import require_net_admin
from linkseal.tunnels.agent.memory import no_core
no_core()
assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0  # PR_GET_DUMPABLE
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
assert Path("/proc/self/mountinfo").read_text() and "CapEff" in Path("/proc/self/status").read_text()
import subprocess
assert subprocess.run(["cat", "/proc/self/fd/0"], input=b"in", capture_output=True, check=True).stdout == b"in"
print("fine")
"""


class Host:
    table, writes = 51820, 0
    guard = redirect = NoCounters()

    def __init__(self, *_: object) -> None:
        pass

    def features(self) -> Features:
        return Features(door=True, kernel="6.1", driver="kernel", nft="1.0.6")

    def close(self) -> None:
        pass


class Directory:
    """Answers the second time."""

    def __init__(self) -> None:
        self.asked = 0

    async def view(self, *_: object) -> DirectoryView:
        self.asked += 1
        if self.asked == 1:
            raise DirectoryError("not mounted yet")
        return DirectoryView(Snapshot("c1", GOOD), policy(), authority().certificate_pem())

    async def status(self, _: str) -> str | None:
        return None


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AgentSettings:
    @contextlib.contextmanager
    def no_driver(_: object, **__: object) -> Iterator[None]:
        yield None

    monkeypatch.setattr(main, "require_net_admin", lambda: None)
    monkeypatch.setattr(main, "driver_of", no_driver)
    monkeypatch.setattr(main, "choose_driver", lambda *_: None)
    monkeypatch.setattr(main, "Host", Host)
    monkeypatch.setattr(main, "FIRST_RETRY", 0.01)
    config = {
        "apiVersion": "linkseal.io/v1alpha1",
        "kind": "AgentConfig",
        "node": "n1",
        "uid": "uid-1",
        "directory": {"path": str(tmp_path / "directory")},
        "stateDirectory": str(tmp_path / "state"),
        "runDirectory": str(tmp_path / "run"),
    }
    return parse_agent_settings(config, "test", hostname="n1")


def test_the_process_that_holds_keys_leaves_no_core_and_still_reads_what_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", HARDENED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


@pytest.mark.parametrize("command", [main.run, main.restore])
def test_run_and_restore_begin_with_it(
    settings: AgentSettings, monkeypatch: pytest.MonkeyPatch, command: object
) -> None:
    class Begun(Exception):  # noqa: N818 - no error
        pass

    def begun() -> None:
        raise Begun

    monkeypatch.setattr(main, "no_core", begun)
    with pytest.raises(Begun):
        command(settings)  # type: ignore[operator]


def test_cleanup_keeps_the_record_of_what_it_could_not_put_back(
    settings: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownGood(settings.state_directory)
    known.open()
    known.save_changed_rp_filter({"eth0": 1, "eth1": 1})
    lines = ["rp_filter of eth1 back to 1", "failed: rp_filter of eth0 back to 1: read-only"]
    monkeypatch.setattr(removal, "clean_host", lambda *_, **__: lines)
    assert main.cleanup(settings, withdraw=False) == lines
    assert known.changed_rp_filter() == {"eth0": 1}


@pytest.mark.parametrize("error", [DirectoryError("not mounted"), ConfigError("not mounted")])
def test_an_announcement_that_could_not_be_withdrawn_is_told(
    settings: AgentSettings, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Unmounted:
        async def withdraw(self, _: str) -> None:
            raise error

    settings.state_directory.mkdir(mode=0o700)
    monkeypatch.setattr(removal, "clean_host", lambda *_, **__: [])
    monkeypatch.setattr(main, "open_directory", lambda *_: Unmounted())
    assert main.cleanup(settings, withdraw=True) == ["failed: announcement of n1: not mounted"]


async def test_a_broken_policy_on_disk_makes_the_agent_wait_for_the_directorys(settings: AgentSettings) -> None:
    executor = ThreadPoolExecutor(1)
    directory = Directory()
    directory.asked = 1
    await main._prepare(settings, directory, None, executor)  # type: ignore[arg-type]
    path = settings.state_directory / "cluster.json"
    path.write_text(path.read_text().replace("prefer", "perfect"))
    directory.asked = 0
    agent = await main._prepare(settings, directory, None, executor)  # type: ignore[arg-type]
    assert directory.asked == 2
    assert agent.worker.knowledge.policy is not None


def test_the_lock_of_an_agent_that_is_ending_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of starting a program, it leaves the lock to a child for the moment until that begins."""
    child = os.open(tmp_path / "agent.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(child, fcntl.LOCK_EX)
    ending = threading.Timer(0.2, os.close, (child,))
    ending.start()
    with onlyone.only_one(tmp_path):
        assert not ending.is_alive()
    ending.join()
    monkeypatch.setattr(onlyone, "LOCK_SECONDS", 0.1)
    with onlyone.only_one(tmp_path), pytest.raises(HostError, match="another agent runs"), onlyone.only_one(tmp_path):
        pass


@pytest.mark.parametrize("left", [False, True])
async def test_what_an_outgrown_agent_stood_on_stays_until_there_is_something_else(
    settings: AgentSettings, monkeypatch: pytest.MonkeyPatch, *, left: bool
) -> None:
    """A directory that does not answer in that moment must not take a node to stage off, unless it said so before."""
    executor, directory = ThreadPoolExecutor(1), Directory()
    directory.asked = 1
    await main._prepare(settings, directory, None, executor)  # type: ignore[arg-type]
    directory.asked = 0  # it does not answer once
    agent = await main._prepare(settings, directory, None, executor, anew=True, left=left)  # type: ignore[arg-type]
    assert agent.worker.knowledge.policy is not None
    assert agent.worker.knowledge.policy.stage is (Stage.OFF if left else Stage.PREFER)


def test_a_ca_is_named_by_its_fingerprint_alone(settings: AgentSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "require_net_admin", lambda: None)
    found = authority("next").fingerprint
    with pytest.raises(HostError, match="trusts no CA yet"):
        main.trust_ca(settings, found)
    store = KeyStore(settings.state_directory)
    store.open("n1", "uid-1", "c1")
    store.save_ca_bundle(authority().certificate_pem())
    for wrong in ("", found[:-1], f"{found}0", "../../etc/passwd", "g" * 64):
        with pytest.raises(ConfigError, match="64 hexadecimal digits"):
            main.trust_ca(settings, wrong)
        assert store.load_named_ca() is None
    with_colons = ":".join(found[i : i + 2] for i in range(0, 64, 2)).upper()
    assert main.trust_ca(settings, with_colons) == store.load_named_ca() == found

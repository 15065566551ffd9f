"""Waiting for changes of a folder: real inotify."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.policydoc import SignedPolicy
from linkseal.tunnels.directory import watch
from linkseal.tunnels.directory.files import FileDirectory
from linkseal.tunnels.directory.signer import FileSigner
from linkseal.tunnels.status import Request

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)
SIGNED = SignedAnnouncement("text", "c2ln", "pem")


async def watching(directory: FileDirectory, name: str = "n1") -> None:
    await directory.view(name)
    assert await directory.wait_for_change(0.1)  # the first wait begins to watch: look once more
    await directory.view(name)
    assert not await directory.wait_for_change(0.1)


async def test_a_published_announcement_wakes_at_once(directory: FileDirectory) -> None:
    await watching(directory)
    waiting = asyncio.create_task(directory.wait_for_change(30.0))
    await asyncio.sleep(0.05)
    begun = time.monotonic()
    await FileDirectory(directory.path).publish("n2", SIGNED)
    assert await waiting
    assert time.monotonic() - begun < 2.0


async def test_a_change_between_two_waits_is_not_missed(directory: FileDirectory) -> None:
    await watching(directory)
    await directory.publish("n2", SIGNED)
    await asyncio.sleep(0.05)
    assert await directory.wait_for_change(5.0)


async def test_reports_of_others_wake_nobody(directory: FileDirectory) -> None:
    await watching(directory)
    await directory.publish_status("n2", "{}\n")
    await directory.request("n2", Request("a", "rotate", 0.0))
    assert not await directory.wait_for_change(0.3)
    await directory.request("n1", Request("a", "rotate", 0.0))
    assert await directory.wait_for_change(5.0)


async def test_files_asked_for_do_wake(signer: FileSigner) -> None:
    signer.sign(NOW)
    directory = FileDirectory(signer.path, also=["status.json"])
    await watching(directory)
    await directory.publish_status("n2", "{}\n")
    assert await directory.wait_for_change(5.0)
    await directory.close()


async def test_a_new_node_is_watched_too(directory: FileDirectory) -> None:
    await watching(directory)
    await directory.request_certificate("n4", "csr")
    assert await directory.wait_for_change(5.0)
    await directory.view("n1")
    await directory.publish("n4", SIGNED)
    assert await directory.wait_for_change(5.0)
    assert (await directory.view("n1")).snapshot.nodes["n4"].announcement == SIGNED


async def test_a_changed_policy_wakes(directory: FileDirectory) -> None:
    await watching(directory)
    cluster = json.loads((directory.path / "cluster.json").read_text())
    (directory.path / "cluster.json").write_text(json.dumps(cluster | {"policy": "{}", "signature": "s"}))
    assert await directory.wait_for_change(5.0)
    assert (await directory.view("n1")).policy == SignedPolicy("{}", "s")


async def test_a_burst_of_changes_is_one_change(directory: FileDirectory) -> None:
    await watching(directory)

    async def burst() -> None:
        for number in range(10):
            await directory.publish("n2", SignedAnnouncement(f"{number}", "s", "c"))

    waiting = asyncio.create_task(burst())
    assert await directory.wait_for_change(5.0)
    await waiting
    assert not await directory.wait_for_change(0.2)


async def test_a_directory_put_in_the_place_of_the_old_one_is_watched(
    directory: FileDirectory, signer: FileSigner
) -> None:
    await watching(directory)
    directory.path.rename(directory.path.with_name("old"))
    assert await directory.wait_for_change(5.0)
    signer.prepare()
    signer.sign(NOW)
    assert await directory.wait_for_change(5.0)
    await directory.view("n1")
    await directory.publish("n2", SIGNED)
    assert await directory.wait_for_change(5.0)


async def test_without_inotify_it_looks_every_few_seconds(
    directory: FileDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watch, "Inotify", none_left)
    monkeypatch.setattr(watch, "POLL", 0.2)
    directory = FileDirectory(directory.path)
    assert not await directory.wait_for_change(0.1)
    begun = time.monotonic()
    assert await directory.wait_for_change(30.0)
    assert 0.1 < time.monotonic() - begun < 2.0


def test_the_type_of_the_file_system_says_whether_others_write_it() -> None:
    assert not watch.is_shared(Path("/proc"))
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for left, right in mounts:
        kind = right.split()[0]
        if kind in {"tmpfs", "ext4"} and left.split()[4].startswith(("/dev/shm", "/run")):
            assert not watch.is_shared(Path(left.split()[4]))


async def test_closing_leaves_no_watch(directory: FileDirectory) -> None:
    def count() -> int:
        total = 0
        for fd in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the one that lists them is gone again
                total += "inotify" in str(fd.readlink())
        return total

    before = count()
    await watching(directory)
    assert count() == before + 1
    await directory.close()
    assert count() == before

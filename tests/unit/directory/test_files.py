"""The folder as directory: real files, real inotify."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys import policydoc
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.errors import DirectoryError, PeerError
from linkseal.tunnels.directory import base, files
from linkseal.tunnels.directory.base import Directory, reports
from linkseal.tunnels.directory.files import FileDirectory, unwrap_announcement, wrap_announcement
from linkseal.tunnels.directory.signer import FileSigner
from linkseal.tunnels.status import MAX_REQUESTS, Request

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)
SIGNED = SignedAnnouncement('{"node":"n1"}\n', "c2ln", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")


def node(directory: FileDirectory, name: str) -> Path:
    return directory.path / "nodes" / name


def age(path: Path) -> None:
    """Make a file look old enough for its stamp to be trusted."""
    os.utime(path, (1_700_000_000, 1_700_000_000))


async def test_it_is_a_directory(directory: FileDirectory) -> None:
    as_interface: Directory = directory
    view = await as_interface.view("n1")
    assert set(view.snapshot.nodes) == {"n1", "n2", "n3"}
    assert all(documents.grant and not documents.announcement for documents in view.snapshot.nodes.values())
    assert view.snapshot.cluster_uid
    assert view.policy is not None
    assert policydoc.parse(view.policy.text).spec == {"scope": "overlay"}
    assert view.ca_bundle.startswith("-----BEGIN CERTIFICATE-----")
    assert (view.requests, view.findings, view.snapshot.confirmed_gone) == ((), (), frozenset())


async def test_what_is_published_is_seen_byte_for_byte(directory: FileDirectory) -> None:
    await directory.publish("n1", SIGNED)
    assert (await directory.view("n2")).snapshot.nodes["n1"].announcement == SIGNED


@given(st.text(), st.text(), st.text())
def test_an_announcement_comes_out_of_its_file_as_it_went_in(text: str, signature: str, certificate: str) -> None:
    try:
        text.encode(), signature.encode(), certificate.encode()
    except UnicodeEncodeError:
        return
    signed = SignedAnnouncement(text, signature, certificate)
    assert unwrap_announcement(wrap_announcement(signed), node="n1") == signed


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"announcement": 1, "signature": "", "certificate": ""}', "[" * 9999]
)
def test_a_file_that_is_no_announcement_is_a_peer_error(text: str) -> None:
    with pytest.raises(PeerError) as caught:
        unwrap_announcement(text, node="n1")
    assert (caught.value.code, caught.value.node) == ("LS1007", "n1")


async def test_nothing_is_written_twice(directory: FileDirectory) -> None:
    await directory.publish("n1", SIGNED)
    before = (node(directory, "n1") / "announcement.json").stat()
    await directory.publish("n1", SIGNED)
    after = (node(directory, "n1") / "announcement.json").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


async def test_no_temporary_file_stays(directory: FileDirectory) -> None:
    await directory.publish("n1", SIGNED)
    await directory.publish_status("n1", "{}\n")
    assert sorted(path.name for path in node(directory, "n1").iterdir()) == [
        "announcement.json",
        "grant.json",
        "status.json",
    ]


# --- what others may have put there


async def test_a_document_that_cannot_be_read_is_a_finding_and_silence_for_that_node_alone(
    directory: FileDirectory,
) -> None:
    await directory.publish("n2", SIGNED)
    (node(directory, "n1") / "grant.json").write_text("no json")
    (node(directory, "n3") / "announcement.json").write_bytes(b"x" * (files.MAX_ENVELOPE + 1))
    (node(directory, "n3") / "grant.json").write_bytes(b"\xff")
    view = await directory.view("n2")
    assert view.snapshot.nodes["n1"].grant is None
    assert view.snapshot.nodes["n2"].announcement == SIGNED
    assert view.snapshot.nodes["n2"].grant is not None
    assert [(f.code, f.node) for f in view.findings] == [("LS1007", "n1"), ("LS1007", "n3"), ("LS1008", "n3")]


async def test_links_are_not_followed(directory: FileDirectory, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(wrap_announcement(SIGNED))
    (node(directory, "n1") / "announcement.json").symlink_to(secret)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    node(directory, "linked").symlink_to(elsewhere)
    view = await directory.view("n2")
    assert view.snapshot.nodes["n1"].announcement is None
    assert [(f.code, f.node) for f in view.findings] == [("LS1007", "n1")]
    assert "linked" not in view.snapshot.nodes
    with pytest.raises(DirectoryError, match="links are not followed"):
        await directory.publish("linked", SIGNED)
    assert list(elsewhere.iterdir()) == []


async def test_a_pipe_does_not_block(directory: FileDirectory) -> None:
    os.mkfifo(node(directory, "n1") / "announcement.json")
    view = await asyncio.wait_for(directory.view("n2"), 5)
    assert [(f.code, f.node) for f in view.findings] == [("LS1007", "n1")]


async def test_a_folder_with_a_wrong_name_is_told_and_left_out(directory: FileDirectory) -> None:
    node(directory, "Not A Node").mkdir()
    node(directory, ".hidden").mkdir()
    view = await directory.view("n1")
    assert set(view.snapshot.nodes) == {"n1", "n2", "n3"}
    assert [f.code for f in view.findings] == ["LS1007"]


@pytest.mark.parametrize("name", ["../n1", "", ".", "a/b", "UPPER"])
async def test_a_name_cannot_lead_out_of_the_folder(directory: FileDirectory, name: str) -> None:
    with pytest.raises(DirectoryError, match="no node name"):
        await directory.publish(name, SIGNED)


async def test_a_folder_everybody_can_write_is_a_warning_not_an_error(directory: FileDirectory) -> None:
    directory.path.chmod(0o777)
    view = await directory.view("n1")
    assert [f.code for f in view.findings] == ["LS4012"]
    assert len(view.snapshot.nodes) == 3


async def test_too_many_nodes_are_refused_as_a_whole(directory: FileDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_NODES", 2)
    with pytest.raises(DirectoryError, match="more than 2 nodes"):
        await directory.view("n1")


# --- trouble and deletion


@pytest.mark.parametrize("text", ["", "{}", '{"uid": ""}', '{"uid": "a\\nb"}', '{"uid": "u", "policy": []}'])
async def test_a_damaged_cluster_file_is_trouble(directory: FileDirectory, text: str) -> None:
    (directory.path / "cluster.json").write_text(text)
    with pytest.raises(DirectoryError, match=r"cluster\.json"):
        await directory.view("n1")


async def test_a_missing_directory_is_trouble(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="not mounted"):
        await FileDirectory(tmp_path / "none").view("n1")


async def test_a_removed_node_is_confirmed_gone_by_the_second_look(
    directory: FileDirectory, signer: FileSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CONFIRM_AFTER", 0.3)
    await directory.view("n1")
    signer.remove("n3")
    first = await directory.view("n1")
    assert "n3" not in first.snapshot.nodes
    assert first.snapshot.confirmed_gone == frozenset()
    begun = time.monotonic()
    while time.monotonic() < begun + 5 and not (view := await directory.view("n1")).snapshot.confirmed_gone:
        assert await directory.wait_for_change(10.0)  # wakes by itself when the second look is due
    assert view.snapshot.confirmed_gone == {"n3"}


async def test_a_wiped_or_unmounted_directory_confirms_nothing(
    directory: FileDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CONFIRM_AFTER", 0.1)
    await directory.view("n1")
    hidden = directory.path.with_name("hidden")
    for what in ("cluster.json", "nodes"):
        (directory.path / what).rename(hidden)
        for _ in range(2):
            with pytest.raises(DirectoryError):
                await directory.view("n1")
            await asyncio.sleep(0.15)
        hidden.rename(directory.path / what)
        assert (await directory.view("n1")).snapshot.confirmed_gone == frozenset()


async def test_a_removed_node_does_not_come_back_by_publishing(directory: FileDirectory, signer: FileSigner) -> None:
    signer.remove("n3")
    with pytest.raises(DirectoryError, match="n3 is not in the directory"):
        await directory.publish("n3", SIGNED)
    assert not node(directory, "n3").exists()


async def test_a_disk_that_cannot_be_written_is_trouble_and_leaves_the_old_file(directory: FileDirectory) -> None:
    await directory.publish("n1", SIGNED)
    node(directory, "n2").rename(node(directory, "n2").with_name("n9"))
    (directory.path / "nodes" / "n2").write_text("a file where a folder should be")
    with pytest.raises(DirectoryError):
        await directory.publish("n2", SIGNED)


# --- what an idle look costs


async def test_an_unchanged_file_is_not_read_again(directory: FileDirectory) -> None:
    await directory.publish("n1", SIGNED)
    path = node(directory, "n1") / "announcement.json"
    age(path)
    before = (await directory.view("n1")).snapshot.nodes["n1"]
    path.write_text(path.read_text().replace("n1", "n7"))  # same size, same inode
    age(path)
    assert (await directory.view("n1")).snapshot.nodes["n1"] is before
    path.write_text(path.read_text().replace("n7", "n8"))
    assert (await directory.view("n1")).snapshot.nodes["n1"] != before


async def test_a_file_changed_within_one_tick_is_noticed(directory: FileDirectory) -> None:
    path = node(directory, "n1") / "announcement.json"
    for letter in "abc":
        path.write_text(wrap_announcement(SignedAnnouncement(letter, "s", "c")))
        os.utime(path, ns=(0, time.time_ns() // 1_000_000_000 * 1_000_000_000))
        found = (await directory.view("n1")).snapshot.nodes["n1"].announcement
        assert found is not None
        assert found.text == letter


async def test_unchanged_documents_are_the_same_objects(directory: FileDirectory) -> None:
    before = (await directory.view("n1")).snapshot.nodes
    await directory.publish("n2", SIGNED)
    after = (await directory.view("n1")).snapshot.nodes
    assert after["n1"] is before["n1"]
    assert after["n2"] is not before["n2"]
    assert after["n2"].grant is before["n2"].grant


async def test_looking_at_a_thousand_idle_nodes_is_cheap(directory: FileDirectory) -> None:
    grant = (node(directory, "n1") / "grant.json").read_text()
    for number in range(1000):
        folder = node(directory, f"m{number}")
        folder.mkdir()
        (folder / "grant.json").write_text(grant)
        (folder / "announcement.json").write_text(wrap_announcement(SIGNED))
        age(folder / "grant.json")
        age(folder / "announcement.json")
    begun = time.perf_counter()
    await directory.view("n1")
    first = time.perf_counter() - begun
    idle = []
    for _ in range(5):
        begun = time.perf_counter()
        await directory.view("n1")
        idle.append(time.perf_counter() - begun)
    print(f"first look {first * 1000:.1f} ms, idle {min(idle) * 1000:.1f} ms")
    assert min(idle) < first / 2


# --- certificates, reports, requests


async def test_the_certificate_is_what_the_signer_put_there(directory: FileDirectory) -> None:
    assert await directory.certificate("n1") is None
    assert await directory.certificate("n9") is None  # a node that joins asks before it has a folder
    (node(directory, "n1") / "certificate.pem").write_text("pem")
    assert await directory.certificate("n1") == "pem"


async def test_reports_are_given_as_published_and_wrong_ones_as_unknown(directory: FileDirectory) -> None:
    await directory.publish_status("n1", '{"metadata": {"name": "n1"}}')
    await directory.publish_status("n2", "broken")
    assert await directory.statuses() == {"n1": '{"metadata": {"name": "n1"}}', "n2": "broken"}
    found = await reports(directory)
    assert found["n2"] is None
    assert found["n1"] is not None
    assert found["n1"].status is None


async def test_one_report_is_read_alone(directory: FileDirectory) -> None:
    assert await directory.report("n1") is None
    await directory.publish_status("n1", "said")
    assert await directory.report("n1") == "said"
    (directory.path / "nodes/n2/status.json").symlink_to(directory.path / "nodes/n1/status.json")
    assert await directory.report("n2") == ""
    with pytest.raises(DirectoryError, match="no node name"):
        await directory.report("../n1")


async def test_requests_reach_the_node_and_are_bounded(directory: FileDirectory) -> None:
    await asyncio.gather(*(directory.request("n1", Request(f"r{i}", "rotate", 0.0)) for i in range(MAX_REQUESTS)))
    assert len((await directory.view("n1")).requests) == MAX_REQUESTS  # none is lost by writing at once
    await directory.request("n1", Request("last", "abort", 0.0))
    found = (await directory.view("n1")).requests
    assert len(found) == MAX_REQUESTS
    assert found[-1].id == "last"
    assert (await directory.view("n2")).requests == ()


async def test_wrong_requests_are_a_finding(directory: FileDirectory) -> None:
    (node(directory, "n1") / "requests.json").write_text("[]")
    view = await directory.view("n1")
    assert view.requests == ()
    assert [(f.code, f.node) for f in view.findings] == [("LS1007", "n1")]


async def test_withdrawing_leaves_what_the_signer_wrote(directory: FileDirectory) -> None:
    await directory.publish("n1", SIGNED)
    await directory.publish_status("n1", "{}")
    await directory.withdraw("n1")
    assert [path.name for path in node(directory, "n1").iterdir()] == ["grant.json"]

"""What the directory holds of this node, compared with what it signed last."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from linkseal.tunnels import codes
from linkseal.tunnels.agent.clock import unix_now
from linkseal.tunnels.agent.published import compare
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.register import NodeDocuments, Snapshot
from unit.agent.pair import Node, T, sealed_pair, view


def shown(node: Node) -> set[str]:
    return {finding.code for finding in node.findings.shown(unix_now() + 100.0)}


def with_documents(of: DirectoryView, name: str, documents: NodeDocuments) -> DirectoryView:
    nodes = {**of.snapshot.nodes, name: documents}
    return replace(of, snapshot=Snapshot(of.snapshot.cluster_uid, nodes))


def test_what_is_published_is_known_after_a_restart_and_what_failed_before_is_over(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    restarted = Node(tmp_path / "a", 1, host=a.host)
    restarted.findings.raise_(codes.NOT_PUBLISHED, HOST_SUBJECT, "the directory was away", T)
    assert codes.NOT_PUBLISHED in shown(restarted)
    assert compare(restarted.worker, view(a, b), 0) == 1
    assert codes.NOT_PUBLISHED not in shown(restarted)
    assert restarted.run(T + 1, view=view(a, b)).publish is None


def test_an_older_announcement_that_was_put_back_is_told_and_published_anew(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    before = a.documents()
    a.worker.speaker.request_rotation(T + 1)
    for _ in range(2):
        a.run(T + 1)
    a.published()
    assert compare(a.worker, view(a, b), 2) == 2
    assert compare(a.worker, with_documents(view(a, b), a.name, before), 2) == 0
    assert codes.DIRECTORY_OLDER in shown(a)
    assert a.run(T + 2).publish == a.keyring.last


def test_what_could_never_be_published_is_no_sign_of_a_directory_put_back(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    before = a.documents()
    a.worker.speaker.request_rotation(T + 1)
    for _ in range(2):
        a.run(T + 1)
    assert a.keyring.last is not None
    assert a.keyring.last_parsed is not None
    assert a.keyring.last_parsed.serial == 2
    compare(a.worker, with_documents(view(a, b), a.name, before), 1)
    assert codes.DIRECTORY_OLDER not in shown(a)


def test_an_announcement_whose_signature_was_spoilt_in_the_directory_is_published_anew(tmp_path: Path) -> None:
    a, b = sealed_pair(tmp_path)
    documents = a.documents()
    assert documents.announcement is not None
    spoilt = replace(documents, announcement=replace(documents.announcement, signature="AAAA"))
    assert compare(a.worker, with_documents(view(a, b), a.name, spoilt), 1) == 0
    assert a.run(T + 1).publish == a.keyring.last

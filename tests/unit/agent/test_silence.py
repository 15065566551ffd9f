"""Whose agent has not reported for long."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels import codes
from linkseal.tunnels.agent import silence
from linkseal.tunnels.agent.silence import AT_ONCE, Silence, silent
from linkseal.tunnels.cluster import STALE_AFTER
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.model import Scope, Stage
from linkseal.tunnels.status import NodeStatus, to_json
from property.worlds import as_me, make_peer

NOW = 1_800_000_000.0


def report(name: str, observed_at: float) -> str:
    status = NodeStatus(
        observed_at, Stage.PREFER, Scope.OVERLAY, "wireguard", "kernel", door=True, version="1", kernel="6.1", mtu=1440,
        serial=1, announced_serial=1,
    )  # fmt: skip
    return to_json(name, status)


class Directory:
    def __init__(self, reports: dict[str, str | None]) -> None:
        self.reports = reports
        self.read: list[str] = []
        self.broken = False

    async def report(self, node: str) -> str | None:
        self.read.append(node)
        if self.broken:
            raise DirectoryError("not mounted")
        return self.reports[node]


class Ground:
    """An agent whose links to these peers have these diagnoses."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, codes_of: dict[str, str], reports: dict[str, str | None]
    ) -> None:
        monkeypatch.setattr(silence, "unix_now", lambda: NOW)
        self.book, self.findings, self.directory = LinkBook(), ActiveFindings(), Directory(reports)
        peers = {peer.name: peer for peer in (make_peer(int(name[1:]), 1) for name in codes_of)}
        self.book.sync(as_me(make_peer(1, 1)), peers, {name: peer.endpoints[0] for name, peer in peers.items()}, 0.0)
        for key in list(self.book.records):
            self.book.diagnosed(key, codes_of[key.peer], "…")
        self.knowledge = SimpleNamespace(abroad=False)
        worker = SimpleNamespace(book=self.book, findings=self.findings, knowledge=self.knowledge)
        self.silence = Silence(worker, self.directory, self._at_once)  # type: ignore[arg-type]

    async def _at_once(self, work: Callable[[], Any]) -> Any:
        return work()

    def told(self) -> dict[str, str]:
        return {found.subject: found.message for found in self.findings.shown(NOW) if found.code == codes.AGENT_SILENT}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "it has never reported"),
        (report("n2", NOW - STALE_AFTER + 1), None),
        (report("n2", NOW - STALE_AFTER - 120), "its last report is 17 minutes old"),
        (report("n2", NOW + 99_999), None),
        ("", None),
        ("{}", None),
    ],
)
def test_a_report_is_too_old_or_nobody_knows(text: str | None, expected: str | None) -> None:
    assert silent(text, "n2", NOW) == expected


async def test_only_peers_from_which_nothing_comes_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = {"n2": codes.NO_HANDSHAKE, "n3": codes.NOTHING_CROSSES, "n4": codes.MTU_HOLE}
    old = {"n2": report("n2", NOW - 9_000), "n3": report("n3", NOW), "n4": None}
    ground = Ground(monkeypatch, troubles, old)
    await ground.silence.look()
    assert ground.directory.read == ["n2", "n3"]
    assert ground.told() == {"n2": "its last report is 150 minutes old"}


async def test_another_cluster_s_directory_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground(monkeypatch, {"n2": codes.NO_HANDSHAKE}, {"n2": None})
    ground.knowledge.abroad = True
    await ground.silence.look()
    assert (ground.directory.read, ground.told()) == ([], {})


async def test_what_is_over_is_told_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground(monkeypatch, {"n2": codes.NO_HANDSHAKE, "n3": codes.NO_HANDSHAKE}, {"n2": None, "n3": None})
    await ground.silence.look()
    assert set(ground.told()) == {"n2", "n3"}
    ground.directory.reports["n2"] = report("n2", NOW)
    (key,) = (key for key in ground.book.records if key.peer == "n3")
    ground.book.proved(key, 1.0, 1440, None)
    await ground.silence.look()
    assert ground.told() == {}


async def test_a_directory_that_cannot_be_read_says_nothing_about_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    ground = Ground(monkeypatch, {"n2": codes.NO_HANDSHAKE}, {"n2": None})
    await ground.silence.look()
    ground.directory.broken = True
    await ground.silence.look()
    assert set(ground.told()) == {"n2"}


async def test_of_many_peers_some_are_looked_at_each_time_and_all_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"n{number}" for number in range(2, 2 + 2 * AT_ONCE)]
    ground = Ground(monkeypatch, dict.fromkeys(names, codes.NO_HANDSHAKE), dict.fromkeys(names))
    await ground.silence.look()
    assert len(ground.directory.read) == AT_ONCE
    await ground.silence.look()
    assert sorted(ground.directory.read) == sorted(names)
    assert set(ground.told()) == set(names)

"""Everything of ours goes from a host at the operator's word, or it is said what is still there."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from linkseal.keys import announcement
from linkseal.keys.errors import DirectoryError, HostError
from linkseal.tunnels.agent import removal
from linkseal.tunnels.agent.keyring import Floor, Keyring, Statement
from linkseal.tunnels.agent.removal import answer, floor_of, removed
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.settings import AgentSettings, FileDirectorySettings
from linkseal.tunnels.status import GenerationStatus, NodeStatus, RequestStatus, parse_report
from unit.agent.pair import T, sealed_pair
from unit.keys.cluster import NOW, authority


class Directory:
    """What is done to it, in order."""

    def __init__(self, *, stuck: bool = False, lost: int = 0) -> None:
        self.stuck, self.lost = stuck, lost
        self.done: list[str] = []
        self.text: str | None = None

    @property
    def report(self) -> NodeStatus | None:
        return None if self.text is None else parse_report(self.text, "n1").status

    async def withdraw(self, node: str) -> None:
        if self.stuck:
            raise DirectoryError("not mounted")
        self.done.append(f"withdrew {node}")

    async def publish_status(self, node: str, report: str) -> None:
        self.done.append(f"reported {node}")
        if len(self.done) > self.lost + 1:
            self.text = report

    async def status(self, node: str) -> str | None:
        assert node == "n1"
        return self.text


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    state, run = tmp_path / "state", tmp_path / "run"
    for folder in (state, run):
        folder.mkdir(mode=0o700)
    (run / "agent.lock").touch()
    (run / "daemons").mkdir()
    (state / "identity.key").write_text("secret")
    (state / "known" / "n2").mkdir(parents=True)
    (state / "elsewhere").symlink_to(tmp_path)
    return AgentSettings("n1", "uid-1", FileDirectorySettings(tmp_path / "d"), state_directory=state, run_directory=run)


def gone(settings: AgentSettings, monkeypatch: pytest.MonkeyPatch, lines: list[str] | HostError) -> str:
    def clean(*_: object) -> list[str]:
        if isinstance(lines, HostError):
            raise lines
        return lines

    monkeypatch.setattr(removal, "clean", clean)
    return removed(settings, None, Policy(), KnownGood(settings.state_directory))  # type: ignore[arg-type]


def test_nothing_is_left_on_the_disk_but_folders_that_may_be_mounts(
    settings: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gone(settings, monkeypatch, ["interface lsl11"]) == ""
    assert list(settings.state_directory.iterdir()) == []
    assert [one.name for one in settings.run_directory.iterdir()] == ["daemons"], "the supervisor's"
    assert settings.state_directory.parent.is_dir(), "a link is not followed"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["interface lsl11", "failed: rule 100: busy"], "failed: rule 100: busy"),
        (["left alone: table linkseal"], "left alone: table linkseal"),
        (HostError("netlink is gone"), "failed: netlink is gone"),
    ],
)
def test_what_is_still_there_is_said_and_what_knows_of_it_is_kept(
    settings: AgentSettings, monkeypatch: pytest.MonkeyPatch, lines: list[str] | HostError, words: str
) -> None:
    assert gone(settings, monkeypatch, lines) == words
    assert (settings.state_directory / "identity.key").exists()


async def test_what_was_announced_goes_before_it_is_said_that_all_is_gone(tmp_path: Path) -> None:
    a, _ = sealed_pair(tmp_path)
    directory = Directory()
    assert await answer(directory, "n1", "x1", a.status(T), "")  # type: ignore[arg-type]
    assert directory.done == ["withdrew n1", "reported n1"]
    assert directory.report is not None
    assert directory.report.requests["x1"] == RequestStatus("remove", "done", "")
    assert (directory.report.announced_serial, {one.state for one in directory.report.generations}) == (0, {"removed"})


async def test_who_begins_from_nothing_begins_above_what_peers_have_seen(tmp_path: Path) -> None:
    """Else they would refuse it as old, and never be sealed with it."""
    a, _ = sealed_pair(tmp_path)
    directory = Directory()
    last = replace(a.status(T), serial=37, generations=(GenerationStatus(6, "live", "f", T),))
    assert await answer(directory, "n1", "x1", last, "")  # type: ignore[arg-type]
    floor = await floor_of(directory, "n1")  # type: ignore[arg-type]
    assert floor == Floor(37, 6)
    keyring = Keyring(tmp_path / "new", "n1")
    keyring.open("uid-1", "c1")
    keyring.floor = floor
    assert keyring.ensure(None, NOW)
    assert [one.number for one in keyring.own_keys()] == [7]
    keyring.save_certificate(authority().sign_csr(keyring.csr(), "n1", "uid-1", NOW, timedelta(days=9)))
    certificate = keyring.certificate()
    assert certificate is not None
    signed = keyring.sign(Statement(), certificate, (7,), 0, NOW)
    assert announcement.parse(signed.text, node="n1").serial == 38
    assert await floor_of(Directory(), "n1") == Floor(), "a node that was never there"  # type: ignore[arg-type]


async def test_the_answer_is_written_until_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is taken for done may be lost, and nobody else would answer."""
    monkeypatch.setattr(removal, "FIRST_RETRY", 0.0)
    monkeypatch.setattr(removal, "LAST_RETRY", 0.01)
    a, _ = sealed_pair(tmp_path)
    directory = Directory(lost=2)
    assert await answer(directory, "n1", "x1", a.status(T), "")  # type: ignore[arg-type]
    assert directory.done == ["withdrew n1", *["reported n1"] * 3]


@pytest.mark.parametrize(("failed", "words"), [("failed: rule 100", "rule 100"), ("", "not mounted")])
async def test_a_failure_is_answered_and_the_agent_goes_on(tmp_path: Path, failed: str, words: str) -> None:
    a, _ = sealed_pair(tmp_path)
    directory = Directory(stuck=True)
    assert not await answer(directory, "n1", "x1", a.status(T), failed)  # type: ignore[arg-type]
    assert directory.report is not None
    said = directory.report.requests["x1"]
    assert (said.state, words in said.message) == ("failed", True)
    assert directory.report.generations != ()

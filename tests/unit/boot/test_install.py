"""The copied root and the units on a disk: made once, proven, replaced whole, refused where they could not work."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from linkseal.keys.errors import HostError
from linkseal.tunnels.agent.bootunit import before
from linkseal.tunnels.boot import closure, install, root
from linkseal.tunnels.boot.config import restore_config
from linkseal.tunnels.boot.unit import UNITS
from linkseal.tunnels.settings import (
    AgentSettings,
    BootSettings,
    EndpointSetting,
    FileDirectorySettings,
    KubeDirectorySettings,
    parse_agent_settings,
)

PASSING = frozenset({"tmpfs", "ramfs"})

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BootSettings:
    monkeypatch.setattr(install, "PASSING", frozenset())  # where temporary folders are on a tmpfs
    for folder in ("units", "systemd/system", "state"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "state").chmod(0o700)
    return BootSettings(tmp_path / "units", tmp_path / "systemd")


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    return AgentSettings(
        "n1", FileDirectorySettings(Path("/srv")), state_directory=tmp_path / "state", run_directory=tmp_path / "run"
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A root of two files that proves itself; called: with another text in it."""

    def made(text: str) -> None:
        found = closure.Closure("/usr/bin/python3", links={"lib": "usr/lib"}, folders={"proc"})
        found.say("usr/bin/x", text, 0o755)
        found.say("etc/y", "y", 0o600)
        monkeypatch.setattr(install, "closure_of", lambda _: found)

    monkeypatch.setattr(root, "prove", lambda *_: None)
    made("one")
    return made


def disk(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and link below a folder: inode and time of change."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]
    return {str(path.relative_to(folder)): (path.lstat().st_ino, path.lstat().st_ctime_ns) for path in found}


# --- units and roots


def test_a_second_run_writes_nothing(
    settings: AgentSettings, boot: BootSettings, small: object, tmp_path: Path
) -> None:
    made = install.install(settings, boot)
    before = disk(tmp_path)
    assert install.install(settings, boot) == made
    assert disk(tmp_path) == before
    assert install.stands(boot, made)
    for unit in UNITS:
        assert (boot.units / unit.link).resolve() == boot.units / unit.name
        assert f"RootDirectory={made}\n" in (boot.units / unit.name).read_text()
    assert (made / "usr/bin/x").stat().st_mode & 0o777 == 0o755
    assert (made / "etc/y").stat().st_mode & 0o777 == 0o600


def test_other_content_is_another_root_and_the_old_one_goes(
    settings: AgentSettings, boot: BootSettings, small: Callable[[str], None]
) -> None:
    old = install.install(settings, boot)
    small("two")
    new = install.install(settings, boot)
    assert new != old
    assert {one.name for one in (settings.state_directory / "boot").iterdir()} == {new.name, "linkseal"}
    assert f" RootDirectory={new} " in install.command_of(settings.state_directory).read_text()
    assert all(f"RootDirectory={new}\n" in (boot.units / unit.name).read_text() for unit in UNITS)
    assert not install.stands(boot, old)


def test_one_that_does_not_work_leaves_the_old_one(
    settings: AgentSettings, boot: BootSettings, small: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = install.install(settings, boot)
    before = disk(settings.state_directory.parent)
    small("two")

    def refuse(*_: object) -> None:
        raise HostError("it does not work")

    monkeypatch.setattr(root, "prove", refuse)
    with pytest.raises(HostError, match="it does not work"):
        install.install(settings, boot)
    assert disk(settings.state_directory.parent) == before
    assert install.stands(boot, old)


@pytest.mark.parametrize("harm", ["changed", "gone", "added", "mode", "link"])
def test_a_root_that_was_damaged_is_made_anew(
    settings: AgentSettings, boot: BootSettings, small: object, harm: str
) -> None:
    made = install.install(settings, boot)
    file = made / "usr/bin/x"
    match harm:
        case "changed":
            file.write_text("eno")
        case "gone":
            file.unlink()
        case "added":
            (made / "usr/bin/z").write_text("")
        case "mode":
            file.chmod(0o777)
        case "link":
            (made / "lib").unlink()
            (made / "lib").symlink_to("/etc")
    assert install.install(settings, boot) == made
    assert file.read_text() == "one"
    assert file.stat().st_mode & 0o777 == 0o755
    assert not (made / "usr/bin/z").exists()
    assert str((made / "lib").readlink()) == "usr/lib"


def test_what_was_broken_off_is_swept_away(settings: AgentSettings, boot: BootSettings, small: object) -> None:
    left = settings.state_directory / "boot" / "new-1234"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    install.install(settings, boot)
    assert not left.exists()


def test_a_unit_or_link_that_was_taken_away_is_missed_and_put_back(
    settings: AgentSettings, boot: BootSettings, small: object
) -> None:
    made = install.install(settings, boot)
    for path in (boot.units / UNITS[0].name, boot.units / UNITS[1].link):
        path.unlink()
        assert not install.stands(boot, made)
        install.install(settings, boot)
        assert install.stands(boot, made)


# --- where it cannot be


def test_a_host_without_systemd_is_refused(settings: AgentSettings, boot: BootSettings, small: object) -> None:
    shutil.rmtree(boot.systemd)
    with pytest.raises(HostError, match="not booted by systemd"):
        install.install(settings, boot)
    assert not (settings.state_directory / "boot").exists()


def test_a_folder_of_units_that_a_reboot_empties_is_refused(
    settings: AgentSettings, boot: BootSettings, small: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "PASSING", PASSING)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(boot.units)], check=True)
    try:
        with pytest.raises(HostError, match="is on a tmpfs, which a reboot empties"):
            install.install(settings, boot)
    finally:
        subprocess.run(["umount", str(boot.units)], check=True)


def test_a_folder_of_units_that_cannot_be_written_is_told(
    settings: AgentSettings, boot: BootSettings, small: object
) -> None:
    subprocess.run(["mount", "--bind", "-o", "ro", str(boot.units), str(boot.units)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(boot.units)], check=True)
    try:
        with pytest.raises(HostError, match="Read-only file system"):
            install.install(settings, boot)
    finally:
        subprocess.run(["umount", str(boot.units)], check=True)


def test_a_disk_without_room_is_left_alone(
    settings: AgentSettings, boot: BootSettings, small: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "SPARE", 1 << 60)
    with pytest.raises(HostError, match="MiB free; the boot root needs"):
        install.install(settings, boot)
    assert list((settings.state_directory / "boot").iterdir()) == []


def test_a_unit_that_an_administrator_masked_stays_masked(
    settings: AgentSettings, boot: BootSettings, small: object
) -> None:
    masked = boot.units / UNITS[1].name
    masked.symlink_to("/dev/null")
    with pytest.raises(HostError, match="is masked on this host"):
        install.install(settings, boot)
    assert masked.is_symlink()


# --- away


def test_removing_it_leaves_nothing_of_ours_and_all_of_others(
    settings: AgentSettings, boot: BootSettings, small: object
) -> None:
    others = boot.units / "sysinit.target.wants" / "other.service"
    others.parent.mkdir()
    others.symlink_to("../other.service")
    install.install(settings, boot)
    lines = install.remove(settings.state_directory, boot.units)
    assert [line.split()[0] for line in lines] == ["systemd", "systemd", "boot"]
    assert [path.name for path in boot.units.rglob("*")] == ["sysinit.target.wants", "other.service"]
    assert list(settings.state_directory.iterdir()) == []
    assert install.remove(settings.state_directory, boot.units) == []


def test_the_root_in_which_it_runs_stays_and_is_told(
    settings: AgentSettings, boot: BootSettings, small: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = install.install(settings, boot)
    monkeypatch.setattr(Path, "samefile", lambda self, other: (self, other) == (root, "/"))
    *units, last = install.remove(settings.state_directory, boot.units)
    assert [line.split()[0] for line in units] == ["systemd", "systemd"]
    assert last.startswith(f"left alone: boot root {root}, in which this command runs")
    assert root.is_dir()


def test_units_of_another_state_directory_or_by_another_hand_are_left(
    settings: AgentSettings, boot: BootSettings, small: object
) -> None:
    install.install(settings, boot)
    assert install.remove(settings.state_directory.with_name("other"), boot.units) == []
    own = boot.units / UNITS[0].name
    own.write_text(own.read_text().removeprefix("#"))
    install.remove(settings.state_directory, boot.units)
    assert own.exists()


# --- the real root


def test_the_real_root_says_what_is_missing_and_holds_no_more_than_restore_needs(
    settings: AgentSettings, boot: BootSettings
) -> None:
    """It is tried in its own root, where this state directory is that of a node that was never set up."""
    found = closure.closure_of(settings)
    with pytest.raises(HostError, match=r"does not work, so the old one stays: .*this node was never set up"):
        install.install(settings, boot)
    assert list((settings.state_directory / "boot").iterdir()) == []
    assert list(boot.units.iterdir()) == []
    packages = {path.split("/")[2] for path in found.files if path.startswith(closure.PACKAGES)}
    assert {"linkseal", "pyroute2", "cryptography", "pydantic"} <= packages
    assert not packages & {"kubernetes", "aiohttp", "pytest", "mypy", "pip"}
    assert all(file.mode in (0o644, 0o755, 0o600) for file in found.files.values())
    assert not [path for path in (*found.files, *found.links) if path.startswith(("/", "..")) or "/../" in path]
    assert found.size < 150 << 20


def test_its_file_is_one_that_the_agent_takes_without_a_way_into_the_directory(tmp_path: Path) -> None:
    import yaml  # noqa: PLC0415

    directory = KubeDirectorySettings("ls", tmp_path / "kubeconfig", "me")
    settings = AgentSettings(
        "n1", directory, driver="userspace", interface="eth1", log_format="json",
        endpoints=(EndpointSetting("2001:db8::1", 7), EndpointSetting("192.0.2.1")),
        peer_endpoints={"n2": EndpointSetting("192.0.2.2", 9)}, metrics=EndpointSetting("127.0.0.1", 1),
        boot=BootSettings(),
    )  # fmt: skip
    text = restore_config(settings)
    assert "kubeconfig" not in text
    again = parse_agent_settings(yaml.safe_load(text), "agent.yaml", hostname="another")
    assert again == replace(settings, directory=KubeDirectorySettings("ls"), metrics=None, boot=None)
    of_files = replace(settings, directory=FileDirectorySettings(tmp_path), uid="u1")
    again = parse_agent_settings(yaml.safe_load(restore_config(of_files)), "agent.yaml", hostname="another")
    assert again == replace(of_files, metrics=None, boot=None)


def test_every_setting_is_either_in_the_roots_file_or_of_no_use_there() -> None:
    """A new one has to be put into one of the two lists."""
    said = set(AgentSettings.__dataclass_fields__) - {"metrics", "boot", "poll", "status_interval", "daemons"}
    assert said == {
        "node", "directory", "uid", "state_directory", "run_directory", "driver", "endpoints", "peer_endpoints",
        "interface", "log_format", "log_level",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("directory", "boot", "state"),
    [
        (FileDirectorySettings(Path("/srv")), None, "notAsked"),
        (KubeDirectorySettings(), None, "absent"),
        (FileDirectorySettings(Path("/srv")), BootSettings(), "absent"),
    ],
)
def test_who_is_asked_for_one(
    directory: FileDirectorySettings | KubeDirectorySettings, boot: BootSettings | None, state: str
) -> None:
    assert before(AgentSettings("n1", directory, boot=boot)).state == state

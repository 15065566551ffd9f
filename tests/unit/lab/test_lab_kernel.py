"""The lab kernel: commands in it, what they print, how they end, and what happens when it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.lab.kernelcache import OVERRIDE, find_lab_kernel
from linkseal.tunnels.lab.uml import LabKernel, run_in_lab_kernel

NO_LAB_KERNEL = pytest.mark.skipif(find_lab_kernel() is None, reason="no lab kernel built yet: `make test-kernel`")


def needs_lab_kernel(test: Callable[..., None]) -> Callable[..., None]:
    """For tests that boot it; on a new machine they run when it is built, after the other tests of the host."""
    return pytest.mark.labkernel(NO_LAB_KERNEL(test))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabKernel]:
    with LabKernel(tmp_path / "lab", memory="256M") as kernel:
        yield kernel


def test_without_a_lab_kernel_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_lab_kernel() is None
    with pytest.raises(ConfigError, match="make test"):
        LabKernel(tmp_path / "lab").start()


def test_a_named_kernel_that_is_no_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=OVERRIDE):
        find_lab_kernel()


def test_a_kernel_that_does_not_boot_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    kernel = tmp_path / "linux"
    kernel.write_text("#!/bin/sh\necho Kernel panic, not syncing: of a kind\n")
    kernel.chmod(0o700)
    with pytest.raises(HostError, match=r"did not boot.*\nKernel panic"):
        LabKernel(tmp_path / "lab", kernel=kernel).start()


@needs_lab_kernel
def test_a_command_runs_in_another_kernel_and_its_status_comes_back() -> None:
    pieces: list[bytes] = []
    status = run_in_lab_kernel(
        ["sh", "-c", 'uname -r; ip link add type wireguard && echo "$GREETING"; pwd; exit 7'],
        env={"GREETING": "it's here"}, cwd=Path("/usr"), memory="256M", timeout=30, on_output=pieces.append,
    )  # fmt: skip
    release, *rest = b"".join(pieces).decode().splitlines()
    assert release != Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert rest == ["it's here", "/usr"]
    assert status == 7


@needs_lab_kernel
def test_output_comes_while_the_command_runs(lab: LabKernel) -> None:
    arrived: list[float] = []
    lab.exec(["sh", "-c", "echo one; sleep 1; echo two"], on_output=lambda _: arrived.append(time.monotonic()))
    assert arrived[-1] - arrived[0] > 0.7


@needs_lab_kernel
def test_commands_run_side_by_side_and_get_their_own_input(lab: LabKernel) -> None:
    results: dict[bytes, bytes] = {}

    def work(word: bytes) -> None:
        pieces: list[bytes] = []
        lab.exec(["sh", "-c", "sleep 0.5; cat"], stdin=word, on_output=pieces.append)
        results[word] = b"".join(pieces)

    words = [b"one", b"two", b"three"]
    threads = [threading.Thread(target=work, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {word: word for word in words}


@needs_lab_kernel
def test_a_command_that_takes_too_long_is_killed_and_the_kernel_goes_on(lab: LabKernel) -> None:
    with pytest.raises(HostError, match="did not end in time"):
        lab.exec(["sleep", "1000"], timeout=0.3)
    deadline = time.monotonic() + 60
    while lab.exec(["pgrep", "-f", "sleep 1000"]) == 0:
        assert time.monotonic() < deadline, "the command still runs"
    assert lab.running()


@needs_lab_kernel
@pytest.mark.parametrize("timeout", [0.0, 0.02, 0.05, 0.08])
def test_a_command_given_up_before_it_wrote_its_number_does_not_run_on(lab: LabKernel, timeout: float) -> None:
    with pytest.raises(HostError, match="did not end in time"):
        lab.exec(["sleep", "2000"], timeout=timeout)
    time.sleep(0.5)  # one that was taken up late would start in this time
    deadline = time.monotonic() + 60
    while lab.exec(["pgrep", "-f", "sleep 2000"]) == 0:
        assert time.monotonic() < deadline, "the command still runs"


@needs_lab_kernel
def test_another_process_can_go_on_with_it(lab: LabKernel) -> None:
    """`lab up` starts it and ends; `lab exec` and `lab down` come later, from another process."""
    lab.exec(["touch", "/run/left-here"])
    other = LabKernel(lab.folder)
    assert other.running()
    assert other.exec(["test", "-e", "/run/left-here"]) == 0
    other.stop()
    deadline = time.monotonic() + 30  # its parent may learn of its end a moment later
    while lab.running():
        assert time.monotonic() < deadline


@needs_lab_kernel
def test_a_kernel_that_dies_under_a_command_is_an_error(lab: LabKernel) -> None:
    with pytest.raises(HostError, match="the lab kernel died"):
        lab.exec(["busybox", "poweroff", "-f"])
    with pytest.raises(HostError, match="no lab kernel runs"):
        lab.exec(["true"])


@needs_lab_kernel
def test_a_folder_holds_one_kernel_at_a_time(lab: LabKernel) -> None:
    with pytest.raises(HostError, match="already runs"):
        LabKernel(lab.folder).start()
    assert lab.exec(["true"]) == 0


def test_stopping_what_does_not_run_does_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "pid").write_text("1")  # a reused process number: not ours
    kernel = LabKernel(folder)
    assert not kernel.running()
    kernel.stop()

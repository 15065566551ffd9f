"""Lab kernels get a CPU each."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from linkseal.tunnels.lab.cpus import PLACES, on_one_cpu

SHOW = "import os, time; print(*os.sched_getaffinity(0), flush=True); time.sleep(60)"
CPUS = os.sched_getaffinity(0)


def start(locks: Path) -> "subprocess.Popen[str]":
    with on_one_cpu(locks) as fds:
        return subprocess.Popen([sys.executable, "-c", SHOW], stdout=subprocess.PIPE, text=True, pass_fds=fds)


def cpu_of(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def end(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        process.kill()
        process.communicate()


def test_what_is_started_inside_stays_on_one_cpu_and_we_do_not(tmp_path: Path) -> None:
    process = start(tmp_path / "locks")
    try:
        assert cpu_of(process) in CPUS
        assert os.sched_getaffinity(0) == CPUS
    finally:
        end(process)


def test_as_many_as_there_are_cpus_get_one_each_and_a_freed_one_is_taken_again(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in CPUS]
    try:
        taken = [cpu_of(process) for process in processes]
        assert sorted(taken) == sorted(CPUS)
        end(processes[-1])
        processes[-1] = start(tmp_path)
        assert cpu_of(processes[-1]) == taken[-1]
    finally:
        end(*processes)


def test_more_of_them_are_spread_evenly(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(2 * len(CPUS))]
    try:
        assert sorted(map(cpu_of, processes)) == sorted([*CPUS, *CPUS])
    finally:
        end(*processes)


def test_where_all_places_are_taken_any_cpu_serves(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(PLACES * len(CPUS)):
            assert stack.enter_context(on_one_cpu(tmp_path))
            os.sched_setaffinity(0, CPUS)
        assert stack.enter_context(on_one_cpu(tmp_path)) == ()


def test_a_folder_that_cannot_be_made_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with on_one_cpu(tmp_path / "file" / "locks") as fds:
        assert fds == ()
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == CPUS

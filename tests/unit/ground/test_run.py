"""`make test` itself: what it counts, and that it cannot be green by running nothing."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from ground import controlbuild, kernel, run
from ground.suites import REASON_LENGTH, InterruptedRunError, Result, Runner


def test_the_last_line_is_the_count() -> None:
    text, status = run.summary([Result("unit", passed=3, skipped=1), Result("kernel", passed=2)], selective=False)
    assert text.splitlines()[-1] == "5 passed, 0 failed, 1 skipped"
    assert status == 0


def test_no_skipped_tests_are_not_mentioned() -> None:
    assert run.summary([Result("unit", passed=1)], selective=False)[0].splitlines()[-1] == "1 passed, 0 failed"


def test_a_failure_is_named_and_fails_the_run() -> None:
    text, status = run.summary([Result("unit", passed=9, failed=1, failures=["a.py::b"])], selective=False)
    assert "failed: a.py::b" in text
    assert status == 1


def test_why_a_test_failed_stands_beside_its_name(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text("def test_a():\n  assert 17 == sum([1, 2]), 'lost'\ndef test_b(): raise ValueError('x' * 2000)")
    arguments = ["-c", "/dev/null", f"--rootdir={tmp_path}", "-p", "no:randomly", str(test)]
    result = Runner(tmp_path).pytest_here("unit", arguments)
    lines = run.summary([result], selective=False)[0].splitlines()[-5:-1]
    assert [lines[0][-16:], lines[2][-16:]] == ["test_it.py::test_a"[-16:], "test_it.py::test_b"[-16:]]
    assert lines[1] == "    AssertionError: lost assert 17 == 3 + where 3 = sum([1, 2])"
    assert lines[3] == f"    ValueError: {'x' * 2000}"[: 4 + REASON_LENGTH]


def test_a_suite_without_tests_fails_the_run() -> None:
    text, status = run.summary([Result("unit", passed=9), Result("kernel")], selective=False)
    assert "kernel: ran no test" in text
    assert status == 1


def test_a_selection_may_leave_a_suite_empty_but_not_all() -> None:
    assert run.summary([Result("unit", passed=1), Result("kernel")], selective=True)[1] == 0
    assert run.summary([Result("unit"), Result("kernel")], selective=True)[1] == 1


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ("def test_a(): pass", (1, 0, 0)),
        ("def test_a(): assert 0\ndef test_b(): pass", (1, 1, 0)),
        ("import pytest\n@pytest.mark.skip\ndef test_a(): pass", (0, 0, 1)),
        ("import not_there", (0, 1, 0)),
        ("import os\ndef test_a(): os._exit(3)", (0, 1, 0)),
        ("import pytest\n@pytest.fixture\ndef f():\n  yield\n  assert 0\ndef test_a(f): pass", (0, 1, 0)),
    ],
)
def test_what_pytest_did_is_counted(tmp_path: Path, body: str, counts: tuple[int, int, int]) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(body)
    result = Runner(tmp_path).pytest_here("unit", ["-c", "/dev/null", f"--rootdir={tmp_path}", str(test)])
    failed = min(result.failed, 1)  # an error after a passed test counts once or twice, by pytest's version
    assert (result.passed, failed, result.skipped) == counts


def test_checks_count_by_exit_status(tmp_path: Path) -> None:
    python = Path(sys.executable).name
    result = Runner(tmp_path).checks([(python, "-c", "pass"), (python, "-c", "exit(1)")])
    assert (result.passed, result.failed) == (1, 1)


def test_what_a_suite_leaves_behind_is_killed_and_does_not_hold_it_up(tmp_path: Path) -> None:
    """A forked process of a session of its own, and one that it started; both have the suite's output open."""
    numbers = tmp_path / "pids"
    script = (
        "import os, subprocess, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        f"    open({str(numbers) + '.new'!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"    os.rename({str(numbers) + '.new'!r}, {str(numbers)!r})\n"
        "    time.sleep(600)\n"
        f"while not os.path.exists({str(numbers)!r}): time.sleep(0.01)\n"
    )
    result = Runner(tmp_path).checks([(Path(sys.executable).name, "-c", script)])
    assert (result.passed, result.failed) == (1, 0)
    forked, started = map(int, numbers.read_text().split())
    assert not alive(forked)
    assert not alive(started)


def alive(pid: int) -> bool:
    """Whether it is not taken apart within a second; one that has ended may wait for whoever adopted it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.01)
    return True


def test_files_are_shared_out_by_how_long_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "durations.json"
    known.write_text('{"a": 60, "b": 30, "c": 20, "d": 10}')
    monkeypatch.setattr(run, "DURATIONS", known)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    for name in "abcd":
        (tmp_path / name).touch()
    assert run.share_out(["d", "c", "b", "a"], 2) == [["a"], ["b", "c", "d"]]
    monkeypatch.setattr(run, "FIRST_DURATIONS", known)
    monkeypatch.setattr(run, "DURATIONS", tmp_path / "none yet")
    assert run.share_out(["d", "c", "b", "a"], 2) == [["a"], ["b", "c", "d"]], "on a machine that has run none"
    assert run.longest_first(["d", "b", "a", "c"]) == ["a", "b", "c", "d"]


def test_a_second_try_is_not_how_long_a_file_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "DURATIONS", tmp_path / "durations.json")
    run.remember_durations(
        [
            Result("unit", durations={"a": 3.0, "c": 4.0}),
            Result("kube", durations={"a": 60.0, "b": 2.0}),
            Result("kube again", durations={"a": 1.0}),
        ]
    )
    assert json.loads(run.DURATIONS.read_text()) == {"a": 60.0, "b": 2.0}


def test_paths_select_test_files() -> None:
    one = run.Selection(["tests/kernel/test_ground.py::test_x", "-k", "word"])
    assert one.files("kernel") == ["tests/kernel/test_ground.py::test_x"]
    assert one.options == ["-k", "word"]
    assert "tests/kernel/test_ground.py" in run.Selection(["tests/kernel"]).files("kernel")
    assert run.Selection(["tests/unit/ground"]).files("kernel") == []


def test_a_word_is_no_path_though_a_folder_has_its_name() -> None:
    assert run.Selection(["-k", "keys"]).paths == []


def test_an_option_that_the_kernel_dropped_is_named() -> None:
    got = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=y\n"
    assert kernel.dropped_options("CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=y\nCONFIG_D=n", got) == ["CONFIG_C=y", "CONFIG_D=n"]


class Session(run.Session):
    """Kernel tests without a kernel: what each call of a suite is to give."""

    def __init__(self, *results: Result) -> None:
        self.given = list(results)
        self.asked: list[list[str]] = []
        self._selection = run.Selection(["tests/kernel"])

    def _in_kernel(self, _name: str, files: object, *_: object) -> list[Result]:
        self.asked.append(list(files))  # type: ignore[call-overload]
        return [self.given.pop(0)]


def failed(*names: str) -> Result:
    return Result("kernel", passed=5, failed=len(names), failures=list(names))


def test_a_kernel_test_that_fails_on_a_busy_machine_is_run_once_more_and_told() -> None:
    session = Session(failed("tests/kernel/a.py::b"), Result("again", passed=1))
    results = session.kernel()
    assert session.asked[1] == ["tests/kernel/a.py::b"]
    lines = run.summary(results, selective=False)[0].splitlines()
    assert lines[-2:] == ["failed once: tests/kernel/a.py::b", "6 passed, 0 failed"]
    assert [result.name for result in results] == ["kernel", "again"]


def test_what_has_a_control_plane_in_the_kernel_is_run_beside_nothing_else() -> None:
    session = Session(Result("kernel", passed=5), Result("pods", passed=2))
    session._selection = run.Selection(["tests/kernel", "tests/kube"])
    session.kernel()
    others, whole = session.asked
    assert whole == ["tests/kube/test_cold_boot.py", "tests/kube/test_pods.py"]
    assert "tests/kernel/test_stages.py" in others
    assert not set(whole) & set(others)


def test_a_kernel_test_that_fails_twice_has_failed() -> None:
    again = Result("again", failed=1, failures=["tests/kernel/a.py::b"])
    assert run.summary(Session(failed("tests/kernel/a.py::b"), again).kernel(), selective=False)[1] == 1


def test_one_that_is_not_run_the_second_time_has_failed() -> None:
    assert run.summary(Session(failed("tests/kernel/a.py::b"), Result("again")).kernel(), selective=False)[1] == 1


def test_many_failures_and_broken_suites_are_not_run_again() -> None:
    many = failed(*(f"tests/kernel/a.py::t{n}" for n in range(run.ONCE_MORE + 1)))
    broken = failed("kernel 1: interrupted")
    for result in (many, broken):
        session = Session(result)
        assert run.summary(session.kernel(), selective=False)[1] == 1
        assert len(session.asked) == 1


def test_so_is_a_test_on_the_control_plane() -> None:
    asked: list[list[str]] = []

    class Pytest:
        def pytest_here(self, name: str, arguments: list[str]) -> Result:
            asked.append(arguments)
            return Result(name, passed=1) if asked[1:] else failed("tests/kube/a.py::b[c]")

    session = object.__new__(run.Session)
    session._runner = Pytest()  # type: ignore[assignment]
    session._selection = run.Selection(["tests/kube"])
    results = session.kube()
    assert run.summary(results, selective=False)[0].splitlines()[-1] == "6 passed, 0 failed"
    together, alone = asked
    assert {"-n", "tests/kube/test_ca.py", "tests/kube/test_uninstall.py"} <= set(together)
    assert "-n" not in alone
    assert alone[-1] == "tests/kube/a.py::b[c]"


class Steps(run.Session):
    """A whole run that only says what it would do; `lacking` is what could not be built."""

    def __init__(self, *arguments: str, lacking: str = "") -> None:
        self._selection = run.Selection(arguments)
        self._lacking = lacking
        self.done: list[str] = []

    def _step(self, name: str) -> list[Result]:
        self.done.append(name)
        return [Result(run.BUILD if name == self._lacking else name, passed=1)]

    def lint(self) -> list[Result]:
        return self._step("lint")

    def unit(self) -> list[Result]:
        return self._step("unit")

    def prepare_kernel(self) -> list[Result]:
        return self._step("kernel's build")

    def prepare_control_plane(self) -> list[Result]:
        return self._step("control plane's build")

    def kube(self) -> list[Result]:
        return self._step("kube")

    def lab_kernel(self) -> list[Result]:
        return self._step("lab kernel")

    def kernel(self) -> list[Result]:
        return self._step("kernel")


FIRST = {"unit", "lint", "kernel's build", "control plane's build"}


def test_everything_is_built_before_the_tests_on_it() -> None:
    steps = Steps()
    steps.everything()
    assert set(steps.done[:4]) == FIRST
    assert steps.done[4:] == ["kube", "lab kernel", "kernel"]


@pytest.mark.parametrize("lacking", ["kernel's build", "control plane's build"])
def test_without_one_of_the_builds_nothing_goes_on(lacking: str) -> None:
    steps = Steps(lacking=lacking)
    steps.everything()
    assert set(steps.done) == FIRST


class Built(run.Session):
    """A session whose kube suite is noted instead of run."""

    def __init__(self, *arguments: str) -> None:
        self._selection = run.Selection(arguments)

    def kube(self) -> list[Result]:
        return [Result("kube", passed=1)]


def test_a_control_plane_that_cannot_be_built_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> None:
        raise kernel.BuildError("the end of etcd.log")

    monkeypatch.setattr(controlbuild, "build", build)
    results = Built().only_kube()
    text, status = run.summary(results, selective=False)
    assert [result.name for result in results] == [run.BUILD]
    assert "the end of etcd.log" in text
    assert status == 1


def test_tests_of_other_things_need_no_control_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controlbuild, "build", lambda: pytest.fail("built"))
    assert Built("tests/unit/ground").prepare_control_plane() == []


def test_host_tests_leave_out_what_is_run_by_itself(tmp_path: Path) -> None:
    """By the real expressions: a marker that is in none of them would be run twice, or never."""
    test = tmp_path / "test_it.py"
    markers = ("kernel", "labkernel", "kube", "matrix")
    marked = "".join(f"@pytest.mark.{name}\ndef test_{name}(): pass\n" for name in markers)
    test.write_text(f"import pytest\n{marked}def test_plain(): pass\n")
    ini = tmp_path / "pytest.ini"
    ini.write_text("[pytest]\nmarkers =\n" + "".join(f"    {name}\n" for name in markers))
    for expression in (run.HOST_TESTS, run.KUBE_TESTS, run.KERNEL_TESTS):
        result = Runner(tmp_path).pytest_here("unit", ["-c", str(ini), "-m", expression, str(test)])
        assert (result.passed, result.failed) == (1, 0), expression


def test_once_it_is_interrupted_nothing_more_is_started(tmp_path: Path) -> None:
    runner = Runner(tmp_path)
    runner.stop()
    ran = tmp_path / "ran"
    with pytest.raises(InterruptedRunError):
        runner.checks([(sys.executable, "-c", f"open({str(ran)!r}, 'w')")])
    with pytest.raises(InterruptedRunError):
        runner.pytest_in_lab("kernel", tmp_path / "linux", [], {})
    assert not ran.exists()


def test_a_bench_is_named_by_path_or_name_and_a_stranger_is_told() -> None:
    assert run.benches([]) == run.benches(sorted(path.stem for path in Path("tests/bench").glob("bench_*.py")))
    assert run.benches(["tests/bench/bench_plan.py", "bench_kube"]) == [
        "tests/bench/bench_plan.py",
        "tests/bench/bench_kube.py",
    ]
    with pytest.raises(SystemExit, match="no such bench: plan; there are bench_agent, "):
        run.benches(["bench_plan", "plan"])

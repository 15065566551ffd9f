"""Run the tests: `run.py all|unit|kube|kernel|lint|bench|matrix [pytest arguments]`; the Makefile calls it.

    lint ───────────────────────┐
    unit and property tests ────┤   tests on the control plane,   kernel tests, shared out over
    lab kernel (built once) ────┼─► tests of the lab kernel    ─► several lab kernels side by side ─► table, exit status
    control plane (built once) ─┘

Kernel tests run directly where the running kernel has WireGuard and ESP. They do not run beside anything else: they
measure lost packets and delays, and a busy machine would be blamed on the product.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ground import controlbuild, kernel, matrixrun
from ground.suites import ROOT, InterruptedRunError, Result, Runner, say

LINT = (
    ("ruff", "check", "--quiet", "."),
    ("ruff", "format", "--check", "--quiet", "."),
    ("mypy",),
    ("lint-imports", "--no-logo"),
)

CPUS = os.cpu_count() or 1

BUILD = "build"
"""Name of the suite that stands for a build that failed: of the lab kernel or the control plane."""

CONTROL_PLANE = re.compile(r"\bpod_cluster\b|\bcontrolbuild\b")
"""What is in a test that has one, whatever its marker."""

SHARDS = min(2, CPUS)
"""Lab kernels side by side: each has one CPU. Two a CPU were tried: no faster, and packets were lost to each other.
And control planes."""

WHOLE_CLUSTERS = "tests/kube/"
"""Kernel tests there have a control plane and the pods of three nodes: each is work enough for the machine."""

ONCE_MORE = 6
"""Failed tests with deadlines that are run again; where more fail it is not the machine's doing."""

UNKNOWN_TEST_SECONDS = 12.0
"""What a test takes that has not run yet, for sharing them out."""

DURATIONS = kernel.cache_folder() / "seconds.json"

SHARED_OUT = ("kube", "kernel", "pods")
"""Suites whose files are sorted or shared out by how long they take."""

FIRST_DURATIONS = Path(__file__).with_name("durations.json")
"""Seconds of the longest test files, for a machine on which none has run yet. Only their ratios matter."""

HOST_TESTS = "not kernel and not labkernel and not kube and not matrix"
KUBE_TESTS = "kube and not kernel and not matrix"
KERNEL_TESTS = "kernel and not matrix"


class Selection:
    """What the user asked pytest for: paths, and everything else."""

    def __init__(self, arguments: Sequence[str]) -> None:
        # only below tests/: `-k keys` is a word, though there is a folder of that name
        self.paths = [a for a in arguments if a.removeprefix("./").startswith("tests") and _names_a_file(a)]
        self.options = [a for a in arguments if a not in self.paths]

    def __bool__(self) -> bool:
        return bool(self.paths or self.options)

    def files(self, marker: str) -> list[str]:
        """Paths (from the root) of the test files that use this marker, within what was asked for."""
        marked = [
            str(file.relative_to(ROOT))
            for file in sorted((ROOT / "tests").rglob("test_*.py"))
            if f"mark.{marker}" in file.read_text()
        ]
        if not self.paths:
            return marked
        asked = [path.rstrip("/").removeprefix("./") for path in self.paths]
        inside = [file for file in marked if any(file.startswith(f"{path}/") for path in asked)]
        return inside + [path for path in asked if path.split("::")[0] in marked]


def benches(asked: Sequence[str]) -> list[str]:
    """Paths (from the root) of the benches asked for, by path or name; all if none is. SystemExit names a stranger."""
    there = {path.stem: str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/bench/bench_*.py"))}
    if strangers := [one for one in asked if Path(one).stem not in there]:
        raise SystemExit(f"no such bench: {', '.join(strangers)}; there are {', '.join(there)}")
    return [there[Path(one).stem] for one in asked] or list(there.values())


def _names_a_file(argument: str) -> bool:
    return (ROOT / argument.split("::", maxsplit=1)[0]).exists()


def longest_first(files: Sequence[str]) -> list[str]:
    """Sort test files by how long they take, so that the last to end are short."""
    return sorted(files, key=_seconds(), reverse=True)


def share_out(files: Sequence[str], shards: int) -> list[list[str]]:
    """Split test files into groups that take about equally long: the longest first, each to the emptiest group."""
    groups: list[list[str]] = [[] for _ in range(shards)]
    loads = [0.0] * shards
    seconds = _seconds()
    for file in sorted(files, key=seconds, reverse=True):
        emptiest = loads.index(min(loads))
        groups[emptiest].append(file)
        loads[emptiest] += seconds(file)
    return [group for group in groups if group]


def _seconds() -> Callable[[str], float]:
    """Return what tells how many seconds a test file took."""
    known: dict[str, float] = json.loads(FIRST_DURATIONS.read_text())
    with contextlib.suppress(OSError, ValueError):
        known |= json.loads(DURATIONS.read_text())

    def seconds(file: str) -> float:
        path = ROOT / file.split("::", maxsplit=1)[0]
        tests = re.findall(r"^(?:async )?def test_", path.read_text(), re.MULTILINE)
        return known.get(file, len(tests) * UNKNOWN_TEST_SECONDS)

    return seconds


def remember_durations(results: Sequence[Result]) -> None:
    """For sharing out the next time, also in another clone."""
    known: dict[str, float] = {}
    if DURATIONS.exists():
        known = json.loads(DURATIONS.read_text())
    for result in reversed(results):  # the first word counts: a second try is of a single test
        if result.name.split()[0] in SHARED_OUT:  # of a kernel test the host's suite runs a part at most
            known |= {file: round(seconds, 1) for file, seconds in result.durations.items()}
    DURATIONS.parent.mkdir(parents=True, exist_ok=True)
    fresh = DURATIONS.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(known, indent=0, sort_keys=True))
    fresh.rename(DURATIONS)


class Session:
    """One run of the test ground."""

    def __init__(self, runner: Runner, selection: Selection) -> None:
        self._runner = runner
        self._selection = selection
        self._missing = kernel.missing_features()

    def lint(self) -> list[Result]:
        return [self._runner.checks(LINT)]

    def unit(self) -> list[Result]:
        arguments = ["-m", HOST_TESTS, "-q", "-n", str(min(4, CPUS)), "--dist=worksteal", *self._narrowed()]
        return [self._runner.pytest_here("unit", arguments)]

    def lab_kernel(self) -> list[Result]:
        """Tests of the lab kernel itself, once it is there; a machine that needs none has none."""
        if not self._missing:
            return []
        return [self._runner.pytest_here("lab kernel", ["-m", "labkernel", "-q", *self._narrowed()])]

    def kube(self) -> list[Result]:
        """Tests on the control plane, beside nothing else: they have deadlines. Most of them wait most of the time."""
        files = longest_first(self._selection.files("kube"))

        def run(name: str, paths: Sequence[str], *options: str) -> list[Result]:
            arguments = ["-m", KUBE_TESTS, "-q", *options, *self._selection.options, *paths]
            return [self._runner.pytest_here(name, arguments)]

        share = ("-n", str(SHARDS), "--dist=loadfile", "--no-loadscope-reorder")
        results = run("kube", files, *share) if files else []
        return with_second_try(results, lambda failed: run("kube again", failed))

    def _narrowed(self) -> list[str]:
        return [*self._selection.options, *self._selection.paths]

    def kernel(self) -> list[Result]:
        files = self._selection.files("kernel")
        whole = [file for file in files if file.startswith(WHOLE_CLUSTERS)]
        files = [file for file in files if file not in whole]
        results = self._in_kernel("kernel", files, KERNEL_TESTS, ["-v"], SHARDS) if files else []
        results += self._in_kernel("pods", whole, KERNEL_TESTS, ["-v"], 1) if whole else []
        return with_second_try(results, lambda failed: self._in_kernel("again", failed, KERNEL_TESTS, ["-v"], 1))

    def bench(self, files: Sequence[str]) -> list[Result]:
        """Each bench is a program that prints figures; one at a time, and never beside anything else."""
        results = []
        for file in files:
            inside = self._missing and "NEEDS_KERNEL = True" in (ROOT / file).read_text()
            results.append(self._runner.program(file, kernel.lab_kernel() if inside else None))
        return results

    def prepare_kernel(self) -> list[Result]:
        """Have the lab kernel where it is needed; a failure counts as one."""
        began = time.monotonic()
        if not self._missing:
            say("kernel tests run right here: this kernel has WireGuard, ESP and netem")
            return []
        lacks = ", ".join(self._missing)
        try:
            if kernel.lab_kernel().exists():
                say(f"kernel tests run in the cached lab kernel: this kernel lacks {lacks}")
            else:
                say(f"kernel tests need a lab kernel: this one lacks {lacks}. It is built once, in about 4 minutes")
            kernel.build()
        except kernel.BuildError as error:
            return [build_failed(error, began)]
        return []

    def prepare_control_plane(self) -> list[Result]:
        """Have the control plane if tests on it were asked for; a failure counts as one."""
        began = time.monotonic()
        if not self._selection.files("kube") and not self._pods_in_kernel():
            return []
        try:
            if not controlbuild.is_built():
                say("a Kubernetes control plane is built once; it says how far it is")
            controlbuild.build()
        except kernel.BuildError as error:
            return [build_failed(error, began)]
        return []

    def _pods_in_kernel(self) -> list[str]:
        """Kernel tests with a control plane: in a lab kernel nobody could build it."""
        files = self._selection.files("kernel")
        return [file for file in files if CONTROL_PLANE.search((ROOT / file.split("::", maxsplit=1)[0]).read_text())]

    def everything(self) -> list[Result]:
        """Lint, host tests and both builds at once; then the tests on what was built."""
        first: list[Callable[[], list[Result]]] = [self.unit, self.prepare_kernel, self.prepare_control_plane]
        if not self._selection:
            first.append(self.lint)
        results = in_parallel(first)
        if any(result.name == BUILD for result in results):
            return results
        return results + self.kube() + self.lab_kernel() + self.kernel()

    def only_kube(self) -> list[Result]:
        return self.prepare_control_plane() or self.kube()

    def only_kernel(self) -> list[Result]:
        return self.prepare_kernel() or self.prepare_control_plane() or self.kernel()

    def only_bench(self) -> list[Result]:
        files = benches([*self._selection.paths, *self._selection.options])  # before anything is built for them
        return self.prepare_kernel() or self.bench(files)

    def _in_kernel(self, name: str, files: Sequence[str], mark: str, options: list[str], shards: int) -> list[Result]:
        env = {"LINKSEAL_KERNEL_REQUIRED": "1"}
        arguments = ["-m", mark, *options, *self._selection.options]
        if not self._missing:
            return [self._runner.pytest_here(name, [*arguments, *files], env)]
        groups = share_out(files, shards)
        say(f"{name} tests: {len(files)} files in {len(groups)} lab kernel(s) side by side")

        def shard(number: int, group: list[str]) -> Callable[[], list[Result]]:
            title = f"{name} {number}" if len(groups) > 1 else name
            lab = kernel.lab_kernel()
            return lambda: [self._runner.pytest_in_lab(title, lab, [*arguments, *group], env)]

        return in_parallel([shard(number, group) for number, group in enumerate(groups, 1)])


def with_second_try(results: list[Result], run: Callable[[Sequence[str]], list[Result]]) -> list[Result]:
    """Run a few failed tests again, alone: they measure packets and seconds on a machine that others use.

    A test that passes now is told as such in the table; one that fails again has failed.
    """
    failed = [name for result in results for name in result.failures if "::" in name]
    if not 0 < len(failed) <= ONCE_MORE:
        return results
    say(f"{len(failed)} failed; once more, with nothing beside: {', '.join(failed)}")
    again = run(failed)
    if not any(result.failed for result in again) and sum(result.passed for result in again) == len(failed):
        for result in results:
            result.once = [name for name in result.failures if name in failed]
            result.failures = [name for name in result.failures if name not in failed]
            result.failed -= len(result.once)
    return results + again


def build_failed(error: kernel.BuildError, began: float) -> Result:
    """A suite that stands for the build."""
    result = Result(BUILD, seconds=time.monotonic() - began)
    result.broke(str(error))
    return result


def in_parallel(jobs: Sequence[Callable[[], list[Result]]]) -> list[Result]:
    """Run all at once; results in the order of the jobs."""
    with ThreadPoolExecutor(len(jobs) or 1) as pool:
        futures: list[Future[list[Result]]] = [pool.submit(job) for job in jobs]
        return [result for future in futures for result in future.result()]


def summary(results: Sequence[Result], *, selective: bool) -> tuple[str, int]:
    """The closing table, whose last line is the count, and the exit status."""
    for result in results:
        if not selective and not (result.passed or result.failed):
            result.broke("ran no test")
    passed, failed, skipped = (sum(getattr(r, kind) for r in results) for kind in ("passed", "failed", "skipped"))
    lines = ["", f"{'suite':<12}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}"]
    lines += [f"{r.name:<12}{r.passed:>8}{r.failed:>8}{r.skipped:>8}{r.seconds:>9.1f}" for r in results]
    lines += ["", *(line for r in results for line in _told(r))]
    lines += [f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")]
    return "\n".join(lines), 1 if failed or not passed else 0


def _told(result: Result) -> list[str]:
    """Lines for the tests of a suite that failed, each with its reason: often all that is kept of a run elsewhere."""
    kinds = [("failed", name) for name in result.failures] + [("failed once", name) for name in result.once]
    told = [(f"{kind}: {name}", result.reasons.get(name)) for kind, name in kinds]
    return [line for head, reason in told for line in (head, *([f"    {reason}"] if reason else []))]


def interruptible(work: Callable[[], list[Result]], runner: Runner) -> list[Result]:
    """Run in a thread, so that Ctrl-C and SIGTERM reach us at once and end what was started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            say("interrupted: ending what runs")
            runner.stop()
            try:
                return future.result()
            except InterruptedRunError:
                result = Result("the rest")
                result.broke("interrupted")
                return [result]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["all", "unit", "kube", "kernel", "lint", "bench", "matrix"])
    what, rest = parser.parse_known_args(arguments)
    selection = Selection(rest)
    folder = Path(tempfile.mkdtemp(prefix="linkseal-tests-"))
    runner = Runner(folder)
    session = Session(runner, selection)
    work = {
        "all": session.everything,
        "unit": session.unit,
        "kube": session.only_kube,
        "kernel": session.only_kernel,
        "lint": session.lint,
        "bench": session.only_bench,
        "matrix": lambda: matrixrun.walk(runner, selection.options),
    }[what.what]
    began = time.monotonic()
    results = interruptible(work, runner)
    text, status = summary(results, selective=bool(selection))
    if not selection:
        remember_durations(results)
    if status == 0:
        shutil.rmtree(folder)
    else:
        say(f"reports and consoles are kept in {folder}")
    say(f"took {kernel.clock(time.monotonic() - began)}")
    print(text, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

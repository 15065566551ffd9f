"""Run one suite (a checker or a pytest), show what it prints line by line, and count what it did."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ground import leftovers
from linkseal.keys.errors import LinksealError
from linkseal.tunnels.lab.uml import LabKernel

ROOT = Path(__file__).parents[2]

BIN = Path(sys.executable).parent

SUITE_SECONDS = 4200.0
"""A suite that takes longer hangs; pytest ends a single test after 600 s."""

OUTPUT_SECONDS = 30.0
"""How long output is waited for after a suite has ended."""

NO_TESTS = 5
"""pytest's exit status when nothing was selected."""

LAB_MEMORY = "3G"

REASON_LENGTH = 1000
"""Characters of a reason that the closing table shows: enough for an assertion with what it compared."""

_printing = threading.Lock()


@dataclass
class Result:
    """What a suite did."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    """Names of failed tests, or why the suite could not run."""
    once: list[str] = field(default_factory=list)
    """Names of tests that failed and passed when they ran again."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Name of a failed test → what it said, in one line."""
    durations: dict[str, float] = field(default_factory=dict)
    """Seconds by test file."""

    def broke(self, why: str) -> None:
        """The suite itself failed; that counts as one failure."""
        self.failed += 1
        self.failures.append(f"{self.name}: {why}")


class Lines:
    """Prints whole lines with the suite's name in front, as they come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = b""

    def __call__(self, piece: bytes) -> None:
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            say(line.decode(errors="replace").rstrip(), self._name)


def say(text: str, name: str = "tests") -> None:
    """Print one line, whole even when several suites print at once."""
    with _printing:
        print(f"{name:<9}│ {text}" if text else f"{name:<9}│", flush=True)


class InterruptedRunError(Exception):
    """Nothing more is started."""


class Runner:
    """Runs suites and remembers what is running, so that all of it can be ended at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._labs: list[LabKernel] = []
        self._stopping = False
        self._serial = itertools.count(1)

    def stop(self) -> None:
        """End everything, and start nothing more; each suite that ran reports that it was interrupted."""
        self._stopping = True
        for process in self._processes:
            process.terminate()
        for lab in self._labs:
            lab.stop()

    def checks(self, commands: Iterable[Sequence[str]]) -> Result:
        """Programs that judge the source by their exit status; each counts as one test."""
        result, began = Result("lint"), time.monotonic()
        for command in commands:
            started = time.monotonic()
            status, output = self._run([str(BIN / command[0]), *command[1:]], None)
            if status == 0:
                result.passed += 1
                say(f"{' '.join(command)}: fine ({time.monotonic() - started:.0f} s)", "lint")
            else:
                result.failed += 1
                result.failures.append(f"lint: {' '.join(command)}")
                Lines("lint")(output)
        result.seconds = time.monotonic() - began
        return result

    def program(self, file: str, kernel: Path | None) -> Result:
        """Run one program that judges itself by its exit status, in the running kernel or in a lab kernel."""
        name, began = Path(file).stem, time.monotonic()
        result, env = Result(name), {"PYTHONPATH": "tests"}
        say(f"{file}{' in the lab kernel' if kernel else ''}", "bench")
        try:
            if kernel is None:
                status, _ = self._run([sys.executable, file], Lines("bench"), env)
            else:
                with self._lab(name, kernel) as lab:
                    command = [sys.executable, file]
                    status = lab.exec(command, cwd=ROOT, env=env, timeout=SUITE_SECONDS, on_output=Lines("bench"))
        except LinksealError as error:
            result.broke(str(error))
            status = 0
        if status:
            result.broke(f"{file} ended with {status}")
        elif not result.failed:
            result.passed += 1
        result.seconds = time.monotonic() - began
        return result

    def pytest_here(self, name: str, arguments: Sequence[str], env: dict[str, str] | None = None) -> Result:
        """Run pytest in the running kernel."""
        began, report = time.monotonic(), self._report(name)
        status, _ = self._run(self._pytest(report, arguments), Lines(name), env)
        return self._count(name, report, status, time.monotonic() - began)

    def pytest_in_lab(self, name: str, kernel: Path, arguments: Sequence[str], env: dict[str, str]) -> Result:
        """Run pytest in a lab kernel of its own."""
        began, report = time.monotonic(), self._report(name)
        try:
            with self._lab(name.replace(" ", "-"), kernel) as lab:
                command = self._pytest(report, arguments)
                status = lab.exec(command, cwd=ROOT, env=env, timeout=SUITE_SECONDS, on_output=Lines(name))
        except LinksealError as error:
            result = self._count(name, report, 0, time.monotonic() - began)
            result.broke("interrupted" if self._stopping else str(error))
            return result
        return self._count(name, report, status, time.monotonic() - began)

    def _go_on(self) -> None:
        if self._stopping:
            raise InterruptedRunError

    def _lab(self, name: str, kernel: Path) -> LabKernel:
        self._go_on()
        lab = LabKernel(self._folder / name, kernel=kernel, memory=LAB_MEMORY)
        self._labs.append(lab)
        return lab

    def _report(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.xml"

    def _pytest(self, report: Path, arguments: Sequence[str]) -> list[str]:
        options = ["-p", "no:cacheprovider", "--no-header", f"--junitxml={report}", "-o", "junit_family=xunit1"]
        return [sys.executable, "-m", "pytest", *options, *arguments]

    def _run(self, command: list[str], lines: Lines | None, env: dict[str, str] | None = None) -> tuple[int, bytes]:
        self._go_on()
        suite = f"{self._folder}/{next(self._serial)}"
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **(env or {}), leftovers.SUITE: suite},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._processes.append(process)
        assert process.stdout is not None
        output: list[bytes] = []
        take = output.append if lines is None else lines
        reader = threading.Thread(target=_pass_on, args=(process.stdout, take), daemon=True)
        reader.start()
        try:
            process.wait()
            if ended := leftovers.end(suite):  # they hold its output open
                say(f"{ended} processes that it left behind were killed")
            reader.join(OUTPUT_SECONDS)
            if reader.is_alive():
                say(f"somebody else holds its output open after {OUTPUT_SECONDS:.0f} s: what it prints is not shown")
        finally:
            process.kill()
            process.wait()
        return process.returncode, b"".join(output)

    def _count(self, name: str, report: Path, status: int, seconds: float) -> Result:
        """Counts from pytest's own report; where it could not write one, the suite broke."""
        result = Result(name, seconds=seconds)
        if report.exists():
            _read_report(report, result)
        if status not in {0, 1, NO_TESTS}:
            result.broke("interrupted" if self._stopping else f"pytest ended with {status}")
        elif status == 1 and not result.failed:
            result.broke("pytest reports a failure but no failed test")
        return result


def _pass_on(output: IO[bytes], take: Callable[[bytes], None]) -> None:
    with output:  # nobody reads on where `take` fails: who prints there must not wait for that
        for line in output:
            take(line)


def _read_report(report: Path, result: Result) -> None:
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - our own pytest wrote it
        file = case.get("file", "")
        result.durations[file] = result.durations.get(file, 0.0) + float(case.get("time", 0))
        failure = next((found for kind in ("failure", "error") if (found := case.find(kind)) is not None), None)
        if failure is not None:
            result.failed += 1
            name = f"{file}::{case.get('name')}"
            result.failures.append(name)
            result.reasons[name] = _reason(failure)
        elif case.find("skipped") is not None:
            result.skipped += 1
        else:
            result.passed += 1


def _reason(failure: ET.Element) -> str:
    """What pytest marks as the error; its own short form has less of it than a long comparison needs."""
    marked = [line[1:] for line in (failure.text or "").splitlines() if line.startswith("E ")]
    return " ".join(" ".join(marked or [failure.get("message", "")]).split())[:REASON_LENGTH]

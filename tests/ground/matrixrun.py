"""The whole fault matrix: its cells shared out over lab kernels and this machine, and the table of all they saw.

kernel-…        two lab kernels side by side (or the running kernel, where it has WireGuard)
userspace-…     here, beside them: wireguard-go needs no lab kernel
fast            after them, the lab kernel whose WireGuard timers are divided by ten
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ground import kernel, matrix
from ground.suites import Result, Runner, say

FILE = "tests/kernel/test_matrix.py"


def walk(runner: Runner, options: Sequence[str]) -> list[Result]:
    """Walk it (`options`: pytest's, to walk a part) and print the table."""
    missing = kernel.missing_features()
    try:
        fast = kernel.build(fast=True)
        lab = kernel.build() if missing else None
    except kernel.BuildError as error:
        result = Result("lab kernel")
        result.broke(str(error))
        return [result]
    with tempfile.TemporaryDirectory(prefix="linkseal-matrix-") as rows:
        usual_env = {matrix.ROWS: rows, matrix.CASES: os.environ.get(matrix.CASES, "")}

        def part(name: str, mark: str, where: Path | None, scope: str = "") -> Callable[[], list[Result]]:
            words = f"({mark}) and matrix"
            arguments = ["-v", "-m", words, *options, FILE]
            env = usual_env if mark == "userspace" else {**usual_env, "LINKSEAL_KERNEL_REQUIRED": "1"}
            if scope:
                arguments += _scoped(options, scope)
            return lambda: [
                runner.pytest_here(name, arguments, env)
                if where is None
                else runner.pytest_in_lab(name, where, arguments, env)
            ]

        began = time.monotonic()
        usual = "kernel and not fast"
        kernels = (
            [part("overlay", usual, lab, "overlay"), part("open", usual, lab, "transparent")]
            if lab
            else [part("kernel", usual, None)]
        )
        # Each waits for most of its time, for sessions and proofs: three share two CPUs without harm.
        results = _side_by_side([*kernels, part("userspace", "userspace", None)])
        results += part("fast", "fast", fast)()
        found = matrix.rows_in(Path(rows))
    say(f"walked {len(found)} cases in {kernel.clock(time.monotonic() - began)}")
    print("\n" + matrix.table(found), flush=True)
    return results


def _scoped(options: Sequence[str], scope: str) -> list[str]:
    """What of the user's choice is of this scope."""
    wished = [after for before, after in itertools.pairwise(options) if before == "-k"]
    return ["-k", " and ".join([scope, *(f"({wish})" for wish in wished)])]


def _side_by_side(parts: Sequence[Callable[[], list[Result]]]) -> list[Result]:
    with ThreadPoolExecutor(len(parts)) as pool:
        return [result for results in pool.map(lambda part: part(), parts) for result in results]

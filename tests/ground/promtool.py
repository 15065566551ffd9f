"""Prometheus' own engine, by `promtool`: what metrics, questions and rules come to, without a server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linkseal"

Series = Mapping[str, str]
"""Values by series, a minute apart, in promtool's notation: `{'up{job="a"}': "1+0x30"}`."""

_ANSWER = re.compile(r'expr: (".*"), time: .*,\n\s+exp: nil\n\s+got: (.*)$', re.MULTILINE)


def promtool(*words: str, stdin: bytes = b"") -> tuple[int, str]:
    """Its return code and all it says."""
    tool = shutil.which("promtool") or CACHE / "tools" / "promtool"
    done = subprocess.run([tool, *words], input=stdin, capture_output=True, timeout=60, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


def ask(series: Series, questions: Iterable[str], at: str) -> dict[str, list[str]]:
    """What each question comes to at that time, a line for each series; nothing for those without an answer.

    promtool only says what it finds where something else was expected, so nothing is.
    """
    wanted = [{"expr": expr, "eval_time": at} for expr in questions]
    text = _tested(series, promql_expr_test=wanted)
    found = {json.loads(expr): _lines(got) for expr, got in _ANSWER.findall(text)}
    return {one["expr"]: found.get(one["expr"], []) for one in wanted}


def _lines(got: str) -> list[str]:
    found = re.findall(r"(\{[^}]*\}) ([^ ,]+)", got)
    return sorted(f"{labels} {float(value):.4g}" for labels, value in found)


def alerts(series: Series, rules: Any, names: Iterable[str], at: str) -> dict[str, list[str]]:
    """The summaries of the alerts that fire at that time, by the names that are asked for."""
    wanted = [{"alertname": name, "eval_time": at, "exp_alerts": []} for name in names]
    found: dict[str, list[str]] = {}
    for one in wanted:
        text = _tested(series, rules, alert_rule_test=[one])
        found[str(one["alertname"])] = sorted(re.findall(r'summary="([^"]*)"', text))
    return found


def _tested(series: Series, rules: Any = None, **tests: Any) -> str:
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    made = {"interval": "1m", "input_series": inputs, **tests}
    with TemporaryDirectory() as folder:
        (Path(folder) / "rules.json").write_text(json.dumps(rules or {"groups": []}), encoding="utf-8")
        whole = {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": [made]}
        file = Path(folder) / "tests.json"
        file.write_text(json.dumps(whole), encoding="utf-8")
        code, text = promtool("test", "rules", str(file))
    if code and "FAILED:" not in text:
        msg = f"promtool takes exception: {text}"
        raise AssertionError(msg)
    return text

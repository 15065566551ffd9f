"""Every finding of the catalogue is raised somewhere, or it is known which milestone will."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from linkseal.keys import codes as documents
from linkseal.tunnels import codes
from linkseal.tunnels.findings import CATALOGUE

ROOT = Path(__file__).parents[2]

LATER: dict[str, str] = {}
"""Code → milestone."""

CODES = {
    value: name
    for module in (documents, codes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


LISTS = re.compile(r"\bimport\b|clear\(|^\s*(\w+\.)?[A-Z_]+,$|PROBE_CODES|_CODES: Final")


def lines() -> list[str]:
    """All source lines but those that define, describe, clear, import or merely list codes."""
    found = []
    for folder in ("keys", "wireguard", "tunnels"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name not in {"codes.py", "catalogue.py", "catalogue_host.py", "catalogue_guard.py"}:
                found += [line for line in path.read_text().splitlines() if not LISTS.search(line)]
    return found


LINES = lines()


def test_code_names_and_catalogue_are_the_same_set() -> None:
    assert CODES.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("code", CATALOGUE)
def test_every_finding_is_raised_somewhere(code: str) -> None:
    used = [line for line in LINES if re.search(rf"\b{CODES[code]}\b", line)]
    assert bool(used) != (code in LATER), LATER.get(code, f"{CODES[code]} is never raised")

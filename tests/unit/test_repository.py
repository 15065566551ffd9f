"""Rules of the repository itself that no tool checks."""

from __future__ import annotations

import ast
import configparser
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PRODUCT = ("ipsec", "keys", "tunnels", "wireguard")

LONGEST_FILE, LONGEST_FUNCTION = 400, 80

LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-uv.lock", "requirements-go.lock")

GO_MODULES = ("tests/ground/controlplane", "tests/ground/controlplane/helm")

PURE_FOLDERS = ("keys", "tunnels", "tunnels/guard", "tunnels/probe", "tunnels/redirect", "tunnels/verify")
"""Modules directly in these do no I/O (docs/architecture.md), except:"""

IMPURE = {
    "linkseal.keys.files": "atomic, private files",
    "linkseal.keys.store": "the key store",
    "linkseal.keys.sshagent": "asks an SSH agent to sign",
    "linkseal.tunnels.settings": "reads the configuration file",
    "linkseal.tunnels.probe.engine": "sends and receives probes",
    "linkseal.tunnels.probe.pmtu": "asks the kernel what fits on a path",
    "linkseal.tunnels.probe.sockets": "the probes' sockets",
    "linkseal.tunnels.redirect.bpf": "bpf(2)",
    "linkseal.tunnels.redirect.detect": "reads XDP programs and AF_XDP sockets",
    "linkseal.tunnels.redirect.hooks": "attaches programs",
    "linkseal.tunnels.redirect.kernel": "programs and maps of this host",
    "linkseal.tunnels.redirect.tc": "qdiscs and filters by netlink",
    "linkseal.tunnels.verify.capture": "captures on the underlay",
    "linkseal.tunnels.verify.engine": "sends canaries and answers peers that do",
}

PURE_OTHERS = ("model", "diff", "render", "codec", "quick")
"""Modules of wireguard/ that do no I/O; the others there are drivers."""


def code() -> Iterator[Path]:
    for folder in (*PRODUCT, "tests", "docs", "charts"):
        yield from (file for file in (ROOT / folder).rglob("*.py") if "__pycache__" not in file.parts)


def pure_modules() -> set[str]:
    """Modules there are that must be named in the contract."""
    files = [file for folder in PURE_FOLDERS for file in (ROOT / folder).glob("*.py")]
    files += [file for name in PURE_OTHERS if (file := ROOT / "wireguard" / f"{name}.py").exists()]
    names = {"linkseal." + ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    return {name for name in names if not name.endswith("__init__")} - set(IMPURE)


def contract() -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    return set(parser["importlinter:contract:pure"]["source_modules"].split())


def test_no_module_imports_the_product_by_its_folder() -> None:
    """`import keys` would work from the root and be a second copy of every class."""
    bare = []
    for file in code():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            bare += [f"{file}:{name}" for name in names if name.split(".")[0] in PRODUCT]
    assert bare == []


def test_files_are_short() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in code()}
    assert {file: lines for file, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long = {}
    for file in code():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long[f"{file.relative_to(ROOT)}:{node.name}"] = lines
    assert long == {}


def test_every_pure_module_is_named_in_the_contract() -> None:
    """One that is missing here goes into .importlinter, or into IMPURE above with its reason."""
    assert pure_modules() - contract() == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_name_no_registry(lock: str) -> None:
    """Whoever installs says from where; a host name here would be a dependency on one mirror."""
    assert not re.search(r"https?:|--index|--extra-index|--find-links", (ROOT / lock).read_text())


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes(lock: str) -> None:
    pins = re.findall(r"^(\S+==\S+)(.*?)(?=^\S|\Z)", (ROOT / lock).read_text(), re.MULTILINE | re.DOTALL)
    assert pins
    assert [name for name, rest in pins if "--hash=sha256:" not in rest] == []


@pytest.mark.parametrize("module", GO_MODULES)
def test_go_modules_name_no_registry(module: str) -> None:
    assert "://" not in (ROOT / module / "go.mod").read_text()
    assert (ROOT / module / "go.sum").read_text()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["kubernetes"]]
    for lock, wanted in (
        ("requirements.lock", asked),
        ("requirements-dev.lock", asked + project["dependency-groups"]["dev"]),
    ):
        pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==", (ROOT / lock).read_text(), re.MULTILINE)}
        names = {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in wanted}
        assert names - pinned == set(), f"{lock} is older than pyproject.toml: run `make lock`"


def test_both_locks_pin_the_same_versions() -> None:
    runtime, dev = (
        dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)) for lock in LOCKS[:2]
    )
    assert {name: (version, dev.get(name)) for name, version in runtime.items() if dev.get(name) != version} == {}


@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "LICENSE", "docs/architecture.md"])
def test_a_newcomer_finds_what_to_read(file: str) -> None:
    assert (ROOT / file).read_text().strip()


def test_ci_runs_what_a_newcomer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "exec make test" in script.read_text()


def test_every_target_of_the_makefile_is_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z-]+):.*  ## ", text, re.MULTILINE))


@pytest.mark.parametrize("folder", PRODUCT)
def test_type_checkers_see_the_installed_names(folder: str) -> None:
    assert (ROOT / ".typecheck" / "linkseal" / folder).resolve() == ROOT / folder

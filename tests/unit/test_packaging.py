"""What is installed is what is here: packages, dependencies, the wheel."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

FOLDERS = ("ipsec", "keys", "tunnels", "wireguard")
"""The product's folders at the root; each installs as `linkseal.<folder>`."""

NOT_IMPORTED = {
    "kubernetes": "an extra; its directory is a later milestone",
}
"""Dependencies that no module imports, and why they are declared all the same."""

PART_OF = {
    "pydantic_core": "pydantic",  # pinned by it to one version; holds the types of its errors
}
"""Modules that belong to another distribution's public interface."""


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*.py")


@cache
def imported() -> set[str]:
    """Top names of everything the product imports, also inside functions."""
    names: set[str] = set()
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names


def declared() -> set[str]:
    """Distributions that pyproject.toml asks for, extras included."""
    extras = [item for extra in project()["project"]["optional-dependencies"].values() for item in extra]
    return {normal(re.split(r"[<>=!~ \[;]", line)[0]) for line in [*project()["project"]["dependencies"], *extras]}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_list_of_packages_is_the_folders() -> None:
    found = {
        "linkseal." + ".".join(init.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(project()["tool"]["setuptools"]["packages"]) == found


def test_every_folder_with_code_is_a_package() -> None:
    assert not {str(file.parent) for file in sources() if not (file.parent / "__init__.py").exists()}


def test_every_dependency_is_imported() -> None:
    modules = packages_distributions()
    used = {normal(distribution) for name in imported() for distribution in modules.get(name, [])}
    assert declared() - used - set(NOT_IMPORTED) == set()


def test_everything_imported_is_declared() -> None:
    """A library that comes only because another one needs it may go with that one."""
    modules = packages_distributions()
    foreign = {PART_OF.get(name, name) for name in imported()} - set(sys.stdlib_module_names) - {"linkseal"}
    undeclared = {name for name in foreign if not {normal(d) for d in modules.get(name, [name])} & declared()}
    assert undeclared == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """File names in the wheel, built from a copy so that nothing is left in the tree."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_module(wheel: list[str]) -> None:
    expected = {f"linkseal/{file.relative_to(ROOT)}" for file in sources()}
    assert expected - set(wheel) == set()


def test_the_wheel_installs_nothing_outside_the_namespace(wheel: list[str]) -> None:
    """PyPI has a `wireguard` of its own: a package of that name at the top would overwrite it."""
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"linkseal"}


def test_the_wheel_holds_what_is_no_python(wheel: list[str]) -> None:
    others = {f"linkseal/{folder}/py.typed" for folder in FOLDERS} | {"linkseal/tunnels/lab/labinit.sh"}
    assert others - set(wheel) == set()


def test_the_programs_point_to_something_that_can_be_called(wheel: list[str]) -> None:
    assert any(name.endswith("entry_points.txt") for name in wheel)
    for target in project()["project"]["scripts"].values():
        module, function = target.split(":")
        loaded = __import__(module, fromlist=[function])
        assert callable(getattr(loaded, function))

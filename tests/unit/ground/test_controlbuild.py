"""The control plane's build: what it is keyed by, and what it does without Go, without a network or without success."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ground import controlbuild, kernel
from linkseal.tunnels.lab.kube.programs import programs_folder

FAKE_GO = """#!/bin/sh
case "$1" in
env) echo go{version} ;;
build) echo "compiling $*" >&2; {build} ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a folder for commands that comes first in PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def install_go(
    machine: Path, version: str = "1.26.1", build: str = 'while [ "$1" != -o ]; do shift; done; touch "$2"'
) -> None:
    go = machine / "go"
    go.write_text(FAKE_GO.format(version=version, build=build))
    go.chmod(0o755)


def test_what_is_built_is_not_built_again(machine: Path) -> None:
    install_go(machine)
    folder = controlbuild.build()
    assert {program.name for program in controlbuild.PROGRAMS} <= {file.name for file in folder.iterdir()}
    install_go(machine, build="exit 1")
    assert controlbuild.build() == folder


def test_the_product_finds_what_was_built_last(machine: Path) -> None:
    install_go(machine)
    first = controlbuild.build()
    assert programs_folder().resolve() == first
    install_go(machine, version="1.27.0")
    second = controlbuild.build()
    assert programs_folder().resolve() == second != first
    install_go(machine)
    controlbuild.build()  # builds nothing: this clone's own is there
    assert programs_folder().resolve() == first


def test_only_what_is_missing_is_built(machine: Path) -> None:
    install_go(machine)
    folder = controlbuild.build()
    (folder / "kubectl").unlink()
    (folder / "etcd.log").write_text("of the first build")
    controlbuild.build()
    assert (folder / "kubectl").exists()
    assert (folder / "etcd.log").read_text() == "of the first build"


def test_a_failed_build_names_its_log_and_leaves_no_program(machine: Path) -> None:
    install_go(machine, build="echo no space left >&2; exit 1")
    with pytest.raises(kernel.BuildError, match=r"etcd was not built; the end of .*/etcd.log:\n(.*\n)*no space left"):
        controlbuild.build()
    assert not controlbuild.is_built()


def test_another_version_of_go_builds_anew(machine: Path) -> None:
    install_go(machine, "1.26.1")
    first = controlbuild.folder()
    install_go(machine, "1.26.2")
    assert controlbuild.folder() != first


@pytest.mark.parametrize("version", ["1.19.8", "1.25.9"])
def test_a_go_that_is_too_old_gives_way_to_the_pinned_one(machine: Path, version: str) -> None:
    install_go(machine, version)
    assert controlbuild.go_version() in (controlbuild.GO_LOCK).read_text()
    install_go(machine, "1.30.0")
    assert controlbuild.go_version() == "1.30.0"


def test_kubernetes_and_its_parts_are_of_one_release() -> None:
    """`v0.37.2` of k8s.io/api belongs to Kubernetes v1.37.2."""
    release = controlbuild.kubernetes_version().removeprefix("v1.")
    replaced = [line for line in (controlbuild.MODULE / "go.mod").read_text().splitlines() if "=>" in line]
    assert len(replaced) > 30
    assert [line for line in replaced if not line.endswith(f" v0.{release}")] == []

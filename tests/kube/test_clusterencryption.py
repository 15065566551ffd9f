"""ClusterEncryption in a real API server: what it takes, refuses and keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ground.charts import CLUSTER_ENCRYPTIONS, cluster_encryption
from ground.controlplane import ControlPlane
from ground.daemons import DaemonError
from ground.kubeapi import Api, ApiError, Recorder
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.clusterobject import MAX_POOL, CaStatus, ClusterStatus, PoolStatus, status_object
from linkseal.tunnels.guard.policy import MAX_EXEMPTIONS, MAX_PROTECTED
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import parse_policy
from linkseal.tunnels.status import LinkCounts
from linkseal.tunnels.statustypes import SpecCondition

pytestmark = [pytest.mark.kube, pytest.mark.usefixtures("chart")]

T = 1793613600.0  # 2026-11-02T10:00:00Z

DEFAULT = f"{CLUSTER_ENCRYPTIONS}/default"

EXEMPTION = {
    "name": "ssh", "protocol": "tcp", "port": 22, "cidr": "192.0.2.0/24", "owner": "ops", "reason": "rescue",
    "expires": "2027-01-01T00:00:00Z",
}  # fmt: skip


def put(kube: Api, **spec: Any) -> dict[str, Any]:
    """Replace the spec; what is left out is left out."""
    found = kube.get(DEFAULT)
    answer: dict[str, Any] = kube.put(DEFAULT, {**found, "spec": spec})["spec"]
    return answer


def complaint(kube: Api, **spec: Any) -> str:
    with pytest.raises(ApiError) as caught:
        put(kube, **spec)
    assert caught.value.status == 422
    return str(caught.value)


@pytest.fixture
def cluster(kube: Recorder) -> Recorder:
    kube.post(CLUSTER_ENCRYPTIONS, cluster_encryption())
    return kube


def test_an_empty_spec_has_the_defaults_that_rules_and_columns_need(cluster: Recorder, plane: ControlPlane) -> None:
    assert cluster.get(DEFAULT)["spec"] == {"protocol": "wireguard", "scope": "overlay", "stage": "off"}
    head, line = plane.kubectl("get", "clusterencryptions").splitlines()
    assert head.split() == ["NAME", "STAGE", "TARGET", "SCOPE", "PROTOCOL", "SEALED", "LINKS", "NODES", "AGE"]
    assert line.split()[:4] == ["default", "off", "overlay", "wireguard"]


def test_a_whole_spec_is_kept_and_is_a_policy(cluster: Recorder) -> None:
    spec = {
        "protocol": "wireguard", "scope": "transparent", "stage": "prepare",
        "wireguard": {"port": 51000, "mtu": 1380, "keepalive": 0},
        "routing": {"table": 1, "rulePriority": 5, "fwmark": "0x4c530c00", "fwmarkMask": 0xFFFFFFFF},
        "probe": {"prefix4": "198.18.0.0/15", "prefix6": "fd6c::/64", "port": 51829, "interval": 5},
        "guard": {"table": "mine", "passThrough": ["vxlan.calico"]},
        "protectedCIDRs": ["10.244.0.0/16", "fd00:244::/48", "10.244.0.0/16"],
        "exemptions": [EXEMPTION, {**EXEMPTION, "name": "ping", "protocol": "icmp"}],
        "verify": {"interval": "1h30m", "sample": 2}, "rotation": {"interval": "30d"},
    }  # fmt: skip
    del spec["exemptions"][1]["port"]  # type: ignore[attr-defined]
    beside = {
        "optOut": {"nodes": ["b"]}, "ca": {"rotate": "2026-11"}, "stepTimeout": "5m",
        "pool": {"stage": "prefer", "nodes": ["a", "c"], "lowerTo": "prefer"},
    }  # fmt: skip
    assert put(cluster, **spec, **beside) == {**spec, **beside}
    assert parse_policy(spec).stage is Stage.PREPARE


def test_there_is_one_and_its_name_is_default(cluster: Recorder) -> None:
    with pytest.raises(ApiError, match="its name is default") as caught:
        cluster.post(CLUSTER_ENCRYPTIONS, cluster_encryption("second"))
    assert caught.value.status == 422


def test_kubectl_refuses_a_typo(plane: ControlPlane, cluster: Recorder) -> None:
    for spec in ({"scpoe": "overlay"}, {"wireguard": {"prot": 1}}, {"pool": {"stage": "off", "node": ["a"]}}):
        with pytest.raises(DaemonError, match="unknown field"):
            plane.kubectl("apply", "-f", "-", stdin=json.dumps(cluster_encryption(**spec)))


def test_what_a_client_without_strict_validation_misspells_is_dropped(cluster: Recorder) -> None:
    assert "scpoe" not in put(cluster, scpoe="transparent")


@pytest.mark.parametrize("lower", ["off", "prepare", "prefer"])
def test_a_stage_is_lowered_only_if_lowerto_says_the_same(cluster: Recorder, lower: str) -> None:
    put(cluster, stage="enforce")
    assert "would lower the stage" in complaint(cluster, stage=lower)
    assert "would lower the stage" in complaint(cluster, stage=lower, lowerTo="enforce")
    assert put(cluster, stage=lower, lowerTo=lower)["stage"] == lower


def test_leaving_the_stage_out_lowers_nothing(cluster: Recorder, plane: ControlPlane) -> None:
    """As when the file that made the object is applied again."""
    put(cluster, stage="enforce")
    assert "would lower the stage" in complaint(cluster)
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(cluster_encryption()))
    assert cluster.get(DEFAULT)["spec"]["stage"] == "enforce"


def test_lowerto_does_not_stay_beside_a_higher_stage(cluster: Recorder) -> None:
    """Or the next update could lower with what the one before left."""
    put(cluster, stage="prefer")
    put(cluster, stage="prepare", lowerTo="prepare")
    assert "leave it out" in complaint(cluster, stage="enforce", lowerTo="prepare")
    assert put(cluster, stage="enforce")["stage"] == "enforce"


def test_the_scope_changes_only_at_stage_off(cluster: Recorder) -> None:
    put(cluster, stage="off", scope="transparent")
    put(cluster, stage="prepare", scope="overlay")
    assert "only at stage off" in complaint(cluster, stage="prepare", scope="transparent")
    assert "only at stage off" in complaint(cluster, stage="off", lowerTo="off", scope="transparent")
    put(cluster, stage="off", lowerTo="off")
    put(cluster, stage="prepare", scope="transparent")


@pytest.mark.parametrize(
    "other",
    [
        {"wireguard": {"port": 51900}},
        {"routing": {"table": 4242}},
        {"routing": {"rulePriority": 99}},
        {"routing": {"fwmark": "0x10"}},
        {"routing": {"fwmarkMask": "0xff"}},
        {"probe": {"prefix4": "198.19.0.0/16"}},
        {"probe": {"prefix6": "fd6c::/64"}},
        {"probe": {"port": 4243}},
        {"guard": {"table": "mine"}},
    ],
    ids=lambda other: next(f"{part}.{name}" for part, fields in other.items() for name in fields),
)
def test_what_nodes_stand_on_changes_only_at_stage_off(cluster: Recorder, other: dict[str, dict[str, object]]) -> None:
    """Agents would refuse it, and with it the policy that it comes in."""
    (section,) = other
    put(cluster, stage="prefer")
    assert "changes only at stage off" in complaint(cluster, stage="prefer", **other)
    beside = {"wireguard": {"mtu": 1380}, "probe": {"interval": 5}, "guard": {"passThrough": ["vxlan.calico"]}}
    put(cluster, stage="prefer", **{name: value for name, value in beside.items() if name == section})
    put(cluster, stage="off", lowerTo="off")
    put(cluster, stage="prepare", **other)
    assert "changes only at stage off" in complaint(cluster, stage="prepare"), "left out is the default"


def test_nor_while_the_cluster_is_still_on_its_way_there(cluster: Recorder) -> None:
    cluster.patch(f"{DEFAULT}/status", {"status": {"stage": "prefer"}})
    assert "only at stage off" in complaint(cluster, stage="off", scope="transparent")
    cluster.patch(f"{DEFAULT}/status", {"status": {"stage": "off"}})
    put(cluster, stage="off", scope="transparent")


def test_the_protocol_changes_only_at_stage_off_and_ipsec_is_not_there_yet(cluster: Recorder) -> None:
    said = complaint(cluster, stage="off", protocol="ipsec")
    assert "IPsec is not in this version" in said
    assert "only at stage off" not in said
    put(cluster, stage="prepare")
    assert "only at stage off" in complaint(cluster, stage="prepare", protocol="ipsec")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"port": None}, "need a port"),
        ({"protocol": "icmp"}, "need a port"),
        ({"cidr": "192.0.2.1/24"}, "without host bits"),
        ({"cidr": "fd00::1/64"}, "without host bits"),
        ({"cidr": "999.0.2.0/24"}, "without host bits"),
        ({"cidr": "192.0.2.0"}, "in body should match"),
        ({"expires": "tomorrow"}, "date-time"),
        ({"owner": ""}, "owner"),
        ({"protocol": "all"}, "Unsupported value"),
    ],
)
def test_an_exemption_says_what_it_exempts(cluster: Recorder, change: dict[str, Any], words: str) -> None:
    wrong = {key: value for key, value in {**EXEMPTION, **change}.items() if value is not None}
    assert words in complaint(cluster, exemptions=[wrong])


def test_protected_networks_are_few_and_change_at_any_stage(cluster: Recorder) -> None:
    some = [f"10.{number}.0.0/16" for number in range(MAX_PROTECTED + 1)]
    assert "must have at most" in complaint(cluster, protectedCIDRs=some)
    assert "should match" in complaint(cluster, protectedCIDRs=["10.244.0.0"])
    put(cluster, stage="enforce", protectedCIDRs=some[1:])
    twice = [some[0], some[0]]
    assert put(cluster, stage="enforce", protectedCIDRs=twice)["protectedCIDRs"] == twice
    assert "as by an old file" in complaint(cluster, stage="enforce")
    assert put(cluster, stage="enforce", protectedCIDRs=[])["protectedCIDRs"] == []
    assert "protectedCIDRs" not in put(cluster, stage="enforce")


def test_exemptions_are_few_and_each_has_its_own_name(cluster: Recorder) -> None:
    assert "Duplicate value" in complaint(cluster, exemptions=[EXEMPTION, EXEMPTION])
    many = [{**EXEMPTION, "name": f"e{number}"} for number in range(MAX_EXEMPTIONS + 1)]
    assert "must have at most" in complaint(cluster, exemptions=many)
    assert len(put(cluster, exemptions=many[1:])["exemptions"]) == MAX_EXEMPTIONS


def test_its_status_is_kept_whole_and_replaced_as_a_whole(cluster: Recorder) -> None:
    full = ClusterStatus(
        3, 7, Stage.PREFER, "prefer, on the way to enforce", 5, LinkCounts(20, 18, 1, 1), ("n3 has no agent",),
        (SpecCondition("Sealed", "False", "LinksPending", "ü" * 500, T, 3),),
        CaStatus("signing", "f" * 64, T, "n" * 64, "o" * 64, "2026-11", T, ("n3: ü",), "p" * 500),
        PoolStatus(Stage.ENFORCE, tuple(f"{number:0253}" for number in range(MAX_POOL))),
    )  # fmt: skip
    for status in map(status_object, (full, ClusterStatus())):
        body = {key: value for key, value in cluster_encryption().items() if key != "spec"}
        cluster.apply(f"{DEFAULT}/status", {**body, "status": status}, manager="linkseal-controller")
        assert cluster.get(DEFAULT)["status"] == status
    twice = {"status": {"conditions": status_object(full)["conditions"] * 2}}
    with pytest.raises(ApiError, match="Duplicate value"):
        cluster.patch(f"{DEFAULT}/status", twice)


def test_a_pool_is_taken_back_only_if_its_lowerto_says_so(cluster: Recorder) -> None:
    def at(pool: PoolStatus | None) -> None:
        body = {key: value for key, value in cluster_encryption().items() if key != "spec"}
        status = status_object(ClusterStatus(stage=Stage.PREPARE, pool=pool))
        cluster.apply(f"{DEFAULT}/status", {**body, "status": status}, manager="linkseal-controller")

    def pool(stage: str, **more: str) -> dict[str, Any]:
        return {"stage": stage, "nodes": ["a", "b"], **more}

    put(cluster, stage="prepare", pool=pool("enforce"))
    put(cluster, stage="prepare", pool=pool("prefer"))  # it has not gone there
    at(PoolStatus(Stage.PREFER, ("a", "b")))
    assert "would take the pool back" in complaint(cluster, stage="prepare", pool=pool("prepare"))
    assert "leave it out" in complaint(cluster, stage="prepare", pool=pool("prepare", lowerTo="prefer"))
    assert "should have at least 1" in complaint(cluster, stage="prepare", pool={**pool("prefer"), "nodes": []})
    cluster.patch(DEFAULT, {"metadata": {"labels": {"a": "b"}}})
    put(cluster, stage="prepare", pool=pool("prefer", lowerTo="prefer"))
    for _ in range(2):  # what is asked for already is not judged again with every status
        at(PoolStatus(Stage.ENFORCE, ("a", "b")))
    cluster.patch(DEFAULT, {"metadata": {"labels": {"a": "c"}}})
    put(cluster, stage="prepare", pool=pool("enforce"))
    put(cluster, stage="prepare")  # which takes nothing back
    put(cluster, stage="prepare", pool=pool("prepare", lowerTo="prepare"))
    at(None)
    put(cluster, stage="prepare", pool=pool("off"))


def test_the_pools_of_two_who_ask_are_not_mixed(cluster: Recorder, plane: ControlPlane) -> None:
    for manager, node in (("gitops", "a"), ("linkseal-cli", "b")):
        body = json.dumps(cluster_encryption(pool={"stage": "prefer", "nodes": [node]}))
        words = "apply", "--server-side", "--force-conflicts", f"--field-manager={manager}", "-f", "-"
        plane.kubectl(*words, stdin=body)
    assert cluster.get(DEFAULT)["spec"]["pool"]["nodes"] == ["b"]


def test_what_a_command_asked_for_stands_though_the_next_does_not_say_it_again(
    kube: Recorder, plane: ControlPlane, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The commands apply from the server's side, where leaving a field out means giving it up."""
    at = ["--kubeconfig", str(plane.kubeconfig(tmp_path / "operator"))]
    try:
        assert main([*at, "enable", "--to", "prepare", "--scope", "transparent", "--detach"]) == 0
        assert main([*at, "enable", "--to", "prefer", "--detach"]) == 0
        spec = kube.get(DEFAULT)["spec"]
        assert (spec["scope"], spec["protocol"], spec["stage"]) == ("transparent", "wireguard", "prefer")
        for words in (["--detach", "--yes"], ["--dry-run"]):
            assert main([*at, "enable", "--scope", "overlay", *words]) == 2
            assert "the ClusterEncryption says scope transparent: leave --scope out" in capfd.readouterr().err
        assert kube.get(DEFAULT)["spec"] == spec, "nobody who meant the other has it changed"
    finally:
        kube.delete(DEFAULT, missing_ok=True)

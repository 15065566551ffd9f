"""`check`: which facts become which finding, and the facts of a made-up host."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from linkseal.keys.errors import DirectoryError
from linkseal.tunnels import checks as judged
from linkseal.tunnels import codes
from linkseal.tunnels.checks import (
    DirectoryFacts,
    Facts,
    Interface,
    PolicyRule,
    Result,
    RouteFact,
    StateFacts,
    checks,
    worst,
)
from linkseal.tunnels.cli import check as command
from linkseal.tunnels.cli.output import Paint, structured
from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.host.preflight import Subject, gather, state_facts
from linkseal.tunnels.model import Scope
from linkseal.tunnels.policy import Policy

from .conftest import Run

GOOD = Facts(
    now=1000.0,
    net_admin=True,
    nft="1.0.6",
    door=True,
    forwarding={4: True, 6: True},
    interfaces=(Interface("eth0", 1500), Interface("cni0", 1440)),
    underlay="eth0",
    rules=(PolicyRule(4, 0, 255), PolicyRule(4, 32766, 254), PolicyRule(4, 101, 51820, ours=True)),
    routes=(RouteFact("192.0.2.1/32", 255, "eth0"), RouteFact("10.244.2.0/24", 51820, "lsl0")),
    state=StateFacts("/var/lib/linkseal", exists=True, free=2**30, newest=990.0),
    directory=DirectoryFacts(certificate=True, grant=True, announced=True),
)
TRANSPARENT = Policy(scope=Scope.TRANSPARENT)


def found(facts: Facts, policy: Policy | None = None) -> dict[str, Result]:
    """Results that are not fine, by code."""
    return {r.code: r for r in checks(facts, policy or Policy(), pre=False) if r.code is not None}


def test_a_host_that_is_fit_has_no_finding() -> None:
    results = checks(GOOD, Policy(), pre=False)
    assert {result.status for result in results} == {"ok"}
    assert worst(results) is None
    assert found(GOOD, TRANSPARENT) == {}


BAD: list[tuple[str, Facts]] = [
    (codes.NOT_PRIVILEGED, replace(GOOD, net_admin=False)),
    (codes.NO_WIREGUARD, replace(GOOD, kernel_wireguard="cannot create: Operation not supported")),
    (codes.NO_NFT, replace(GOOD, nft=None)),
    (codes.NO_DOOR, replace(GOOD, door=False)),
    (codes.PORT_IN_USE, replace(GOOD, ports=frozenset({53, 51823}))),
    (codes.PORT_IN_USE, replace(GOOD, ports=frozenset({51829}))),
    (codes.NO_FORWARDING, replace(GOOD, forwarding={4: False, 6: True})),
    (codes.NO_IPV6, replace(GOOD, ipv6=False, directory=DirectoryFacts(None, True, True, True, ipv6=True))),  # noqa: FBT003
    (codes.CNI_MTU, replace(GOOD, interfaces=(Interface("eth0", 1500), Interface("flannel.1", 1450)))),
    (codes.ROUTING_COLLISION, replace(GOOD, rules=(PolicyRule(4, 100, 254),))),
    (codes.ROUTING_COLLISION, replace(GOOD, rules=(PolicyRule(4, 5000, 51820),))),
    (codes.ROUTING_COLLISION, replace(GOOD, rules=(PolicyRule(6, 5000, 9, (0x4C530C00, 0xFFFFFFFF)),))),
    (codes.ROUTING_COLLISION, replace(GOOD, routes=(RouteFact("10.0.0.0/8", 51820, "tun0"),))),
    (codes.FOREIGN_RULE, replace(GOOD, rules=(PolicyRule(4, 50, 100),))),
    (codes.FOREIGN_MANAGER, replace(GOOD, managers=("NetworkManager without …",))),
    (codes.PROBE_RANGE_USED, replace(GOOD, routes=(RouteFact("198.18.4.0/24", 254, "eth0"),))),
    (codes.PROBE_RANGE_USED, replace(GOOD, routes=(RouteFact("fd6c:736c:7072:6f62::1/128", 255, "eth0"),))),
    (codes.STATE_PERMISSIONS, replace(GOOD, state=StateFacts("/s", exists=True, problems=("/s has mode 0755",)))),
    (codes.STATE_NOT_SAVED, replace(GOOD, state=StateFacts("/s", free=1 << 20))),
    (codes.CLOCK_BACK, replace(GOOD, state=StateFacts("/s", exists=True, newest=5000.0))),
    (codes.DIRECTORY_UNREADABLE, replace(GOOD, directory=DirectoryFacts(error="not mounted"))),
    (codes.NO_CERTIFICATE, replace(GOOD, directory=DirectoryFacts(grant=True, announced=True))),
    (codes.OWN_GRANT_MISSING, replace(GOOD, directory=DirectoryFacts(certificate=True, announced=True))),
    (codes.NOT_PUBLISHED, replace(GOOD, directory=DirectoryFacts(certificate=True, grant=True))),
    (codes.AGENT_SILENT, replace(GOOD, agent="no agent answers")),
]


@pytest.mark.parametrize(("code", "facts"), BAD, ids=[f"{code}-{n}" for n, (code, _) in enumerate(BAD)])
def test_each_thing_that_is_wrong_is_one_finding_with_advice(code: str, facts: Facts) -> None:
    assert set(found(facts)) == {code}
    result = found(facts)[code]
    assert (result.status, result.advice) == (CATALOGUE[code].severity, CATALOGUE[code].fix)


def test_a_strict_reverse_path_filter_matters_where_node_addresses_are_carried() -> None:
    strict = replace(GOOD, interfaces=(Interface("eth0", 1500, rp_filter=1),))
    assert set(found(strict, TRANSPARENT)) == {codes.RP_FILTER_LOOSENED}
    assert found(strict) == {}
    assert found(replace(strict, rp_filter_all=2), TRANSPARENT) == {}


@pytest.mark.parametrize(
    "rule",
    [
        PolicyRule(4, 100, 255),  # Cilium moves the lookup of `local` there
        PolicyRule(4, 9, 2004, (0x200, 0xF00)),  # for packets with another's mark
        PolicyRule(4, 50, 254, limited=True),
        PolicyRule(4, 512, 100),
    ],
)
def test_rules_that_take_nothing_of_ours_are_no_finding(rule: PolicyRule) -> None:
    assert found(replace(GOOD, rules=(rule,))) == {}


def test_wireguard_go_serves_where_the_kernel_has_none() -> None:
    facts = replace(GOOD, kernel_wireguard="not supported", wireguard_go="/usr/bin/wireguard-go")
    assert found(facts) == {}


def test_what_could_not_be_found_out_is_not_called_fine() -> None:
    facts = replace(GOOD, underlay=None, unknown={"rules": "no netlink"}, net_admin=False, door=False)
    skipped = {r.name for r in checks(facts, TRANSPARENT, pre=True) if r.status == "skipped"}
    assert skipped == {"rp_filter", "MTU", "rules", "door"}


def test_prerequisites_leave_out_directory_and_agent() -> None:
    facts = replace(GOOD, agent="none", directory=DirectoryFacts(error="none"))
    assert not {r.category for r in checks(facts, Policy(), pre=True)} & {"directory", "agent"}


def test_every_code_a_check_gives_is_tested_above() -> None:
    source = Path(judged.__file__).read_text(encoding="utf-8")
    used = {getattr(codes, name) for name in re.findall(r"codes\.([A-Z0-9_]+)", source)}
    assert used == {code for code, _ in BAD} | {codes.RP_FILTER_LOOSENED}


def test_the_forms_of_the_output_are_as_agreed(golden: Callable[[str, str], None]) -> None:
    facts = replace(GOOD, nft=None, ports=frozenset({51820}), agent="no agent answers", underlay=None)
    facts = replace(facts, interfaces=(Interface("eth0", 1500), Interface("cni0", 1500)), managers=('a "b" <c>',))
    results = checks(facts, Policy(), pre=False)
    golden("check.txt", command.text(results, Paint(colour=False)))
    golden("check.json", structured(command.as_object(results, pre=False), "json"))
    golden("check.xml", command.junit(results))
    suite = ET.fromstring(command.junit(results))  # noqa: S314 - we wrote it
    assert suite.attrib["failures"] == str(len(suite.findall(".//failure"))) == "2"
    assert int(suite.attrib["tests"]) == len(suite) == len(results)


# --- facts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a host that is fit, below a folder."""
    files = {
        "proc/self/status": "Name:\tx\nCapEff:\t0000000000001000\n",
        "proc/net/udp": "  sl  local_address\n  1: 00000000:CA6C 00000000:0000 07\n",
        "proc/net/udp6": "  sl  local_address\n  1: 00000000000000000000000000000000:0035 0\n",
        "proc/sys/net/ipv6/conf/all/disable_ipv6": "0\n",
        "proc/sys/net/ipv4/ip_forward": "1\n",
        "proc/sys/net/ipv6/conf/all/forwarding": "0\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_facts_are_read_from_the_host(root: Path) -> None:
    facts = gather(Subject(Policy(), interface="eth7", root=root))
    assert (facts.net_admin, facts.ipv6, dict(facts.forwarding)) == (True, True, {4: True, 6: False})
    assert facts.ports == {51820, 53}
    assert facts.underlay == "eth7"
    assert {name for _, name in socket.if_nameindex()} == {interface.name for interface in facts.interfaces}
    assert any(route.prefix.startswith("127.0.0.1") for route in facts.routes)
    assert any(rule.priority == 32766 for rule in facts.rules)
    assert (facts.state, facts.directory, facts.agent) == (None, None, None)


def test_without_files_nothing_is_taken_for_granted(tmp_path: Path) -> None:
    facts = gather(Subject(Policy(), root=tmp_path / "nothing", run_directory=tmp_path))
    assert not facts.net_admin
    assert not facts.ipv6
    assert not any(facts.forwarding.values())
    assert facts.agent is not None


def test_a_directory_that_cannot_be_read_is_a_fact(tmp_path: Path) -> None:
    facts = gather(Subject(Policy(), root=tmp_path, view=DirectoryError("not mounted")))
    assert facts.directory == DirectoryFacts(error="not mounted")


def managers(root: Path) -> tuple[str, ...]:
    return gather(Subject(Policy(), root=root)).managers


def test_network_managers_must_be_told_to_leave_ours_alone(root: Path) -> None:
    assert managers(root) == ()
    (root / "run/systemd/netif").mkdir(parents=True)
    (root / "run/systemd/netif/state").touch()
    (root / "run/NetworkManager").mkdir()
    assert managers(root) == (
        "systemd-networkd without ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no",
        "NetworkManager without unmanaged-devices=interface-name:lsl*",
    )
    drop_in = root / "etc/systemd/networkd.conf.d"
    drop_in.mkdir(parents=True)
    (drop_in / "10-a.conf").write_text("[Network]\nManageForeignRoutes=no\n")
    assert managers(root)[0] == "systemd-networkd without ManageForeignRoutingPolicyRules=no"
    (drop_in / "20-b.conf").write_text("[Network]\nManageForeignRoutingPolicyRules=false\n")
    (root / "etc/NetworkManager").mkdir()
    (root / "etc/NetworkManager/NetworkManager.conf").write_text("[keyfile]\nunmanaged-devices=interface-name:lsl*\n")
    assert managers(root) == ()


def test_a_state_directory_that_others_can_read_is_told_file_by_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert state_facts(state).exists is False
    assert (state_facts(state).free or 0) > 0
    (state / "keys").mkdir(parents=True)
    state.chmod(0o700)
    key = state / "keys" / "gen-1.key"
    key.write_text("x")
    key.chmod(0o600)
    os.utime(key, (2e9, 2e9))
    good = state_facts(state)
    assert (good.exists, good.problems, good.newest) == (True, (), 2e9)
    key.chmod(0o640)
    state.chmod(0o755)
    assert state_facts(state).problems == (f"{state} has mode 0755, not 0700", f"{key} has mode 0640, not 0600")
    link = tmp_path / "link"
    link.symlink_to(state)
    assert f"{link} is a link" in state_facts(link).problems


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_judges_this_host_and_fails_on_the_severity_asked_for(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    fields = {"apiVersion": "linkseal.io/v1alpha1", "kind": "AgentConfig", "node": "n1"}
    places = {"stateDirectory": str(tmp_path / "state"), "runDirectory": str(tmp_path / "run")}
    config.write_text(yaml.safe_dump({**fields, **places, "directory": {"path": str(tmp_path / "directory")}}))
    done = run("check", "--config", config, "-o", "json")
    result = json.loads(done.out)
    assert (done.code, result["kind"], result["worst"]) == (1, "CheckResult", "error")
    given = {check["code"] for check in result["checks"]}
    assert {codes.DIRECTORY_UNREADABLE, codes.AGENT_SILENT} <= given
    pre = json.loads(run("check", "--pre", "--config", config, "-o", "json").out)
    assert not {check["category"] for check in pre["checks"]} & {"agent"}


@pytest.mark.parametrize(
    ("severity", "limit", "code"), [("warning", "error", 0), ("warning", "warning", 1), ("error", "error", 1)]
)
def test_fail_on_decides_the_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, severity: str, limit: str, code: int
) -> None:
    results = [Result("c", "n", severity, "seen", "LS3001", "do")]  # type: ignore[arg-type]
    monkeypatch.setattr(command, "checks", lambda *_, **__: results)
    assert run("check", "--pre", "--fail-on", limit).code == code

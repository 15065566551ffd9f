"""Settings of an agent and of the cluster: defaults, exact errors, collisions."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.model import Scope, Stage
from linkseal.tunnels.policy import FOREIGN_MARKS, Policy, PolicySpec, VerifyPolicy, parse_policy
from linkseal.tunnels.settings import (
    AgentConfig,
    EndpointSetting,
    load_agent_settings,
    parse_agent_settings,
    parse_endpoint,
)

MINIMAL = {
    "apiVersion": "linkseal.io/v1alpha1",
    "kind": "AgentConfig",
    "node": "n1",
    "directory": {"path": "/srv/linkseal"},
}


def refused(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_agent_settings(data, "agent.yaml", hostname="host")
    return str(caught.value).splitlines()


def refused_policy(spec: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_policy(spec, "cluster.json")
    return str(caught.value).splitlines()


def test_a_minimal_file_gets_the_documented_defaults() -> None:
    settings = parse_agent_settings(MINIMAL, "agent.yaml", hostname="host")
    assert settings.node == "n1"
    assert settings.uid is None
    assert settings.directory.path == Path("/srv/linkseal")
    assert (settings.state_directory, settings.run_directory) == (Path("/var/lib/linkseal"), Path("/run/linkseal"))
    assert (settings.driver, settings.endpoints, dict(settings.peer_endpoints)) == ("auto", None, {})
    assert (settings.poll, settings.status_interval) == (10, 10)
    assert (settings.log_format, settings.log_level) == ("text", "info")
    with pytest.raises(FrozenInstanceError):
        settings.node = "n2"  # type: ignore[misc]


def test_a_uid_is_for_a_directory_of_files() -> None:
    """The Node has its own, and may get another."""
    (line,) = refused({**MINIMAL, "uid": "uid-1", "directory": {"kubernetes": {}}})
    assert line == "agent.yaml: uid: 'uid-1' is another's to say: leave it out, the Node has one"
    assert parse_agent_settings({**MINIMAL, "uid": "uid-1"}, "agent.yaml", hostname="host").uid == "uid-1"


def test_the_host_name_names_the_node_in_lower_case() -> None:
    data = {key: value for key, value in MINIMAL.items() if key != "node"}
    assert parse_agent_settings(data, "agent.yaml", hostname="Worker-1").node == "worker-1"
    with pytest.raises(ConfigError, match="set `node`"):
        parse_agent_settings(data, "agent.yaml", hostname="under_score")


def test_a_pod_is_told_the_name_of_its_node_which_a_host_may_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINKSEAL_NODE", "ip-192-0-2-7.ec2.internal")
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in MINIMAL.items() if key != "node"}))
    assert load_agent_settings(path).node == "ip-192-0-2-7.ec2.internal"
    path.write_text(yaml.safe_dump(MINIMAL | {"node": "n1"}))
    assert load_agent_settings(path).node == "n1", "what the file says counts"


def test_an_explicitly_empty_list_of_endpoints_is_not_the_default() -> None:
    assert parse_agent_settings(MINIMAL | {"endpoints": []}, "a", hostname="h").endpoints == ()


def test_endpoints_are_read_in_all_their_forms() -> None:
    data = MINIMAL | {
        "endpoints": ["192.0.2.1", "192.0.2.1:1", "2001:DB8::0:1", "[2001:db8::1]:65535"],
        "peerEndpoints": {"n2": "198.51.100.7:7000"},
    }
    settings = parse_agent_settings(data, "a", hostname="h")
    assert settings.endpoints == (
        EndpointSetting("192.0.2.1"),
        EndpointSetting("192.0.2.1", 1),
        EndpointSetting("2001:db8::1"),
        EndpointSetting("2001:db8::1", 65535),
    )
    assert settings.peer_endpoints == {"n2": EndpointSetting("198.51.100.7", 7000)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host.example",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:+1",
        "192.0.2.1:\N{FULLWIDTH DIGIT NINE}",
        "1.2.3.4:99999999999999999999",
        "192.0.2.1/24",
        "[::1",
        "[::1]",
        "[::1]x:1",
        "[192.0.2.1]:1",
        "fe80::1%eth0",
    ],
)
def test_a_wrong_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_endpoint(text)


@given(st.text(max_size=60))
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ValueError:
        return
    assert endpoint.port is None or 0 < endpoint.port < 65536


def test_an_unknown_key_suggests_the_nearest_known_one_and_hides_its_value() -> None:
    lines = refused(MINIMAL | {"wireguard": {"drivr": "SECRETVALUE"}, "endpoint": []})
    assert lines == [
        "agent.yaml: wireguard.drivr: unknown key; did you mean `driver`?",
        "agent.yaml: endpoint: unknown key; did you mean `endpoints`?",
    ]


def test_an_unknown_key_like_no_other_lists_the_known_ones() -> None:
    assert refused(MINIMAL | {"directory": {"path": "/x", "zzz": 1}}) == [
        "agent.yaml: directory.zzz: unknown key; known here: kubernetes, path"
    ]


def test_the_supervisor_of_wireguard_go_is_a_path() -> None:
    given = MINIMAL | {"wireguard": {"daemons": "/run/linkseal/daemons/control.sock"}}
    assert parse_agent_settings(given, "agent.yaml", hostname="n1").daemons == Path(
        "/run/linkseal/daemons/control.sock"
    )
    assert parse_agent_settings(MINIMAL, "agent.yaml", hostname="n1").daemons is None
    assert refused(MINIMAL | {"wireguard": {"daemons": "control.sock"}}) == [
        "agent.yaml: wireguard.daemons: must be an absolute path (found 'control.sock')"
    ]


def test_snake_case_is_no_second_spelling() -> None:
    assert refused(MINIMAL | {"log_level": "info"}) == ["agent.yaml: log_level: unknown key; did you mean `logLevel`?"]


def test_every_problem_is_reported_at_once_with_path_value_and_remedy() -> None:
    lines = refused(
        MINIMAL
        | {
            "kind": "Agent",
            "node": "Upper",
            "directory": {"path": "relative"},
            "poll": 0,
            "statusInterval": "10",
            "logLevel": "loud",
            "endpoints": ["nowhere"],
            "interface": "a/b",
            "stateDirectory": None,
        }
    )
    assert [line.split(": ")[1] for line in lines] == [
        "kind",
        "directory.path",
        "node",
        "stateDirectory",
        "endpoints",
        "interface",
        "poll",
        "statusInterval",
        "logLevel",
    ]
    assert "agent.yaml: poll: must be greater than or equal to 1 (found 0)" in lines
    assert "agent.yaml: statusInterval: must be a whole number, without quotes (found '10')" in lines
    assert "agent.yaml: directory.path: must be an absolute path (found 'relative')" in lines


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_a_file_that_is_no_mapping_is_refused(data: object) -> None:
    with pytest.raises(ConfigError, match=r"the whole file: must be a mapping|the whole file: .*"):
        parse_agent_settings(data, "agent.yaml", hostname="h")


def test_a_real_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"wireguard": {"driver": "userspace"}}))
    assert load_agent_settings(path).driver == "userspace"
    assert load_agent_settings(str(path)).node == "n1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node: a\nnode: b\n", "line 2: key `node` is there twice"),
        ("node: [1\n", "line 2"),
        ("endpoints: [[fd00::1]:51820]\n", "quotes"),
        ("a: !!python/object/apply:os.system [id]\n", "line 1"),
        ("\x00", "not YAML"),
        ("[" * 5000, "agent.yaml"),
    ],
)
def test_bad_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_agent_settings(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_or_huge_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_agent_settings(tmp_path / "none")
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(ConfigError, match="larger than"):
        load_agent_settings(huge)


# --- the cluster's policy


def test_an_empty_policy_is_the_documented_default() -> None:
    policy = parse_policy({})
    assert policy == Policy()
    assert (policy.protocol, policy.scope, policy.stage) == ("wireguard", Scope.OVERLAY, Stage.OFF)
    assert (policy.wireguard.port, policy.wireguard.mtu, policy.wireguard.keepalive) == (51820, None, 25)
    assert (policy.routing.table, policy.routing.rule_priority) == (51820, 100)
    assert (policy.probe.port, policy.probe.interval) == (51829, 60)
    assert (policy.verify.interval, policy.verify.sample) == (21600, 3)
    assert policy.probe.range.v4 == IPv4Network("198.18.0.0/15")


def test_the_default_mark_carries_no_bit_that_kubernetes_acts_on() -> None:
    assert Policy().routing.fwmark & FOREIGN_MARKS == 0
    assert Policy().routing.fwmark & 0x2000 == 0  # the portmap CNI plug-in masquerades this one


def test_marks_may_be_text_or_the_number_yaml_makes_of_them() -> None:
    assert parse_policy(yaml.safe_load("routing: {fwmark: 0x10, fwmarkMask: '0xff'}")).routing.fwmark == 16


EXEMPT = {
    "name": "ssh",
    "protocol": "tcp",
    "port": 22,
    "cidr": "192.0.2.0/24",
    "owner": "ops",
    "reason": "rescue",
    "expires": "2030-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"protocol": "ipsec"}, "protocol: IPsec is not in this version"),
        ({"guard": {"table": "linkseal"}}, "guard.table: is the name of the tunnels' own tables"),
        ({"guard": {"passThrough": ["vxlan.calico"]}}, "guard.passThrough: in scope overlay"),
        (
            {"exemptions": [{**EXEMPT, "port": None}]},
            "exemptions[0]: tcp needs a port",
        ),
        ({"exemptions": [{**EXEMPT, "protocol": "icmp"}]}, "exemptions[0]: icmp has no ports"),
        (
            {"exemptions": [{**EXEMPT, "expires": "2030-01-01T00:00:00"}]},
            "exemptions[0].expires: must name its",
        ),
        ({"exemptions": [{**EXEMPT, "cidr": "10.0.0.1/24"}]}, "exemptions[0].cidr: has host bits set"),
        ({"exemptions": [EXEMPT, EXEMPT]}, "exemptions: ssh is there twice"),
        ({"routing": {"table": 252}}, "routing.table: the next one holds our floors"),
        ({"scope": "all"}, "scope: must be 'overlay' or 'transparent' (found 'all')"),
        ({"wireguard": {"port": 65533}}, "wireguard.port: must be less than or equal to 65532 (found 65533)"),
        ({"wireguard": {"port": True}}, "wireguard.port: must be a whole number, without quotes (found True)"),
        ({"wireguard": {"mtu": 1279}}, "wireguard.mtu: must be greater than or equal to 1280 (found 1279)"),
        ({"wireguard": {"mtu": 65456}}, "wireguard.mtu: must be less"),
        ({"wireguard": {"keepalive": -1}}, "wireguard.keepalive: must be greater"),
        ({"routing": {"table": 0}}, "routing.table: must be greater"),
        ({"routing": {"table": 254}}, "routing.table: 254 is the kernel's table `main`"),
        ({"routing": {"rulePriority": 32765}}, "routing.rulePriority: must be less"),
        ({"routing": {"fwmark": "0"}}, "routing.fwmark: must be a 32-bit mark other than 0"),
        ({"routing": {"fwmark": "x"}}, "routing.fwmark: must be a number"),
        ({"routing": {"fwmark": 1 << 32}}, "routing.fwmark: must be a 32-bit mark"),
        ({"routing": {"fwmark": "0x101", "fwmarkMask": "0xff"}}, "routing.fwmark: 0x101 has bits outside"),
        ({"routing": {"fwmark": "0x4c534c00"}}, "routing.fwmark: 0x4c534c00 has bit 0x4000 or 0x8000"),
        ({"probe": {"port": 51823}}, "probe.port: 51823 is one of the tunnels' ports 51820-51823"),
        ({"probe": {"port": 51819}}, "probe.port: the port after 51819, which verify uses, is one of the tunnels'"),
        ({"probe": {"port": 65535}}, "probe.port: must be less than or equal to 65534"),
        ({"verify": {"interval": 5}}, "verify.interval: must be 0 (never) or 10 to 2592000 seconds"),
        ({"verify": {"interval": "a month"}}, "verify.interval: must be a number of seconds, or text such as 90s"),
        ({"verify": {"interval": ""}}, "verify.interval: must be a number of seconds, or text such as 90s"),
        ({"verify": {"sample": 0}}, "verify.sample: must be greater than or equal to 1"),
        ({"probe": {"prefix4": "198.18.0.0/16"}}, "probe.prefix4: is too small"),
        ({"probe": {"prefix4": "198.18.0.1/15"}}, "probe.prefix4: has host bits set; did you mean 198.18.0.0/15?"),
        ({"probe": {"prefix4": "fd00::/64"}}, "probe.prefix4: must be an IPv4 network"),
        ({"probe": {"prefix6": "fd00::/112"}}, "probe.prefix6: is too small"),
        ({"probe": {"prefix6": "ff00::/64"}}, "probe.prefix6: must be unicast"),
        ({"wiregaurd": {}}, "wiregaurd: unknown key; did you mean `wireguard`?"),
    ],
)
def test_a_wrong_policy_says_what_and_what_to_do(spec: dict[str, Any], line: str) -> None:
    (problem,) = refused_policy(spec)
    assert problem.startswith(f"cluster.json: {line}")


@pytest.mark.parametrize(
    ("text", "seconds"), [(600, 600), ("600", 600), ("90s", 90), ("6h", 21600), ("1h30m", 5400), (0, 0), ("0", 0)]
)
def test_the_interval_of_verify_is_seconds_or_text(text: int | str, seconds: int) -> None:
    assert parse_policy({"verify": {"interval": text, "sample": 5}}).verify == VerifyPolicy(seconds, 5)


@pytest.mark.parametrize("port", [51818, 51824])
def test_the_probe_port_may_stand_next_to_the_tunnels_ports(port: int) -> None:
    assert parse_policy({"probe": {"port": port}}).probe.port == port


def test_all_collisions_are_reported_together() -> None:
    assert len(refused_policy({"probe": {"port": 51820}, "routing": {"table": 255}})) == 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.dictionaries(
            st.sampled_from(["wireguard", "port", "probe", "routing", "table", "fwmark", "prefix4", "x"]),
            inner,
        ),
        max_leaves=8,
    )
)
def test_any_data_is_a_policy_or_a_config_error(data: Any) -> None:
    try:
        policy = parse_policy(data)
    except ConfigError:
        return
    ports = range(policy.wireguard.port, policy.wireguard.port + 4)
    assert policy.probe.port not in ports
    assert max(ports) < 65536


def test_both_files_can_be_described_as_json_schema() -> None:
    assert PolicySpec.model_json_schema()["additionalProperties"] is False
    assert "stateDirectory" in AgentConfig.model_json_schema()["properties"]


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", ":9586", "localhost:9586", "127.0.0.1:0", "127.0.0.1:70000"])
def test_metrics_are_served_at_an_address_and_port(text: str) -> None:
    assert refused({**MINIMAL, "metrics": {"listen": text}})[0].startswith("agent.yaml: metrics.listen: must be")


@pytest.mark.parametrize(("text", "address"), [("127.0.0.1:9586", "127.0.0.1"), ("[::]:9586", "::")])
def test_metrics_are_served_nowhere_unless_told(text: str, address: str) -> None:
    assert parse_agent_settings(MINIMAL, "agent.yaml", hostname="host").metrics is None
    settings = parse_agent_settings({**MINIMAL, "metrics": {"listen": text}}, "agent.yaml", hostname="host")
    assert settings.metrics == EndpointSetting(address, 9586)

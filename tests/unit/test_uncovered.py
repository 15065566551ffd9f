"""What no tunnel covers is said: further NICs, networks of pods, VRRP; and nothing else."""

from __future__ import annotations

from pathlib import Path

from linkseal.tunnels.host.multicast import groups
from linkseal.tunnels.model import InterfaceState, Observed
from linkseal.tunnels.uncovered import MAX_LINES, uncovered


def host(*interfaces: tuple[str, str], **addresses: str) -> Observed:
    """Interfaces with their kernel kinds; name → address."""
    found = {
        name: InterfaceState(name, number, None, 1500, up=True, rp_filter=0, kernel_kind=kind)
        for number, (name, kind) in enumerate(interfaces, 1)
    }
    return Observed(interfaces=found, host_addresses={address: name for name, address in addresses.items()})


def test_an_ordinary_node_has_nothing_uncovered() -> None:
    seen = host(
        ("lo", ""), ("eth0", ""), ("cni0", "bridge"), ("flannel.1", "vxlan"), ("docker0", "bridge"),
        ("lsl0", "wireguard"),
        lo="127.0.0.1", eth0="192.0.2.1", cni0="10.244.1.1", docker0="172.17.0.1", lsl0="10.244.1.0",
    )  # fmt: skip
    assert uncovered(seen, "eth0", {("eth0", "224.0.0.1"), ("eth0", "ff02::1")}) == ()


def test_further_nics_networks_of_pods_and_vrrp_are_named() -> None:
    seen = host(("eth0", ""), ("eth1", ""), ("bond0", "bond"), ("net1", "macvlan"), eth0="192.0.2.1", eth1="198.51.100.1", bond0="2001:db8:5::1", net1="192.0.2.9")  # fmt: skip  # noqa: E501
    assert uncovered(seen, "eth0", {("eth0", "224.0.0.18"), ("eth1", "ff02::12")}) == (
        "interface bond0 (2001:db8:5::1): what other hosts reach by it is not encrypted",
        "interface eth1 (198.51.100.1): what other hosts reach by it is not encrypted",
        "interface net1 is a macvlan: such networks of pods (Multus) pass the tunnels by",
        "VRRP on eth0 (224.0.0.18): multicast is neither encrypted nor dropped",
        "VRRP on eth1 (ff02::12): multicast is neither encrypted nor dropped",
    )


def test_nics_that_are_down_or_have_link_local_addresses_alone_lead_nowhere() -> None:
    seen = host(("eth0", ""), ("eth1", ""), eth0="192.0.2.1", eth1="fe80::1")
    assert uncovered(seen, "eth0", ()) == ()


def test_lines_are_bounded() -> None:
    names = [f"eth{number}" for number in range(50)]
    seen = host(*((name, "") for name in names), **{name: f"198.51.100.{n}" for n, name in enumerate(names)})
    assert len(uncovered(seen, "eth0", ())) == MAX_LINES


def test_groups_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    (tmp_path / "igmp").write_text(
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
        "1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
        "2\teth0      :     2      V3\n\t\t\t\t120000E0     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"
    )
    (tmp_path / "igmp6").write_text("2    eth0            ff020000000000000000000000000012     1 00000004 0\n")
    found = {("lo", "224.0.0.1"), ("eth0", "224.0.0.18"), ("eth0", "224.0.0.1"), ("eth0", "ff02::12")}
    assert groups(tmp_path) == found


def test_a_host_that_tells_no_groups_has_none(tmp_path: Path) -> None:
    assert groups(tmp_path) == frozenset()

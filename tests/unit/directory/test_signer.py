"""The signer of a file directory: grants, certificates, removal, inventory."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys import grant as grants
from linkseal.keys.ca import CertificateAuthority, Trust, generate_identity, make_csr
from linkseal.keys.errors import ConfigError, DirectoryError
from linkseal.keys.grant import Grant
from linkseal.tunnels.directory.files import FileDirectory
from linkseal.tunnels.directory.inventory import Inventory, load_inventory, parse_inventory
from linkseal.tunnels.directory.signer import LIFETIME, FileSigner
from linkseal.tunnels.register import Register

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def grant_of(signer: FileSigner, name: str, authority: CertificateAuthority) -> Grant:
    text = (signer.path / "nodes" / name / "grant.json").read_text()
    return grants.verify(grants.unwrap(text, node=name), Trust.from_pem(authority.certificate_pem()), node=name)


def changed(signer: FileSigner, authority: CertificateAuthority, **change: Any) -> FileSigner:
    first, *rest = signer.inventory.nodes
    return FileSigner(signer.path, authority, replace(signer.inventory, nodes=(replace(first, **change), *rest)))


def test_every_node_of_the_inventory_gets_a_grant_that_says_what_it_owns(
    signer: FileSigner, authority: CertificateAuthority
) -> None:
    assert signer.sign(NOW).granted == ("n1", "n2", "n3")
    grant = grant_of(signer, "n2", authority)
    assert (grant.node, grant.uid, grant.index) == ("n2", "uid-2", 2)
    assert (grant.addresses, grant.prefixes, grant.opted_out) == (("192.0.2.2",), ("10.244.2.0/24",), False)


def test_a_second_pass_touches_nothing(signer: FileSigner) -> None:
    signer.sign(NOW)
    before = {path: path.stat().st_mtime_ns for path in signer.path.rglob("*")}
    again = signer.sign(LATER)
    signer.prepare()
    assert (again.granted, again.certified, again.refused) == ((), (), ())
    assert {path: path.stat().st_mtime_ns for path in signer.path.rglob("*")} == before


def test_in_a_folder_the_ca_is_not_replaced(signer: FileSigner) -> None:
    """Nodes trust the first they saw: with another everything that is signed would be refused."""
    bundle = signer.path / "ca.crt"
    before = bundle.read_text()
    other = CertificateAuthority.create("other", NOW - timedelta(days=1), timedelta(days=9))
    with pytest.raises(DirectoryError, match="put the old CA back"):
        FileSigner(signer.path, other, signer.inventory).prepare()
    assert bundle.read_text() == before
    bundle.write_text("damaged")
    signer.prepare()
    assert bundle.read_text() == before


@pytest.mark.parametrize(
    "change", [{"prefixes": ("10.9.0.0/24",)}, {"addresses": ()}, {"index": 9}, {"opted_out": True}, {"uid": "new"}]
)
def test_only_a_changed_grant_is_signed_again_with_a_higher_serial(
    signer: FileSigner, authority: CertificateAuthority, change: dict[str, Any]
) -> None:
    signer.sign(NOW)
    old = grant_of(signer, "n1", authority)
    again = changed(signer, authority, **change)
    assert again.sign(NOW).granted == ("n1",)  # the clock has not moved
    assert grant_of(again, "n1", authority).serial > old.serial


def test_serials_rise_even_if_the_directory_was_lost(signer: FileSigner, authority: CertificateAuthority) -> None:
    signer.sign(NOW)
    old = grant_of(signer, "n1", authority).serial
    (signer.path / "nodes" / "n1" / "grant.json").unlink()
    signer.sign(LATER)
    assert grant_of(signer, "n1", authority).serial > old


def test_a_grant_by_somebody_else_is_replaced(signer: FileSigner, authority: CertificateAuthority) -> None:
    other = CertificateAuthority.create("other", NOW, timedelta(days=1))
    FileSigner(signer.path, other, signer.inventory).sign(NOW)
    assert signer.sign(LATER).granted == ("n1", "n2", "n3")
    grant_of(signer, "n1", authority)


async def test_a_request_is_answered_with_a_certificate_the_register_accepts(
    signer: FileSigner, authority: CertificateAuthority
) -> None:
    signer.sign(NOW)
    directory = FileDirectory(signer.path)
    await directory.request_certificate("n1", make_csr(generate_identity(), "n1", "uid-1"))
    assert signer.sign(NOW).certified == ("n1",)
    pem = await directory.certificate("n1")
    assert pem is not None
    trust = Trust.from_pem((await directory.view("n1")).ca_bundle)
    certificate = trust.verify_certificate(pem, "n1", "uid-1", NOW)
    assert certificate.not_after - NOW == LIFETIME
    assert signer.sign(NOW).certified == ()
    refresh = Register("n1").refresh((await directory.view("n1")).snapshot, trust, NOW)
    assert set(refresh.register.peers) == {"n1", "n2", "n3"}
    assert refresh.findings == ()


@pytest.mark.parametrize(("name", "uid"), [("n1", "uid-2"), ("n2", "uid-1"), ("n1", "other")])
async def test_a_request_in_another_name_is_refused(signer: FileSigner, name: str, uid: str) -> None:
    signer.sign(NOW)
    await FileDirectory(signer.path).request_certificate("n1", make_csr(generate_identity(), name, uid))
    result = signer.sign(NOW)
    assert result.certified == ()
    assert [error.code for error in result.refused] == ["LS1003"]
    assert not (signer.path / "nodes" / "n1" / "certificate.pem").exists()


async def test_a_broken_request_is_refused_and_the_others_are_answered(signer: FileSigner) -> None:
    signer.sign(NOW)
    directory = FileDirectory(signer.path)
    await directory.request_certificate("n1", "nonsense")
    await directory.request_certificate("n2", make_csr(generate_identity(), "n2", "uid-2"))
    result = signer.sign(NOW)
    assert result.certified == ("n2",)
    assert [error.node for error in result.refused] == ["n1"]


async def test_a_node_outside_the_inventory_is_told_and_gets_nothing(signer: FileSigner) -> None:
    await FileDirectory(signer.path).request_certificate("n9", make_csr(generate_identity(), "n9", "uid-9"))
    assert signer.sign(NOW).unlisted == ("n9",)
    assert [path.name for path in (signer.path / "nodes" / "n9").iterdir()] == ["request.csr"]


async def test_the_holder_on_record_wins_and_may_renew(signer: FileSigner) -> None:
    signer.sign(NOW)
    directory = FileDirectory(signer.path)
    holder = generate_identity()
    await directory.request_certificate("n1", make_csr(holder, "n1", "uid-1"))
    signer.sign(NOW)
    first = await directory.certificate("n1")
    await directory.request_certificate("n1", make_csr(generate_identity(), "n1", "uid-1"))
    assert [error.code for error in signer.sign(LATER).refused] == ["LS1003"]
    assert await directory.certificate("n1") == first
    await directory.request_certificate("n1", make_csr(holder, "n1", "uid-1"))
    assert signer.sign(LATER).certified == ("n1",)
    assert await directory.certificate("n1") != first


async def test_a_node_with_a_new_uid_gets_a_new_certificate(
    signer: FileSigner, authority: CertificateAuthority
) -> None:
    directory = FileDirectory(signer.path)
    signer.sign(NOW)
    await directory.request_certificate("n1", make_csr(generate_identity(), "n1", "uid-1"))
    signer.sign(NOW)
    again = changed(signer, authority, uid="reinstalled")
    await directory.request_certificate("n1", make_csr(generate_identity(), "n1", "reinstalled"))
    assert again.sign(LATER).certified == ("n1",)


async def test_the_signer_wakes_when_a_node_asks(signer: FileSigner) -> None:
    signer.sign(NOW)
    assert await signer.wait_for_request(0.1)
    assert not await signer.wait_for_request(0.1)
    await FileDirectory(signer.path).request_certificate("n1", "csr")
    assert await signer.wait_for_request(5.0)
    signer.close()


def test_the_cluster_keeps_its_uid(signer: FileSigner, authority: CertificateAuthority) -> None:
    uid = signer.prepare()
    assert FileSigner(signer.path, authority, signer.inventory).prepare() == uid
    with pytest.raises(DirectoryError, match="belongs to cluster"):
        FileSigner(signer.path, authority, replace(signer.inventory, uid="other")).prepare()


def test_removing_leaves_nothing(signer: FileSigner) -> None:
    signer.sign(NOW)
    signer.remove("n1")
    assert sorted(path.name for path in (signer.path / "nodes").iterdir()) == ["n2", "n3"]
    with pytest.raises(DirectoryError, match="n1 is not in the directory"):
        signer.remove("n1")


# --- the inventory


def entry(name: str, index: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "uid": f"uid-{name}", "index": index, **more}


def file(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"apiVersion": "linkseal.io/v1alpha1", "kind": "Inventory", "nodes": list(nodes), **more}


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_inventory(data, "inv.yaml")
    return [line.removeprefix("inv.yaml: ") for line in str(caught.value).splitlines()]


def test_an_inventory_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "inv.yaml"
    path.write_text(
        "apiVersion: linkseal.io/v1alpha1\nkind: Inventory\nspec: {stage: prefer}\nnodes:\n"
        "  - {name: n1, uid: u1, index: 1, addresses: [192.0.2.1, 'FD00::0:1'], prefixes: [10.244.1.0/24]}\n"
        "  - {name: n2, uid: u2, index: 2, optedOut: true}\n"
    )
    inventory = load_inventory(path)
    assert [node.name for node in inventory.nodes] == ["n1", "n2"]
    assert inventory.nodes[0].addresses == ("192.0.2.1", "fd00::1")
    assert inventory.nodes[1].opted_out
    assert inventory.policy.stage.value == "prefer"


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([entry("a", 1), entry("a", 2, uid="x")], "nodes[0] and nodes[1]: both are named a"),
        ([entry("a", 1), entry("b", 1)], "a and b: both have index 1; it must be of one node only"),
        ([entry("a", 1), entry("b", 2, uid="uid-a")], "a and b: both have UID uid-a"),
        (
            [entry("a", 1, prefixes=["10.0.0.0/8"]), entry("b", 2, prefixes=["10.1.0.0/16"])],
            "a and b: 10.0.0.0/8 and 10.1.0.0/16 overlap",
        ),
        (
            [entry("a", 1, addresses=["10.0.0.1"]), entry("b", 2, prefixes=["10.0.0.0/24"])],
            "b and a: 10.0.0.0/24 and 10.0.0.1/32 overlap",
        ),
        (
            [entry("a", 1, addresses=["fd00::1"]), entry("b", 2, addresses=["fd00::1"])],
            "a and b: fd00::1/128 and fd00::1/128 overlap",
        ),
        ([entry("a", 1, prefixes=["198.18.4.0/24"])], "a: 198.18.4.0/24 lies in the probe range 198.18.0.0/15; "),
        ([entry("A", 1)], "nodes[0].name: 'A' is no node name"),
        ([entry("a", 0)], "nodes[0].index: must be greater than or equal to 1"),
        ([entry("a", 16384)], "nodes[0].index: must be less than or equal to 16383"),
        (
            [entry("a", 1, prefixes=["10.0.0.1/8"])],
            "nodes[0].prefixes: `10.0.0.1/8` has host bits set; did you mean 10.0.0.0/8?",
        ),
        (
            [entry("a", 1, prefixes=["0.0.0.0/0"])],
            "nodes[0].prefixes: unspecified, loopback and multicast addresses belong to no node",
        ),
        (
            [entry("a", 1, addresses=["127.0.0.1"])],
            "nodes[0].addresses: unspecified, loopback and multicast addresses belong to no node",
        ),
        ([entry("a", 1, adresses=[])], "nodes[0].adresses: unknown key; did you mean `addresses`?"),
    ],
)
def test_a_conflict_names_both_sides(nodes: list[dict[str, Any]], expected: str) -> None:
    (problem,) = problems(file(*nodes))
    assert problem.startswith(expected)


def test_a_wrong_policy_is_found_in_the_inventory() -> None:
    assert problems(file(spec={"scop": "overlay"})) == ["spec: scop: unknown key; did you mean `scope`?"]


def test_a_node_may_own_an_address_inside_its_own_prefix() -> None:
    parse_inventory(file(entry("a", 1, addresses=["10.0.0.1"], prefixes=["10.0.0.0/24", "10.0.0.0/25"])), "i")


Prefixes = st.tuples(st.integers(0, 15), st.integers(28, 32)).map(
    lambda pair: f"10.0.0.{pair[0] * 16 // 2 ** (32 - pair[1]) * 2 ** (32 - pair[1])}/{pair[1]}"
)


@given(st.lists(st.tuples(st.sampled_from("abc"), Prefixes), max_size=8, unique=True))
def test_overlaps_between_nodes_are_found_and_nothing_else(owned: list[tuple[str, str]]) -> None:
    nodes = [entry(n, i + 1, prefixes=[p for of, p in owned if of == n]) for i, n in enumerate("abc")]
    expected = any(ip_network(p).overlaps(ip_network(q)) for n, p in owned for m, q in owned if n < m)
    try:
        inventory: Inventory | None = parse_inventory(file(*nodes), "i")
    except ConfigError:
        inventory = None
    assert (inventory is None) == expected

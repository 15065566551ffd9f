"""Attacks on a real API server, as far as what is written gets there: what an honest agent makes of it.

| who attacks, how | what refuses it | tested |
|---|---|---|
| an agent: another node's annotation; a label, taint, owner, grant of its own Node | admission | test_admission |
| an agent: another node's report; a token bound to no pod, or to a Node of before | admission | test_admission |
| a kubelet, a cluster-admin: grant, announcement or report of any node | admission | test_admission |
| an agent, the controller: any object that is none of theirs | RBAC | test_rbac |
| a kubelet: addresses of another node, labels, another's Node | controller, NodeRestriction | here |
| a kubelet: pod CIDRs of another node at its registration | controller | here |
| a request for another node or UID, without extras, of no pod, by another account | signer | test_signing |
| a request with another's public key | API server, signer | here |
| a cluster-admin who took admission away, without the CA: an announcement, a grant | register | here |
| the same: an older announcement of a node put back (replay) | register | here |
| the same: the ConfigMap `linkseal-ca` swapped | agents' trust, controller | here |
| a certified node: another's public key; another's name | register | here |
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ground.charts import (
    AGENT,
    BINDINGS,
    CLUSTER_ENCRYPTIONS,
    NAMESPACE,
    NODE_ENCRYPTIONS,
    cluster_encryption,
    guards_nodes,
)
from ground.charts import until as until_now
from ground.controllers import granted, running, until
from ground.controlplane import ControlPlane
from ground.kubeapi import Api, ApiError, Recorder
from ground.kubeobjects import bound_token, create_node, node
from ground.kubesigning import Citizen, agent_directory
from linkseal.keys import codes
from linkseal.keys import grant as grants
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.ca import CertificateAuthority, generate_identity, make_csr
from linkseal.keys.errors import DirectoryError, PeerError
from linkseal.keys.grant import Grant
from linkseal.keys.values import Prefix
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.controller import kube as controller
from linkseal.tunnels.controller.providers.choice import Granting
from linkseal.tunnels.directory.kube import CSRS, KubeDirectory
from linkseal.tunnels.directory.kubedocs import ANNOUNCEMENT, CA_KEY, CA_MAP, CERTIFICATE, GRANT, SIGNATURE
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.register import Peer

pytestmark = [pytest.mark.kube, pytest.mark.timeout(180), pytest.mark.usefixtures("chart")]

NODES = "/api/v1/nodes"
MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
KUBELET = ("system:nodes", "system:authenticated")
NAMES = ("n1", "n2", "n3")


class Observer:
    """The agent of n1, as far as it learns."""

    def __init__(self, directory: KubeDirectory, folder: Path) -> None:
        self._directory = directory
        self._findings = ActiveFindings()
        keyring = Keyring(folder, "n1")
        keyring.open("uid-of-n1", "")
        self.bundle = ""
        self.knowledge = Knowledge("n1", keyring, KnownGood(folder), self._findings)

    async def look(self) -> None:
        now = datetime.now(UTC).timestamp()
        view = await self._directory.view("n1")
        self.bundle = view.ca_bundle
        self.knowledge.learn(view, now)

    def told(self) -> set[tuple[str, str]]:
        """Code and node of what it tells."""
        return {(one.code, one.subject) for one in self._findings.shown(4e9)}

    def peer(self, name: str) -> Peer:
        assert self.knowledge.register is not None
        return self.knowledge.register.peers[name]

    def keys(self, name: str) -> set[str]:
        said = self.peer(name).announcement
        return set() if said is None else {one.public_key for one in said.generations}

    async def until(self, condition: object, what: str) -> None:
        """Look until it holds."""
        for _ in range(300):
            try:
                await self.look()
                if condition():  # type: ignore[operator]
                    return
            except DirectoryError as error:
                what = f"{what} ({error})"
            await self._directory.wait_for_change(0.2)
        raise AssertionError(f"not {what}; told: {self.told()}")


@dataclass
class Town:
    """Three nodes; n2 and n3 have announced themselves, and n1 looks at them. `controller`: ends it."""

    observer: Observer
    n2: Citizen
    n3: Citizen
    at: dict[str, KubeDirectory]
    controller: AsyncExitStack


@pytest.fixture
def nodes(kube: Recorder) -> Iterator[Recorder]:
    for number, name in enumerate(NAMES, 1):
        create_node(kube, name, addresses=[f"192.0.2.{number}"], pod_cidrs=[f"10.244.{number}.0/24"])
    kube.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="prepare"))
    yield kube
    for name in (*NAMES, "n4"):
        kube.delete(f"{NODE_ENCRYPTIONS}/{name}", missing_ok=True)
    for request in kube.get(CSRS)["items"]:
        kube.delete(f"{CSRS}/{request['metadata']['name']}")
    for path in (f"/api/v1/namespaces/{NAMESPACE}/secrets/linkseal-ca-key", f"{NODES}/n4"):
        kube.delete(path, missing_ok=True)
    for name in ("ca", "policy", "stage"):
        kube.delete(f"{MAPS}/linkseal-{name}", missing_ok=True)


@pytest.fixture
async def town(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Town]:
    monkeypatch.setattr(controller, "LOOK", 1.0)
    async with (
        AsyncExitStack() as working,
        agent_directory(plane, nodes, tmp_path, "n1") as one,
        agent_directory(plane, nodes, tmp_path, "n2") as two,
        agent_directory(plane, nodes, tmp_path, "n3") as three,
    ):
        await working.enter_async_context(
            running(plane, nodes, tmp_path, chosen=Granting(networks=frozenset({"192.0.2.0/24"})))
        )
        await until(lambda: all(granted(nodes, name) for name in NAMES))
        observer = Observer(one, tmp_path / "state")
        n2, n3 = await Citizen.enrolled("n2", two), await Citizen.enrolled("n3", three)
        await two.publish("n2", n2.announce())
        await three.publish("n3", n3.announce())
        await observer.until(lambda: observer.keys("n2") and observer.keys("n3"), "two nodes that have announced")
        assert observer.told() == set()
        yield Town(observer, n2, n3, {"n2": two, "n3": three}, working)


@contextmanager
def admission_taken_away(plane: ControlPlane) -> Iterator[None]:
    """By a cluster-admin: nobody checks who writes our annotations."""
    path = f"{BINDINGS}/linkseal-node-annotations"
    kept = plane.admin.get(path)
    plane.admin.delete(path)
    until_now(lambda: not guards_nodes(plane.admin))
    try:
        yield
    finally:
        meta = {key: kept["metadata"][key] for key in ("name", "labels", "annotations") if key in kept["metadata"]}
        plane.admin.post(BINDINGS, {**kept, "metadata": meta})
        until_now(lambda: guards_nodes(plane.admin))


def put(admin: Api, name: str, signed: SignedAnnouncement) -> None:
    said = {ANNOUNCEMENT: signed.text, SIGNATURE: signed.signature, CERTIFICATE: signed.certificate}
    admin.patch(f"{NODES}/{name}", {"metadata": {"annotations": said}})


# --- a kubelet that was taken over


async def test_a_kubelet_s_own_addresses_and_labels_take_nothing_from_others_and_opt_nothing_out(
    plane: ControlPlane, nodes: Recorder, town: Town
) -> None:
    before = {name: granted(nodes, name) for name in NAMES}
    with plane.admin.impersonating("system:node:n3", *KUBELET) as kubelet:
        labels = {"linkseal.io/opt-out": "true", "linkseal.io/encrypted": "false"}
        kubelet.patch(f"{NODES}/n3", {"metadata": {"labels": labels}})
        mine = kubelet.get(f"{NODES}/n3")
        mine["status"]["addresses"] = [
            {"type": "InternalIP", "address": address} for address in ("192.0.2.2", "192.0.2.3", "203.0.113.9")
        ]
        kubelet.put(f"{NODES}/n3/status", mine)
        taken = {"podCIDR": "10.244.2.0/24", "podCIDRs": ["10.244.2.0/24"]}
        for write in (
            lambda: kubelet.patch(f"{NODES}/n3", {"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}}),
            lambda: kubelet.patch(f"{NODES}/n2", {"metadata": {"labels": {"x": "y"}}}),
            lambda: kubelet.patch(f"{NODES}/n2/status", {"status": {"addresses": []}}),
            lambda: kubelet.patch(f"{NODES}/n3", {"spec": taken}),
            lambda: kubelet.patch(f"{CLUSTER_ENCRYPTIONS}/default", {"spec": {"optOut": {"nodes": ["n3"]}}}),
        ):
            with pytest.raises(ApiError, match=r"403|422"):
                write()
        mine = kubelet.get(f"{NODES}/n3")
        mine["status"]["addresses"].append({"type": "InternalIP", "address": "192.0.2.33"})  # that one is free
        kubelet.put(f"{NODES}/n3/status", mine)
    await until(lambda: "192.0.2.33" in getattr(granted(nodes, "n3"), "addresses", ()))
    after = granted(nodes, "n3")
    assert after is not None
    assert after.addresses == ("192.0.2.3", "192.0.2.33")
    assert not after.opted_out
    assert {name: granted(nodes, name) for name in ("n1", "n2")} == {name: before[name] for name in ("n1", "n2")}
    await town.observer.until(lambda: "192.0.2.33" in town.observer.peer("n3").grant.addresses, "the free address")
    assert town.observer.told() == set()


@pytest.mark.parametrize("claimed", ["10.244.2.0/24", "10.244.0.0/16", "10.244.2.128/25"])
async def test_prefixes_of_others_are_not_granted_to_a_node_that_registers_with_them(
    plane: ControlPlane, nodes: Recorder, town: Town, claimed: str
) -> None:
    with plane.admin.impersonating("system:node:n4", *KUBELET) as kubelet:
        kubelet.post(NODES, node("n4", addresses=["192.0.2.4"], pod_cidrs=[claimed]))
    await until(lambda: granted(nodes, "n4"))
    thief = granted(nodes, "n4")
    assert thief is not None
    assert (thief.addresses, thief.prefixes) == (("192.0.2.4",), ())
    await town.observer.until(lambda: "n4" in getattr(town.observer.knowledge.register, "peers", ()), "the new node")
    assert town.observer.peer("n2").grant.prefixes == ("10.244.2.0/24",)
    assert town.observer.told() == set()


# --- requests for certificates


def with_public_key(csr: str, other: str) -> bytes:
    """A request whose public key is that of another request: its signature is by a key that it does not show."""
    ours, theirs = (b64decode("".join(text.splitlines()[1:-1])) for text in (csr, other))
    marker = bytes.fromhex("03620004")  # BIT STRING of 98 bytes, uncompressed point of P-384
    here, there = ours.index(marker) + len(marker), theirs.index(marker) + len(marker)
    return ours[:here] + theirs[there : there + 96] + ours[here + 96 :]


async def test_nobody_gets_a_certificate_for_a_key_of_another(plane: ControlPlane, nodes: Recorder, town: Town) -> None:
    uid = town.n3.uid
    csr, victim = make_csr(generate_identity(), "n3", uid), make_csr(town.n2.identity, "n3", uid)
    der = with_public_key(csr, victim)
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + b64encode(der) + b"\n-----END CERTIFICATE REQUEST-----\n"
    spec = {"request": b64encode(pem).decode(), "signerName": "linkseal.io/node", "usages": ["digital signature"]}
    pod = nodes.get(f"/api/v1/namespaces/{NAMESPACE}/pods/{AGENT}-n3")
    with (
        plane.admin.with_token(bound_token(nodes, pod)) as thief,
        pytest.raises(ApiError, match="verification failure"),
    ):
        thief.post(CSRS, {"metadata": {"name": "linkseal-theft"}, "spec": spec})
    now = datetime.now(UTC)
    authority = CertificateAuthority.create("any", now, timedelta(days=1))
    with pytest.raises(PeerError, match="sign"):  # and the signer does not rely on the API server
        authority.sign_csr(pem.decode(), "n3", uid, now, timedelta(days=1))


# --- a cluster-admin without the CA


async def test_what_a_cluster_admin_without_the_ca_puts_there_is_refused_and_harms_no_other(
    plane: ControlPlane, nodes: Recorder, town: Town
) -> None:
    observer, now = town.observer, datetime.now(UTC)
    before = {name: (observer.peer(name).announcement, observer.peer(name).grant) for name in NAMES}
    own = CertificateAuthority.create("own", now - timedelta(hours=1), timedelta(days=1))
    mallory = Citizen("n2", town.n2.uid, "", generate_identity(), serial=100)
    csr = make_csr(mallory.identity, "n2", town.n2.uid)
    mallory.certificate = own.sign_csr(csr, "n2", town.n2.uid, now - timedelta(hours=1), timedelta(days=1))
    with admission_taken_away(plane):
        put(plane.admin, "n2", mallory.announce())
        await observer.until(lambda: (codes.UNTRUSTED_CERTIFICATE, "n2") in observer.told(), "a finding")
        mallory.certificate = town.n2.certificate  # the node's own, which everybody may read
        put(plane.admin, "n2", mallory.announce())
        await observer.until(lambda: (codes.SIGNATURE_INVALID, "n2") in observer.told(), "another")
        stolen = Grant("n3", town.n3.uid, 3, 2**40, now, ("192.0.2.2",), (Prefix("10.244.2.0/24"),))
        nodes.patch(f"{NODES}/n3", {"metadata": {"annotations": {GRANT: grants.wrap(grants.sign(own, stolen))}}})
        await observer.until(lambda: (codes.GRANT_SIGNATURE_INVALID, "n3") in observer.told(), "a third")
        assert {name: (observer.peer(name).announcement, observer.peer(name).grant) for name in NAMES} == before
    # and what is true comes back: the agent publishes its own again, the controller grants again
    await town.at["n2"].publish("n2", town.n2.announce())
    await observer.until(lambda: observer.told() == set(), "all as before")
    said = observer.peer("n2").announcement
    assert said is not None
    assert said.serial == 2
    assert observer.peer("n3").grant.prefixes == before["n3"][1].prefixes


async def test_an_announcement_that_is_replayed_takes_no_key_back(
    plane: ControlPlane, nodes: Recorder, town: Town
) -> None:
    observer = town.observer
    old = nodes.get(f"{NODES}/n2")["metadata"]["annotations"]
    await town.at["n2"].publish("n2", town.n2.announce(1, 2))
    await town.at["n2"].publish("n2", town.n2.announce(2))
    new = {town.n2.secrets[2].public_key}
    await observer.until(lambda: observer.keys("n2") == new, "the second generation alone")
    with admission_taken_away(plane):
        put(plane.admin, "n2", SignedAnnouncement(old[ANNOUNCEMENT], old[SIGNATURE], old[CERTIFICATE]))
        await observer.until(lambda: (codes.SERIAL_REPLAYED, "n2") in observer.told(), "a finding")
    assert observer.keys("n2") == new
    assert observer.keys("n3")


async def test_a_swapped_ca_is_not_trusted_and_a_controller_puts_its_own_back(
    plane: ControlPlane, nodes: Recorder, town: Town, tmp_path: Path
) -> None:
    observer, now = town.observer, datetime.now(UTC)
    own, trusted = nodes.get(f"{MAPS}/{CA_MAP}")["data"], observer.knowledge.trust
    before = {name: (observer.peer(name).announcement, observer.peer(name).grant) for name in NAMES}
    other = CertificateAuthority.create("other", now - timedelta(hours=1), timedelta(days=1))
    await town.controller.aclose()
    nodes.patch(f"{MAPS}/{CA_MAP}", {"data": {CA_KEY: other.certificate_pem()}})
    await observer.until(lambda: observer.bundle == other.certificate_pem(), "the swapped bundle")
    assert observer.knowledge.trust == trusted
    assert {code for code, _ in observer.told()} == {codes.CA_NOT_VOUCHED}
    stolen = Grant("n3", town.n3.uid, 3, 2**40, now, ("192.0.2.2",), (Prefix("10.244.2.0/24"),))
    with admission_taken_away(plane):
        nodes.patch(f"{NODES}/n3", {"metadata": {"annotations": {GRANT: grants.wrap(grants.sign(other, stolen))}}})
        await observer.until(lambda: (codes.GRANT_SIGNATURE_INVALID, "n3") in observer.told(), "a finding")
    assert {name: (observer.peer(name).announcement, observer.peer(name).grant) for name in NAMES} == before
    async with running(plane, nodes, tmp_path):
        await until(lambda: nodes.get(f"{MAPS}/{CA_MAP}")["data"] == own)
        await observer.until(lambda: observer.told() == set(), "all as before")


# --- a node of the cluster


async def test_who_announces_the_public_key_of_another_harms_itself_alone(town: Town) -> None:
    observer = town.observer
    [stolen] = (town.n2.secrets[1].public_key,)
    theirs, before = observer.keys("n2"), observer.peer("n3").announcement
    await town.at["n3"].publish("n3", town.n3.announce(public_key=stolen))
    await observer.until(lambda: (codes.POSSESSION_NOT_PROVEN, "n3") in observer.told(), "a finding")
    assert observer.told() == {(codes.POSSESSION_NOT_PROVEN, "n3")}
    assert observer.keys("n2") == theirs
    assert observer.peer("n3").announcement == before, "what it said before stays"


async def test_a_certified_node_cannot_speak_for_another(plane: ControlPlane, town: Town) -> None:
    observer = town.observer
    before = observer.peer("n2").announcement
    double = Citizen("n2", town.n2.uid, town.n3.certificate, town.n3.identity, serial=100)
    with pytest.raises(DirectoryError, match="may not"):
        await town.at["n3"].publish("n2", double.announce())
    with admission_taken_away(plane):
        put(plane.admin, "n2", double.announce())
        await observer.until(lambda: (codes.WRONG_IDENTITY, "n2") in observer.told(), "a finding")
    assert observer.peer("n2").announcement == before

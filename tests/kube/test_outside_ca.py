"""A CA whose key is in an SSH agent, on a real API server: no key is in the cluster, and what is signed is good."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ground.charts import CLUSTER_ENCRYPTIONS, CONTROLLER, NAMESPACE, as_controller, cluster_encryption
from ground.controlplane import ControlPlane
from ground.kubeapi import Recorder
from ground.kubeobjects import create_node, unbound_token
from ground.kubesigning import Citizen
from ground.sshagents import SshAgent, ssh_agent
from kube.test_brought_ca import DEFAULT, SECRETS, ca_of, granted_by, made, refused
from kube.test_brought_ca import bring as bring_key
from kube.test_signing import agent, certificate, granted, nodes, policy, policy_spec, running, uid, until
from linkseal.keys import sshagent
from linkseal.keys.ca import CertificateAuthority, Trust, make_csr
from linkseal.keys.sshagent import AgentKey, identities
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.controller import cakeeper, kube, lease
from linkseal.tunnels.controller.kube import KubeController
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from unit.keys.cluster import ONE

__all__ = ["nodes"]

MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"

pytestmark = [pytest.mark.kube, pytest.mark.timeout(180), pytest.mark.usefixtures("chart")]


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshAgent]:
    monkeypatch.setattr(cakeeper, "CHECK", 1.0)
    monkeypatch.setattr(kube, "LOOK", 1.0)
    monkeypatch.setattr(sshagent, "SECONDS", 2.0)
    with ssh_agent(tmp_path) as found:
        yield found


def bring(
    kube: Recorder, ssh: SshAgent, comment: str, capsys: pytest.CaptureFixture[str], name: str = "linkseal-ca-key"
) -> CertificateAuthority:
    """Put the CA of a key of the SSH agent into a Secret, as docs/ca.md tells operators."""
    assert main(["controller", "ca", "--ssh-agent", str(ssh.socket), "--key", comment, "--name", comment]) == 0
    pem = capsys.readouterr().out
    data = {"tls.crt": b64encode(pem.encode()).decode(), "tls.key": b64encode(b"ssh-agent").decode()}
    kube.post(SECRETS, {"metadata": {"name": name}, "data": data})
    return CertificateAuthority.from_pem(b"ssh-agent", pem, lambda public: AgentKey(ssh.socket, public))


@pytest.fixture
def token(nodes: Recorder, ssh: SshAgent, capsys: pytest.CaptureFixture[str]) -> CertificateAuthority:
    """The CA of a cluster at stage off, in a token that the SSH agent holds."""
    ssh.holds_token()
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    return bring(nodes, ssh, "token", capsys)


def keys_in(kube: Recorder) -> list[str]:
    """Where in the Secrets there is a private key."""
    return [
        f"{secret['metadata']['name']}/{key}"
        for secret in kube.get(SECRETS)["items"]
        for key, value in (secret.get("data") or {}).items()
        if b"PRIVATE KEY" in b64decode(value)
    ]


async def test_a_token_that_never_gives_its_key_away_signs_for_the_cluster(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, ssh: SshAgent, token: CertificateAuthority
) -> None:
    async with (
        running(plane, nodes, tmp_path, ssh_agent=ssh.socket),
        agent(plane, nodes, tmp_path, "n1") as directory,
    ):
        for name in ("n1", "n2", "n3"):
            await until(lambda name=name: granted(nodes, name))
            assert granted_by(nodes, name, token)
        await directory.request_certificate("n1", make_csr(ONE.identity, "n1", uid(nodes, "n1")))
        issued = await certificate(directory, "n1")
        trust = Trust([token.certificate])
        known = trust.verify_certificate(issued, "n1", uid(nodes, "n1"), datetime.now(UTC))
        assert known.issuer == token.fingerprint
        await until(lambda: ca_of(nodes).get("fingerprint") == token.fingerprint)
        assert (await until(lambda: policy(nodes))).authorities == (token.fingerprint,)
        assert ca_of(nodes)["phase"] == "steady"
        assert (ca_of(nodes)["problem"], ca_of(nodes)["unsigned"]) == ("", "")
    assert keys_in(nodes) == []


async def test_a_cluster_s_own_ca_moves_out_of_it_and_on_to_the_next(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, ssh: SshAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    """No key is left in the cluster; each CA vouches for the next."""
    ssh.holds_token()
    ssh.holds_file("file")
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    async with running(plane, nodes, tmp_path, ssh_agent=ssh.socket):
        await until(lambda: granted(nodes, "n1"))
        assert keys_in(nodes) == ["linkseal-ca-key/tls.key"]
        for comment in ("file", "token"):
            coming = bring(nodes, ssh, comment, capsys, "linkseal-ca-next")
            nodes.patch(DEFAULT, {"spec": {"ca": {"rotate": comment}}})
            await until(
                lambda coming=coming: (
                    (ca_of(nodes).get("fingerprint"), ca_of(nodes).get("phase")) == (coming.fingerprint, "steady")
                )
            )
            assert keys_in(nodes) == []
            await until(lambda coming=coming: granted_by(nodes, "n3", coming))
            nodes.delete(f"{SECRETS}/linkseal-ca-next")


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("how", ["gone", "frozen", "empty"])
async def test_while_the_key_cannot_be_reached_the_status_says_so_and_what_was_signed_stays(
    plane: ControlPlane,
    nodes: Recorder,
    tmp_path: Path,
    ssh: SshAgent,
    how: str,
) -> None:
    async with (
        running(plane, nodes, tmp_path, ssh_agent=ssh.socket),
        agent(plane, nodes, tmp_path, "n1") as directory,
    ):
        first = await until(lambda: granted(nodes, "n3") and policy(nodes))
        before = {name: granted(nodes, name) for name in ("n1", "n2", "n3")}
        {"gone": ssh.stop, "frozen": ssh.freeze, "empty": ssh.stop}[how]()
        if how == "empty":
            ssh.start()
        try:
            words = {"gone": "cannot be asked", "frozen": "no answer in time", "empty": "does not hold the CA's key"}
            assert words[how] in await until(lambda: ca_of(nodes).get("unsigned")), "before it is needed"
            assert (condition(nodes, "CASteady"), condition(nodes, "Accepted")) == ("NotSigning", "Valid")
            create_node(nodes, "n4", addresses=["192.0.2.4"], pod_cidrs=["10.244.4.0/24"])
            await directory.request_certificate("n1", make_csr(ONE.identity, "n1", uid(nodes, "n1")))
            nodes.patch(DEFAULT, {"spec": {"stage": "prepare"}})
            generation = nodes.get(DEFAULT)["metadata"]["generation"]
            await until(lambda: nodes.get(DEFAULT)["status"]["observedGeneration"] == generation)
            assert (condition(nodes, "Accepted"), condition(nodes, "Reached")) == ("NotSigned", "NotSigned")
            await until(lambda: condition(nodes, "Granted") == "NotAll")
            assert nodes.get(DEFAULT)["status"]["stage"] == "off", "no node was told another"
            assert (granted(nodes, "n4"), policy(nodes)) == (None, first)
        finally:
            if how == "frozen":
                ssh.thaw()
        if how == "gone":
            ssh.start()
        if how != "frozen":
            ssh.holds_token()
        await until(lambda: granted(nodes, "n4"))
        assert await certificate(directory, "n1")
        await until(lambda: policy_spec(nodes)["stage"] == "prepare")
        await until(lambda: not ca_of(nodes)["unsigned"] and condition(nodes, "Granted") == "AllGranted")
        assert {name: granted(nodes, name) for name in before} == before
        # they are written while the controller runs, and nobody waits for them
        expected = {"CANotSigning", "CASignsAgain"}
        await until(lambda: expected <= {one["reason"] for one in nodes.get(EVENTS)["items"]})


def condition(kube: Recorder, name: str) -> str:
    """The reason of a condition of the ClusterEncryption."""
    found = {one["type"]: str(one["reason"]) for one in kube.get(DEFAULT)["status"]["conditions"]}
    return found[name]


async def test_the_ca_is_not_replaced_by_one_that_does_not_sign(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, ssh: SshAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither at the beginning nor when it is to take over: there would be no way back."""
    ssh.holds_token()
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    async with running(plane, nodes, tmp_path, ssh_agent=ssh.socket) as controller:
        own = (await until(lambda: granted(nodes, "n3") and ca_of(nodes)))["fingerprint"]
        coming = bring(nodes, ssh, "token", capsys, "linkseal-ca-next")
        ssh.stop()
        nodes.patch(DEFAULT, {"spec": {"ca": {"rotate": "out"}}})
        assert "cannot be asked" in await until(lambda: ca_of(nodes).get("problem"))
        assert (ca_of(nodes)["phase"], ca_of(nodes)["fingerprint"]) == ("steady", own)
        create_node(nodes, "n4", addresses=["192.0.2.4"], pod_cidrs=["10.244.4.0/24"])
        await until(lambda: granted(nodes, "n4"))

        async with agent(plane, nodes, tmp_path, "n4") as directory:  # which does not trust the next CA yet
            await directory.publish("n4", (await Citizen.enrolled("n4", directory)).announce())
        ssh.start()
        ssh.holds_token()
        await until(lambda: ca_of(nodes)["phase"] == "trusting")
        ssh.stop()
        nodes.delete("/api/v1/nodes/n4")  # nobody is waited for any more
        assert "cannot be asked" in await until(lambda: ca_of(nodes).get("problem"))
        create_node(nodes, "n5", addresses=["192.0.2.5"], pod_cidrs=["10.244.5.0/24"])
        await until(lambda: granted(nodes, "n5"))
        assert (ca_of(nodes)["phase"], ca_of(nodes)["fingerprint"]) == ("trusting", own)
        ssh.start()
        ssh.holds_token()
        await until(lambda: (ca_of(nodes)["phase"], ca_of(nodes)["fingerprint"]) == ("steady", coming.fingerprint))
        assert controller._ca.down == 0.0


@pytest.mark.usefixtures("token")
async def test_a_cluster_leaves_a_key_that_is_lost_once_its_agents_trust_the_next(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, ssh: SshAgent
) -> None:
    coming = made("Example Nodes")
    bring_key(nodes, coming, "linkseal-ca-next")
    async with running(plane, nodes, tmp_path, ssh_agent=ssh.socket):
        await until(lambda: granted(nodes, "n3") and ca_of(nodes))
        async with agent(plane, nodes, tmp_path, "n1") as directory:  # which does not trust the next CA yet
            await directory.publish("n1", (await Citizen.enrolled("n1", directory)).announce())
        nodes.patch(DEFAULT, {"spec": {"ca": {"rotate": "in"}}})
        await until(lambda: ca_of(nodes)["phase"] == "trusting")
        ssh.stop()
        await until(lambda: ca_of(nodes)["unsigned"])
        nodes.delete("/api/v1/nodes/n1")
        await until(lambda: (ca_of(nodes)["phase"], ca_of(nodes)["fingerprint"]) == ("steady", coming.fingerprint))
        await until(lambda: granted_by(nodes, "n3", coming))
        await until(lambda: not ca_of(nodes)["unsigned"])


@pytest.mark.usefixtures("token")
async def test_no_agent_is_given_a_ca_before_it_has_signed(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, ssh: SshAgent
) -> None:
    """The first one that it sees it keeps: one that nobody can sign with would be in the way of the right one."""
    ssh.stop()

    def published() -> bool:
        return "linkseal-ca" in {one["metadata"]["name"] for one in nodes.get(MAPS)["items"]}

    async with running(plane, nodes, tmp_path, ssh_agent=ssh.socket):
        await until(lambda: ca_of(nodes).get("unsigned"))
        await asyncio.sleep(2)
        assert not published()
        assert condition(nodes, "Reached") == "NotSigned", "nobody was told any stage"
        ssh.start()
        ssh.holds_token()
        await until(published)


@pytest.mark.usefixtures("token")
async def test_what_is_known_beyond_a_store_that_was_put_back_is_not_given_up_with_the_key(
    plane: ControlPlane,
    nodes: Recorder,
    tmp_path: Path,
    ssh: SshAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nodes follow nothing older: who knows the newest policy signs what follows it, as soon as that can be."""
    monkeypatch.setattr(kube, "STAND_DOWN", 1.0)
    names = [f"{MAPS}/linkseal-{name}" for name in ("policy", "stage")]
    async with running(plane, nodes, tmp_path, ssh_agent=ssh.socket):
        await until(lambda: policy(nodes) and ca_of(nodes))
        before = [nodes.get(name)["data"] for name in names]
        await asyncio.sleep(1.1)
        nodes.patch(DEFAULT, {"spec": {"verify": {"interval": 601}}})
        newest = await until(lambda: policy_spec(nodes).get("verify") and policy(nodes))
        await asyncio.sleep(1)
        ssh.stop()
        with as_controller(plane) as store:
            for name, data in zip(names, before, strict=True):
                store.patch(name, {"data": data})
        await until(lambda: ca_of(nodes)["unsigned"])
        await asyncio.sleep(4)
        assert policy_spec(nodes).get("verify") is None
        ssh.start()
        ssh.holds_token()
        found = await until(lambda: policy_spec(nodes).get("verify") and policy(nodes))
        assert found.after >= newest.serial


@pytest.mark.usefixtures("token")
async def test_a_leader_that_cannot_sign_makes_room(
    plane: ControlPlane,
    nodes: Recorder,
    tmp_path: Path,
    ssh: SshAgent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The SSH agent beside another replica may sign."""
    monkeypatch.setattr(kube, "STAND_DOWN", 1.0)
    monkeypatch.setattr(kube, "LOOK", 1.0)
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.5)
    ended, stop = asyncio.Event(), asyncio.Event()
    api = KubeApi(Access(plane.kubeconfig(tmp_path / "controller", unbound_token(nodes, NAMESPACE, CONTROLLER))))
    without = KubeController(api, NAMESPACE, ssh_agent=tmp_path / "nowhere")
    with_key = KubeController(api, NAMESPACE, ssh_agent=ssh.socket)

    async def work(ending: asyncio.Event) -> None:
        await without.run(ending)
        ended.set()

    first = asyncio.ensure_future(lease.while_leading(lease.Lease(api, NAMESPACE, "one"), work, stop))
    try:
        await until(lambda: ca_of(nodes).get("unsigned"))
        second = asyncio.ensure_future(lease.while_leading(lease.Lease(api, NAMESPACE, "two"), with_key.run, stop))
        await until(lambda: granted(nodes, "n1"))
        assert ended.is_set()
        await asyncio.sleep(3)
        assert not ca_of(nodes)["unsigned"], "it does not lead again while the other can"
    finally:
        stop.set()
        await asyncio.gather(first, second)
        await api.close()
        nodes.delete(f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{lease.NAME}", missing_ok=True)


async def test_a_controller_that_cannot_ask_says_what_to_name(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path, ssh: SshAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh.holds_file("file")
    bring(nodes, ssh, "file", capsys)
    await refused(plane, nodes, tmp_path, "--ssh-agent SOCKET")


def test_the_command_asks_which_key_and_makes_a_request_for_a_ca_above(
    ssh: SshAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["controller", "ca", "--ssh-agent", str(ssh.socket)]
    assert main(command) == 2
    assert "no key on P-384" in capsys.readouterr().err
    ssh.holds_file("one")
    ssh.holds_file("small", curve=256)
    assert main([*command, "--request"]) == 0
    assert "BEGIN CERTIFICATE REQUEST" in capsys.readouterr().out
    ssh.holds_file("two")
    assert main(command) == 2
    one, two = identities(ssh.socket)
    assert (one.comment, two.comment) == ("one", "two")
    said = capsys.readouterr().err
    assert one.fingerprint in said
    assert two.fingerprint in said
    assert main([*command, "--key", two.fingerprint]) == 0
    assert "BEGIN CERTIFICATE-" in capsys.readouterr().out

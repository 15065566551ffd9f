"""A CA that the operator brings, and one brought to replace it, on a real API server; no agent runs."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ground.charts import CLUSTER_ENCRYPTIONS, CONTROLLER, NAMESPACE, cluster_encryption
from ground.controlplane import ControlPlane
from ground.kubeapi import Recorder
from ground.kubeobjects import unbound_token
from kube.test_signing import agent, certificate, granted, nodes, running, uid, until
from linkseal.keys import grant as grants
from linkseal.keys.ca import CertificateAuthority, Trust, make_csr
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller.kube import KubeController
from linkseal.tunnels.directory.kubeapi import Access, KubeApi
from linkseal.tunnels.directory.kubedocs import GRANT
from unit.keys.cluster import ONE

__all__ = ["nodes"]

pytestmark = [pytest.mark.kube, pytest.mark.timeout(180), pytest.mark.usefixtures("chart")]

SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
CA_MAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/linkseal-ca"
DEFAULT = f"{CLUSTER_ENCRYPTIONS}/default"


def made(name: str, days: float = 9) -> CertificateAuthority:
    return CertificateAuthority.create(name, datetime.now(UTC) - timedelta(days=1), timedelta(days=days))


def bring(kube: Recorder, found: CertificateAuthority, name: str = "linkseal-ca-key", chain: str = "") -> None:
    data = {"tls.key": found.key_pem(), "tls.crt": found.certificate_pem().encode() + chain.encode()}
    encoded = {key: b64encode(value).decode() for key, value in data.items()}
    kube.post(SECRETS, {"metadata": {"name": name}, "type": "kubernetes.io/tls", "data": encoded})


def ca_of(kube: Recorder) -> dict[str, Any]:
    found: dict[str, Any] = kube.get(DEFAULT).get("status", {}).get("ca", {})
    return found


def granted_by(kube: Recorder, node: str, found: CertificateAuthority) -> bool:
    signed = grants.unwrap(kube.get(f"/api/v1/nodes/{node}")["metadata"]["annotations"][GRANT], node=node)
    return Trust([found.certificate]).signed_grant(signed.text, signed.signature)


async def test_a_brought_ca_signs_and_is_replaced_by_one_that_is_brought(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    first, second, root = made("Example Nodes 1"), made("Example Nodes 2", days=99), made("Example Root")
    bring(nodes, first, chain=root.certificate_pem())
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    async with running(plane, nodes, tmp_path), agent(plane, nodes, tmp_path, "n1") as directory:
        await until(lambda: granted(nodes, "n1"))
        await until(lambda: ca_of(nodes).get("fingerprint") == first.fingerprint)
        view = await directory.view("n1")
        assert Trust.from_pem(view.ca_bundle).fingerprints == (first.fingerprint,), "not what stands above it"
        await directory.request_certificate("n1", make_csr(ONE.identity, "n1", uid(nodes, "n1")))
        issued = await certificate(directory, "n1")
        known = Trust([first.certificate]).verify_certificate(issued, "n1", uid(nodes, "n1"), datetime.now(UTC))
        assert known.issuer == first.fingerprint

        nodes.patch(DEFAULT, {"spec": {"ca": {"rotate": "one"}}})
        problem = await until(lambda: ca_of(nodes).get("problem"))
        assert "linkseal-ca-next" in problem
        conditions = {one["type"]: one for one in nodes.get(DEFAULT)["status"]["conditions"]}
        assert (conditions["CASteady"]["status"], conditions["CASteady"]["reason"]) == ("False", "Refused")
        bring(nodes, second, "linkseal-ca-next")
        await until(lambda: ca_of(nodes).get("fingerprint") == second.fingerprint and ca_of(nodes)["phase"] == "steady")
        for node in ("n1", "n2", "n3"):
            await until(lambda node=node: granted_by(nodes, node, second))
        published = nodes.get(CA_MAP)["data"]
        assert Trust.from_pem(published["ca.crt"]).fingerprints == (second.fingerprint,)
        assert first.certificate.subject in {one.issuer for one in Trust.from_pem(published["cross.crt"]).roots}
        nodes.patch(DEFAULT, {"spec": {"ca": {"rotate": "two"}}})
        assert "make a new key" in await until(lambda: ca_of(nodes).get("problem"))


async def test_one_that_cannot_be_used_ends_the_controller_with_the_reason(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    bring(nodes, made("Example", days=0.5))
    await refused(plane, nodes, tmp_path, "issue it anew")


async def refused(plane: ControlPlane, kube: Recorder, folder: Path, words: str) -> None:
    """Start a controller, which ends with these words."""
    api = KubeApi(Access(plane.kubeconfig(folder / "controller", unbound_token(kube, NAMESPACE, CONTROLLER))))
    try:
        with pytest.raises(ConfigError, match=rf"the Secret {NAMESPACE}/linkseal-ca-key.*{words}"):
            await KubeController(api, NAMESPACE).run(asyncio.Event())
    finally:
        await api.close()


async def test_a_lost_key_is_not_replaced_by_a_ca_that_no_node_trusts(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    async with running(plane, nodes, tmp_path):
        before = await until(lambda: granted(nodes, "n1") and nodes.get(CA_MAP)["data"])
    nodes.delete(f"{SECRETS}/linkseal-ca-key")
    await refused(plane, nodes, tmp_path, "put it back from a copy")
    assert nodes.get(CA_MAP)["data"] == before


async def test_two_controllers_at_once_replace_the_ca_once(
    plane: ControlPlane, nodes: Recorder, tmp_path: Path
) -> None:
    nodes.post(CLUSTER_ENCRYPTIONS, cluster_encryption(scope="overlay", stage="off"))
    async with running(plane, nodes, tmp_path) as one, running(plane, nodes, tmp_path) as two:
        await until(lambda: ca_of(nodes).get("fingerprint"))
        before = ca_of(nodes)["fingerprint"]
        nodes.patch(DEFAULT, {"spec": {"ca": {"rotate": "one"}}})
        await until(lambda: one._ca.keys.done == two._ca.keys.done == ("one",), 60)
        assert one._ca.keys.in_force == two._ca.keys.in_force != (before,)
        assert len(one._ca.keys.crosses) == 1
        (now,) = one._ca.keys.in_force
        await until(lambda: Trust.from_pem(nodes.get(CA_MAP)["data"]["ca.crt"]).fingerprints == (now,))

"""The CA is replaced under traffic on a real API server, with one agent down from beginning to end; and is swapped."""

from __future__ import annotations

import signal
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ground.charts import CLUSTER_ENCRYPTIONS, NAMESPACE, called, told
from ground.controlplane import ControlPlane
from ground.kubeapi import ApiError
from ground.kubemesh import API, KubeDeployment, deployed
from ground.net import Cluster, Node
from ground.probes import loss_probe
from linkseal.keys import grant as grants
from linkseal.keys import policydoc
from linkseal.keys.ca import CertificateAuthority, Trust
from linkseal.keys.errors import PeerError
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.controller import carotation
from linkseal.tunnels.directory.kubedocs import CERTIFICATE, GRANT, signed_policy

pytestmark = [pytest.mark.kube, pytest.mark.timeout(420)]

ENCRYPTION = f"{CLUSTER_ENCRYPTIONS}/default"
OF_NAMESPACE = f"/api/v1/namespaces/{NAMESPACE}"
CA_MAP, SECRET = f"{OF_NAMESPACE}/configmaps/linkseal-ca", f"{OF_NAMESPACE}/secrets/linkseal-ca-key"


def ca_status(plane: ControlPlane) -> dict[str, Any]:
    found: dict[str, Any] = plane.admin.get(ENCRYPTION).get("status", {}).get("ca", {})
    return found


def annotation(plane: ControlPlane, node: Node, name: str) -> str:
    return str(plane.admin.get(f"/api/v1/nodes/{node.name}")["metadata"]["annotations"][name])


def certified_by(plane: ControlPlane, node: Node, trust: Trust) -> bool:
    uid = str(plane.admin.get(f"/api/v1/nodes/{node.name}")["metadata"]["uid"])
    try:
        trust.verify_certificate(annotation(plane, node, CERTIFICATE), node.name, uid, datetime.now(UTC))
    except PeerError:
        return False
    return True


def test_a_new_ca_costs_no_packet_and_who_slept_through_it_comes_back(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carotation, "SILENT", 10.0)  # before the controller is forked
    a, b, c = cluster
    with deployed(cluster, tmp_path) as (plane, linkseal, at):
        assert main([*at, "enable", "--to", "prepare"]) == 0
        plane.admin.patch(ENCRYPTION, {"spec": {"verify": {"interval": 0}}})  # its controls are plaintext
        linkseal.start()
        assert main([*at, "enable", "--to", "enforce", "--wait=120s", "--yes"]) == 0
        linkseal.wait_sealed()
        old = Trust.from_pem(plane.admin.get(CA_MAP)["data"]["ca.crt"])
        linkseal.until(lambda: ca_status(plane).get("fingerprint") == old.fingerprints[0], "a status of the CA")
        assert linkseal.status(a).trust == old.fingerprints
        linkseal.stop(c)
        address_b, address_c = (str(node.pods[0].address4) for node in (b, c))
        with (
            loss_probe(a.pods[0], b.pods[0], address_b, pps=100) as loss,
            loss_probe(b.pods[0], c.pods[0], address_c, pps=100, port=9001) as loss_c,
            cluster.capture() as wire,
        ):
            new = rotated(plane, linkseal, c)
            assert [certified_by(plane, node, new) for node in cluster] == [True, True, False]
            assert certified_by(plane, c, old), "its agent is down"
            linkseal.until(
                lambda: all(linkseal.status(node).trust == new.fingerprints for node in (a, b)), "the old one retired"
            )
            linkseal.stop(b)
            linkseal.start(b)  # from a disk that holds what the old CA signed
            linkseal.until(lambda: linkseal.status(b).links.sealed >= 1, "sealed towards the one whose agent runs")
            comes_back(plane, linkseal, c, new)
        assert loss.lost == [], loss
        assert loss_c.lost == [], loss_c
        assert min(loss.sent, loss_c.sent) > 1000
        assert [text for text in wire.plaintext() if API not in text] == []
        assert ("update", "secrets") in called(plane)
        assert {"CATrusting", "CASigning", "CARotated"} <= told(plane)
        swapped(plane, linkseal, cluster, new)


def rotated(plane: ControlPlane, linkseal: KubeDeployment, silent: Node) -> Trust:
    """Ask for another CA and see it through; returns the trust in it alone."""
    old_key = plane.admin.get(SECRET)["data"]["tls.key"]
    plane.admin.patch(ENCRYPTION, {"spec": {"ca": {"rotate": "2026-11"}}})
    linkseal.until(lambda: any(silent.name in line for line in ca_status(plane).get("waiting", ())), "it is waited for")
    with pytest.raises(ApiError, match="being replaced"):
        plane.admin.patch(ENCRYPTION, {"spec": {"ca": {"rotate": "again"}}})
    linkseal.until(lambda: ca_status(plane)["phase"] == "signing", "the next CA signs")
    linkseal.until(lambda: ca_status(plane)["phase"] == "steady", "an end of the rotation")
    new = Trust.from_pem(plane.admin.get(CA_MAP)["data"]["ca.crt"])
    assert ca_status(plane)["fingerprint"] == new.fingerprints[0]
    secret = plane.admin.get(SECRET)["data"]
    assert old_key not in secret.values(), "the old key is gone"
    assert [key for key, value in secret.items() if b"PRIVATE" in b64decode(value)] == ["tls.key"]
    for node in linkseal.cluster:
        signed = grants.unwrap(annotation(plane, node, GRANT), node=node.name)
        assert new.signed_grant(signed.text, signed.signature)
    linkseal.until(lambda: named_by_policy(plane) == new.fingerprints, "a policy that names the new CA alone")
    return new


def named_by_policy(plane: ControlPlane) -> tuple[str, ...]:
    signed = signed_policy(plane.admin.get(f"{OF_NAMESPACE}/configmaps/linkseal-policy")["data"])
    return () if signed is None else policydoc.parse(signed.text).authorities


def comes_back(plane: ControlPlane, linkseal: KubeDeployment, node: Node, new: Trust) -> None:
    """Start the agent that was down: it takes the new CA, and its peers take what it says."""
    linkseal.start(node)
    linkseal.until(lambda: linkseal.status(node).trust == new.fingerprints, "it trusts the new CA alone")
    linkseal.until(lambda: certified_by(plane, node, new), "a certificate by the new CA", 60)
    linkseal.wait_sealed(60)
    numbers = {one.name: [g.number for g in linkseal.status(one).generations] for one in linkseal.cluster}
    assert numbers == {one.name: [1] for one in linkseal.cluster}, "no key was changed for it"
    assert linkseal.rotate(node) == 2
    linkseal.until(linkseal.settled, "a new generation of the one that was away, everywhere")
    assert linkseal.all_codes() & {"LS1002", "LS1013", "LS1024", "LS5102"} == set()


def swapped(plane: ControlPlane, linkseal: KubeDeployment, cluster: Cluster, trusted: Trust) -> None:
    """Somebody writes a CA of their own into the ConfigMap, and one that vouches for it, while no controller looks."""
    now = datetime.now(UTC)
    evil, accomplice = (CertificateAuthority.create(name, now, timedelta(days=9)) for name in ("Linkseal", "other"))
    before = plane.admin.get(CA_MAP)["data"]
    linkseal.controller.kill(signal.SIGSTOP)
    try:
        for forged in (
            {"ca.crt": evil.certificate_pem()},
            {"ca.crt": before["ca.crt"] + evil.certificate_pem(), "cross.crt": accomplice.cross_sign(evil.certificate)},
            {"ca.crt": evil.certificate_pem(), "cross.crt": before["cross.crt"] + evil.cross_sign(evil.certificate)},
        ):
            plane.admin.patch(CA_MAP, {"data": {"cross.crt": None, **before, **forged}})
            linkseal.until(lambda: all("LS1024" in linkseal.codes(node) for node in cluster), "a finding on each node")
            assert {linkseal.status(node).trust for node in cluster} == {trusted.fingerprints}
            assert linkseal.all_sealed()
            plane.admin.patch(CA_MAP, {"data": before})
            linkseal.until(lambda: "LS1024" not in linkseal.all_codes(), "no finding")
        plane.admin.patch(CA_MAP, {"data": {"ca.crt": evil.certificate_pem(), "cross.crt": None}})
    finally:
        linkseal.controller.kill(signal.SIGCONT)
    linkseal.until(lambda: plane.admin.get(CA_MAP)["data"] == before, "the controller puts its own back", 60)
    linkseal.until(lambda: "LS1024" not in linkseal.all_codes(), "no finding")
    assert {linkseal.status(node).trust for node in cluster} == {trusted.fingerprints}

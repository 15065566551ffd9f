"""A controller in this process, and agents that only announce: for tests of who may have, say and change what.

async with controller_on(plane, kube, folder) as controller, agent_directory(plane, kube, folder, "n1") as directory:
    citizen = await Citizen.enrolled("n1", directory)
    await directory.publish("n1", citizen.announce())
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from ground.charts import AGENT, NAMESPACE, agent_pod
from ground.controlplane import ControlPlane
from ground.kubeapi import Api
from ground.kubeobjects import bound_token, create_namespace, create_node
from linkseal.keys import announcement as announcements
from linkseal.keys import grant as grants
from linkseal.keys.announcement import AnnouncedEndpoint, Announcement, GenerationKey, SignedAnnouncement
from linkseal.keys.ca import generate_identity, make_csr
from linkseal.keys.policydoc import SignedPolicy
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import PublicKey
from linkseal.tunnels.directory.choice import open_directory
from linkseal.tunnels.directory.kube import KubeDirectory
from linkseal.tunnels.directory.kubedocs import CA_KEY, CA_MAP, GRANT, POLICY_KEY, POLICY_MAP, POLICY_SIGNATURE
from linkseal.tunnels.settings import KubeDirectorySettings
from unit.keys.cluster import GOOD, authority

SECONDS = 30.0


@asynccontextmanager
async def agent_directory(plane: ControlPlane, kube: Api, folder: Path, node: str) -> AsyncIterator[KubeDirectory]:
    """The directory as the agent on a node opens it."""
    config = plane.kubeconfig(folder / f"agent-{node}", bound_token(kube, agent_pod(kube, node, AGENT)))
    async with opened(config, node) as directory:
        yield directory


@asynccontextmanager
async def opened(config: Path, node: str = "") -> AsyncIterator[KubeDirectory]:
    """The directory by a kubeconfig."""
    directory = open_directory(KubeDirectorySettings(NAMESPACE, config), node)
    assert isinstance(directory, KubeDirectory)
    try:
        yield directory
    finally:
        await directory.close()


def signed_cluster(kube: Api, policy: SignedPolicy) -> None:
    """Three nodes with grants, a CA bundle and a policy, by the CA of unit tests (unit.keys.cluster)."""
    create_namespace(kube, NAMESPACE)
    for name in ("n1", "n2", "n3"):
        create_node(kube, name)
        grant = GOOD[name].grant
        assert grant is not None
        kube.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": {GRANT: grants.wrap(grant)}}})
    maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    kube.post(maps, {"metadata": {"name": CA_MAP}, "data": {CA_KEY: authority().certificate_pem()}})
    data = {POLICY_KEY: policy.text, POLICY_SIGNATURE: policy.signature}
    kube.post(maps, {"metadata": {"name": POLICY_MAP}, "data": data})


async def certificate(directory: KubeDirectory, node: str) -> str:
    """The certificate that was asked for, as soon as it is there."""
    deadline = time.monotonic() + SECONDS
    while not (found := await directory.certificate(node)):
        assert time.monotonic() < deadline, "no certificate came"
        await asyncio.sleep(0.1)
    return found


@dataclass
class Citizen:
    """A node with an identity that the cluster's CA has certified, and keys made from the seed `NAME/generation`."""

    name: str
    uid: str
    certificate: str
    identity: ec.EllipticCurvePrivateKey
    serial: int = 0
    secrets: dict[int, PrivateKey] = field(default_factory=dict)

    @classmethod
    async def enrolled(cls, name: str, directory: KubeDirectory) -> Self:
        """Ask for a certificate and wait for it."""
        deadline = time.monotonic() + SECONDS
        while (uid := await directory.uid(name)) is None:
            assert time.monotonic() < deadline, f"there is no Node {name}"
        identity = generate_identity()
        await directory.request_certificate(name, make_csr(identity, name, uid))
        return cls(name, uid, await certificate(directory, name), identity)

    def announce(self, *numbers: int, public_key: PublicKey | None = None) -> SignedAnnouncement:
        """Sign an announcement with the next serial; `public_key` is claimed in place of this node's own."""
        self.serial += 1
        keys = {number: self.secrets.setdefault(number, PrivateKey.generate()) for number in numbers or (1,)}
        said = tuple(GenerationKey(number, "wireguard", public_key or key.public_key) for number, key in keys.items())
        reached, now = (AnnouncedEndpoint("192.0.2.9", 51820),), datetime.now(UTC)
        value = Announcement(self.name, self.uid, self.serial, now, said, reached, ("door",))
        proofs = {number: key.prove(self.name, self.uid, number) for number, key in keys.items()}
        text = announcements.encode(value, proofs)
        return SignedAnnouncement(text, announcements.sign(self.identity, text), self.certificate)

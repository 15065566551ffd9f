"""Two agents without processes: real worker, keyring, register and link book over the strict host in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from linkseal.keys import grant as grants
from linkseal.keys import policydoc
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.ca import CertificateAuthority
from linkseal.keys.errors import HostError
from linkseal.keys.grant import Grant, SignedGrant
from linkseal.keys.policydoc import PolicyDocument, SignedPolicy
from linkseal.keys.values import Prefix
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.report import node_status
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.agent.worker import Job, Result, Worker
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.guard.readings import Readings
from linkseal.tunnels.host.host import Failure, Features
from linkseal.tunnels.model import LinkKey, Observed, Step
from linkseal.tunnels.probe.outcomes import Proof
from linkseal.tunnels.redirect.program import Way
from linkseal.tunnels.redirect.reasons import Drops
from linkseal.tunnels.register import NodeDocuments, Snapshot
from linkseal.tunnels.settings import AgentSettings, FileDirectorySettings
from linkseal.tunnels.status import NodeStatus
from property.fake_host import FakeHost

NOW = datetime.now(UTC)
T = NOW.timestamp()
CA = CertificateAuthority.create("test", NOW - timedelta(days=30), timedelta(days=90))


class NoCounters:
    """A guard, and programs on NICs, that have counted nothing."""

    table = "linkseal_guard"

    def readings(self, _guard: object) -> Readings:
        return Readings()

    def counters(self) -> dict[tuple[Way, int], Drops]:
        return {}


class MemoryHost:
    """What the worker needs of `linkseal.tunnels.host.host.Host`; refuses the steps that `refuse` picks."""

    table, writes = 51820, 0

    def __init__(self, addresses: list[str]) -> None:
        self.kernel = FakeHost(addresses)
        self.guard = self.redirect = NoCounters()
        self.refuse: Callable[[Step], bool] = lambda _step: False

    def features(self) -> Features:
        return Features(door=True, kernel="6", driver="kernel", nft="1")

    def observe(self, _aspects: object = None, _previous: object = None) -> Observed:
        seen = self.kernel.observe()
        return replace(seen, host_addresses={**seen.host_addresses, **self.kernel.nic_addresses})

    def apply(self, steps: Sequence[Step], _secrets: object) -> tuple[Failure, ...]:
        failures = []
        for step in steps:
            if self.refuse(step):
                failures.append(Failure(step, HostError("refused by the test", errno=22)))
            else:
                self.kernel.apply([step])
        return tuple(failures)


class Node:
    """One node, its disk in a folder: a second one with the same folder is the same node after a restart."""

    def __init__(self, folder: Path, index: int, *, host: MemoryHost | None = None) -> None:
        self.name = f"n{index}"
        self.index = index
        self.address, self.prefix = f"192.0.2.{index}", Prefix(f"10.244.{index}.0/24")
        self.known, self.findings = KnownGood(folder), ActiveFindings()
        self.keyring = Keyring(folder, self.name)
        self.keyring.open(f"uid-{self.name}", "cluster")
        if self.keyring.certificate() is None:
            since, life = NOW - timedelta(days=1), timedelta(days=50)
            self.keyring.save_certificate(CA.sign_csr(self.keyring.csr(), self.name, self.keyring.uid, since, life))
        self.knowledge = Knowledge(self.name, self.keyring, self.known, self.findings)
        self.knowledge.recall()
        self.host = host or MemoryHost([self.address])
        settings = AgentSettings(self.name, FileDirectorySettings(Path("/nowhere")), state_directory=folder)
        self.worker = Worker(settings, self.host, self.keyring, self.knowledge, self.known, self.findings)  # type: ignore[arg-type]
        self.grant = self.granted()

    def granted(self, serial: int = 1, *, opted_out: bool = False) -> SignedGrant:
        """A grant of this node."""
        issued = NOW + timedelta(seconds=serial)
        owned = (self.address,), (self.prefix,)
        return grants.sign(CA, Grant(self.name, self.keyring.uid, self.index, serial, issued, *owned, opted_out))

    def documents(self, announcement: SignedAnnouncement | None = None) -> NodeDocuments:
        """What the directory holds of it."""
        return NodeDocuments(announcement or self.keyring.last, self.grant)

    def run(self, at: float, **job: object) -> Result:
        """A pass."""
        return self.worker.run(Job(at, **job))  # type: ignore[arg-type]

    def published(self) -> None:
        """What it announced last is in the directory."""
        assert self.keyring.last is not None
        self.worker.speaker.published(self.keyring.last.text)

    def handshakes(self, at: float) -> None:
        """Every peer of it has a session since `at`."""
        for device in self.host.kernel.devices.values():
            for key, peer in list(device.peers.items()):
                device.peers[key] = peer._replace(last_handshake=at)

    def prove(self, peer: str, own: int, remote: int, at: float, uses: tuple[int, int] | None = None) -> Result:
        """A pass with a proof; `uses` as the probe engine gives it: the peer's generation, ours."""
        proof = Proof(LinkKey(peer, own, remote), at, {4: 1420}, 0.01, uses or (remote, own))
        return self.run(at, outcomes=(proof,))

    def way(self, other: Node) -> str | None:
        """The slot that a packet for the other node's pods takes, None: the packet is dropped in the door."""
        found = self.host.kernel.way(other.prefix)
        return None if found is None else found[0]

    def routed(self, other: Node) -> bool:
        """Whether packets for the other node's pods go into the tunnel or nowhere."""
        return (51820, other.prefix) in self.host.kernel.routes

    def status(self, at: float) -> NodeStatus:
        """Its report."""
        return node_status(self.worker, {}, 0, at)


def view(*nodes: Node, scope: str = "transparent", stage: str = "prefer") -> DirectoryView:
    """What the directory says when it holds the documents of these nodes."""
    snapshot = Snapshot("cluster", {node.name: node.documents() for node in nodes})
    return DirectoryView(snapshot, _policy(scope, stage), CA.certificate_pem())


@functools.cache
def _policy(scope: str, stage: str) -> SignedPolicy:
    """Signed once; its serial is as if the stages were walked from prefer back."""
    serial = 1 + ("prefer", "prepare", "off").index(stage)
    return policydoc.sign(CA, PolicyDocument("cluster", serial, NOW, {"scope": scope, "stage": stage}))


def sealed_pair(folder: Path, *, scope: str = "transparent") -> tuple[Node, Node]:
    """Two nodes at generation 1 whose traffic goes encrypted, at time T."""
    a, b = Node(folder / "a", 1), Node(folder / "b", 2)
    for _ in range(3):
        for node in (a, b):
            node.run(T, view=view(a, b, scope=scope))
            if node.keyring.last is not None:
                node.published()
    for node, peer in ((a, b), (b, a)):
        node.handshakes(T)
        node.prove(peer.name, 1, 1, T)
        node.run(T)
    return a, b

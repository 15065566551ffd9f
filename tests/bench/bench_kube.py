"""One agent in a cluster of 1,000 Nodes on a real API server: the real command with wireguard-go.

The Nodes are as kubelets make them, with 50 images each, and announced and granted as real nodes are, by a real CA;
nobody is behind them. They announce no endpoint, as nodes behind NAT do, so the agent waits for them: healthy peers
keep it no busier than that, while 999 that do not answer would be provoked again and again.

Bytes are what the agent's own connections receive, TLS and all, by the kernel's count; the watch of whole Nodes that
they are compared with is one such connection to the same server at the same time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
import yaml
from ground.charts import CHART, NAMESPACE, NODE_ENCRYPTIONS, node_encryption
from ground.controlplane import ControlPlane
from ground.figures import Figures
from ground.kubeapi import Api
from ground.kubemesh import API, control_plane_on
from ground.kubeobjects import heartbeat, node
from ground.net import Cluster
from linkseal.keys import announcement as announcements
from linkseal.keys import ca, policydoc
from linkseal.keys import grant as grants
from linkseal.keys.announcement import Announcement, GenerationKey, SignedAnnouncement
from linkseal.keys.ca import CertificateAuthority
from linkseal.keys.grant import Grant
from linkseal.keys.policydoc import PolicyDocument
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import slot_name
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.directory.kubedocs import (
    ANNOUNCEMENT,
    CA_KEY,
    CA_MAP,
    CERTIFICATE,
    GRANT,
    POLICY_KEY,
    POLICY_MAP,
    POLICY_SIGNATURE,
    SIGNATURE,
)

NODES = 1000
CHANGES = 100
"""Announcements whose way into WireGuard is measured, one after the other."""
IDLE = 75.0
"""Seconds without any change: the server's bookmarks come once a minute."""
BEATS = 1000
"""Heartbeats: what a cluster of this size has in five minutes."""
HEARTBEATS_AN_HOUR = NODES * 3600 / 300
PATIENCE = 300.0
NODES_PATH = "/api/v1/nodes"
MIB = 1 << 20


class Member(NamedTuple):
    """One Node's documents and what they are signed with."""

    name: str
    index: int
    uid: str
    identity: Any
    certificate: str
    grant: str

    def announce(self, serial: int, key: PrivateKey, number: int, now: datetime) -> SignedAnnouncement:
        """What its agent would publish."""
        said = (GenerationKey(number, "wireguard", key.public_key),)
        text = announcements.encode(
            Announcement(self.name, self.uid, serial, now, said, (), ("door",)),
            {number: key.prove(self.name, self.uid, number)},
        )
        return SignedAnnouncement(text, announcements.sign(self.identity, text), self.certificate)


def address(index: int) -> str:
    """The first is the one that runs; behind the others there is nobody."""
    return "192.0.2.11" if index == 1 else f"172.16.{index >> 8}.{index & 255}"


def realistic(name: str, index: int) -> dict[str, Any]:
    """A Node as a kubelet registers it in a cluster that has run for a while: 50 images by digest and by tag."""
    made = node(name, addresses=[address(index)], pod_cidrs=[f"10.{index >> 8}.{index & 255}.0/24"])
    made["status"]["images"] = [
        {
            "names": [
                f"registry.example.org/team-{number % 7}/service-{number:02d}@sha256:{number:064x}",
                f"registry.example.org/team-{number % 7}/service-{number:02d}:v1.{number}.3",
            ],
            "sizeBytes": 123456789 + number,
        }
        for number in range(50)
    ]
    return made


def annotations(signed: SignedAnnouncement, **more: str) -> dict[str, str]:
    return {ANNOUNCEMENT: signed.text, SIGNATURE: signed.signature, CERTIFICATE: signed.certificate, **more}


def settle(plane: ControlPlane, authority: CertificateAuthority, now: datetime) -> dict[str, Member]:
    """Put 1,000 Nodes and what a controller makes into the API server; returns the members."""
    admin = plane.admin
    plane.kubectl("apply", "-f", str(CHART / "crds"))
    cluster = admin.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    admin.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    policy = policydoc.sign(authority, PolicyDocument(cluster, 1, now, {"scope": "overlay", "stage": "prefer"}))
    maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
    admin.post(maps, {"metadata": {"name": CA_MAP}, "data": {CA_KEY: authority.certificate_pem()}})
    signed = {POLICY_KEY: policy.text, POLICY_SIGNATURE: policy.signature}
    admin.post(maps, {"metadata": {"name": POLICY_MAP}, "data": signed})
    members: dict[str, Member] = {}
    for index in range(1, NODES + 1):
        member = join(admin, authority, f"node{index}", index, now)
        members[member.name] = member
    until(lambda: established(plane), "the kind NodeEncryption")
    admin.post(NODE_ENCRYPTIONS, node_encryption("node1"))
    return members


def established(plane: ControlPlane) -> bool:
    with contextlib.suppress(Exception):
        return "items" in plane.admin.get(NODE_ENCRYPTIONS)
    return False


def join(admin: Api, authority: CertificateAuthority, name: str, index: int, now: datetime) -> Member:
    """Make one Node, its grant, and (but for the one that runs) its announcement, by who would write each."""
    made = admin.post(NODES_PATH, realistic(name, index))
    uid = made["metadata"]["uid"]
    prefix = Prefix(f"10.{index >> 8}.{index & 255}.0/24")
    grant = grants.wrap(grants.sign(authority, Grant(name, uid, index, 1, now, (address(index),), (prefix,))))
    identity = ca.generate_identity()
    csr = ca.make_csr(identity, name, uid)
    certificate = authority.sign_csr(csr, name, uid, now - timedelta(hours=1), timedelta(days=90))
    member = Member(name, index, uid, identity, certificate, grant)
    apply(admin, name, "linkseal-controller", {GRANT: grant})
    if index > 1:
        apply(admin, name, "linkseal-agent", annotations(member.announce(1, PrivateKey.generate(), 1, now)))
    heartbeat(admin, name)
    return member


def apply(admin: Api, name: str, manager: str, wanted: Mapping[str, str]) -> None:
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": dict(wanted)}}
    admin.apply(f"{NODES_PATH}/{name}", body, manager=manager, force=True)


def prepared(folder: Path, authority: CertificateAuthority, member: Member, now: datetime) -> None:
    """Give the one that runs its certificate, as the controller would have."""
    keyring = Keyring(folder, member.name)
    keyring.open(member.uid, "")
    csr = keyring.csr()
    keyring.save_certificate(authority.sign_csr(csr, member.name, member.uid, now, timedelta(days=90)))
    (folder / "node.json").unlink()  # its owner's cluster is not known yet


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> float:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not {what} in {seconds:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - began


class Slots:
    """WireGuard's own view of the node: what `wg show` reads, by its sockets."""

    def __init__(self, holder: int | None) -> None:
        root = "" if holder is None else f"/proc/{holder}/root"
        self._folder = Path(f"{root}/run/wireguard")  # not /var/run: that leads to our own

    def dump(self) -> str:
        """All devices' configurations, one after the other."""
        return "".join(_ask(path) for path in sorted(self._folder.glob("lsl*.sock")))

    def has(self, key: PrivateKey, slot: str) -> bool:
        """Asked often, so of the one device that gets the key: looking at all costs as much as what is looked for."""
        return f"public_key={base64.b64decode(key.public_key).hex()}" in _ask(self._folder / f"{slot}.sock")

    def peers(self) -> int:
        return len(set(re.findall(r"^public_key=(\w+)$", self.dump(), re.MULTILINE)))


def _ask(path: Path) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(path))
            asked.sendall(b"get=1\n\n")
            parts = []
            while not b"".join(parts[-2:]).endswith(b"\n\n"):
                parts.append(asked.recv(1 << 20))
                if not parts[-1]:
                    break
            return b"".join(parts).decode()
    except OSError:
        return ""


def received(namespace: Any) -> int:
    """Bytes that the connections to the API server have received in a namespace since they were made."""
    text = namespace.run(f"ss -tinH dst {API}")
    return sum(map(int, re.findall(r"bytes_received:(\d+)", text)))


def memory(pid: int) -> float:
    """Resident set, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


@contextlib.contextmanager
def full_watch(plane: ControlPlane, namespace: Any) -> Iterator[None]:
    """A watch of whole Nodes, as typed clients make it, by a machine of its own."""
    version = plane.admin.get(NODES_PATH, limit="1")["metadata"]["resourceVersion"]
    with namespace.entered():
        pool = urllib3.PoolManager(ca_certs=str(plane.ca_file), retries=False)
        limits = urllib3.Timeout(30)
        answer = pool.request(
            "GET", f"{plane.server}{NODES_PATH}?watch=true&resourceVersion={version}&allowWatchBookmarks=true",
            headers={"Authorization": f"Bearer {plane.admin_token}"}, preload_content=False, timeout=limits,
        )  # fmt: skip

    def read() -> None:
        with contextlib.suppress(Exception):
            for _ in answer.stream(1 << 16):
                pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            answer.close()
        pool.clear()


def churn(admin: Api, members: Mapping[str, Member]) -> None:
    """A heartbeat of every node's kubelet but the one's that runs."""
    names = [name for name in members if name != "node1"][: BEATS - 1]
    with ThreadPoolExecutor(2) as workers:
        list(workers.map(lambda name: heartbeat(admin, name), names))


def measure_bytes(figures: Figures, plane: ControlPlane, cluster: Cluster, members: Mapping[str, Member]) -> None:
    """Idle, and under the heartbeats of all nodes; the other machine watches whole Nodes."""
    runs, other = cluster
    before = received(runs)
    time.sleep(IDLE)
    idle = (received(runs) - before) * 3600 / IDLE
    figures.told("received by an idle agent, no kubelet alive", idle / MIB, "MiB/h")
    with full_watch(plane, other):
        time.sleep(2)
        before, full = received(runs), received(other)
        churn(plane.admin, members)
        time.sleep(3)
        ours, whole = ((received(at) - was) / (BEATS - 1) for at, was in ((runs, before), (other, full)))
    figures.told("received for one heartbeat: agent", ours, "B")
    figures.told("received for one heartbeat: watch of whole Nodes", whole, "B")
    hourly = HEARTBEATS_AN_HOUR / MIB
    figures.told("received by an agent under heartbeats every 5 minutes", idle / MIB + ours * hourly, "MiB/h")
    figures.told("received by a watch of whole Nodes under the same", whole * hourly, "MiB/h")
    figures.at_least("watch of whole Nodes / agent", whole / ours, 4)


def measure_changes(
    figures: Figures, plane: ControlPlane, slots: Slots, members: Mapping[str, Member], now: datetime
) -> None:
    """From the write of an announcement until its key is in WireGuard."""
    times, slot = [], slot_name(1, 2)  # of generation 1 here, and 2 there
    for name in list(members)[1 : CHANGES + 1]:
        key = PrivateKey.generate()
        wanted = annotations(members[name].announce(2, key, 2, now))
        began = time.monotonic()
        apply(plane.admin, name, "linkseal-agent", wanted)
        until(lambda key=key: slots.has(key, slot), f"the new key of {name}", 30)  # type: ignore[misc]
        times.append((time.monotonic() - began) * 1000)
        time.sleep(0.2)
    times.sort()
    figures.told("announcement written → peer installed, median", times[len(times) // 2], "ms")
    figures.at_most("announcement written → peer installed, p99", times[int(len(times) * 0.99) - 1], 250, "ms")


def main() -> int:
    figures, now = Figures(), datetime.now(UTC) - timedelta(minutes=10)
    folder = Path(tempfile.mkdtemp(prefix="linkseal-bench-"))
    authority = CertificateAuthority.create("bench", now - timedelta(hours=2), timedelta(days=365))
    cluster = Cluster(2)
    try:
        with control_plane_on(cluster, folder / "plane") as plane:
            began = time.monotonic()
            members = settle(plane, authority, now)
            figures.told(f"{NODES} Nodes made (no claim)", time.monotonic() - began, "s")
            full = json.dumps(plane.admin.get(f"{NODES_PATH}/node2"), separators=(",", ":"))
            figures.told("one Node as JSON", len(full), "B")
            return run(figures, plane, cluster, members, authority, folder, now)
    finally:
        cluster.remove()
        shutil.rmtree(folder, ignore_errors=True)


def run(
    figures: Figures, plane: ControlPlane, cluster: Cluster, members: Mapping[str, Member],
    authority: CertificateAuthority, folder: Path, now: datetime,
) -> int:  # fmt: skip
    """Start the agent and measure; the exit status."""
    runs = cluster[0]
    holder = runs.hold()
    prepared(folder / "state", authority, members["node1"], now)
    settings = {
        "apiVersion": "linkseal.io/v1alpha1", "kind": "AgentConfig", "node": "node1",
        "directory": {"kubernetes": {
            "namespace": NAMESPACE, "kubeconfig": str(plane.kubeconfig(folder / "kubeconfig")),
        }},
        "stateDirectory": str(folder / "state"), "runDirectory": str(folder / "run"),
        "wireguard": {"driver": "userspace"},
    }  # fmt: skip
    (folder / "agent.yaml").write_text(yaml.safe_dump(settings))
    slots = Slots(holder)
    log = (folder / "log").open("w")
    agent = runs.popen(f"{sys.prefix}/bin/linkseal agent run --config {folder / 'agent.yaml'}", stderr=log)
    try:
        took = until(lambda: slots.peers() >= NODES - 1 or agent.poll() is not None, "all peers in WireGuard")
        assert agent.poll() is None, (folder / "log").read_text()[-6000:]
        figures.told(f"start of the agent → {NODES - 1} peers in WireGuard", took, "s")
        time.sleep(20)
        figures.at_most(f"memory of an agent of {NODES} Nodes", memory(agent.pid), 110, "MiB")
        measure_changes(figures, plane, slots, members, now)
        measure_bytes(figures, plane, cluster, members)
        figures.at_most("memory of the agent in the end", memory(agent.pid), 110, "MiB")
    except TimeoutError as error:
        print(f"{error}\n{(folder / 'log').read_text()[-6000:]}", file=sys.stderr)
        return 1
    finally:
        agent.terminate()
        agent.wait(30)
    return figures.status


if __name__ == "__main__":
    sys.exit(main())

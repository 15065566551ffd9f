"""Memory of one agent with 1,000 peers and the file directory: the real command, in a node of its own.

The peers are documents only: signed as real nodes sign, nobody answers.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from ground.figures import Figures
from ground.net import Cluster
from linkseal.keys import announcement as announcements
from linkseal.keys import ca
from linkseal.keys.announcement import AnnouncedEndpoint, Announcement, GenerationKey, SignedAnnouncement
from linkseal.keys.ca import CertificateAuthority
from linkseal.keys.secrets import PrivateKey
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.directory.files import ANNOUNCEMENT, wrap_announcement
from linkseal.tunnels.directory.inventory import Inventory, parse_inventory
from linkseal.tunnels.directory.signer import FileSigner
from linkseal.tunnels.status import parse_report

NEEDS_KERNEL = True
PEERS = 1000
PATIENCE = 300.0


def inventory() -> Inventory:
    """This node and its peers."""
    nodes = [
        {"name": "node1", "uid": "uid-node1", "index": 1, "addresses": ["192.0.2.11"], "prefixes": ["10.244.1.0/24"]}
    ]
    for n in range(2, PEERS + 2):
        addresses, prefixes = [f"172.16.{n >> 8}.{n & 255}"], [f"10.{n >> 8}.{n & 255}.0/24"]
        nodes.append(
            {"name": f"node{n}", "uid": f"uid-node{n}", "index": n, "addresses": addresses, "prefixes": prefixes}
        )
    spec = {"scope": "overlay", "stage": "prefer"}
    fields = {"apiVersion": "linkseal.io/v1alpha1", "kind": "Inventory", "spec": spec, "nodes": nodes}
    return parse_inventory(fields, "bench")


def announce(authority: CertificateAuthority, name: str, address: str, now: datetime) -> str:
    """What `name` would publish."""
    identity, key, uid = ca.generate_identity(), PrivateKey.generate(), f"uid-{name}"
    certificate = authority.sign_csr(ca.make_csr(identity, name, uid), name, uid, now, timedelta(days=30))
    said = Announcement(
        name,
        uid,
        1,
        now,
        (GenerationKey(1, "wireguard", key.public_key),),
        (AnnouncedEndpoint(address, 51820),),
        ("door",),
    )
    text = announcements.encode(said, {1: key.prove(name, uid, 1)})
    return wrap_announcement(SignedAnnouncement(text, announcements.sign(identity, text), certificate))


def memory(pid: int) -> float:
    """Resident set, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def peers_seen(run: Path) -> int:
    """How many peers the agent knows; 0 while it does not answer."""
    try:
        report = parse_report(ask(run, {"do": "status"})["status"], "node1").status
    except Exception:  # noqa: BLE001 - not up yet
        return 0
    return 0 if report is None else report.links.total - report.links.absent


def main() -> int:
    figures = Figures()
    folder = Path(tempfile.mkdtemp(prefix="linkseal-bench-"))
    now = datetime.now(UTC) - timedelta(minutes=10)
    authority = CertificateAuthority.create("bench", now, timedelta(days=365))
    book = inventory()
    signer = FileSigner(folder / "directory", authority, book)
    signer.prepare()
    signer.sign(datetime.now(UTC))
    for node in book.nodes[1:]:
        (folder / "directory/nodes" / node.name / ANNOUNCEMENT).write_text(
            announce(authority, node.name, node.addresses[0], now)
        )
    config = folder / "agent.yaml"
    settings = {
        "apiVersion": "linkseal.io/v1alpha1", "kind": "AgentConfig", "node": "node1", "uid": "uid-node1",
        "directory": {"path": str(folder / "directory")}, "stateDirectory": str(folder / "state"),
        "runDirectory": str(folder / "run"),
    }  # fmt: skip
    config.write_text(yaml.safe_dump(settings))
    cluster = Cluster(1)
    try:
        log = (folder / "log").open("w")
        agent = cluster[0].popen(f"{sys.prefix}/bin/linkseal agent run --config {config}", stderr=log)
        began = time.monotonic()
        while peers_seen(folder / "run") < PEERS:
            signer.sign(datetime.now(UTC))
            if time.monotonic() - began > PATIENCE or agent.poll() is not None:
                print((folder / "log").read_text(), file=sys.stderr)
                return 1
            time.sleep(1)
        figures.told(f"from start to {PEERS} peers in the kernel (lab kernel: no claim)", time.monotonic() - began, "s")
        time.sleep(20)
        figures.at_most(f"agent's memory with {PEERS} peers and the file directory", memory(agent.pid), 80, "MiB")
        agent.terminate()
        agent.wait(30)
    finally:
        cluster.remove()
        shutil.rmtree(folder, ignore_errors=True)
    return figures.status


if __name__ == "__main__":
    sys.exit(main())

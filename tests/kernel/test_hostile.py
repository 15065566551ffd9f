"""A hostile directory, end to end: each forgery has its own finding, and touches no link but the forger's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ground.agents import Deployment, Nodes
from ground.net import Node
from ground.probes import loss_probe
from linkseal.keys import announcement as announcements
from linkseal.keys import codes
from linkseal.keys import grant as grants
from linkseal.keys.announcement import GenerationKey
from linkseal.keys.ca import make_csr
from linkseal.keys.grant import Grant
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.store import KeyStore
from linkseal.keys.values import Prefix
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.directory.files import unwrap_announcement, wrap_announcement

pytestmark = pytest.mark.kernel

Signed = announcements.SignedAnnouncement


class Forger:
    """A node of the cluster that has gone bad: it has a certificate and its keys, and writes what it likes."""

    def __init__(self, linkseal: Deployment, node: Node) -> None:
        self.node = node
        self.uid = linkseal.uids[node.name]
        self.folder = linkseal.directory / "nodes" / node.name
        self.authority = linkseal.authority
        store = KeyStore(linkseal.state(node))
        self.identity = store.load_identity()
        self.key = store.load_key(1)
        self.certificate = str(store.load_certificate())
        self.accept(unwrap_announcement((self.folder / "announcement.json").read_text(), node=node.name))

    def accept(self, signed: Signed) -> None:
        """Take this as what the others have accepted last."""
        self.accepted = signed
        self.said = announcements.parse(signed.text, node=self.node.name)

    def put(self, text: str | bytes) -> None:
        """Replace the announcement's file."""
        aside = self.folder / ".aside"
        aside.write_bytes(text if isinstance(text, bytes) else text.encode())
        aside.rename(self.folder / "announcement.json")

    def restore(self) -> None:
        """Put back what was accepted."""
        self.put(wrap_announcement(self.accepted))

    def signed(
        self,
        serial: int = 1,
        *,
        key: PrivateKey | None = None,
        number: int = 1,
        uid: str = "",
        certificate: str = "",
        **more: Any,
    ) -> Signed:
        """A new announcement; `serial` is added to the accepted one's, `more` are other fields of it."""
        key, uid = key or self.key, uid or self.uid
        assert key is not None
        generation = GenerationKey(number, "wireguard", key.public_key)
        said = replace(self.said, serial=self.said.serial + serial, uid=uid, generations=(generation,), **more)
        text = announcements.encode(said, {number: key.prove(self.node.name, uid, number)})
        return self.signing(text, certificate)

    def signing(self, text: str, certificate: str = "") -> Signed:
        """Any text, with this node's valid signature."""
        assert self.identity is not None
        return Signed(text, announcements.sign(self.identity, text), certificate or self.certificate)

    def certified(self, uid: str, begins: datetime, lifetime: timedelta) -> str:
        """A certificate of the cluster's own CA."""
        assert self.identity is not None
        csr = make_csr(self.identity, self.node.name, uid)
        return self.authority.sign_csr(csr, self.node.name, uid, begins, lifetime)


def forgeries(bad: Forger, victim: Signed) -> Iterable[tuple[str, Callable[[], Any], tuple[str, ...]]]:
    """(code, what is done, what the finding names), each refused as a whole."""
    now = datetime.now(UTC)
    forged: dict[str, Any] = json.loads(bad.signed().text)
    forged["generations"] = json.loads(victim.text)["generations"]
    expired = bad.certified(bad.uid, now - timedelta(hours=3), timedelta(hours=1))
    other = bad.certified("uid-other", now - timedelta(hours=1), timedelta(hours=5))
    newest = bad.signed()
    tampered = replace(newest, text=newest.text.replace("192.0.2.13", "192.0.2.14"))
    link = bad.folder / "announcement.json"

    def symlink() -> None:
        link.unlink()
        link.symlink_to("/etc/passwd")

    yield codes.POSSESSION_NOT_PROVEN, lambda: bad.put(wrap_announcement(bad.signing(json.dumps(forged)))), ("node3",)
    yield codes.CERTIFICATE_EXPIRED, lambda: bad.put(wrap_announcement(bad.signed(certificate=expired))), ("node3",)
    wrong = bad.signed(uid="uid-other", certificate=other)
    yield codes.WRONG_IDENTITY, lambda: bad.put(wrap_announcement(wrong)), ("node3", "uid-other")
    yield codes.SERIAL_REPLAYED, lambda: bad.put(wrap_announcement(bad.signed(-1))), ("node3", str(bad.said.serial))
    yield (
        codes.EQUIVOCATION,
        lambda: bad.put(wrap_announcement(bad.signed(0, endpoints=()))),
        ("node3", str(bad.said.serial)),
    )
    yield codes.SIGNATURE_INVALID, lambda: bad.put(wrap_announcement(tampered)), ("node3",)
    yield codes.TOO_LARGE, lambda: bad.put(b"{" + bytes(1 << 20)), ("node3",)
    yield codes.MALFORMED, lambda: bad.put('{"announcement": 7, "signa'), ("node3",)
    yield codes.MALFORMED, symlink, ("link",)


def told(linkseal: Deployment, good: Iterable[Node], code: str, *named: str) -> bool:
    """Whether each good node tells of it, naming all of these."""
    messages = [[one.message for one in linkseal.status(node).findings if one.code == code] for node in good]
    return all(found and all(name in found[0] for name in named) for found in messages)


def has_accepted(linkseal: Deployment, node: Node, bad: Forger) -> bool:
    """Whether a node has accepted the forger's last good announcement: it is on its disk."""
    return bad.accepted.signature in (linkseal.state(node) / "peers" / f"{bad.node.name}.json").read_text()


def writes(linkseal: Deployment, node: Node) -> int:
    """How many changes an agent has made to its kernel."""
    return int(ask(linkseal.run_folder(node), {"do": "status"})["writes"])


def test_forged_documents_are_told_apart_and_touch_nobody_but_the_forger(nodes: Nodes) -> None:
    cluster = nodes(3)
    a, b, c = cluster
    good = (a, b)
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        linkseal.stop(c)
        bad = Forger(linkseal, c)
        own = linkseal.directory / "nodes" / b.name / "announcement.json"
        victim = unwrap_announcement(own.read_text(), node=b.name)
        bad.accept(bad.signed(5))  # so that there is something older to replay
        bad.restore()
        linkseal.until(lambda: all(has_accepted(linkseal, node, bad) for node in good), "the newer one accepted")
        before = [writes(linkseal, node) for node in good]
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=200) as loss:
            for code, forge, named in forgeries(bad, victim):
                forge()
                linkseal.until(lambda code=code, named=named: told(linkseal, good, code, *named), f"{code} {named}")
                bad.restore()
                linkseal.until(lambda code=code: not any(told(linkseal, [node], code) for node in good), f"{code} over")
            assert [writes(linkseal, node) for node in good] == before, "what is refused changes nothing"

            # A valid grant of what is another's, and a key that two nodes hold: these lose what is contested.
            theirs = (Prefix(str(c.pod_cidr4)), Prefix(str(b.pod_cidr4)))
            grant = Grant(c.name, bad.uid, 3, 1 << 40, datetime.now(UTC), (str(c.address4),), theirs)
            (bad.folder / "grant.json").write_text(grants.wrap(grants.sign(linkseal.authority, grant)))
            linkseal.until(lambda: told(linkseal, good, codes.GRANTS_OVERLAP, c.name, b.name, b.pod_cidr4), "overlap")
            cloned = bad.signed(key=KeyStore(linkseal.state(b)).load_key(1), number=2)
            bad.put(wrap_announcement(cloned))
            linkseal.until(lambda: told(linkseal, good, codes.DUPLICATE_KEY, c.name, b.name), "duplicate key")
            linkseal.until(
                lambda: not [p for p in linkseal.status(a).pairs if p.peer == c.name], "no link to the clone"
            )
        assert not loss.lost, loss
        assert all(linkseal.status(node).links.sealed == 1 for node in good)


def test_a_wiped_or_foreign_directory_removes_nobody(nodes: Nodes) -> None:
    cluster = nodes(3)
    a, b, _ = cluster
    with Deployment(cluster) as linkseal:
        linkseal.start()
        linkseal.wait_sealed()
        whole, kept = linkseal.directory / "nodes", linkseal.folder / "kept"
        described = linkseal.directory / "cluster.json"
        with loss_probe(a.pods[0], b.pods[0], str(b.pods[0].address4), pps=200) as loss:
            shutil.copytree(whole, kept)
            for entry in list(whole.iterdir()):
                entry.rename(whole / f".{entry.name}")
            linkseal.until(lambda: told(linkseal, cluster, codes.DELETIONS_HELD, "all are kept"), "deletions held")
            for entry in kept.iterdir():
                shutil.copytree(entry, whole / entry.name)
            linkseal.until(lambda: not told(linkseal, cluster, codes.DELETIONS_HELD), "over")

            mine = described.read_text()
            replace_text(described, json.dumps(json.loads(mine) | {"uid": "another-cluster"}))
            linkseal.until(lambda: told(linkseal, cluster, codes.CLUSTER_CHANGED, "another-cluster"), "held")
            linkseal.remove_node(cluster[2])  # by whoever has the other cluster: not a deletion of ours
            assert all(linkseal.status(node).links.total == 2 for node in (a, b))
            replace_text(described, mine)
            linkseal.until(lambda: linkseal.status(a).links.total == linkseal.status(b).links.total == 1, "now it is")
        assert not loss.lost, loss


def replace_text(path: Path, text: str) -> None:
    aside = path.with_name(".aside")
    aside.write_text(text)
    aside.rename(path)

"""Findings about documents (LS1xxx) and links (LS2xxx), and what a finding is. No I/O.

The whole catalogue is `linkseal.tunnels.findings.CATALOGUE`. A code is never used for anything else again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """An entry of the catalogue."""

    code: str
    severity: Severity
    title: str
    cause: str
    fix: str
    depends_on: tuple[str, ...] = ()
    """Findings that explain this one: while one of them is shown for the same subject or the host, this one is not."""
    hold: int = 0
    """Seconds it must last before it shows."""


DOCUMENTS: Final = (
    Finding(
        "LS1001",
        "error",
        "signature of an announcement is not valid",
        "The announcement's bytes do not fit its signature and certificate: it was altered in the directory, or "
        "forged.",
        "Find out who writes to that node's entry in the directory. The node's agent publishes again by itself.",
    ),
    Finding(
        "LS1002",
        "error",
        "certificate was not issued by a trusted CA",
        "The node's certificate does not chain to a CA that this node trusts, or is no node certificate.",
        "If the CA was changed on purpose, the new one must be cross-signed by the old. Else delete the certificate, "
        "so that the node asks for one again.",
    ),
    Finding(
        "LS1003",
        "error",
        "certificate or announcement is for another node",
        "The name or UID in the certificate or announcement is not the one of the entry it was found in: copied, or "
        "the node was registered anew.",
        "If the node was reinstalled, remove its old grant and certificate, so that the signer writes new ones.",
    ),
    Finding(
        "LS1004",
        "error",
        "certificate has expired",
        "A new announcement came with a certificate outside its dates; it is refused, and what was accepted before "
        "stays.",
        "Check that the signer runs and that the clocks of node and signer agree; the agent renews by itself.",
    ),
    Finding(
        "LS1005",
        "error",
        "announcement replayed",
        "The directory holds an announcement older than one already accepted: a restored backup, or a replay.",
        "Nothing, if the directory was restored: the node's agent publishes again. Else find out who writes there.",
    ),
    Finding(
        "LS1006",
        "error",
        "two announcements with one serial",
        "A node signed two different announcements with the same serial: its identity key is in use twice (a cloned "
        "disk), or was stolen.",
        "Make sure that no second machine runs with a copy of that node's state directory. If the key may be stolen "
        "delete the Node, have it register anew with an empty state directory, and replace the CA (docs/ca.md).",
    ),
    Finding(
        "LS1007",
        "error",
        "malformed document",
        "An announcement, grant, certificate or report does not follow its format.",
        "Look at the message for the field. Upgrade the older of the two versions, or find out who writes there.",
    ),
    Finding(
        "LS1008",
        "error",
        "document is too large",
        "A document is above its size limit and was not read.",
        "Find out who wrote it; Linkseal's own documents stay far below.",
    ),
    Finding(
        "LS1009",
        "error",
        "document in an unknown format",
        "The document was written by a version of Linkseal that this one cannot read.",
        "Upgrade this node; versions may be one format apart.",
    ),
    Finding(
        "LS1010",
        "error",
        "possession of a key is not proven",
        "The announcer did not show that it holds the private key of the public key it announces: copied from another "
        "node, or a broken agent.",
        "The node that owns the key is not affected. Look at the announcing node: upgrade and restart its agent.",
    ),
    Finding(
        "LS1011",
        "error",
        "two nodes announce one public key",
        "Two nodes hold the same key: a cloned disk. The one that was accepted first keeps it.",
        "On the clone, remove the state directory and start its agent again: it makes keys of its own.",
    ),
    Finding(
        "LS1012",
        "error",
        "two nodes were granted the same addresses",
        "The grants of two nodes overlap in an address or prefix. What was accepted first stays.",
        "Correct the inventory or the CNI's address management so that no two nodes own an address.",
    ),
    Finding(
        "LS1013",
        "error",
        "signature of a grant is not valid",
        "No CA trusted here signed this grant, or its bytes were altered.",
        "Run the signer again. If it was altered, find out who writes to the directory.",
    ),
    Finding(
        "LS1014",
        "error",
        "grant is for another node",
        "The name or UID in the grant is not that of the node, or is older than the accepted one.",
        "Give the signer's inventory the node's present UID and run the signer again. On Kubernetes, if the Node was "
        "made anew: `spec.restoredAt` of the ClusterEncryption has all grants signed again.",
    ),
    Finding(
        "LS1015",
        "error",
        "grant replayed",
        "The directory holds a grant older than the accepted one, or two with one serial.",
        "Run the signer again, on a clock and state directory that were not set back: it signs with a higher serial. "
        "On Kubernetes, if the API server's store was restored, set `restoredAt` in the ClusterEncryption to now.",
    ),
    Finding(
        "LS1016",
        "error",
        "two nodes have one index",
        "Two grants give the same index, so that their probe addresses would be the same. The first accepted stays.",
        "Give each node an index of its own in the inventory (1 to 16383).",
    ),
    Finding(
        "LS1017",
        "warning",
        "node announces itself but was granted nothing",
        "There is an announcement and no grant for this node, or none for the UID by which it was registered again: "
        "the cluster has not said what it owns, so nothing is routed to it.",
        "Add the node to the signer's inventory, or look why the controller grants it nothing.",
        hold=30,
    ),
    Finding(
        "LS1018",
        "warning",
        "own documents absent or altered in the directory",
        "This node's announcement is not in the directory as it was published: deleted, rolled back or overwritten.",
        "The agent publishes again by itself. If it comes back, find out who writes there.",
        ("LS4001",),
        hold=15,
    ),
    Finding(
        "LS1019",
        "warning",
        "certificate of an accepted node has expired",
        "The node's certificate expired after its announcement was accepted. Its links are kept.",
        "Check that the node's agent and the signer run; renewing is automatic.",
    ),
    Finding(
        "LS1020",
        "error",
        "withdrawn generation or key used again",
        "An announcement brings back a generation number or a key that the node had withdrawn.",
        "The node was probably restored from a backup: have it make a new key, by a request of the type `rotate` in "
        "`spec.requests` of its NodeEncryption (docs/kubernetes.md).",
    ),
    Finding(
        "LS1021",
        "warning",
        "a capability disappeared",
        "A node no longer announces a capability it had: downgraded, or its kernel changed.",
        "If the downgrade was meant, nothing. Else upgrade the node again.",
    ),
    Finding(
        "LS1022",
        "warning",
        "deletions are held",
        "Many nodes, or this one, disappeared from the directory at once, or some with an older state of it that was "
        "put back. It looks like a lost or restored directory, so nothing is removed.",
        "Restore the directory, or let the nodes register again. If they are really gone, say so with `restoredAt`, "
        "the time now, in the spec of the ClusterEncryption or inventory: for an hour it is then right as it is.",
    ),
    Finding(
        "LS1023",
        "error",
        "the directory belongs to another cluster",
        "The cluster UID in the directory is not the one this node was installed with. Nothing is taken from there, "
        "and nothing is changed.",
        "Point the agent at its own directory. Where the API server's store was lost and the cluster made anew, name "
        "the UID of before in `formerClusters` of the ClusterEncryption (docs/kubernetes.md). To move the node to a "
        "cluster of others, run `linkseal agent cleanup`, move the state directory away, and start the agent.",
    ),
    Finding(
        "LS1024",
        "error",
        "the directory names a CA that no trusted one vouches for",
        "A CA was put into the directory that none of those on this node's disk has cross-signed: somebody swapped it, "
        "or the CA's key was lost and a new one made. It is not trusted, and what it signs is refused.",
        "Find out who wrote it; a controller puts its own CA back. If a new CA was made because the old key is lost, "
        "compare its fingerprint and run `linkseal agent trust-ca` on each node. To change the CA, rotate it "
        "(docs/ca.md).",
    ),
)

PROBES: Final = (
    Finding(
        "LS2001",
        "error",
        "no handshake",
        "WireGuard packets do not reach the peer or its replies do not come back: a firewall, a wrong endpoint, or no "
        "agent there.",
        "Open UDP 51820 to 51823 (`wireguard.port` and the three above) between the nodes, and check the peer's "
        "endpoint in `linkseal links`.",
        ("LS3001", "LS3004", "LS3005", "LS3010", "LS4007", "LS4008", "LS4009", "LS4010", "LS4011"),
        hold=15,
    ),
    Finding(
        "LS2002",
        "error",
        "handshake is fine but nothing crosses",
        "The tunnel is up, but no probe comes back in either size: a firewall on the tunnel's interfaces, or an old "
        "address of the peer in its AllowedIPs.",
        "Look at nftables or iptables rules for `lsl*` on both nodes; `linkseal plan` shows what should be there.",
        ("LS2001", "LS3010", "LS4007"),
        hold=15,
    ),
    Finding(
        "LS2003",
        "error",
        "host packets cross, forwarded ones do not",
        "Probes to the peer's host are answered and probes through it are not: its FORWARD policy drops them, or "
        "forwarding is off.",
        "On the peer, allow forwarding between `lsl*` and the pods' interfaces, and set net.ipv4.ip_forward=1.",
        ("LS2001", "LS2002", "LS3011"),
        hold=15,
    ),
    Finding(
        "LS2004",
        "error",
        "full-size packets vanish",
        "Small probes cross, full-size ones do not: a path narrower than the NIC that sends no ICMP, or one that drops "
        "fragments.",
        "Lower `wireguard.mtu` to the path's MTU less 80, or repair the path (ICMP 'packet too big' must pass).",
        ("LS2001", "LS2002", "LS2003"),
        hold=15,
    ),
    Finding(
        "LS2005",
        "error",
        "packets of a protected prefix do not cross",
        "Probes from one of this node's prefixes are not accepted by the peer: it does not know that the prefix is "
        "ours (its grant of us is old, or its AllowedIPs were changed).",
        "Compare `linkseal showconf` on both nodes; the agent of the peer heals its own device within one poll.",
        ("LS2001", "LS2002", "LS1012"),
        hold=15,
    ),
)

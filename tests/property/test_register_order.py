"""The register comes to one result whatever the order of nodes in a snapshot and of the snapshots themselves."""

from __future__ import annotations

import functools
from datetime import timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from linkseal.keys.announcement import SignedAnnouncement
from linkseal.keys.grant import SignedGrant
from linkseal.tunnels.register import NodeDocuments, Peer, Register, Snapshot
from unit.keys.cluster import NOW, Node, nodes, trust

COUNT = 6
NODES = {node.name: node for node in nodes(COUNT)}
HOUR = timedelta(hours=1)
PREFIXES = ("10.0.0.0/16", "10.0.1.0/24", "10.0.1.128/25", "10.0.2.0/24", "2001:db8::/48", "2001:db8::/64")


@functools.cache
def announce(node: str, serial: int, key: str) -> SignedAnnouncement:
    """Generation number and serial rise together, so that skipping one is no replay."""
    return NODES[node].announce(serial, (serial,), keys={serial: f"{key}/{serial}"})


@functools.cache
def grant(node: str, serial: int, index: int, hours: int, prefixes: tuple[str, ...]) -> SignedGrant:
    return NODES[node].grant(serial, index=index, issued=NOW + hours * HOUR, prefixes=prefixes)


@st.composite
def clusters(draw: st.DrawFn) -> dict[str, NodeDocuments]:
    """Nodes with few indexes, keys and prefixes among them: most draws hold conflicts."""
    found = {}
    for name in NODES:
        index, serial = draw(st.integers(1, COUNT)), draw(st.integers(1, 2))
        prefixes = tuple(draw(st.lists(st.sampled_from(PREFIXES), max_size=2, unique=True)))
        granted = grant(name, 1, index, draw(st.integers(0, 1)), prefixes)
        key = draw(st.sampled_from(["shared", name, name]))
        announced = announce(name, serial, key) if draw(st.booleans()) else None
        found[name] = NodeDocuments(announced, granted)
    return found


def accepted(*snapshots: dict[str, NodeDocuments]) -> Register:
    register = Register("n1")
    for nodes_seen in snapshots:
        register = register.refresh(Snapshot("c", nodes_seen), trust(), NOW).register
    return register


def peers(register: Register) -> dict[str, Peer]:
    return dict(register.peers)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(cluster: dict[str, NodeDocuments], random: Random) -> None:
    names = list(cluster)
    random.shuffle(names)
    one = Register("n1").refresh(Snapshot("c", cluster), trust(), NOW)
    two = Register("n1").refresh(Snapshot("c", {name: cluster[name] for name in names}), trust(), NOW)
    assert peers(one.register) == peers(two.register)
    assert (one.findings, one.changed) == (two.findings, two.changed)


@settings(max_examples=60, deadline=None)
@given(clusters(), st.randoms(use_true_random=False))
def test_nodes_seen_one_by_one_or_at_once_give_the_same(cluster: dict[str, NodeDocuments], random: Random) -> None:
    names = list(cluster)
    random.shuffle(names)
    single = accepted(*({name: cluster[name]} for name in names))
    assert peers(single) == peers(accepted(cluster))


@settings(max_examples=60, deadline=None)
@given(st.permutations([1, 2, 3, 4]), st.permutations([1, 2, 3, 4]))
def test_documents_of_one_node_in_any_order_end_at_the_highest_serial(first: list[int], second: list[int]) -> None:
    seen = [
        {"n2": NodeDocuments(announce("n2", a, "n2"), grant("n2", b, 2, 0, ()))}
        for a, b in zip(first, second, strict=True)
    ]
    peer = accepted(*seen).peers["n2"]
    assert peer.announcement is not None
    assert (peer.announcement.serial, peer.grant.serial) == (4, 4)


@settings(max_examples=60, deadline=None)
@given(clusters())
def test_no_two_peers_share_a_key_a_live_index_or_a_prefix(cluster: dict[str, NodeDocuments]) -> None:
    found = accepted(cluster).peers.values()
    keys = [g.public_key for peer in found if peer.announcement for g in peer.announcement.generations]
    assert len(set(keys)) == len(keys)
    live = [peer.grant.index for peer in found if peer.announcement]
    assert len(set(live)) == len(live)
    owned = [(bits(prefix), peer.name) for peer in found for prefix in peer.grant.protected()]
    for one, owner in owned:
        for two, other in owned:
            assert owner == other or not (one.startswith(two) or two.startswith(one))


def bits(prefix: str) -> str:
    """A prefix as its version and its bits: one contains another when it begins it."""
    import ipaddress  # noqa: PLC0415 - the only use

    network = ipaddress.ip_network(prefix)
    return f"v{network.version}:" + f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]


@settings(max_examples=60, deadline=None)
@given(clusters())
def test_somebody_keeps_everything_contested(cluster: dict[str, NodeDocuments]) -> None:
    """The first in rank of all loses nothing of its property."""
    register = accepted(cluster)
    granted = {name: Register("x").refresh(Snapshot("c", {name: docs}), trust(), NOW) for name, docs in cluster.items()}
    alone = {name: refresh.register.peers[name].grant for name, refresh in granted.items()}
    best = min(alone.values(), key=lambda g: (g.issued, g.index, g.node))
    assert register.peers[best.node].grant == best


@settings(max_examples=40, deadline=None)
@given(clusters(), clusters())
def test_a_rebuilt_register_is_the_one_that_was_saved(
    first: dict[str, NodeDocuments], second: dict[str, NodeDocuments]
) -> None:
    register = accepted(first, second)
    saved = {name: peer.documents for name, peer in register.peers.items()}
    assert peers(Register.from_known_good("n1", "c", saved, trust()).register) == peers(register)


def test_a_refresh_of_many_unchanged_nodes_is_quick() -> None:
    """500 nodes within a tenth of the budget for 5,000 (15 ms), with room for a slow machine."""
    import time  # noqa: PLC0415 - the only use

    node = Node("n1")
    signed = node.announce(1)
    docs = {f"n{i}": NodeDocuments(signed, node.grant()) for i in range(1, 501)}
    register = Register("n1").refresh(Snapshot("c", docs), trust(), NOW).register
    copies = {n: NodeDocuments(SignedAnnouncement(*_copied(d)), d.grant) for n, d in docs.items()}
    took = []
    for _ in range(20):
        start = time.perf_counter()
        register.refresh(Snapshot("c", copies), trust(), NOW)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.0015 * 3


def _copied(documents: NodeDocuments) -> tuple[str, str, str]:
    signed = documents.announcement
    assert signed is not None
    text, signature, certificate = ("".join(list(s)) for s in (signed.text, signed.signature, signed.certificate))
    return text, signature, certificate

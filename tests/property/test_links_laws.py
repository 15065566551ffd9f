"""Laws 1, 2 and 3 over whole clusters in virtual time: joins, losses, restarts and rotations, and no packet lost."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from linkseal.tunnels.links import DEAD_AFTER, LAST_PROVOKE, LinkBook
from linkseal.tunnels.world import World, endpoint_of
from linkseal.wireguard.model import DeviceState, PeerState
from property.virtual_cluster import LAYOUT, UNDERLAY, Cluster
from property.worlds import as_me, make_peer


def settle(cluster: Cluster, seconds: float = 40.0) -> None:
    """Quiet, then: everybody sends to everybody, by the newest generations, one each."""
    cluster.run(seconds)
    alive = [node for node in cluster.nodes.values() if node.alive]
    pairs = {(one.name, other.name) for one in alive for other in alive if one is not other}
    assert pairs <= cluster.settled, sorted(pairs - cluster.settled)
    for node in alive:
        assert len(node.generations) == 1, node.name
        for other in alive:
            if other is not node:
                assert node.book.current[other.name] == (node.generations[0].number, other.generations[0].number)


@pytest.mark.parametrize("seed", range(4))
def test_rotations_of_one_and_of_all_lose_nothing(seed: int) -> None:
    cluster = Cluster(seed, 4, behind_nat=seed % 2)
    settle(cluster)
    for _ in range(3):
        assert cluster.raise_generation(cluster.random.choice(sorted(cluster.nodes)))
        settle(cluster)
        for name in cluster.nodes:
            cluster.at(cluster.random.uniform(0, 3), lambda name=name: cluster.raise_generation(name))
        settle(cluster, 60.0)
    assert cluster.sent > 10_000
    assert cluster.lost == []


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_whatever_befalls_the_others(seed: int) -> None:
    cluster = Cluster(100 + seed, 4, behind_nat=seed % 2)
    settle(cluster)
    spare = iter(range(10, 100))
    choose = cluster.random.choice
    for _ in range(25):
        names = sorted(name for name, node in cluster.nodes.items() if node.agent)
        match cluster.random.randrange(4):
            case 0:
                cluster.join(next(spare))
            case 1 if len(names) > 3:
                cluster.leave(choose(names))
            case 2:
                cluster.lose_store(choose(names))
            case 3:
                cluster.stop_agent(choose(names), cluster.random.uniform(0.5, 8))
            case _:
                cluster.raise_generation(choose(names))
        cluster.run(cluster.random.uniform(0.1, 6))
    settle(cluster, 90.0)
    assert cluster.sent > 10_000
    assert cluster.lost == []


def test_a_dead_peer_holds_a_rotation_no_longer_than_ten_minutes() -> None:
    cluster = Cluster(5, 3)
    settle(cluster)
    cluster.die("n3")
    assert cluster.raise_generation("n1")
    cluster.run(DEAD_AFTER / 2)
    assert len(cluster.nodes["n1"].generations) == 2, "a peer heard of lately holds it"
    cluster.run(DEAD_AFTER / 2 + 130)  # it was heard of at most a rekey interval before it died
    assert len(cluster.nodes["n1"].generations) == 1
    started, ended = cluster.nodes["n1"].rotations
    assert ended - started <= DEAD_AFTER + 10
    assert cluster.lost == []


def test_a_stopped_agent_holds_a_rotation_for_as_long_as_its_kernel_sends() -> None:
    cluster = Cluster(6, 3)
    settle(cluster)
    cluster.stop_agent("n3", 1000.0)
    assert cluster.raise_generation("n1")
    cluster.run(900.0)
    assert len(cluster.nodes["n1"].generations) == 2
    settle(cluster, 160.0)
    assert cluster.lost == []


def test_an_idle_cluster_writes_nothing() -> None:
    cluster = Cluster(7, 4)
    settle(cluster)
    before = {name: node.writes for name, node in cluster.nodes.items()}
    cluster.run(600.0)
    assert {name: node.writes for name, node in cluster.nodes.items()} == before


@pytest.mark.parametrize("name", ["n2", "n1"])
def test_an_unreachable_peer_is_provoked_once_a_minute_for_twelve_hours(name: str) -> None:
    """Of both ends of a link: the one that initiates and the one that only helps."""
    nodes = {peer.name: peer for peer in (make_peer(1, 1), make_peer(2, 1))}
    me, peer = as_me(nodes.pop("n2" if name == "n1" else "n1")), nodes[name]
    world = World(me, LAYOUT, UNDERLAY, {name: peer})
    book, now, rng, times = LinkBook(), 1e6, random.Random(1), []
    state = PeerState(peer.generations[0].public_key, frozenset(), endpoint_of(world, peer))
    device = DeviceState("lsl11", me.generations[0].public_key, peers={state.public_key: state})
    while now < 1e6 + 12 * 3600:
        book.sync(me, world.peers, {name: endpoint_of(world, peer)}, now)
        book.observe({"lsl11": device}, now)
        assert book.choose(now) == []
        times += [now] * len(book.provocations(now))
        assert len(book.records) == 1
        now += rng.uniform(0.1, 5.0)
    late = [at for at in times if at > 1e6 + 300]
    assert len(late) > 600, "it is tried for ever"
    assert all(after - before >= LAST_PROVOKE for before, after in pairwise(late))
    assert len(times) - len(late) < 12

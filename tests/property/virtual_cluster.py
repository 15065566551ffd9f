"""A cluster in virtual time: agents that decide as the real ones do, over hosts and WireGuard in memory.

Real are the link book, rotation, plan, diff and adoption. Modelled are probes, which need the whole path both ways, and
a directory that reaches each node after a delay of its own.
"""

from __future__ import annotations

from dataclasses import replace

from linkseal.keys.values import PublicKey
from linkseal.tunnels.addressing import slot_name
from linkseal.tunnels.agent.adoption import adopt
from linkseal.tunnels.diff import diff
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.model import LinkKey, NftTransaction, Scope, Stage, Step
from linkseal.tunnels.plan import plan
from linkseal.tunnels.rotation import holders
from linkseal.tunnels.world import Layout, Peer, Underlay, World, endpoint_of
from linkseal.wireguard.model import ReprovokePeer
from property.fake_host import NIC, FakeHost
from property.virtual_wire import Node, Wire
from property.worlds import as_me, keys, make_peer

LAYOUT = Layout(scope=Scope.TRANSPARENT, stage=Stage.PREFER)
UNDERLAY = Underlay(NIC, 1500, frozenset({4}))


class Cluster(Wire):
    """Nodes with agents, a directory, and what befalls them."""

    def __init__(self, seed: int, count: int, *, spread: float = 3.0, behind_nat: int = 0) -> None:
        super().__init__(seed)
        self.spread = spread
        self.directory: dict[str, tuple[int, Peer | None]] = {}
        self.proven: set[tuple[str, int, str, int]] = set()
        self.word: dict[tuple[str, str], tuple[int, int] | None] = {}
        """(asker, answerer) → pair by which the answerer said last that it sends."""
        self.word_by_new: set[tuple[str, str, int]] = set()
        """(asker, answerer, asker's generation): said so by a reply that came by this very generation."""
        for number in range(1, count + 1):
            self.join(number, reachable=number > behind_nat)

    # --- what befalls nodes -----------------------------------------------------------------------------------------

    def join(self, number: int, *, reachable: bool = True, first: int = 0) -> Node:
        generation = first or self.random.randint(1, 4)
        node = Node(number, reachable, keys(f"n{number}", generation), self._host(number))
        self.nodes[node.name] = node
        for name, said in self.directory.items():
            self._tell(node, name, said)
        self._wake(node)
        return node

    def leave(self, name: str) -> None:
        node = self.nodes.pop(name)
        node.alive = node.agent = False
        self._unsettle(name)
        self._publish(name, node.serial + 1, None)

    def die(self, name: str) -> None:
        """Power off: still in the directory."""
        node = self.nodes[name]
        node.alive = node.agent = False
        self._unsettle(name)

    def lose_store(self, name: str) -> None:
        """A new disk: all state gone, the published numbers found in the directory."""
        node = self.nodes[name]
        highest = max(g.number for g in (*node.generations, *node.announced))
        node.host, node.book, node.adopted = self._host(node.number), LinkBook(), False
        node.generations = keys(name, highest + 1)
        node.tried, node.sessions, node.outcomes, node.probe_at = {}, {}, [], {}
        self._unsettle(name)
        self._wake(node)

    def stop_agent(self, name: str, seconds: float) -> None:
        node = self.nodes[name]
        node.agent = False

        def start() -> None:
            node.agent, node.adopted, node.book = node.alive, False, LinkBook()
            node.outcomes, node.probe_at, node.failed = [], {}, {}
            self._wake(node)

        self.at(seconds, start)

    def raise_generation(self, name: str) -> bool:
        node = self.nodes[name]
        if len(node.generations) > 1 or not node.agent:
            return False
        node.generations += keys(name, node.generations[0].number + 1)
        node.rotations.append(self.now)
        self._wake(node)
        return True

    def _unsettle(self, name: str) -> None:
        self.settled = {pair for pair in self.settled if name not in pair}

    def _host(self, number: int) -> FakeHost:
        return FakeHost(make_peer(number).addresses)

    # --- directory --------------------------------------------------------------------------------------------------

    def _publish(self, name: str, serial: int, peer: Peer | None) -> None:
        self.directory[name] = (serial, peer)
        for node in self.nodes.values():
            self._tell(node, name, (serial, peer))

    def _tell(self, node: Node, name: str, said: tuple[int, Peer | None]) -> None:
        def learn() -> None:
            if name != node.name and said[0] > node.heard.get(name, (0, None))[0]:
                node.heard[name] = said
                self._wake(node)

        self.at(self.random.uniform(0.02, self.spread), learn)

    # --- the agent: tunnels/agent/worker.py without its I/O ---------------------------------------------------------

    def _wake(self, node: Node, after: float = 0.02) -> None:
        self.at(after, lambda: self._pass(node))

    def _pass(self, node: Node) -> None:
        if not node.agent:
            return
        book, now, observed = node.book, self.now, node.host.observe()
        me = replace(as_me(make_peer(node.number, reachable=node.reachable)), generations=node.generations)
        peers = {name: peer for name, (_, peer) in node.heard.items() if peer is not None}
        world = World(me, LAYOUT, UNDERLAY, book.retain(peers))
        book.sync(me, world.peers, {name: endpoint_of(world, peer) for name, peer in world.peers.items()}, now)
        if not node.adopted:
            adopt(book, world, observed, {}, now)
            node.adopted = True
        book.observe(observed.devices, now)
        self._take_outcomes(node)
        book.choose(now)
        desired = plan(replace(world, links=book.peer_links(now)))
        steps: list[Step] = list(diff(desired, observed))
        for key in book.provocations(now):
            record = book.records[key]
            spec = desired.devices[record.slot].peers[record.remote_key]
            endpoint = spec.endpoint or book.announced_endpoint(key)
            node.provoked.append(now)
            steps.append(ReprovokePeer(record.slot, spec._replace(endpoint=endpoint, keepalive=spec.keepalive or 25)))
        self._apply(node, steps)
        self._rotate(node)
        self._announce(node)
        self._probe(node)
        self._check_bounds(node, world)
        busy = bool(steps) or any(len(list(book.of_peer(name))) > 1 or name not in book.current for name in peers)
        node.asleep = now + (self.random.uniform(0.1, 1.0) if busy else 5.0)
        self.at(node.asleep - now, lambda: self._pass(node) if self.now >= node.asleep else None)

    def _apply(self, node: Node, steps: list[Step]) -> None:
        if not steps:
            return
        owners = {p: name for name in self.nodes for p in self.prefixes(self.nodes[name])}

        def check(step: Step) -> None:
            node.forget(step)
            for move in step.moves if isinstance(step, NftTransaction) else ():
                peer = owners.get(move.prefix)
                if peer is not None and move.new is not None:
                    pair = node.book.current[peer]
                    assert slot_name(*pair) == move.new
                    proven = (node.name, pair[0], peer, pair[1]) in self.proven
                    links = node.book.of_peer(peer)
                    nothing_works = not any(node.book.usable(record, self.now) for record in links)
                    waits = move.old is not None and nothing_works  # it stays in the tunnel: no plaintext
                    assert proven or waits, "moved to a link that is not proven"

        node.host.watch = check
        self.traffic(about=node)  # what is on its way when the change comes
        node.writes += len(steps)
        node.host.apply(steps)
        self.handshakes(node)

    def _rotate(self, node: Node) -> None:
        if len(node.generations) < 2 or node.announced != node.generations:
            return
        old, new = node.generations
        if holders(node.book, old.number, new.number, self.now):
            return
        for other in self.nodes.values():
            if other.alive and (other.name, node.name) in self.settled:
                said = self.word.get((node.name, other.name))
                assert (node.name, other.name, new.number) in self.word_by_new, f"no reply of {other.name}"
                assert said is not None
                assert said[0] == new.number, f"{other.name} still sends by {said}"
        node.generations = (new,)
        node.rotations.append(self.now)
        self._wake(node)

    def _announce(self, node: Node) -> None:
        devices = node.host.devices
        ready = tuple(
            g
            for g in node.generations
            if all(
                s in devices and devices[s].public_key == g.public_key
                for s in (slot_name(g.number, 0), slot_name(g.number, 1))
            )
        )
        if ready and ready != node.announced:
            node.announced = ready
            node.serial = max(node.serial, self.directory.get(node.name, (0, None))[0]) + 1
            self._publish(node.name, node.serial, node.as_seen())

    def _take_outcomes(self, node: Node) -> None:
        for key, uses, passed in node.outcomes:
            if passed:
                node.failed.pop(key, None)
                node.book.proved(key, self.now, 1420, uses)
            elif key in node.book.records:
                node.failed[key] = node.failed.get(key, 0) + 1
                lost = node.failed[key] >= 3 and node.book.records[key].proven_at is not None
                node.book.diagnosed(key, "LS2002", "nothing crosses", lost=lost)
        node.outcomes = []
        node.failed = {key: count for key, count in node.failed.items() if key in node.book.records}

    def _check_bounds(self, node: Node, world: World) -> None:
        links = sum(len(world.me.generations) * len(peer.generations) for peer in world.peers.values())
        book = node.book
        assert len(book.records) == links <= 4 * len(world.peers)
        for held in (book.current, book.moved_at, book.announced, book.path_mtu):
            assert len(held) <= len(world.peers)

    # --- probes -----------------------------------------------------------------------------------------------------

    def _probe(self, node: Node) -> None:
        due = {}
        for key, record in node.book.records.items():
            at = node.probe_at.get(key, 0.0)
            if record.fresh(self.now) and at <= self.now:
                several = len(list(node.book.of_peer(key.peer))) > 1
                at = self.now + (self.random.uniform(0.3, 1.2) if several or record.proven_at is None else 10.0)
                tries = next(n for n in range(20) if self.random.random() > 0.3)
                self.at(0.2 * tries + self.delay(), lambda key=key: self._answer(node, key))
            due[key] = at
        node.probe_at = due

    def _answer(self, node: Node, key: LinkKey) -> None:
        other, record = self.nodes.get(key.peer), node.book.records.get(key)
        if record is None:
            return
        passed = (
            other is not None and other.agent and self._both_ways(node, other, record.own_key, record.remote_key, key)
        )
        uses = other.book.current.get(node.name) if other is not None and passed else None

        def tell() -> None:
            said = None if uses is None else (uses[1], uses[0])
            if passed and node.agent:
                self.proven.add((node.name, key.own, key.peer, key.remote))
                self.word[node.name, key.peer] = said
                if said is not None and said[0] == key.own:
                    self.word_by_new.add((node.name, key.peer, key.own))
            node.outcomes.append((key, said, passed))
            self._wake(node)

        self.at(self.delay() if passed else 6.0, tell)

    def _both_ways(self, one: Node, other: Node, own: PublicKey, remote: PublicKey, key: LinkKey) -> bool:
        slot, mirror = slot_name(key.own, key.remote), slot_name(key.remote, key.own)
        return self._probe_crosses(one, slot, own, remote, other, mirror, key.remote, key.own) and self._probe_crosses(
            other, mirror, remote, own, one, slot, key.own, key.remote
        )

    def _probe_crosses(
        self, one: Node, slot: str, own: PublicKey, remote: PublicKey, other: Node, mirror: str, h: int, g: int
    ) -> bool:
        pair = LAYOUT.probe.pair(4, other.number, h, g)
        sends = one.host.slots.get(pair) == slot and self.session(one, slot, remote)
        return sends and self.takes(other, mirror, remote, own, LAYOUT.probe.pair(4, one.number, g, h))

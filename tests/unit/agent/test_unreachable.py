"""One peer of three that cannot be reached for twelve hours costs a bounded amount of everything (law 8).

Real worker, link book, speaker, findings and probe ladders, in virtual time; the host is in memory.
"""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from linkseal.tunnels.model import LinkKey, Step
from linkseal.tunnels.probe.ladder import Ladder
from linkseal.tunnels.probe.outcomes import Outcome, Proof, Target
from linkseal.wireguard.model import ReprovokePeer
from unit.agent.pair import Node, T, view

HOUR = 3600.0
INTERVAL = 60.0
"""Seconds between two proofs of a link that works, and at most between two attempts at one that does not."""

REKEY = 120.0
"""Seconds between two handshakes of a session in use."""


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def held() -> int:
    """Bytes allocated since tracing began and still in use."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


class Life:
    """Node n1: n2 answers everything, n3 nothing from T on. Asks for both are counted."""

    def __init__(self, folder: Path, *, reached_before: bool) -> None:
        self.now = T
        self.node, self.good, self.dead = (Node(folder / name, i) for i, name in enumerate("abc", 1))
        self.steps: Counter[str] = Counter()
        """Steps by what they did and to which node."""
        self.lines: list[str] = []
        self.passes = 0
        self.asked: Counter[str] = Counter()
        self._ladders: dict[LinkKey, Ladder] = {}
        self._pass_at = T
        nodes = (self.node, self.good, self.dead)
        for _ in range(3):
            for node in nodes:
                node.run(T, view=view(*nodes))
                if node.keyring.last is not None:
                    node.published()
        if reached_before:
            self.node.handshakes(T)
            for peer in ("n2", "n3"):
                self.node.prove(peer, 1, 1, T)

    def run(self, until: float) -> None:
        while True:
            at = min([self._pass_at, *(ladder.due for ladder in self._ladders.values())])
            if at > until:
                return
            self.now = max(self.now, at)
            self._session_with_the_good_one()
            outcomes = tuple(self._climb())
            if outcomes or self.now >= self._pass_at:
                self._pass(outcomes)

    def _pass(self, outcomes: tuple[Outcome, ...]) -> None:
        result = self.node.run(self.now, outcomes=outcomes)
        self.passes += 1
        self.steps.update(map(self._named, result.steps))
        self.lines += [line.text for line in self.node.findings.log_lines(self.now)]
        self._pass_at = self.now + (0.03 if result.again else result.wake_in)
        self._aim(result.targets)

    def _named(self, step: Step) -> str:
        if isinstance(step, ReprovokePeer):
            whose = [
                n.name for n in (self.good, self.dead) if n.keyring.own_keys()[0].public_key == step.spec.public_key
            ]
            return f"provoked {whose[0]}"
        return str(step)

    def _aim(self, targets: Mapping[LinkKey, Target]) -> None:
        for key, target in targets.items():
            if key in self._ladders:
                self._ladders[key].retarget(target, self.now)
            else:
                self._ladders[key] = Ladder(key, target, self.now, INTERVAL)
        self._ladders = {key: ladder for key, ladder in self._ladders.items() if key in targets}

    def _climb(self) -> Iterator[Outcome]:
        for key, ladder in list(self._ladders.items()):
            if ladder.due > self.now:
                continue
            if key.peer == self.good.name:  # it passes; what the ladder makes of answers is its own tests' matter
                self._ladders[key] = Ladder(key, ladder.target, self.now + INTERVAL, INTERVAL)
                self.asked[key.peer] += 1
                yield Proof(key, self.now, {4: 1420}, 0.001, (1, 1))
                continue
            beat = ladder.tick(self.now, 0.5)
            self.asked[key.peer] += len(beat.asks)
            if beat.outcome is not None:
                yield beat.outcome

    def _session_with_the_good_one(self) -> None:
        key = self.good.keyring.own_keys()[0].public_key
        for device in self.node.host.kernel.devices.values():
            peer = device.peers.get(key)
            if peer is not None and self.now - peer.last_handshake > REKEY:
                device.peers[key] = peer._replace(last_handshake=self.now)

    def size(self) -> dict[str, int]:
        """How much is remembered."""
        book, findings = self.node.worker.book, self.node.findings
        return {
            "links": len(book.records),
            "heard": len(book._heard),
            "raised": sum(map(len, findings._raised.values())),
            "logged": len(findings._logged),
        }


@pytest.mark.parametrize("reached_before", [True, False], ids=["it died", "it never answered"])
def test_twelve_hours_without_one_peer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, reached_before: bool
) -> None:
    caplog.set_level(logging.INFO, "linkseal")
    life = Life(tmp_path, reached_before=reached_before)
    life.run(T + HOUR)
    size, files = life.size(), stamps(tmp_path / "a")
    caplog.clear()
    for counted in (life.lines, life.steps, life.asked):
        counted.clear()
    life.passes = 0
    life.run(T + 10 * HOUR)
    tracemalloc.start()
    life.run(T + 11 * HOUR)
    after_eleven = held()
    life.run(T + 12 * HOUR)
    grown = held() - after_eleven
    tracemalloc.stop()

    minutes = 11 * 60
    assert [finding.code for finding in life.node.findings.shown(life.now)] == ["LS2001"], "it says so to the end"
    assert life.lines + [record.getMessage() for record in caplog.records] == [], "but once"
    assert grown < 10_000, "an hour has 400 passes and 1,000 asks: one object kept of each is more"
    assert all(life.size()[what] <= number for what, number in size.items()), (size, life.size())
    assert stamps(tmp_path / "a") == files
    assert set(life.steps) == (set() if reached_before else {"provoked n3"}), "traffic's own link is left to the kernel"
    assert life.steps.total() <= 1.02 * minutes
    assert life.asked["n3"] <= 25 * minutes
    assert life.passes <= minutes * (60 / life.node.worker.settings.poll + 3)
    assert life.node.status(life.now).links.sealed == 1

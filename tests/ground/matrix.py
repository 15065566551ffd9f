"""The fault matrix: a cluster is walked through faults while packets and connections run and the wire is captured.

    cell   what carries the tunnels, scope, family: a lab of three nodes, one for all its faults
    case   a fault of `linkseal lab break`, what mends it, and how long it lasts
    row    what was seen of a case in a cell: packets lost, plaintext on the bridge, seconds to recover, keys

A cell without guard (stage prefer) is the control: it must see plaintext, or the others prove nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self
from unittest import mock

from ground.flows import RATE, Flows, Way
from ground.probes import echo_server, tcp_probe
from linkseal.keys.errors import HostError, LinksealError
from linkseal.tunnels import stages, status
from linkseal.tunnels.addressing import SLOTS
from linkseal.tunnels.lab import state
from linkseal.tunnels.lab.backend import Backend
from linkseal.tunnels.lab.cluster import Node
from linkseal.tunnels.lab.faults import FAULTS
from linkseal.tunnels.lab.faults_clock import in_lab_kernel
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.lab.state import LabSpec

RECOVERY = 6.0
"""Seconds after the end of a fault in which traffic must flow again, with no manual step."""

SLOW_KERNEL = 3.0
"""What a lab kernel takes for what a kernel takes a second for: system calls cost 55 µs instead of 0.2, all nodes share
one CPU, and a start of nft is 0.1 s. Recovery is judged by that; the table shows what was measured."""

START = 240.0
"""Seconds until a lab may be where its stage is."""

QUIET = 1.2
"""Seconds without a lost packet after which traffic counts as flowing."""

WATCHED = 3.0
"""Seconds a case is watched at least after its fault has ended: what nobody announces is found by a poll (2 s)."""

PATIENCE = 90.0
"""Seconds until a case is given up: then its row says that it never recovered."""

STILL = 2.0
"""Seconds without plaintext before a lab enters enforce, which is 30 s in life: there is no traffic yet."""

NO_VERIFY: Mapping[str, Any] = {"verify": {"interval": 0}}
"""A verification sends canaries in clear on purpose, as its control: here they would be taken for leaks."""

CONNECTIONS = 4

CASES = "LINKSEAL_MATRIX_CASES"
"""Environment: the only cases to walk, by the names of their faults, with commas."""

ROWS = "LINKSEAL_MATRIX_ROWS"
"""Environment: a folder where every row is left as a line of JSON, for the table of the whole walk."""

_serial = itertools.count(1)


class Cell(NamedTuple):
    """What is walked. `driver`: kernel or userspace; `families`: "4", "6" or "46"."""

    driver: str
    scope: str
    families: str
    stage: str = "enforce"

    def __str__(self) -> str:
        return f"{self.driver}-{self.scope}-v{self.families}" + ("" if self.stage == "enforce" else f"-{self.stage}")


class Case(NamedTuple):
    """A fault and how it is walked.

    It ends `hold` seconds after it was made, by its `undo` (the catalogue's), and that one's `then` seconds later by
    its own; without undo it ends when it is made. `dead`: the node's agent is killed before and starts again at the
    end, which is the fault's. `keys`: those of the node change, because that is the fault.
    """

    fault: str
    hold: float = 0.0
    then: float = 0.0
    dead: bool = False
    keys: bool = False
    recovery: float = RECOVERY

    def __str__(self) -> str:
        return f"{self.fault}, no agent" if self.dead else self.fault

    def steps(self) -> tuple[list[tuple[str, float]], int]:
        """Faults in order, each with the seconds after it; and which of them is the end of the fault."""
        found = [(self.fault, self.hold)]
        while (undo := FAULTS[found[-1][0]].undo) and undo not in [name for name, _ in found]:
            found.append((undo, self.then))
        if self.dead:
            return [("agent-kill", 0.5), *found, ("agent-start", 0.0)], len(found) + 1
        return found, min(1, len(found) - 1)


def chosen(cases: Sequence[Case]) -> list[Case]:
    """The cases that are to be walked."""
    wanted = set(filter(None, os.environ.get(CASES, "").split(",")))
    return [case for case in cases if not wanted or case.fault in wanted]


@dataclass(frozen=True)
class Row:
    """What was seen. Times in seconds."""

    cell: str
    fault: str
    sent: int
    lost: int
    plaintext: int
    examples: tuple[str, ...]
    recovery: float | None
    """From the end of the fault to the last lost packet; None: it never recovered."""
    sealed: float | None
    """From the end of the fault until every agent says so again."""
    resets: int
    keys: str
    """"kept", "changed" or "lost: …"."""
    took: float
    problem: str = ""
    """What is wrong with it, by the rules of its cell; empty: nothing."""


class Walk:
    """One lab that is walked. A context manager. `strict`: how long a recovery takes is judged."""

    def __init__(self, cell: Cell, policy: Mapping[str, Any] | None = None, *, strict: bool = True) -> None:
        self.cell = cell
        self.strict = strict
        self._policy = {**NO_VERIFY, **(policy or {})}
        self.name = f"m{os.getpid()}x{next(_serial)}"
        self.rows: list[Row] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            state.claim(self.name)
            stack.callback(state.forget, self.name)
            families = tuple(self.cell.families)
            spec = LabSpec(self.name, 3, self.cell.scope, self.cell.stage, families, cni="host-gw")
            backend = Backend.USERSPACE if self.cell.driver == "userspace" else Backend.KERNEL
            self.lab = Lab.build(spec, backend)
            stack.callback(self.lab.down)
            self._set_policy()
            for module in (stages, status):
                stack.enter_context(mock.patch.object(module, "STILL", STILL))
            self.lab.start_all()
            self.lab.wait(self.lab.ready, "every link sealed", START)
            self.flows = stack.enter_context(Flows(self._ways()))
            self._targets = [(self.lab.cluster[0].pods[1], self.lab.cluster[1].pods[1])]
            for _, target in self._targets:
                for address in filter(None, (target.address4, target.address6)):
                    stack.enter_context(echo_server(target, address))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _set_policy(self) -> None:
        """What a lab has no option for."""
        path = self.lab.folder / "inventory.yaml"
        inventory = json.loads(path.read_text())
        path.write_text(json.dumps({**inventory, "spec": {**inventory["spec"], **self._policy}}))

    def _ways(self) -> list[Way]:
        a, b, c = self.lab.cluster
        pairs = [("a>b", a.pods[0], b.pods[0]), ("b>a", b.pods[0], a.pods[0]), ("c>a", c.pods[0], a.pods[0])]
        ways = []
        for family in self.cell.families:
            ways += [Way(f"{name} pods v{family}", s, t, str(_address(t, family))) for name, s, t in pairs]
            if self.cell.scope == "transparent":
                ways.append(Way(f"a>b nodes v{family}", a, b, str(_address(b, family))))
        return ways

    # --- one case -------------------------------------------------------------------------------------------------

    def run(self, case: Case, number: int = 0) -> Row:
        """Walk one case on a node; what was seen is also added to `rows` and printed."""
        node = self.lab.cluster[number]
        try:
            self.lab.wait(
                lambda: self._settled() and self._one_key(), "a lab that is whole, with one generation a node", PATIENCE
            )
        except HostError as error:
            raise HostError(f"before {case}: {self._state()}: {error}") from error
        began, keys = time.monotonic(), self._keys()
        sealed: float | None = None
        with self.lab.cluster.capture() as wire, self._connections() as connections:
            try:
                ended = self._break(case, node)
                sealed = self._wait(ended)
                failed = ""
            except (HostError, LinksealError) as error:
                ended, failed = time.monotonic(), f"{str(error).splitlines()[0]} {self._state()}"
        now = time.monotonic()
        lost = self.flows.lost(began, now - QUIET / 2)
        plaintext = wire.plaintext()
        row = Row(
            cell=str(self.cell),
            fault=str(case),
            sent=self.flows.sent(began, now),
            lost=sum(map(len, lost.values())),
            plaintext=len(plaintext),
            examples=tuple(sorted({re.sub(r"\d+ > \d+, ", "", text) for text in plaintext}))[:4],
            recovery=None if failed else max([0.0, *(at - ended for times in lost.values() for at in times)]),
            sealed=sealed,
            resets=sum(seen.reset for seen in connections),
            keys=_compare(keys, self._keys()),
            took=now - began,
            problem=failed,
        )
        row = self._judged(row, case)
        self.rows.append(row)
        _leave(row)
        print(_line(row), flush=True)
        return row

    def _break(self, case: Case, node: Node) -> float:
        """Carry the case out; returns when its fault ended, on the steady clock."""
        ended = 0.0
        steps, last = case.steps()
        for at, (name, pause) in enumerate(steps):
            FAULTS[name].act(self.lab, node)
            if at <= last:
                ended = time.monotonic()
            time.sleep(pause)
        return ended

    def _wait(self, ended: float) -> float:
        """Wait until traffic flows and all is sealed again; returns the seconds until the agents said so."""
        self.lab.wait(lambda: time.monotonic() - ended >= WATCHED and self.flows.quiet(QUIET), "traffic", PATIENCE)
        self.lab.wait(self._settled, "everything sealed", PATIENCE)
        return time.monotonic() - ended

    def _settled(self) -> bool:
        nodes = self.lab.seen().status.nodes
        live = [[g.state for g in node.status.generations] == ["live"] for node in nodes if node.status]
        return self.lab.ready() and all(live) and self.flows.quiet(QUIET)

    def _state(self) -> str:
        """What keeps the lab from being whole, as its nodes report it."""
        found = []
        for node in self.lab.seen().status.nodes:
            status = node.status
            if status is not None:
                generations = [f"{g.number} {g.state}" for g in status.generations]
                unsealed = [f"{one.name} {one.state.value} {one.code}" for one in status.unsealed]
                codes = [f"{one.code} {one.subject} {one.message[:80]}" for one in status.findings]
                age = f"{time.time() - status.observed_at:.0f} s ago"
                found.append(f"{node.name} {age}: {generations} {unsealed} {codes} {status.policy}")
        keys = [str(path.name) for node in self.lab.cluster for path in (self.lab.state(node) / "keys").glob("gen-*")]
        return f"{found} keys {keys} quiet {self.flows.quiet(QUIET)} ready {self.lab.ready()}"

    def _one_key(self) -> bool:
        """Whether every node has the key of one generation, on its disk and in its devices.

        A report may be older than a rotation that has begun, and the devices of a retired generation go after its key.
        """
        folders = [self.lab.state(node) / "keys" for node in self.lab.cluster]
        if any(len(list(folder.glob("gen-*.key"))) != 1 for folder in folders):
            return False
        return all(len({value for name, value in keys.items() if name in SLOTS}) == 1 for keys in self._keys().values())

    @contextlib.contextmanager
    def _connections(self) -> Iterator[list[Any]]:
        with contextlib.ExitStack() as stack:
            probes = [
                stack.enter_context(
                    tcp_probe(source, str(_address(target, family)), 8080, connections=CONNECTIONS, interval=0.5)
                )
                for source, target in self._targets
                for family in self.cell.families
            ]
            yield probes

    def _keys(self) -> dict[str, dict[str, str]]:
        """Every key of every node, on its disk and in its devices: name → what tells it from others."""
        found: dict[str, dict[str, str]] = {}
        for node in self.lab.cluster:
            folder = self.lab.state(node) / "keys"
            lines = node.run(f"cd {folder} && sha256sum *.key; wg show all public-key | grep lsl[01][01]", check=False)
            pairs = [line.split() for line in lines.splitlines()]
            found[node.name] = {
                pair[1] if pair[1].endswith(".key") else pair[0]: pair[0] if pair[1].endswith(".key") else pair[1]
                for pair in pairs
                if len(pair) == 2
            }
        return found

    def _slowness(self, row: Row) -> float:
        """How many times longer things may take here: a lab kernel's, and that of a machine that sends too few."""
        wanted = row.took * RATE * len(self.flows.ways)
        return (SLOW_KERNEL if in_lab_kernel() else 1.0) * max(1.0, wanted / max(row.sent, 1))

    def _judged(self, row: Row, case: Case) -> Row:
        """The row with what is wrong with it. In the control plaintext is what is wanted."""
        problems = [row.problem] if row.problem else []
        if self.cell.stage == "enforce" and row.plaintext:
            problems.append(f"{row.plaintext} packets in clear: {'; '.join(row.examples)}")
        if self.strict and row.recovery is not None and row.recovery > (limit := case.recovery * self._slowness(row)):
            problems.append(f"recovered after {row.recovery:.1f} s, not {limit:.0f}")
        if row.resets:
            problems.append(f"{row.resets} connections reset")
        if row.keys != "kept" and not case.keys:
            problems.append(f"keys {row.keys}")
        return Row(**{**asdict(row), "problem": ", ".join(problems)})


def _address(space: Any, family: str) -> str | None:
    found: str | None = space.address4 if family == "4" else space.address6
    return found


def _compare(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> str:
    gone = [
        f"{node} {name}"
        for node, keys in before.items()
        for name, value in keys.items()
        if name.endswith(".key") and after[node].get(name) != value
    ]
    if gone:
        return f"lost: {', '.join(gone)}"
    return "kept" if before == after else "changed"


# --- the table --------------------------------------------------------------------------------------------------------

HEADER = (
    f"{'FAULT':<24} {'CELL':<32} {'SENT':>6} {'LOST':>6} {'PLAINTEXT':>9} {'RECOVERY':>8} {'SEALED':>7}"
    f" {'RESETS':>6} {'KEYS':<8} VERDICT"
)


def _line(row: Row) -> str:
    recovery = "never" if row.recovery is None else f"{row.recovery:.1f} s"
    sealed = "-" if row.sealed is None else f"{row.sealed:.1f} s"
    return (
        f"{row.fault:<24} {row.cell:<32} {row.sent:>6} {row.lost:>6} {row.plaintext:>9} {recovery:>8} {sealed:>7}"
        f" {row.resets:>6} {row.keys.split(':')[0]:<8} {row.problem or 'good'}"
    )


def table(rows: Sequence[Row]) -> str:
    """All rows, a line each, under a header; by fault, then by cell."""
    order = {name: at for at, name in enumerate(FAULTS)}
    lines = [_line(row) for row in sorted(rows, key=lambda row: (order[row.fault.split(",")[0]], row.fault, row.cell))]
    return "\n".join([HEADER, *lines])


def _leave(row: Row) -> None:
    if folder := os.environ.get(ROWS):
        with (Path(folder) / f"{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def rows_in(folder: Path) -> list[Row]:
    """What walks left in a folder."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [Row(**{**fields, "examples": tuple(fields["examples"])}) for fields in map(json.loads, lines)]

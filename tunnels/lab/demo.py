"""The demonstration: plaintext on the wire first, then the stages up to enforce, a fault, and the proof.

Every step makes a claim and shows what was seen; the demo is good only if each claim held.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from linkseal.keys.errors import LinksealError
from linkseal.tunnels.cli import linksview, statusview
from linkseal.tunnels.cli.output import Paint, Tone, clean, plural, size
from linkseal.tunnels.cli.svg import svg
from linkseal.tunnels.codes import DRIFT_HEALED
from linkseal.tunnels.lab.capture import Capture
from linkseal.tunnels.lab.cluster import Pod
from linkseal.tunnels.lab.demostage import Stage
from linkseal.tunnels.lab.demowalk import WalkUp
from linkseal.tunnels.lab.faults import break_it
from linkseal.tunnels.lab.lab import Lab
from linkseal.tunnels.lab.loss import loss_probe
from linkseal.tunnels.lab.transfer import MARKER, copy, hexdump, lines_of_text, say

SENTENCE: Final = b"The launch code is 0000, tell nobody."

FILE_BYTES: Final = 8 << 20

PACKETS_PER_SECOND: Final = 200

AROUND: Final = 0.5
"""Seconds of traffic before a generation is raised and after the old one is retired, and around a fault."""

ENFORCE_PATIENCE: Final = 60.0
"""Seconds beyond a lab's patience until the walk must have ended: half of them pass without plaintext."""

_NAMES: Final = {"wireguard": "WireGuard", "arp": "ARP", "nd": "ND", "mld": "MLD", "pmtu": "path MTU errors"}
"""Kinds of frames, for a reader."""


class Demo:
    """The steps, on a lab that is built and has no agents yet."""

    def __init__(self, lab: Lab, stage: Stage, out: Path) -> None:
        self._lab = lab
        self._stage = stage
        self._out = out
        first, second = lab.cluster[0], lab.cluster[1]
        self._from, self._to = first.pods[0], second.pods[0]
        self._names = f"{first.name}.p1", f"{second.name}.p1"

    def run(self) -> None:
        """Show everything. A step that cannot be done is a claim that did not hold, and ends the demo."""
        try:
            self._plaintext()
            with self._start() as walk:
                self._file()
                self._rotation()
                self._enforce(walk)
            self._fault()
            self._proof()
            self._picture()
        except LinksealError as error:
            for line in str(error).splitlines():
                self._stage.line(clean(line), Tone.BAD)
            self._stage.claim("every step could be done", held=False)

    def _plaintext(self) -> None:
        """The negative control of all that follows: the same capture sees the sentence while nothing is encrypted."""
        source, target = self._names
        with self._stage.step(f"Without Linkseal: {source} says something to {target}; the bridge is captured"):
            with self._lab.cluster.capture() as wire:
                arrived = say(self._from, self._to, _address(self._to), SENTENCE)
            told = [frame for frame in wire.frames if SENTENCE in frame.data]
            for frame in told[:1]:
                self._stage.line(frame.text)
                for row in hexdump(frame.data, SENTENCE):
                    self._stage.line(f"  {row}", Tone.WARN)
            self._stage.claim("the capture reads the sentence on the wire", bool(told) and arrived, self._kinds(wire))

    def _start(self) -> WalkUp:
        """Agents start, and `enable` walks; what follows happens while the controller looks on for plaintext."""
        lab, stage = self._lab, self._stage
        with stage.step(f"{lab.title}; then enable, in stages"):
            lab.start_all()
            stage.views(lab.views("started"))
            walk = WalkUp(lab)
            stage.line("$ linkseal enable --to enforce --yes", Tone.DIM)
            try:
                seconds = lab.wait(lambda: walk.checked() and statusview.verdict(lab.seen()).good, "everything sealed")
            except BaseException:
                walk.close()
                raise
            self._show(walk)
            stage.claim(f"stage prefer: every link is sealed at both ends {seconds:.1f} s later", held=True)
            stage.line("$ linkseal links", Tone.DIM)
            stage.block(linksview.table(lab.seen(), stage.paint))
        return walk

    def _show(self, walk: WalkUp) -> None:
        for line in walk.news():
            self._stage.line(line)

    def _file(self) -> None:
        """A file of lines that could not be missed, while the bridge is captured."""
        stage, (source, target) = self._stage, self._names
        data = lines_of_text(FILE_BYTES)
        with stage.step(f"A file of {size(FILE_BYTES)} goes from {source} to {target}; the bridge is captured again"):
            with self._lab.cluster.capture() as wire:
                say(self._from, self._to, _address(self._to), SENTENCE)
                done = copy(self._from, self._to, _address(self._to), data)
            read = sum(MARKER in frame.data or SENTENCE in frame.data for frame in wire.frames)
            plain, sealed = self._lab.stray(wire), wire.count("wireguard")
            stage.line(f"seen on the wire: {self._kinds(wire)}")
            stage.claim(f"the file arrived whole in {done.seconds:.1f} s (SHA-256 equal)", done.whole, size(done.size))
            stage.claim("its text was found on the wire 0 times", read == 0, plural(read, "frame"))
            stage.claim(f"{sealed} WireGuard packets carried it", sealed * 1500 > FILE_BYTES)
            what = f"nothing but WireGuard and {self._lab.may_cross} crossed"
            stage.claim(what, not plain, "; ".join(plain[:3]))

    def _rotation(self) -> None:
        """New keys on a node while numbered packets flow both ways."""
        lab, stage, node = self._lab, self._stage, self._lab.cluster[0]
        with stage.step(f"{node.name} changes its keys while {PACKETS_PER_SECOND} packets/s flow each way"):
            with (
                loss_probe(self._from, self._to, _address(self._to), pps=PACKETS_PER_SECOND) as there,
                loss_probe(self._to, self._from, _address(self._from), pps=PACKETS_PER_SECOND) as back,
            ):
                time.sleep(AROUND)
                number = lab.ask(node, "rotate")["generation"]
                seconds = lab.wait(lambda: self._alone(number), f"generation {number} alone in use")
                time.sleep(AROUND)
            stage.line(f"generation {number} made, proven, in use, and the old one retired in {seconds:.1f} s")
            lost = len(there.lost) + len(back.lost)
            stage.claim(f"0 of {there.sent + back.sent} packets were lost", lost == 0, f"{there}; {back}")

    def _alone(self, number: int) -> bool:
        """Whether every link of the first node is sealed with that generation, and no other is live."""
        seen = self._lab.seen()
        reports = {summary.name: summary.status for summary in seen.status.nodes}
        own = reports.get(self._lab.cluster[0].name)
        return own is not None and [g.number for g in own.generations] == [number] and statusview.verdict(seen).good

    def _enforce(self, walk: WalkUp) -> None:
        """The walk's last step: half a minute without plaintext has passed meanwhile, or is waited for."""
        lab, stage = self._lab, self._stage
        with stage.step(
            "Stage enforce, once no plaintext was seen for half a minute: what is not encrypted is dropped"
        ):
            lab.wait(walk.ended, "the end of the walk", ENFORCE_PATIENCE + lab.patience)
            self._show(walk)
            stage.claim("the cluster is at stage enforce", walk.good)
            stage.views(lab.views("enforced"))
            stage.line("$ linkseal status", Tone.DIM)
            stage.block(statusview.text(lab.seen(), stage.paint))

    def _fault(self) -> None:
        """Somebody takes away what leads into the tunnel, twice, while a pod goes on sending."""
        lab, stage, node = self._lab, self._stage, self._lab.cluster[0]
        with stage.step(f"Somebody breaks {node.name} while {PACKETS_PER_SECOND} packets/s leave it"):
            with (
                lab.cluster.capture() as wire,
                loss_probe(self._from, self._to, _address(self._to), pps=PACKETS_PER_SECOND) as flow,
            ):
                for fault in ("rule", "table"):
                    done, _ = break_it(lab, fault, node)
                    stage.line(f"$ linkseal lab break {fault}: {done}", Tone.DIM)
                    time.sleep(AROUND)
                seconds = lab.wait(self._healed, "told as healed, and everything sealed again")
                time.sleep(AROUND)
            plain = lab.stray(wire)
            stage.line(
                f"{len(flow.lost)} of {flow.sent} packets were dropped meanwhile; seen on the wire: {self._kinds(wire)}"
            )
            stage.claim("none of them crossed in plaintext", not plain, "; ".join(plain[:3]))
            stage.claim(f"the agent put it back and said so, and all is sealed again {seconds:.1f} s later", held=True)

    def _healed(self) -> bool:
        """Whether the first node reports that it has put something back, and all is sealed."""
        seen = self._lab.seen()
        reports = {summary.name: summary.status for summary in seen.status.nodes}
        own = reports.get(self._lab.cluster[0].name)
        told = own is not None and any(finding.code == DRIFT_HEALED for finding in own.findings)
        return told and statusview.verdict(seen).good

    def _proof(self) -> None:
        """`linkseal verify` on every pair."""
        from linkseal.tunnels.cli.main import main  # noqa: PLC0415 - it knows the lab's commands, which know this file

        stage = self._stage
        with stage.step("The proof: a canary through every tunnel, both ends capturing, and one in clear as a control"):
            stage.line("$ linkseal verify", Tone.DIM)
            shown, told = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(told), self._lab.reaching():
                code = main(["verify", *self._lab.words(), "--timeout", f"{self._lab.patience:.0f}s"])
            stage.block(shown.getvalue())
            stage.claim("every pair is proven", code == 0, told.getvalue().strip()[-200:])

    def _picture(self) -> None:
        """`links` as a picture and as text."""
        with self._stage.step("A picture of it"):
            seen = self._lab.seen()
            self._out.mkdir(parents=True, exist_ok=True)
            pictures = {
                "mesh.svg": svg(linksview.graph(seen)),
                "mesh.txt": f"{statusview.text(seen, Paint())}\n\n{linksview.table(seen, Paint(), wide=True)}",
            }
            for name, text in pictures.items():
                (self._out / name).write_text(f"{text}\n", encoding="utf-8")
            self._stage.line(f"{self._out}/mesh.svg and mesh.txt (`linkseal links -o svg`, `linkseal status`)")

    def _kinds(self, wire: Capture) -> str:
        counts = Counter(map(self._lab.kind, wire.frames))
        return ", ".join(f"{count} {_NAMES.get(kind, kind)}" for kind, count in counts.most_common()) or "nothing"


def farewell(lab: Lab, stage: Stage) -> None:
    """Take the lab down and say whether anything is left of it."""
    with stage.step("Everything is taken down"):
        left = lab.down()
        stage.claim("no process, namespace or file of the lab is left", not left, ", ".join(left))


def introduction(lab: Lab) -> Sequence[str]:
    """What was built, for whoever reads."""
    nodes = ", ".join(node.name for node in lab.cluster)
    families = " and ".join(f"IPv{family}" for family in lab.record.spec.families)
    more = ["a Kubernetes control plane is on the wire too, and a stand-in for a kubelet on each node"]
    return (
        f"{nodes} on one bridge, two pods each, {families}; scope {lab.record.spec.scope}",
        "pods of different nodes reach each other by plain routes, as a CNI in host-gw mode leaves them",
        *(more if lab.record.spec.kubernetes else ()),
    )


def prepare_out(out: Path) -> None:
    """Clear what an earlier demo wrote, so that what is there is this one's."""
    for name in ("mesh.svg", "mesh.txt"):
        (out / name).unlink(missing_ok=True)


def _address(pod: Pod) -> str:
    return str(pod.address4 or pod.address6)

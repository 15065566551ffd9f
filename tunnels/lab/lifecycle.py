"""What the `linkseal lab` commands do. A lab in a lab kernel is worked by the same commands, run inside it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.cli import statusview
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.load import Seen
from linkseal.tunnels.cli.output import Cell, Paint, Tone, emit, note, plural, structured
from linkseal.tunnels.lab import backend as backends
from linkseal.tunnels.lab import faults, kernel, namespaces, state
from linkseal.tunnels.lab.backend import Backend, Choice
from linkseal.tunnels.lab.demo import Demo, farewell, introduction, prepare_out
from linkseal.tunnels.lab.demostage import Stage
from linkseal.tunnels.lab.execute import command_in
from linkseal.tunnels.lab.lab import CONTROLLER, Lab, kind_of
from linkseal.tunnels.lab.state import LabRecord, LabSpec
from linkseal.tunnels.lab.uml import LabKernel

DEMO: Final = "demo"

_IPV6: Final = Path("/proc/sys/net/ipv6")


# --- up and down ----------------------------------------------------------------------------------------------------


def up(spec: LabSpec, wish: str) -> int:
    """Start a lab and leave it running. Exit code 4 if it is up but did not get as far as its stage says."""
    backends.require_host()
    kind_of(spec).check(spec)  # what is wrong with it is said before anything is made
    with _claimed(spec.name), _interruptible():
        choice, lab_kernel = _settle(wish, spec)
        if lab_kernel is None:
            return _up_here(spec, choice.backend)
        with _recorded(LabRecord(spec, Backend.LAB, str(lab_kernel.folder))):
            code = kernel.forward(lab_kernel, ["up", *_arguments(spec)])
            if code not in (ExitCode.FINE, ExitCode.WAITED):
                raise HostError("the lab could not be started in the lab kernel: see above")
            return code


def _up_here(spec: LabSpec, backend: Backend) -> int:
    began = time.monotonic()
    lab = kind_of(spec).build(spec, backend)
    try:
        what = " and a Kubernetes control plane" if spec.kubernetes else ""
        note(f"built {plural(len(lab.cluster), 'node')} on one bridge{what} in {time.monotonic() - began:.1f} s")
        lab.start_all()
    except BaseException:
        lab.down()
        raise
    goal = {"off": "every agent reports", "prepare": "every link is proven"}.get(spec.stage, "every link is sealed")
    try:
        note(f"{goal} after {lab.wait(lab.ready, goal):.1f} s")
    except HostError as error:
        note(f"{error}\nThe lab stays up: see `linkseal lab status`, end it with `linkseal lab down`.")
        return ExitCode.WAITED
    suffix = "" if spec.name == state.DEFAULT_NAME else f" --name {spec.name}"
    first = "kubectl -n linkseal get pods -o wide" if spec.kubernetes else "linkseal status"
    note(
        f"Next: linkseal lab exec{suffix} n1 -- {first}\n"
        f"      linkseal lab exec{suffix} n1.p1 -- ping -c1 {lab.cluster[1].pods[0].address4 or 'ADDRESS'}\n"
        f"      linkseal lab break{suffix} --list\n"
        f"      linkseal lab down{suffix}"
    )
    return ExitCode.FINE


def down(name: str) -> int:
    """End a lab and remove everything of it."""
    backends.require_host()
    try:
        record = state.load(name)
    except HostError:
        if not state.folder_of(name).is_dir():
            raise
        namespaces.remove([path.name for path in namespaces.NETNS_FOLDER.glob(f"ls-{name}-*")])
        state.forget(name)
        note(f"cleared what was left of the lab {name}")
        return ExitCode.FINE
    if record.kernel is not None:
        kernel.clear(record)
        left: list[str] = []
    else:
        left = _found(record).down()
    if left:
        raise HostError(f"not everything could be ended: {', '.join(left)}")
    note(f"the lab {name} is gone")
    return ExitCode.FINE


def _arguments(spec: LabSpec) -> list[str]:
    """Return the options of `lab up` that say what `spec` says."""
    values = {"name": spec.name, "nodes": spec.nodes, "scope": spec.scope, "stage": spec.stage, "cni": spec.cni}
    options = [word for option, value in values.items() for word in (f"--{option}", str(value))]
    return [*options, "--families", ",".join(spec.families), *(["--kubernetes"] if spec.kubernetes else [])]


def _found(record: LabRecord) -> Lab:
    return kind_of(record.spec).find(record)


def _settle(wish: str, spec: LabSpec) -> tuple[Choice, LabKernel | None]:
    """Choose a backend, say which and why, and boot the lab kernel if it is that."""
    if os.environ.get(kernel.INSIDE):
        return Choice(Backend.LAB, "inside"), None
    facts = backends.look()
    choice = backends.choose(wish, facts)
    lab_kernel: LabKernel | None = None
    if choice.backend is Backend.LAB:
        try:
            lab_kernel = kernel.boot(kernel.KUBERNETES_MEMORY if spec.kubernetes else kernel.MEMORY)
        except HostError as error:
            if wish != "auto":
                raise
            note(f"the lab kernel does not boot here: {str(error).splitlines()[0]}")
            choice = backends.choose(wish, backends.without_lab_kernel(facts))
    note(f"backend {choice.backend}: {choice.why}")
    return choice, lab_kernel


@contextlib.contextmanager
def _claimed(name: str) -> Iterator[None]:
    """Have the lab's folder; it goes again if the block fails."""
    state.claim(name)
    try:
        yield
    except BaseException:
        state.forget(name)
        raise


@contextlib.contextmanager
def _recorded(record: LabRecord) -> Iterator[None]:
    """Write down where a lab kernel is; it is ended if the block fails."""
    try:
        record.save()
        yield
    except BaseException:
        kernel.clear(record)
        raise


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: what was started is ended."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- a lab that is up -----------------------------------------------------------------------------------------------


def execute(name: str, place: str, words: Sequence[str]) -> int:
    """Become the program `words`, run in a place of the lab; in a lab kernel, return its exit code."""
    backends.require_host()
    record = state.load(name)
    command = command_in(record, place, words, Path.cwd())
    if record.kernel is not None:
        return kernel.run(kernel.kernel_of(record), command)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(command[0], command)  # noqa: S606 - the shell line is ours, what the user gave are its arguments
    raise AssertionError  # execvp does not return


def list_faults() -> int:
    """Print what can be broken."""
    emit("\n".join(Paint().table(["FAULT", "WHAT IT DOES"], [[n, f.summary] for n, f in faults.FAULTS.items()])))
    return ExitCode.FINE


def break_it(name: str, fault: str, node: str) -> int:
    """Carry out a fault."""
    backends.require_host()
    record = state.load(name)
    if fault not in faults.FAULTS:
        raise ConfigError(f"there is no fault {fault!r}; `linkseal lab break --list` shows them")
    if record.kernel is not None:
        return kernel.forward(kernel.kernel_of(record), ["break", "--name", name, fault, node])
    lab = _found(record)
    done, watch = faults.break_it(lab, fault, lab.node(node))
    emit(done)
    note(f"watch: {watch}")
    return ExitCode.FINE


def status(name: str, output: str, paint: Paint) -> int:
    """Print what a lab is and whether it is sealed."""
    backends.require_host()
    record = state.load(name)
    if record.kernel is not None:
        arguments = ["status", "--name", name, "-o", output]
        return kernel.forward(kernel.kernel_of(record), arguments, colour=paint.colour)
    lab = _found(record)
    seen = lab.seen()
    emit(structured(_as_object(lab, seen), output) if output != "table" else _as_text(lab, seen, paint))
    running = all(lab.running(process) for process in (CONTROLLER, *(node.name for node in lab.cluster)))
    return ExitCode.FINE if running and statusview.verdict(seen).good else ExitCode.FOUND


def _as_object(lab: Lab, seen: Seen) -> dict[str, Any]:
    spec = lab.record.spec
    return {
        "apiVersion": "linkseal.io/v1alpha1",
        "kind": "Lab",
        "metadata": {"name": spec.name},
        "backend": str(lab.record.backend),
        "scope": spec.scope,
        "stage": spec.stage,
        "cni": spec.cni,
        "families": list(spec.families),
        "kubernetes": spec.kubernetes,
        "directory": lab.words()[-1],
        "everythingSealed": statusview.verdict(seen).good,
        "controller": _process(lab, CONTROLLER),
        "nodes": [
            {
                "name": node.name,
                "agent": _process(lab, node.name),
                "addresses": node.addresses,
                "pods": {
                    f"p{number}": [address for address in (pod.address4, pod.address6) if address]
                    for number, pod in enumerate(node.pods, 1)
                },
            }
            for node in lab.cluster
        ],
    }


def _process(lab: Lab, process: str) -> dict[str, Any]:
    known = lab.record.processes.get(process)
    return {"running": lab.running(process), "pid": known.pid if known is not None else None}


def _as_text(lab: Lab, seen: Seen, paint: Paint) -> str:
    spec, verdict = lab.record.spec, statusview.verdict(seen)
    rows: list[list[str | Cell]] = []
    for node in lab.cluster:
        runs = lab.running(node.name)
        pods = ", ".join(str(pod.address4 or pod.address6) for pod in node.pods)
        agent = Cell("running" if runs else "stopped", Tone.GOOD if runs else Tone.BAD)
        rows.append([node.name, agent, ", ".join(node.addresses), pods])
    controller = "running" if lab.running(CONTROLLER) else "stopped"
    kubernetes = ", Kubernetes" if spec.kubernetes else ""
    what = f"backend {lab.record.backend}{kubernetes}, scope {spec.scope}, stage {spec.stage}, cni {spec.cni}"
    return "\n".join(
        [
            f"lab {spec.name}: {what}; controller {controller}",
            paint(verdict.text, Tone.GOOD if verdict.good else Tone.BAD),
            "",
            *paint.table(["NODE", "AGENT", "ADDRESSES", "PODS"], rows),
        ]
    )


# --- demo -----------------------------------------------------------------------------------------------------------


def demo(wish: str, scope: str, out: Path, *, keep: bool, colour: bool, kubernetes: bool = False) -> int:
    """Show the main job; exit code 0 only if every claim held."""
    backends.require_host()
    began = time.monotonic()
    families = ("4", "6") if _IPV6.is_dir() else ("4",)
    spec = LabSpec(
        DEMO if keep else f"{DEMO}-{os.getpid()}", scope=scope, stage="off", families=families, cni="host-gw",
        kubernetes=kubernetes,
    )  # fmt: skip
    kind_of(spec).check(spec)
    prepare_out(out)
    with _claimed(spec.name), _interruptible():
        choice, lab_kernel = _settle(wish, spec)
        if lab_kernel is None:
            paint = Paint(colour or bool(os.environ.get(kernel.COLOUR)))
            return _demo_here(spec, choice.backend, out, keep=keep, paint=paint, began=began)
        record = LabRecord(spec, Backend.LAB, str(lab_kernel.folder))
        with _recorded(record):
            arguments = ["demo", "--scope", scope, "--out", str(out), *(["--keep"] if keep else [])]
            arguments += ["--kubernetes"] if kubernetes else []
            code = kernel.forward(lab_kernel, arguments, colour=colour)
        if not keep:
            kernel.clear(record)
        return code


def _demo_here(spec: LabSpec, backend: Backend, out: Path, *, keep: bool, paint: Paint, began: float) -> int:
    stage = Stage(paint)
    lab: Lab | None = None
    try:
        with stage.step("Three nodes, two pods each"):
            lab = kind_of(spec).build(spec, backend)
            for line in introduction(lab):
                stage.line(line)
            stage.views(lab.views("built"))
        Demo(lab, stage, out).run()
    except BaseException:
        if lab is not None:
            lab.down()
        raise
    if keep:
        note(
            f"The lab stays up: linkseal lab exec --name {DEMO} n1 -- linkseal status; linkseal lab down --name {DEMO}"
        )
    else:
        farewell(lab, stage)
    return ExitCode.FINE if stage.verdict(time.monotonic() - began) else ExitCode.FOUND

"""`linkseal check`."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import click
from linkseal.keys.errors import ConfigError, DirectoryError, LinksealError
from linkseal.tunnels import codes
from linkseal.tunnels.checks import Result, checks, worst
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.load import look, policy_of
from linkseal.tunnels.cli.options import Command, output_option, pass_session
from linkseal.tunnels.cli.output import Paint, Tone, clean, emit, plural, structured
from linkseal.tunnels.cli.session import DEFAULT_CONFIG, Session
from linkseal.tunnels.controller.fitness import ClusterFacts, fitness, health
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.host.preflight import Subject, gather
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.settings import AgentSettings, KubeDirectorySettings

if TYPE_CHECKING:
    from linkseal.tunnels.directory.kubeapi import Access

_MARKS = {
    "ok": ("ok", Tone.GOOD),
    "info": ("info", Tone.DIM),
    "warning": ("WARN", Tone.WARN),
    "error": ("FAIL", Tone.BAD),
    "skipped": ("skip", Tone.DIM),
}


@click.command(
    cls=Command,
    uses=("directory", "config"),
    examples=(
        "linkseal check --pre                     # before anything is installed",
        "linkseal check --context prod            # the cluster, as its API server and its agents have it",
        "linkseal check --fail-on warning",
        "linkseal check -o junit > check.xml",
    ),
)
@click.option("--pre", is_flag=True, help="Prerequisites only: neither agent nor its file need to be there.")
@click.option("--host", is_flag=True, help="This host, though kubectl would find a cluster from here.")
@click.option(
    "--fail-on",
    type=click.Choice(["warning", "error"]),
    default="error",
    help="Exit code 1 from this severity on (default error).",
)
@output_option("table", "json", "junit")
@pass_session
def check(session: Session, pre: bool, host: bool, fail_on: str, output: str) -> int:  # noqa: FBT001 - click's flags
    """Check whether this host, or a cluster, is fit for Linkseal, with advice.

    With `--context`, `--kubeconfig` or `--namespace` the cluster is checked: its version, its CNI and the addresses of
    its pods, its nodes' systems, and without `--pre` what the agents report. So it is where kubectl would find a
    cluster and this host has no agent's file. Else, and with `--host`, this host is, as an agent would find it.

    Each check that is not fine has a code (`linkseal explain CODE`) and says what to do. Nothing is changed, with one
    exception: to find out whether this host's kernel has WireGuard, a device `lslt…` is made and removed at once.
    """
    access = None if host else session.from_afar()
    results = _of_host(session, pre=pre) if access is None else _of_cluster(session, access, pre=pre)
    if output == "table":
        emit(text(results, Paint(session.colour())))
    elif output == "json":
        emit(structured(as_object(results, pre=pre), output))
    else:
        emit(junit(results))
    limits = {"error"} if fail_on == "error" else {"error", "warning"}
    return ExitCode.FOUND if worst(results) in limits else ExitCode.FINE


def _of_host(session: Session, *, pre: bool) -> list[Result]:
    settings = None if pre and session.config is None and not DEFAULT_CONFIG.exists() else session.settings()
    view = _view(session, settings)
    return checks(gather(_subject(settings, view, pre=pre)), _policy(view), pre=pre)


def _of_cluster(session: Session, access: Access, *, pre: bool) -> list[Result]:
    from linkseal.tunnels.controller import clusterlook  # noqa: PLC0415 - needs what only linkseal[kubernetes] has

    facts, policy = asyncio.run(clusterlook.look(access, session.namespace or KubeDirectorySettings().namespace))
    found = fitness(facts, policy)
    if pre:
        return found
    try:
        return [*found, *health(look(session).status)]
    except (ConfigError, DirectoryError) as error:
        return [*found, _unread(facts, error)]


def _unread(facts: ClusterFacts, error: LinksealError) -> Result:
    """What health is where it cannot be read: not known, which is no pass, unless nothing is installed there."""
    absent = facts.provider is None and "controller" not in facts.unknown
    if absent and isinstance(error, DirectoryError) and error.status == HTTPStatus.NOT_FOUND:
        return Result("links", "sealed", "skipped", "not known: Linkseal is not installed there; --pre leaves this out")
    advice = "see to it that it can be read, or leave it out with --pre"
    return Result("links", "sealed", "error", f"not known: {error}", codes.DIRECTORY_UNREADABLE, advice)


def _view(session: Session, settings: AgentSettings | None) -> DirectoryView | DirectoryError | None:
    if session.directory is None and settings is None:
        return None
    node = settings.node if settings is not None else ""
    try:
        return session.with_directory(lambda directory: directory.view(node))
    except DirectoryError as error:
        return error


def _policy(view: DirectoryView | DirectoryError | None) -> Policy:
    """Return the cluster's policy where it can be had, else the defaults."""
    return policy_of(view) if isinstance(view, DirectoryView) else Policy()


def _subject(settings: AgentSettings | None, view: DirectoryView | DirectoryError | None, *, pre: bool) -> Subject:
    policy = _policy(view)
    if settings is None:
        return Subject(policy, state_directory=Path("/var/lib/linkseal"), view=view)
    return Subject(
        policy,
        node=settings.node,
        interface=settings.interface,
        state_directory=settings.state_directory,
        run_directory=None if pre else settings.run_directory,
        view=view,
    )


def text(results: list[Result], paint: Paint) -> str:
    """Return the checks by category, each that is not fine with its advice below it."""
    lines: list[str] = []
    width = max((len(result.name) for result in results), default=0)
    category = ""
    for result in results:
        if result.category != category:
            category = result.category
            lines += ["", paint(category, Tone.STRONG)]
        mark, tone = _MARKS[result.status]
        code = f"{result.code} " if result.code else ""
        lines.append(f"  {paint(f'{mark:4}', tone)}  {result.name:{width}}  {code}{clean(result.seen)}")
        if result.advice:
            lines.append(f"        {'':{width}}→ {clean(result.advice)}")
    return "\n".join([*lines[1:], "", _summary(results, paint)])


def _summary(results: list[Result], paint: Paint) -> str:
    counts = {status: sum(result.status == status for result in results) for status in _MARKS}
    severity = worst(results)
    facts = (
        f"{plural(len(results), 'check')}, {plural(counts['error'], 'error')}, {plural(counts['warning'], 'warning')}"
    )
    skipped = f", {counts['skipped']} not known" if counts["skipped"] else ""
    tone = {"error": Tone.BAD, "warning": Tone.WARN}.get(severity or "", Tone.GOOD)
    return paint(facts + skipped, tone)


def as_object(results: list[Result], *, pre: bool) -> dict[str, Any]:
    """Return the CheckResult of `-o json`."""
    return {
        "apiVersion": "linkseal.io/v1alpha1",
        "kind": "CheckResult",
        "pre": pre,
        "worst": worst(results),
        "checks": [
            {
                "category": result.category,
                "name": result.name,
                "status": result.status,
                "code": result.code,
                "seen": result.seen,
                "advice": result.advice,
            }
            for result in results
        ],
    }


def junit(results: list[Result]) -> str:
    """Return the checks as JUnit XML: errors are failures; warnings pass, with their text in system-out."""
    failures = sum(result.status == "error" for result in results)
    skipped = sum(result.status == "skipped" for result in results)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name="linkseal check" tests="{len(results)}" failures="{failures}" skipped="{skipped}">',
        *(_case(result) for result in results),
        "</testsuite>",
    ]
    return "\n".join(lines)


def _case(result: Result) -> str:
    start = f"  <testcase classname={_attribute(result.category)} name={_attribute(result.name)}>"
    said = f"{result.code}: {result.seen}" if result.code else result.seen
    if result.advice:
        said += f" → {result.advice}"
    if result.status == "error":
        inner = f"<failure type={_attribute(result.code or '')} message={_attribute(said)}/>"
    elif result.status == "skipped":
        inner = f"<skipped message={_attribute(said)}/>"
    elif result.status in ("warning", "info"):
        inner = f"<system-out>{_attribute(said)[1:-1]}</system-out>"
    else:
        return start[:-1] + "/>"
    return f"{start}{inner}</testcase>"


def _attribute(text: str) -> str:
    return quoteattr(clean(text), {'"': "&quot;"})

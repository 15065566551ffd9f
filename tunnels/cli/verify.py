"""`linkseal verify`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from random import SystemRandom
from typing import Final

import click
from linkseal.keys.errors import ConfigError, DirectoryError
from linkseal.tunnels.cli.asking import Reports, answered
from linkseal.tunnels.cli.exits import ExitCode
from linkseal.tunnels.cli.load import Seen, look
from linkseal.tunnels.cli.options import Command, Duration, output_option, pass_session
from linkseal.tunnels.cli.output import Paint, age, emit, note, structured
from linkseal.tunnels.cli.session import Session
from linkseal.tunnels.cli.verifyview import Pair, Verified, as_object, gather, text
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.status import Request
from linkseal.tunnels.statusparts import MAX_VERIFIED


@click.command(
    cls=Command,
    uses=("directory", "config"),
    examples=(
        "linkseal verify                     # exit code 0 only if every pair is proven",
        "linkseal verify --pair n1,n2        # what n1 sends to n2",
        "linkseal verify --sample 10 --timeout 2m",
        "linkseal verify -o json | jq '.pairs[] | select(.result != \"proven\")'",
    ),
)
@click.option("--pair", metavar="FROM,TO", help="Only what FROM sends to TO.")
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="Only so many directed pairs, chosen at random."
)
@click.option(
    "--timeout", type=Duration(), default="5m", metavar="DURATION", help="How long to wait for the agents (default 5m)."
)
@output_option("table", "json", "yaml")
@pass_session
def verify(session: Session, pair: str | None, sample: int | None, timeout: float, output: str) -> int:
    """Prove it on the wire: canary, capture at both ends, positive control.

    For every directed pair of nodes the sender's agent sends random canaries to protected addresses of the other, by
    the way of real packets, while both capture their underlay. `proven`: the canaries arrived through the tunnel, none
    was seen in clear, and a control that was sent in clear on purpose was seen by both captures. `leaked`: one was seen
    in clear. `blind`: a capture did not see what it had to see, so nothing is proven. `unreachable`: the other end did
    not answer, or a canary did not arrive. The agents do the work; this command needs no access to nodes.
    """
    if pair is not None and sample is not None:
        raise click.UsageError("--pair and --sample exclude each other")
    seen = look(session)
    pool = seen.policy.pool
    if {seen.policy.stage, pool.stage if pool is not None else Stage.OFF} <= _PLAINTEXT:
        note(f"the cluster's stage is {seen.policy.stage.value}: traffic is plaintext, so there is nothing to prove")
        return ExitCode.FOUND
    pairs = _chosen(seen, pair, sample)
    silent = frozenset(s.name for s in seen.status.nodes if s.evidence != "fresh")
    asked = {source: targets for source, targets in _by_source(pairs).items() if source not in silent}
    if not asked:
        raise DirectoryError("no agent that would have to verify reports: see `linkseal status`")
    requests, found = _run(session, asked, timeout)
    answer = Verified(tuple(gather(pairs, requests, found, silent)), time.time())
    paint = Paint(session.colour())
    emit(structured(as_object(answer), output) if output != "table" else text(answer, paint))
    return _exit_code(answer)


_PLAINTEXT: Final = frozenset({Stage.OFF, Stage.PREPARE})


def _exit_code(answer: Verified) -> ExitCode:
    """Fine only if all is proven; a wait that ran out is told apart where nothing worse was found."""
    others = {pair.result for pair in answer.pairs} - {"proven"}
    if not others:
        return ExitCode.FINE
    return ExitCode.WAITED if others == {"unanswered"} else ExitCode.FOUND


def _chosen(seen: Seen, pair: str | None, sample: int | None) -> list[Pair]:
    """Return the directed pairs to verify. ConfigError: there is no such node, or there are none at all."""
    opted_out = {entry.node for entry in seen.status.not_covered if entry.reason == "opted out"}
    names = [summary.name for summary in seen.status.nodes if summary.name not in opted_out]
    if pair is not None:
        source, comma, target = pair.partition(",")
        if not comma or source == target:
            raise click.UsageError("--pair takes two nodes, such as --pair n1,n2")
        for name in (source, target):
            seen.require(name)
            if name in opted_out:
                raise ConfigError(f"{name} is opted out: its traffic is not encrypted, so there is nothing to prove")
        if not _encrypts(seen.policy, source, target):
            raise ConfigError(f"{source} and {target} are not both at stage prefer: there is nothing to prove")
        return [Pair(source, target)]
    pairs = [
        Pair(source, target)
        for source in names
        for target in names
        if source != target and _encrypts(seen.policy, source, target)
    ]
    if not pairs:
        raise ConfigError("there are no two nodes in scope, so there is no traffic to verify")
    return pairs if sample is None else sorted(SystemRandom().sample(pairs, min(sample, len(pairs))))


def _encrypts(policy: Policy, one: str, other: str) -> bool:
    """Whether two nodes are both as far as encryption: a pool and the others are not."""
    return _PLAINTEXT.isdisjoint({policy.stage_of(one), policy.stage_of(other)})


def _by_source(pairs: Sequence[Pair]) -> dict[str, tuple[str, ...]]:
    targets: dict[str, list[str]] = {}
    for pair in pairs:
        targets.setdefault(pair.source, []).append(pair.target)
    # More than a request can name is everybody: the agents' own list is then complete.
    return {source: tuple(names) if len(names) <= MAX_VERIFIED else () for source, names in targets.items()}


def _run(session: Session, asked: Mapping[str, tuple[str, ...]], timeout: float) -> tuple[dict[str, str], Reports]:
    """Ask the agents and wait for them; returns source → id of its request, and the reports."""
    now = time.time()
    requests = {
        source: Request(f"verify-{secrets.token_hex(6)}", "verify", now, targets) for source, targets in asked.items()
    }
    found, late = answered(session, requests, timeout, "verifying")
    if late:
        note(f"{age(timeout)} are over; wait longer with --timeout=DURATION")
    return {source: request.id for source, request in requests.items()}, found

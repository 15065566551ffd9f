"""What the ClusterEncryption object says beside the policy: how stages are walked, who is left out, the CA, `status`.

The policy itself, all else of `spec`, is in `linkseal.tunnels.policy`. The controller writes the status; nothing that
nodes act by is taken from it. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from linkseal.keys.values import NODE_PATTERN
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.policyspec import StageName
from linkseal.tunnels.stages import TIMEOUT, Position
from linkseal.tunnels.status import LinkCounts
from linkseal.tunnels.statustypes import EDGE, MAX_CONDITIONS, Count, Message, Name, Number, Short, SpecCondition, Time
from linkseal.tunnels.validation import Edge, duration
from pydantic import Field, TypeAdapter, field_validator, with_config

MAX_OPTED_OUT: Final = 1024
"""Each is a node whose traffic is plaintext by wish: more than these are no exceptions."""

MAX_OPT_OUT_LABELS: Final = 16

RESTRICTED_LABEL: Final = (
    r"^node-restriction\.kubernetes\.io/[A-Za-z0-9]([-A-Za-z0-9._]{0,61}[A-Za-z0-9])?=[-A-Za-z0-9._]{0,63}$"
)

MAX_BLOCKERS: Final = 50

MAX_POOL: Final = 1024
MAX_POOL_TEXT: Final = 48 * 1024
"""Characters of all names of a pool: they stand in the signed policy (`linkseal.keys.policydoc.MAX_POLICY`)."""

SHORTEST_STEP, LONGEST_STEP = 10, 24 * 3600
"""Seconds: a report alone may take ten."""


class PoolAimSpec(Edge):
    """Nodes that go before the others."""

    stage: StageName
    nodes: list[Annotated[str, Field(max_length=253, pattern=NODE_PATTERN)]] = Field(min_length=1, max_length=MAX_POOL)
    lower_to: StageName | None = None
    """The new stage once more, in the very update that takes the pool back; absent otherwise."""

    @field_validator("nodes")
    @classmethod
    def _nodes(cls, names: list[str]) -> list[str]:
        if sum(map(len, names)) > MAX_POOL_TEXT:
            raise ValueError(f"the names have more than {MAX_POOL_TEXT} characters together: let fewer nodes go first")
        return names


class WalkSpec(Edge):
    """How the controller walks: `spec.pool`; `spec.stepTimeout`, in seconds or as text (`5m`); `spec.askedAt`."""

    pool: PoolAimSpec | None = None
    step_timeout: int | str = int(TIMEOUT)
    asked_at: Annotated[str, Field(max_length=40)] | None = None

    @field_validator("step_timeout")
    @classmethod
    def _step_timeout(cls, value: int | str) -> int:
        seconds = duration(value)
        if not SHORTEST_STEP <= seconds <= LONGEST_STEP:
            raise ValueError(f"must be {SHORTEST_STEP} to {LONGEST_STEP} seconds")
        return seconds


class OptOutSpec(Edge):
    """Nodes that take no part: their traffic is plaintext, and peers let it pass."""

    nodes: list[Annotated[str, Field(max_length=253, pattern=NODE_PATTERN)]] = Field(
        default_factory=list, max_length=MAX_OPTED_OUT
    )
    labels: list[Annotated[str, Field(max_length=160, pattern=RESTRICTED_LABEL)]] = Field(
        default_factory=list, max_length=MAX_OPT_OUT_LABELS
    )
    """Nodes with any of these labels too: `node-restriction.kubernetes.io/NAME=VALUE`, which no kubelet may set."""


class CaSpec(Edge):
    """What is asked of the CA."""

    rotate: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9][-A-Za-z0-9._]*$")] | None = None
    """A date or whatever else: a new value replaces the CA once. Refused while a replacement is under way."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class CaStatus:
    """The CA, and where its replacement is. Fingerprints are SHA-256 of public keys."""

    phase: Literal["steady", "trusting", "signing"] = "steady"
    """trusting: agents learn of the next CA; signing: it signs, and what the old one signed is replaced."""
    fingerprint: Short = ""
    """Of the CA that signs."""
    not_after: Time | None = None
    """When its certificate ends."""
    next: Short | None = None
    """Of the one that is to sign."""
    old: Short | None = None
    """Of the one that signed before, while it still counts."""
    asked: Message = ""
    """What asked for the replacement that began last."""
    since: Time | None = None
    """When the phase began."""
    waiting: Annotated[tuple[Message, ...], Field(max_length=MAX_BLOCKERS)] = ()
    """What holds up the next phase."""
    problem: Message = ""
    """Why a replacement cannot begin or go on."""
    unsigned: Message = ""
    """Why nothing can be signed now; empty: it can."""
    made: bool = False
    """The controller made it, so `linkseal remove --objects` takes it; one that was brought is the operator's."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Nodes that are ahead of the others, and at what stage."""

    stage: Stage
    nodes: Annotated[tuple[Name, ...], Field(max_length=MAX_POOL)]


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """`status` of the ClusterEncryption object."""

    observed_generation: Number = 0
    """metadata.generation of the spec that was acted upon last."""
    policy_serial: Number = 0
    """Of the policy that was signed last."""
    stage: Stage = Stage.OFF
    """Where the cluster is; spec.stage says where it is to be."""
    position: Message = ""
    """The same in words: on the way where to, and what it waits for."""
    nodes: Count = 0
    """Nodes that take part."""
    links: LinkCounts = field(default_factory=LinkCounts)
    """Directed pairs of them by state."""
    blockers: Annotated[tuple[Message, ...], Field(max_length=MAX_BLOCKERS)] = ()
    """What holds up the next stage."""
    conditions: Annotated[tuple[SpecCondition, ...], Field(max_length=MAX_CONDITIONS)] = ()
    ca: CaStatus = field(default_factory=CaStatus)
    pool: PoolStatus | None = None
    """Nodes that have gone before the others; null: there are none."""

    @property
    def at(self) -> Position:
        """Where the cluster is."""
        pool = self.pool
        return Position(self.stage, None if pool is None else Pool(pool.stage, frozenset(pool.nodes)))


_STATUS: Final = TypeAdapter(ClusterStatus)


def status_object(status: ClusterStatus) -> dict[str, Any]:
    """Return it as the API server takes it."""
    value: dict[str, Any] = _STATUS.dump_python(status, mode="json", by_alias=True)
    return value


def status_schema() -> dict[str, Any]:
    """Return the JSON schema of `status`."""
    return _STATUS.json_schema(by_alias=True)

"""What a node reports of itself: the NodeEncryption object. Values, and their JSON; no I/O.

    {"apiVersion": "linkseal.io/v1alpha1", "kind": "NodeEncryption", "metadata": {"name": "n1"},
     "spec": {"requests": [{"id": "…", "type": "rotate", "requestedAt": "2026-11-02T10:00:00Z"}]},
     "status": {"observedAt": "2026-11-02T10:00:03Z", "stage": "prefer", …}}

Times are Unix seconds inside and RFC 3339 in UTC, whole seconds, in JSON. Others' reports are checked as they are read:
exact types for what we use, unknown fields ignored, everything bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, TypeVar

from linkseal.keys.cabundle import MAX_AUTHORITIES
from linkseal.keys.codes import MALFORMED, TOO_LARGE
from linkseal.keys.errors import PeerError
from linkseal.tunnels.findings import CATALOGUE, MAX_MESSAGE, MAX_SUBJECT, SEVERITY_ORDER, printable
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.statusparts import (
    MAX_VERIFIED,
    WORST_RESULT,
    AppliedStatus,
    BootStatus,
    FormerStatus,
    GuardStatus,
    PlanStatus,
    Verification,
    quiet,
)
from linkseal.tunnels.statustypes import (
    EDGE,
    MAX_CONDITIONS,
    Bytes,
    Code,
    Condition,
    Count,
    Message,
    Name,
    Number,
    Short,
    Subject,
    Time,
)
from pydantic import Field, TypeAdapter, ValidationError, WithJsonSchema, with_config

API_VERSION: Final = "linkseal.io/v1alpha1"
KIND: Final = "NodeEncryption"

STILL: Final = 30.0
"""Seconds without plaintext that stage enforce wants (DESIGN section 6)."""

MAX_REPORT: Final = 1024 * 1024
"""Bytes of one report as JSON: the largest we can write, with every text as long as it may be, is smaller."""
MAX_UNSEALED: Final = 50
MAX_PAIRS: Final = 200
MAX_FINDINGS: Final = 100
MAX_REQUESTS: Final = 32

WORST_FIRST: Final = (
    LinkState.REFUSED,
    LinkState.ABSENT,
    LinkState.STALE,
    LinkState.PENDING,
    LinkState.PROVEN,
    LinkState.SEALED,
)
"""States of a link, the worst first."""

_RANK: Final = {state: rank for rank, state in enumerate(WORST_FIRST)}


REQUESTS: Final = ("rotate", "abort", "verify", "remove", "plan")
"""What can be asked for. A node of another version may be asked for more, or answer more: that must not keep others
from reading all else of it."""

NOT_OFF: Final = "this node is not at stage off"
"""How the refusal to remove everything begins that is over once the policy has reached the node."""

_ASKED: Final = WithJsonSchema({"type": "string", "enum": list(REQUESTS)})

RequestState = Literal["accepted", "running", "done", "failed", "refused"]


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """One of the node's generations; `state` as in `linkseal.keys.generations`, `fingerprint` of its public key."""

    number: Number
    state: Short
    fingerprint: Short
    created_at: Time


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class LinkCounts:
    """The node's peers, counted by the state of the link that carries (or should carry) its traffic to them."""

    total: Count = 0
    sealed: Count = 0
    proven: Count = 0
    pending: Count = 0
    stale: Count = 0
    refused: Count = 0
    absent: Count = 0


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class UnsealedPeer:
    """A peer to which this node's traffic is not sealed, and the finding that says why."""

    name: Name
    state: LinkState
    code: Code | None = None


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class PairStatus:
    """One directed link: this node at generation `own` to `peer` at generation `remote`."""

    peer: Name
    own: Number
    remote: Number
    slot: Short
    state: LinkState
    since: Time
    last_handshake: Time | None = None
    last_proof: Time | None = None
    rx_bytes: Bytes = 0
    tx_bytes: Bytes = 0
    endpoint: Short | None = None
    path_mtu: Count | None = None
    """Bytes of the largest packet that crossed inside; None: not measured."""
    carries: bool = False
    """This node's traffic to the peer goes into it."""
    code: Code | None = None


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class FindingStatus:
    """A finding the node shows (catalogue: `linkseal.tunnels.findings`)."""

    code: Code
    subject: Subject
    message: Message
    since: Time


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class RequestStatus:
    """What became of a request."""

    type: Short
    state: RequestState
    message: Message = ""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class Request:
    """What an operator or the controller asks of a node's agent."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][-A-Za-z0-9._]{0,63}$")]
    type: Annotated[Short, _ASKED]
    requested_at: Time
    peers: Annotated[tuple[Name, ...], Field(max_length=MAX_VERIFIED)] = ()
    """Of `verify`: the peers to verify, in this order; none: all."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class NodeStatus:
    """`status` of a NodeEncryption object."""

    observed_at: Time
    stage: Stage
    scope: Scope
    protocol: Literal["wireguard", "ipsec"]
    driver: Short
    door: bool
    version: Short
    kernel: Short
    mtu: Count
    serial: Number
    """Of the last announcement the node signed."""
    announced_serial: Number
    """Of the last one it found published; lower than `serial`: not published yet."""
    generations: Annotated[tuple[GenerationStatus, ...], Field(max_length=4)] = ()
    links: LinkCounts = field(default_factory=LinkCounts)
    unsealed: Annotated[tuple[UnsealedPeer, ...], Field(max_length=MAX_UNSEALED)] = ()
    pairs: Annotated[tuple[PairStatus, ...], Field(max_length=MAX_PAIRS)] = ()
    findings: Annotated[tuple[FindingStatus, ...], Field(max_length=MAX_FINDINGS)] = ()
    requests: Annotated[Mapping[Short, RequestStatus], Field(max_length=MAX_REQUESTS)] = field(default_factory=dict)
    policy: AppliedStatus = field(default_factory=AppliedStatus)
    guard: GuardStatus = field(default_factory=GuardStatus)
    verified: Annotated[tuple[Verification, ...], Field(max_length=MAX_VERIFIED)] = ()
    trust: Annotated[tuple[Short, ...], Field(max_length=MAX_AUTHORITIES)] = ()
    """Fingerprints of the CAs it trusts: SHA-256 of their public keys."""
    boot: BootStatus = field(default_factory=BootStatus)
    conditions: Annotated[tuple[Condition, ...], Field(max_length=MAX_CONDITIONS)] = ()
    """The same in the words that Kubernetes has for it (`linkseal.tunnels.nodeconditions`)."""
    plan: PlanStatus | None = None
    """The answer to the request to plan that came last; it goes after ten minutes."""
    former: FormerStatus | None = None


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class Requests:
    """`spec` of a NodeEncryption object."""

    requests: Annotated[tuple[Request, ...], Field(max_length=MAX_REQUESTS)] = ()


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class Metadata:
    """What we use of an object's metadata."""

    name: Name


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class NodeEncryption:
    """The object. `status` None: its agent has not reported yet."""

    metadata: Metadata
    spec: Requests = field(default_factory=Requests)
    status: NodeStatus | None = None
    api_version: Literal["linkseal.io/v1alpha1"] = API_VERSION
    kind: Literal["NodeEncryption"] = KIND

    @property
    def name(self) -> str:
        """The node's name."""
        return self.metadata.name


def answer_to(report: NodeEncryption | None, request: str) -> RequestStatus | None:
    """Return what became of a request, None where the node has not said anything of it."""
    return None if report is None or report.status is None else report.status.requests.get(request)


_OBJECT: Final = TypeAdapter(NodeEncryption)
_SPEC: Final = TypeAdapter(Requests)

ValueT = TypeVar("ValueT")


def to_json(name: str, status: NodeStatus) -> str:
    """Return a node's report as JSON text: bounded, keys in the order of the classes above, one line."""
    value: dict[str, Any] = _OBJECT.dump_python(
        NodeEncryption(Metadata(name), status=bounded(status)), mode="json", by_alias=True, exclude={"spec"}
    )
    ordered = {key: value[key] for key in ("apiVersion", "kind", "metadata", "status")}
    return json.dumps(ordered, separators=(",", ":"), ensure_ascii=False) + "\n"


def parse_report(text: str | bytes, node: str) -> NodeEncryption:
    """Read what claims to be the report of `node`. Raises PeerError (TOO_LARGE, MALFORMED)."""
    parsed = _read(_OBJECT, text, node, "report")
    if parsed.name != node:
        raise PeerError(f"the report of {node} names {parsed.name}", code=MALFORMED, node=node, other=parsed.name)
    return parsed


def requests_json(requests: Iterable[Request]) -> str:
    """Return requests as the JSON text of `spec`."""
    value = _SPEC.dump_python(Requests(tuple(requests)), mode="json", by_alias=True)
    return json.dumps(value, separators=(",", ":")) + "\n"


def parse_requests(text: str | bytes, node: str) -> tuple[Request, ...]:
    """Read the JSON text of `spec`: what is asked of `node`. Raises PeerError (TOO_LARGE, MALFORMED)."""
    return _read(_SPEC, text, node, "list of requests").requests


def report_schema() -> dict[str, Any]:
    """Return the JSON schema of the object."""
    return _OBJECT.json_schema(by_alias=True)


def significant(status: NodeStatus) -> NodeStatus:
    """Return `status` without what changes all the time (clock, counters, times of handshakes and proofs).

    Two reports equal in this are not worth a second write.
    """
    pairs = tuple(replace(pair, last_handshake=None, last_proof=None, rx_bytes=0, tx_bytes=0) for pair in status.pairs)
    guard = replace(quiet(status.guard), last_plaintext=1.0 if is_loud(status) else None)
    return replace(bounded(replace(status, pairs=pairs, guard=guard)), observed_at=0.0)


def is_loud(status: NodeStatus) -> bool:
    """Whether plaintext was seen in the last half minute before the report: that it begins and ends is worth a report.

    By the clock of the host that counted, so that no other clock has a say.
    """
    last = status.guard.last_plaintext
    return last is not None and status.observed_at - last < STILL


def is_removed(status: NodeStatus) -> bool:
    """Whether a report is the last one of an agent that was asked to remove everything, and did.

    Another agent that begins on the node later takes up the answers to requests, but is asked for a boot unit, as all
    of a cluster are: no report of one that works says otherwise.
    """
    return (
        any((one.type, one.state) == ("remove", "done") for one in status.requests.values())
        and status.announced_serial == 0
        and all(one.state == "removed" for one in status.generations)
        and status.boot.state == "notAsked"
    )


def bounded(status: NodeStatus) -> NodeStatus:
    """Return `status` in its stable order and cut to what a reader accepts; of too many, the worst are kept."""
    return replace(
        status,
        boot=replace(status.boot, reason=printable(status.boot.reason, MAX_MESSAGE)),
        unsealed=_cut(status.unsealed, MAX_UNSEALED, lambda u: _RANK[u.state], lambda u: u.name),
        pairs=_cut(status.pairs, MAX_PAIRS, lambda p: _RANK[p.state], lambda p: (p.peer, p.own, p.remote)),
        findings=_cut(
            (
                replace(f, subject=printable(f.subject, MAX_SUBJECT), message=printable(f.message, MAX_MESSAGE))
                for f in status.findings
            ),
            MAX_FINDINGS,
            lambda f: SEVERITY_ORDER[CATALOGUE[f.code].severity] if f.code in CATALOGUE else len(SEVERITY_ORDER),
            lambda f: (f.code, f.subject),
        ),
        trust=status.trust[-MAX_AUTHORITIES:],
        verified=_cut(status.verified, MAX_VERIFIED, lambda v: WORST_RESULT.index(v.result), lambda v: v.peer),
        requests={
            key: replace(value, message=printable(value.message, MAX_MESSAGE))
            for key, value in sorted(status.requests.items())[-MAX_REQUESTS:]
        },
    )


def _cut(
    values: Iterable[ValueT], limit: int, rank: Callable[[ValueT], int], order: Callable[[ValueT], Any]
) -> tuple[ValueT, ...]:
    kept = sorted(values, key=order)
    if len(kept) > limit:
        kept = sorted(sorted(kept, key=rank)[:limit], key=order)
    return tuple(kept)


def _read(adapter: TypeAdapter[ValueT], text: str | bytes, node: str, what: str) -> ValueT:
    if len(text) > MAX_REPORT:
        raise PeerError(f"the {what} of {node} is larger than {MAX_REPORT} bytes", code=TOO_LARGE, node=node)
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or "the whole text"
        raise PeerError(
            f"the {what} of {node}: {path[:100]}: {first['msg'][:200]}", code=MALFORMED, node=node
        ) from None

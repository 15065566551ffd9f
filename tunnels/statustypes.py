"""Building blocks of a node's report: bounded, printable, times as text. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from linkseal.keys.values import MAX_NUMBER, NODE_PATTERN
from linkseal.tunnels.findings import MAX_MESSAGE, MAX_SUBJECT
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, with_config
from pydantic.alias_generators import to_camel

_PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""No control characters: another node's report must not move the cursor of whoever reads it."""

MAX_LINE: Final = 16 * 1024
"""Characters of a line of a plan: a peer's 256 prefixes are in one."""


def format_time(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC, whole seconds: `2026-11-02T10:00:00Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> float:
    """Return RFC 3339 text as Unix seconds. Raises ValueError; a time without zone is refused."""
    if not isinstance(text, str) or len(text) > 40:  # noqa: PLR2004 - nanoseconds and an offset are 35
        raise ValueError("must be a time such as 2026-11-02T10:00:00Z")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("must be a time with its zone, such as 2026-11-02T10:00:00Z")
    return moment.timestamp()


Time = Annotated[float, BeforeValidator(parse_time, json_schema_input_type=str), PlainSerializer(format_time)]
Name = Annotated[str, Field(max_length=253, pattern=NODE_PATTERN)]
Short = Annotated[str, Field(max_length=128, pattern=_PRINTABLE)]
Subject = Annotated[str, Field(max_length=MAX_SUBJECT, pattern=_PRINTABLE)]
Message = Annotated[str, Field(max_length=MAX_MESSAGE, pattern=_PRINTABLE)]
Line = Annotated[str, Field(max_length=MAX_LINE, pattern=_PRINTABLE)]
Code = Annotated[str, Field(pattern=r"^LS[0-9]{4}$")]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Bytes = Annotated[int, Field(ge=0, le=2**64)]
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]

EDGE: Final = ConfigDict(strict=True, extra="ignore", alias_generator=to_camel)
"""Of every part of the object: exact types, camelCase keys, unknown ones ignored."""

MAX_CONDITIONS: Final = 16

_CONDITION: Final = r"^[A-Za-z][A-Za-z0-9]{0,62}$"


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as Kubernetes has them, of what no spec asks for. `linkseal.io` adds no fields."""

    type: Annotated[str, Field(max_length=63, pattern=_CONDITION)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(max_length=63, pattern=_CONDITION)]
    """One word for programs."""
    message: Message
    last_transition_time: Time
    """When the status last changed."""


@with_config(EDGE)
@dataclass(frozen=True, slots=True)
class SpecCondition(Condition):
    """One that is about a generation of the object's spec: `kubectl wait` takes no older one's for an answer."""

    observed_generation: Number = 0

"""What a person wrote, checked by pydantic, with errors a person can act on. No I/O.

agent.yaml: wireguard.drivr: unknown key; did you mean `driver`?
agent.yaml: poll: must be greater than or equal to 1 (found 0)
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, NoReturn, TypeVar, Union, get_args, get_origin

from linkseal.keys.errors import ConfigError
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

MAX_NETWORK: Final = 43
"""Characters of the longest IPv6 network."""

_SHOWN: Final = 80
"""Characters of a wrong value that an error repeats."""

_ADVICE: Final = {
    "missing": "is required",
    "string_type": "must be text; put it in quotes",
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "list_type": "must be a list",
    "int_type": "must be a whole number, without quotes",
    "bool_type": "must be true or false",
}


class Edge(BaseModel):
    """Base of the models of files that people write: camelCase keys, exact types, no unknown key."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=False
    )


ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], data: object, source: str) -> ModelT:
    """Return `data` as `model`, or raise a ConfigError with a line for every problem, each beginning with `source`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        refuse(source, (_describe(model, detail) for detail in error.errors(include_url=False)))


def refuse(source: str, problems: Iterable[str]) -> NoReturn:
    """Raise a ConfigError with one line for each problem."""
    raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))


def parse_address(text: str) -> str:
    """Return an IP address in its canonical text. Raises ValueError (a zone such as `%eth0` is refused)."""
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address") from None
    if "%" in text:
        raise ValueError("must be an address without zone: link-local addresses cannot be reached by other nodes")
    return str(address)


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Return an IP network. Raises ValueError; host bits are refused with the network that was meant."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("must be a network such as 10.244.1.0/24 or fd00:1::/64") from None
    address = text.partition("/")[0]
    if str(network.network_address) != str(ip_address(address)):
        raise ValueError(f"has host bits set; did you mean {network}?")
    return network


def _describe(model: type[BaseModel], detail: ErrorDetails) -> str:
    kind, location, value = detail["type"], detail["loc"], detail["input"]
    path = _path(location) or "the whole file"
    if kind == "extra_forbidden":  # its value is not shown: what does not belong here may be a secret
        return f"{path}: unknown key{_suggestion(model, location)}"
    if kind == "missing":
        return f"{path}: {_ADVICE[kind]}"
    if kind == "value_error":
        message = str(detail.get("ctx", {}).get("error", detail["msg"]))
    else:
        message = _ADVICE.get(kind) or detail["msg"].replace("Input should be", "must be", 1)
    return f"{path}: {message} (found {_shown(value)})"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() or "-" in part or "." in part:
            text += f".{part}" if text else part
    return text


def _suggestion(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Return `; did you mean X?` for the nearest key known at that place, or the list of the keys known there."""
    known = sorted(_keys(model, location[:-1]))
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known here: {', '.join(known)}" if known else ""


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """Return the keys allowed at `location` below `model`; empty where that is no model."""
    here: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        here = [
            inner
            for outer in here
            for field in outer.model_fields.values()
            if field.alias == part
            for inner in _models(field.annotation)
        ]
    return {field.alias or name for outer in here for name, field in outer.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield every model that an annotation names: `X`, `X | None`, `list[X]`, `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in {Union, types.UnionType, list, dict, Annotated}:
        for argument in get_args(annotation):
            yield from _models(argument)


def duration(value: int | str) -> int:
    """Return `90s`, `5m`, `1h30m`, `30d`, or a number of seconds as seconds. Raises ValueError."""
    parts = re.fullmatch(r"(?:(\d{1,8})d)?(?:(\d{1,8})h)?(?:(\d{1,8})m)?(?:(\d{1,8})s?)?", str(value), re.ASCII)
    if parts is None or not str(value):
        raise ValueError("must be a number of seconds, or text such as 90s, 5m, 1h30m or 30d")
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + seconds

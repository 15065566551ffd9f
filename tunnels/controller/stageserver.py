"""CA/controller.sock: where `linkseal enable` and `disable` ask the controller. One request a connection, JSON lines.

    {"do": "stage", "target": "enforce", "up": true, "who": "root@ops", "dryRun": false, "detach": false, …}
    → {"ok": true, "event": "progress", "text": "stage prepare, 0/3 pairs sealed at both ends", …} …
    → {"ok": true, "event": "end", "good": true, "text": "the cluster is at stage enforce"}
    → {"ok": false, "kind": "refused", "error": "…"}

The connection is the attachment: when it is closed before the end, the walk is broken off and its step taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from linkseal.keys.errors import ConfigError, DirectoryError, HostError, LinksealError, Refused
from linkseal.tunnels.controller.aims import check, picked
from linkseal.tunnels.controller.outlook import outlook
from linkseal.tunnels.controller.stagefile import place
from linkseal.tunnels.controller.stagekeeper import Ended
from linkseal.tunnels.host.localsocket import LocalSocket
from linkseal.tunnels.model import Stage
from linkseal.tunnels.stages import TIMEOUT, Walk
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from linkseal.tunnels.controller.files import FileController

SOCKET: Final = "controller.sock"
MAX_LINE: Final = 4 * 1024 * 1024
LOOK: Final = 0.2
"""Seconds between two looks at a walk that is attended."""

_KINDS: Final[Mapping[str, type[LinksealError]]] = {
    "config": ConfigError,
    "refused": Refused,
    "directory": DirectoryError,
    "host": HostError,
}


class Wish(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)
    target: Stage
    up: bool
    who: str = Field(max_length=200)
    nodes: str | None = None
    timeout: float = Field(default=TIMEOUT, gt=0, le=86400)
    detach: bool = False
    dry_run: bool = False
    scope: str | None = None
    protocol: str | None = None


class StageServer(LocalSocket):
    """Serves the socket until closed."""

    def __init__(self, folder: Path, controller: FileController) -> None:
        super().__init__(folder / SOCKET, self._serve, MAX_LINE)
        self._controller = controller

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(await asyncio.wait_for(reader.readline(), timeout=10), reader, writer)
        except LinksealError as error:
            kind = next((name for name, of in _KINDS.items() if isinstance(error, of)), "host")
            with contextlib.suppress(OSError):
                await _send(writer, {"ok": False, "kind": kind, "error": str(error)})
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked is gone
        finally:
            writer.close()

    async def _answer(self, raw: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            wish = Wish.model_validate_json(raw)
        except ValidationError as error:
            raise ConfigError(
                f"the controller does not understand this request ({error.error_count()} errors)"
            ) from None
        now = time.time()
        walk = self._walk(wish, now)
        keeper = self._controller.stages
        check(keeper.position, walk)
        if wish.dry_run:
            found = outlook(keeper.position, walk, self._controller.evidence(), now)
            await _send(writer, {"ok": True, "event": "rehearsal", **found})
            return
        number = keeper.start(walk)
        self._controller.changed.set()
        if wish.detach:
            await _send(writer, {"ok": True, "event": "detached", "text": "the controller walks on by itself"})
            return
        try:
            ended = await self._attend(number, reader, writer)
        except OSError:
            ended = None
        if ended is None and number not in keeper.ended:
            self._controller.abort("the command that asked for it ended")
        elif ended is not None:
            await _send(writer, {"ok": True, "event": "end", "good": ended.good, "text": ended.why})

    async def _attend(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Ended | None:
        """Tell of progress until the walk ends; None if who looks on is gone."""
        keeper, shown = self._controller.stages, None
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while number not in keeper.ended:
                if keeper.progress not in (shown, None):
                    shown = keeper.progress
                    assert shown is not None
                    fields = {**place(shown.position), "sealed": shown.sealed, "pairs": shown.pairs}
                    text = {"text": str(shown), "reasons": list(shown.reasons)}
                    await _send(writer, {"ok": True, "event": "progress", **fields, **text})
                await asyncio.wait({gone}, timeout=LOOK)
                if gone.done():
                    return None
            return keeper.ended[number]
        finally:
            gone.cancel()

    def _walk(self, wish: Wish, now: float) -> Walk:
        """Return the walk that is asked for. Raises ConfigError."""
        inventory = self._controller.inventory
        for name, asked, used in (
            ("scope", wish.scope, inventory.policy.scope.value),
            ("protocol", wish.protocol, inventory.policy.protocol),
        ):
            if asked not in (None, used):
                raise ConfigError(
                    f"the inventory says {name} {used}, not {asked}: change `spec.{name}` there; while the cluster is "
                    "not off, neither scope nor protocol changes (`linkseal disable` first)"
                )
        conflict = self._controller.stages.conflict(inventory.policy)
        if conflict is not None:
            raise ConfigError(conflict)
        names = [node.name for node in inventory.nodes if not node.opted_out]
        nodes = None if wish.nodes is None else picked(wish.nodes, names)
        return Walk(wish.target, wish.up, wish.who, now, now, None, nodes, wish.timeout, not wish.detach)


async def _send(writer: asyncio.StreamWriter, fields: Mapping[str, Any]) -> None:
    writer.write(json.dumps(fields).encode() + b"\n")
    await writer.drain()


def asked(folder: Path, wish: Wish, *, timeout: float | None = None) -> Iterator[dict[str, Any]]:
    """Ask the controller whose CA is in `folder`; yield its answers. Closing the iterator ends the attachment.

    Raises DirectoryError if none answers, TimeoutError if `timeout` seconds pass, and what the controller refuses with.
    """
    path = folder / SOCKET
    deadline = None if timeout is None else time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(wish.model_dump_json(by_alias=True).encode() + b"\n")
        except OSError as error:
            raise DirectoryError(
                f"no controller answers at {path} ({error.strerror or error}): start `linkseal controller run`, name "
                "its CA folder with --ca DIR or LINKSEAL_CA, and be its user"
            ) from error
        buffer = b""
        while True:
            line, found, rest = buffer.partition(b"\n")
            if found:
                buffer = rest
                yield _checked(line)
                continue
            connection.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
            try:
                received = connection.recv(65536)
            except TimeoutError:
                raise
            except OSError as error:
                raise DirectoryError(f"the connection to the controller broke: {error.strerror or error}") from error
            if not received:
                return
            buffer += received


def _checked(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise DirectoryError("what answers is no controller of this version")
    if not answer.get("ok"):
        kind = _KINDS.get(str(answer.get("kind")), HostError)
        raise kind(str(answer.get("error", "the controller refused, without a reason")))
    return answer

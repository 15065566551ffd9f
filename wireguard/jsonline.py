"""One JSON object a line, out and in, over a Unix socket: how agent and supervisor are asked."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def exchange(path: Path, request: Mapping[str, Any], *, seconds: float, limit: int) -> Any:
    """Return what answers at `path`, decoded, of at most `limit` bytes.

    Raises OSError where nobody answers within `seconds`, ValueError where the answer is no JSON, or none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(seconds)
        link.connect(str(path))
        link.sendall(json.dumps(request).encode() + b"\n")
        with link.makefile("rb") as stream:
            return json.loads(stream.readline(limit))

"""Which shared libraries a program or module needs: as the system's own loader says, which runs none of its code."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError

MAGIC: Final = b"\x7fELF"
_PT_INTERP: Final = 3
"""<elf.h>: the program header that names the loader."""

_SECONDS: Final = 20
_FOUND: Final = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_MISSING: Final = re.compile(r"^\s*(\S+) => not found$", re.MULTILINE)


def is_elf(path: Path) -> bool:
    """Whether a file is a program or a shared object. Raises OSError."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def loader_of(program: Path) -> str | None:
    """Return the loader that a program names; None: it needs none. Raises HostError, OSError."""
    with program.open("rb") as file:
        head = file.read(64)
        if head[:6] != MAGIC + b"\x02\x01":
            raise HostError(f"{program} is no program of a 64-bit little-endian machine")
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(offset)
        table = file.read(size * count)
        for number in range(count):
            kind, _, where, _, _, length = struct.unpack_from("<IIQQQQ", table, number * size)
            if kind == _PT_INTERP:
                file.seek(where)
                return file.read(length).rstrip(b"\0").decode()
    return None


def libraries_of(loader: str, files: Iterable[Path]) -> set[str]:
    """Return the absolute paths of all libraries that these files need, directly or not. Raises HostError."""
    found: set[str] = set()
    for file in files:
        said = _asked(loader, file)
        if missing := _MISSING.search(said):
            raise HostError(f"{file} needs the library {missing[1]}, which is not here")
        found |= set(_FOUND.findall(said))
    return found


def _asked(loader: str, file: Path) -> str:
    """Return what the loader lists; nothing for a file that is static."""
    try:
        done = subprocess.run(
            [loader, "--list", os.fspath(file)], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{loader} does not say which libraries {file} needs: {error}") from None
    if done.returncode and "statically linked" not in done.stdout + done.stderr:
        raise HostError(f"{loader} --list {file}: {' '.join(done.stderr.split())[:300]}")
    return done.stdout

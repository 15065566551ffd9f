"""bpf(2) by its number: programs and maps as file descriptors. No library, no compiler, no daemon.

Structures and numbers are those of <linux/bpf.h>. Every refusal is a HostError with errno.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from errno import E2BIG, EINVAL, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM
from typing import Final, NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.redirect.maps import MapShape

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
"""__NR_bpf (asm/unistd.h) by machine; a 32-bit interpreter on these is not served."""

_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD = 0, 1, 2, 3, 4, 5
_ATTACH, _DETACH, _PROG_BY_ID, _MAP_BY_ID, _INFO, _QUERY, _LOOKUP_BATCH = 8, 9, 13, 14, 15, 16, 24
_SCHED_CLS: Final = 3
_LICENSE: Final = b"Apache-2.0\0"
_LOG_BYTES: Final = 1 << 20
_LOG_SHOWN: Final = 600
_BATCH: Final = 4096

_NO_BATCHES: Final = frozenset({EINVAL, ENOSPC, EOPNOTSUPP, 524})
"""What kernels answer that cannot read this kind of map in batches (524: ENOTSUPP, which errno.h does not have)."""

BEFORE, AFTER, BY_ID = 1 << 3, 1 << 4, 1 << 5
"""BPF_F_BEFORE, BPF_F_AFTER, BPF_F_ID."""

TCX: Final = {"in": 46, "out": 47}
"""BPF_TCX_INGRESS and BPF_TCX_EGRESS (Linux 6.6)."""

_CAPABILITIES: Final = "the agent needs CAP_BPF and CAP_NET_ADMIN for it"

_libc = ctypes.CDLL(None, use_errno=True)


class ProgramInfo(NamedTuple):
    """What the kernel says of a loaded program."""

    id: int
    name: str
    map_ids: tuple[int, ...]


class MapInfo(NamedTuple):
    """What the kernel says of a map."""

    id: int
    name: str
    shape: MapShape


class Held(NamedTuple):
    """Entries of a map: all keys in a row, and their values in the same order."""

    keys: bytes
    values: bytes


class Chain(NamedTuple):
    """The programs at a tcx hook, in their order; `revision` changes with every change."""

    revision: int
    ids: tuple[int, ...]


def _call(command: int, attributes: bytes, what: str) -> tuple[int, bytes]:
    """Return the call's result and the attributes as the kernel left them."""
    number = _SYSCALL.get(platform.machine())
    if number is None or struct.calcsize("P") != 8:  # noqa: PLR2004 - bytes of a 64-bit pointer
        raise HostError(f"cannot {what}: bpf(2) is not known for {platform.machine()}", errno=ENOSYS)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_long(command), buffer, ctypes.c_ulong(len(attributes)))
    if result < 0:
        errno = ctypes.get_errno()
        hint = f"; {_CAPABILITIES}" if errno == EPERM else ""
        raise HostError(f"cannot {what}: {os.strerror(errno)}{hint}", errno=errno)
    return int(result), buffer.raw


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


# --- maps ------------------------------------------------------------------------------------------------------------


def create_map(name: str, shape: MapShape) -> int:
    """Make a map; its file descriptor. HostError."""
    attributes = struct.pack("=7I16s", *shape, 0, 0, name.encode())
    return _call(_MAP_CREATE, attributes, f"make the eBPF map {name}")[0]


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set one entry, added or replaced at once for every reader. HostError."""
    keys, values = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _call(_UPDATE, struct.pack("=IxxxxQQQ", fd, _address(keys), _address(values), 0), "set an entry of an eBPF map")


def delete(fd: int, key: bytes) -> None:
    """Remove one entry; absent is fine. HostError."""
    keys = ctypes.create_string_buffer(key, len(key))
    try:
        _call(_DELETE, struct.pack("=IxxxxQQQ", fd, _address(keys), 0, 0), "remove an entry of an eBPF map")
    except HostError as error:
        if error.errno != ENOENT:
            raise


def lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """Return the value under a key; None: there is none. HostError."""
    keys, values = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    try:
        _call(_LOOKUP, struct.pack("=IxxxxQQQ", fd, _address(keys), _address(values), 0), "read an eBPF map")
    except HostError as error:
        if error.errno == ENOENT:
            return None
        raise
    return values.raw


def dump(fd: int, shape: MapShape) -> Held:
    """Return all entries of a map. HostError."""
    try:
        found = list(_batches(fd, shape))
    except HostError as error:
        if error.errno not in _NO_BATCHES:
            raise
        found = list(_one_by_one(fd, shape))
    return Held(b"".join([keys for keys, _ in found]), b"".join([values for _, values in found]))


def _batches(fd: int, shape: MapShape) -> Iterator[Held]:
    width, size = shape.key_size, shape.value_size
    keys, values = ctypes.create_string_buffer(width * _BATCH), ctypes.create_string_buffer(size * _BATCH)
    at = ctypes.create_string_buffer(max(width, 8))
    start, over = 0, False
    while not over:
        attributes = struct.pack("=QQQQIIQQ", start, _address(at), _address(keys), _address(values), _BATCH, fd, 0, 0)
        count, over = _batch(attributes)
        start = _address(at)
        yield Held(keys.raw[: count * width], values.raw[: count * size])


def _batch(attributes: bytes) -> tuple[int, bool]:
    """Return how many entries came and whether they were the last: the kernel says both by ENOENT and a count."""
    number = _SYSCALL[platform.machine()]
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_long(_LOOKUP_BATCH), buffer, ctypes.c_ulong(len(attributes)))
    errno = ctypes.get_errno()
    if result < 0 and errno != ENOENT:
        raise HostError(f"cannot read an eBPF map: {os.strerror(errno)}", errno=errno)
    return struct.unpack_from("=I", buffer.raw, 32)[0], result < 0


def _one_by_one(fd: int, shape: MapShape) -> Iterator[Held]:
    key: bytes | None = None
    while (key := _next_key(fd, key, shape.key_size)) is not None:
        value = lookup(fd, key, shape.value_size)
        if value is not None:
            yield Held(key, value)


def _next_key(fd: int, key: bytes | None, size: int) -> bytes | None:
    after = ctypes.create_string_buffer(size)
    before = None if key is None else ctypes.create_string_buffer(key, size)
    attributes = struct.pack("=IxxxxQQQ", fd, 0 if before is None else _address(before), _address(after), 0)
    try:
        _call(_NEXT_KEY, attributes, "read an eBPF map")
    except HostError as error:
        if error.errno == ENOENT:
            return None
        raise
    return after.raw


def map_info(fd: int) -> MapInfo:
    """Return what the kernel says of a map. HostError."""
    raw = _info(fd, 40)
    kind, number, key_size, value_size, size, flags, name = struct.unpack("=6I16s", raw)
    return MapInfo(number, name.rstrip(b"\0").decode(), MapShape(kind, key_size, value_size, size, flags))


# --- programs --------------------------------------------------------------------------------------------------------


def load(name: str, code: bytes) -> int:
    """Load a tc program; its file descriptor. HostError, with the last lines of the verifier where it refused."""
    try:
        return _load(name, code, None)
    except HostError as error:
        if error.errno in (EPERM, ENOSYS, E2BIG):
            raise
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _load(name, code, log)
        except HostError as again:
            said = " / ".join(log.value.decode(errors="replace").splitlines())[-_LOG_SHOWN:]
            raise HostError(f"{again}: the verifier says: {said or 'nothing'}", errno=again.errno) from None


def _load(name: str, code: bytes, log: ctypes.Array[ctypes.c_char] | None) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(_LICENSE, len(_LICENSE))
    logged = (1, len(log), _address(log)) if log is not None else (0, 0, 0)
    attributes = struct.pack(
        "=IIQQIIQII16s", _SCHED_CLS, len(code) // 8, _address(instructions), _address(license_), *logged, 0, 0,
        name.encode(),
    )  # fmt: skip
    return _call(_PROG_LOAD, attributes, f"load the eBPF program {name}")[0]


def program_by_id(number: int) -> int:
    """Return a file descriptor of a loaded program (needs CAP_SYS_ADMIN). HostError."""
    return _call(_PROG_BY_ID, struct.pack("=III", number, 0, 0), f"open the eBPF program {number}")[0]


def map_by_id(number: int) -> int:
    """Return a file descriptor of a map (needs CAP_SYS_ADMIN). HostError."""
    return _call(_MAP_BY_ID, struct.pack("=III", number, 0, 0), f"open the eBPF map {number}")[0]


def program_info(fd: int) -> ProgramInfo:
    """Return what the kernel says of a program. HostError."""
    ids = ctypes.create_string_buffer(4 * 64)
    asked = struct.pack("=52xIQ16x", 64, _address(ids))
    raw = _info(fd, len(asked), asked)
    (number,) = struct.unpack_from("=I", raw, 4)
    (count,) = struct.unpack_from("=I", raw, 52)
    name = raw[64:80].rstrip(b"\0").decode(errors="replace")
    return ProgramInfo(number, name, struct.unpack_from(f"={min(count, 64)}I", ids.raw))


def _info(fd: int, size: int, asked: bytes | None = None) -> bytes:
    buffer = ctypes.create_string_buffer(asked or bytes(size), size)
    _call(_INFO, struct.pack("=IIQ", fd, size, _address(buffer)), "ask about an eBPF object")
    return buffer.raw


# --- tcx -----------------------------------------------------------------------------------------------------------


def tcx_chain(index: int, hook: int) -> Chain | None:
    """Return the programs at a tcx hook of an interface; None: this kernel has no tcx. HostError."""
    ids = ctypes.create_string_buffer(4 * 64)
    attributes = struct.pack("=IIIIQII4Q", index, hook, 0, 0, _address(ids), 64, 0, 0, 0, 0, 0)
    try:
        raw = _call(_QUERY, attributes, "read tcx programs")[1]
    except HostError as error:
        if error.errno == ENOENT:
            return Chain(0, ())
        if error.errno == EINVAL:
            return None
        raise
    (count,) = struct.unpack_from("=I", raw, 24)
    (revision,) = struct.unpack_from("=Q", raw, 56)
    return Chain(revision, struct.unpack_from(f"={count}I", ids.raw))


def tcx_attach_first(index: int, hook: int, fd: int) -> None:
    """Put a program before all others of a tcx hook; it stays without us. HostError."""
    _call(_ATTACH, struct.pack("=IIIIIIQ", index, fd, hook, BEFORE, 0, 0, 0), "attach a tcx program")


def tcx_detach(index: int, hook: int, place: int, chain: Chain) -> None:
    """Take out the program at `place` of a chain as read; HostError (ESTALE) where it has changed since."""
    after = chain.ids[place - 1] if place else 0
    flags = AFTER | BY_ID if place else BEFORE
    attributes = struct.pack("=IIIIIIQ", index, 0, hook, flags, 0, after, chain.revision)
    _call(_DETACH, attributes, "detach a tcx program")

"""A small assembler for eBPF: text as in the kernel's own listings → instructions → bytes. Pure.

    r1 = r2            r1 = -1             r1 += 4   (also -= |= &= <<= >>=, with a number or a register)
    r1 = be16 r1       r1 = map NAME       the map's file descriptor is filled in by `encode`
    r1 = u16 [r10-8]   u8 [r10-8] = r1     u32 [r10-8] = 7        lock u64 [r0+8] += r1
    if r1 == 5 goto x  (also != > >= < <= s< with a number or a register)
    goto x             call NAME           exit            x:     a label            # a comment

Encoding: <linux/bpf.h> and RFC 9669, on little-endian machines (x86_64 and aarch64 both are).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

HELPERS: Final = {"map_lookup_elem": 1, "skb_load_bytes": 26}
"""Numbers of `enum bpf_func_id`."""

_INSTRUCTION: Final = struct.Struct("<BBhi")
_LDX, _ST, _STX, _ALU, _JMP, _ALU64 = 0x01, 0x02, 0x03, 0x04, 0x05, 0x07
_MEM, _ATOMIC, _REGISTER, _TO_BIG_ENDIAN, _LOAD_64, _PSEUDO_MAP_FD = 0x60, 0xC0, 0x08, 0xD8, 0x18, 1
_GOTO, _CALL, _EXIT, _MOVE = 0x00, 0x80, 0x90, 0xB0
_SIZES: Final = {"u8": 0x10, "u16": 0x08, "u32": 0x00, "u64": 0x18}
_ARITHMETIC: Final = {"+": 0x00, "-": 0x10, "|": 0x40, "&": 0x50, "<<": 0x60, ">>": 0x70}
_TESTS: Final = {"==": 0x10, ">": 0x20, ">=": 0x30, "!=": 0x50, "<": 0xA0, "<=": 0xB0, "s<": 0xC0}

_REG, _NUMBER, _MEMORY = r"r(10|[0-9])", r"(-?(?:0x[0-9a-f]+|[0-9]+))", r"\[r(10|[0-9])([+-][0-9]+)\]"


class Instruction(NamedTuple):
    """One instruction of 8 bytes; that which loads a map is followed by an empty one. `text` is its source."""

    code: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    value: int = 0
    map: str | None = None
    text: str = ""


class AssemblyError(ValueError):
    """A line that is no instruction, or a label that is not there or twice: a mistake in this package."""


def assemble(source: str) -> tuple[Instruction, ...]:
    """Return the instructions of a text, jumps resolved. AssemblyError."""
    lines = [text for line in source.splitlines() if (text := line.partition("#")[0].strip())]
    labels: dict[str, int] = {}
    found: list[tuple[Instruction, str | None]] = []
    for line in lines:
        if line.endswith(":"):
            if line[:-1] in labels:
                raise AssemblyError(f"label {line} stands twice")
            labels[line[:-1]] = len(found)
        else:
            found += _instructions(line)
    return tuple(_resolved(one, target, place, labels) for place, (one, target) in enumerate(found))


def encode(instructions: tuple[Instruction, ...], maps: Mapping[str, int]) -> bytes:
    """Return the bytes the kernel wants; `maps` gives the file descriptor of each map."""
    return b"".join(
        _INSTRUCTION.pack(one.code, one.dst | one.src << 4, one.offset, maps[one.map] if one.map else one.value)
        for one in instructions
    )


def listing(instructions: tuple[Instruction, ...]) -> Iterator[str]:
    """Yield a line an instruction: place, bytes, source."""
    for place, one in enumerate(instructions):
        code = _INSTRUCTION.pack(one.code, one.dst | one.src << 4, one.offset, one.value).hex(" ")
        yield f"{place:4} {code}  {one.text}".rstrip()


def _resolved(one: Instruction, target: str | None, place: int, labels: Mapping[str, int]) -> Instruction:
    if target is None:
        return one
    if target not in labels:
        raise AssemblyError(f"there is no label {target}")
    return one._replace(offset=labels[target] - place - 1)


def _instructions(line: str) -> Iterator[tuple[Instruction, str | None]]:
    for pattern, make in _FORMS:
        if found := pattern.fullmatch(line):
            one = make(*found.groups())
            target = found["target"] if "target" in pattern.groupindex else None
            yield one._replace(text=line), target
            if one.map is not None:
                yield Instruction(0), None
            return
    raise AssemblyError(f"not an instruction: {line}")


def _form(pattern: str) -> re.Pattern[str]:
    words = {"R": _REG, "N": _NUMBER, "M": _MEMORY, "S": "(u8|u16|u32|u64)"}
    return re.compile(re.sub(r"<([RNMS])>", lambda found: words[found[1]], pattern).replace(" ", r"\s+"))


def _number(text: str) -> int:
    return int(text, 0)


_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[..., Instruction]], ...]] = (
    (_form("<R> = <R>"), lambda d, s: Instruction(_ALU64 | _MOVE | _REGISTER, int(d), int(s))),
    (_form("<R> = <N>"), lambda d, n: Instruction(_ALU64 | _MOVE, int(d), value=_number(n))),
    (_form("<R> = be16 r\\1"), lambda d: Instruction(_ALU | _TO_BIG_ENDIAN, int(d), value=16)),
    (_form("<R> = map ([a-z]+)"), lambda d, m: Instruction(_LOAD_64, int(d), _PSEUDO_MAP_FD, map=m)),
    (
        _form("<R> (\\+|-|\\||&|<<|>>)= <R>"),
        lambda d, o, s: Instruction(_ALU64 | _ARITHMETIC[o] | _REGISTER, int(d), int(s)),
    ),
    (
        _form("<R> (\\+|-|\\||&|<<|>>)= <N>"),
        lambda d, o, n: Instruction(_ALU64 | _ARITHMETIC[o], int(d), 0, 0, int(n, 0)),
    ),
    (_form("<R> = <S> <M>"), lambda d, z, s, o: Instruction(_LDX | _MEM | _SIZES[z], int(d), int(s), int(o))),
    (_form("<S> <M> = <R>"), lambda z, d, o, s: Instruction(_STX | _MEM | _SIZES[z], int(d), int(s), int(o))),
    (_form("<S> <M> = <N>"), lambda z, d, o, n: Instruction(_ST | _MEM | _SIZES[z], int(d), 0, int(o), _number(n))),
    (_form("lock u64 <M> \\+= <R>"), lambda d, o, s: Instruction(_STX | _ATOMIC | 0x18, int(d), int(s), int(o))),
    (
        _form("if <R> (==|!=|>=|>|<=|<|s<) <R> goto (?P<target>[a-z0-9_]+)"),
        lambda d, o, s, _: Instruction(_JMP | _TESTS[o] | _REGISTER, int(d), int(s)),
    ),
    (
        _form("if <R> (==|!=|>=|>|<=|<|s<) <N> goto (?P<target>[a-z0-9_]+)"),
        lambda d, o, n, _: Instruction(_JMP | _TESTS[o], int(d), value=_number(n)),
    ),
    (_form("goto (?P<target>[a-z0-9_]+)"), lambda _: Instruction(_JMP | _GOTO)),
    (_form("call ([a-z_]+)"), lambda name: Instruction(_JMP | _CALL, value=HELPERS[name])),
    (_form("exit"), lambda: Instruction(_JMP | _EXIT)),
)

"""The assembler by its bytes, and the two programs as goldens. LINKSEAL_UPDATE_GOLDEN=1 writes the goldens anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from linkseal.tunnels.redirect.assembler import AssemblyError, assemble, encode, listing
from linkseal.tunnels.redirect.maps import MAPS
from linkseal.tunnels.redirect.program import PREFIX, WAYS, Way, instructions, name_of

GOLDEN = Path(__file__).parents[2] / "golden" / "redirect"

FORMS = {
    "r6 = r1": "bf16000000000000",
    "r0 = -1": "b7000000ffffffff",
    "r3 += -88": "07030000a8ffffff",
    "r9 += r7": "0f79000000000000",
    "r2 -= 1": "1702000001000000",
    "r2 |= r3": "4f32000000000000",
    "r2 &= r1": "5f12000000000000",
    "r9 <<= 2": "6709000002000000",
    "r9 >>= 2": "7709000002000000",
    "r1 = be16 r1": "dc01000010000000",
    "r8 = u32 [r0+0]": "6108000000000000",
    "r1 = u8 [r10-103]": "71a199ff00000000",
    "r1 = u16 [r10-82]": "69a1aeff00000000",
    "u64 [r10-40] = r1": "7b1ad8ff00000000",
    "u32 [r10-24] = 160": "620ae8ffa0000000",
    "lock u64 [r0+8] += r1": "db10080000000000",
    "call skb_load_bytes": "850000001a000000",
    "exit": "9500000000000000",
}
"""As `llvm-mc` and the kernel's own dump show them (RFC 9669)."""


@pytest.mark.parametrize("text", FORMS)
def test_every_form_of_an_instruction(text: str) -> None:
    assert encode(assemble(text), {}) == bytes.fromhex(FORMS[text])


def test_a_map_is_two_instructions_with_its_descriptor() -> None:
    assert encode(assemble("r1 = map out"), {"out": 7}) == bytes.fromhex("1811000007000000 0000000000000000")


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ("==", 0x15), ("!=", 0x55), (">", 0x25), (">=", 0x35), ("<", 0xA5), ("<=", 0xB5), ("s<", 0xC5),
    ],
)  # fmt: skip
def test_jumps_count_from_the_next_instruction_over_both_halves_of_a_map(test: str, code: int) -> None:
    source = f"again:\nif r1 {test} 5 goto over\nr1 = map out\nover: \nif r1 {test} r2 goto again\ngoto again"
    found = assemble(source)
    assert (found[0].code, found[0].offset, found[0].value) == (code, 2, 5)
    assert (found[3].code, found[3].offset, found[3].src) == (code | 8, -4, 2)
    assert (found[4].code, found[4].offset) == (0x05, -5)


@pytest.mark.parametrize("source", ["r11 = 1", "jump x", "goto x", "x:\nx:\nexit", "r1 = u24 [r10-8]"])
def test_what_is_no_program_is_refused(source: str) -> None:
    with pytest.raises(AssemblyError):
        assemble(source)


@pytest.mark.parametrize("way", WAYS)
def test_the_programs_are_as_reviewed(way: Way) -> None:
    text = "\n".join([f"# {name_of(way)}", *listing(instructions(way))]) + "\n"
    golden = GOLDEN / f"{way}.txt"
    if os.environ.get("LINKSEAL_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert golden.read_text() == text


def test_names_fit_the_kernels_sixteen_bytes() -> None:
    names = [*map(name_of, WAYS), *(PREFIX + name for name in MAPS)]
    assert all(len(name) <= 15 and name.startswith(PREFIX) for name in names)
    assert len(set(names)) == len(names)

"""The codec of `verify`: everything written is read back, nothing else is, and nothing said is what is looked for."""

from __future__ import annotations

from typing import Literal

import pytest
from linkseal.tunnels.probe.packet import encode_udp
from linkseal.tunnels.verify.packet import (
    CANARY_SIZE,
    CONTROL_MAGIC,
    MAX_CANARIES,
    MAX_COUNT,
    MAX_NOTE,
    Answer,
    Arm,
    Armed,
    Ask,
    Bye,
    End,
    Message,
    Report,
    Seen,
    canary_payload,
    control_payload,
    encode,
    is_control,
    parse,
    tokens,
)

SESSION, SEED = bytes(range(16)), bytes(range(100, 132))
END = End(2, 0, 3, 9, (Seen(0, 3, 0), Seen(0, 0, 3)))
MESSAGES: list[Message] = [
    Arm(SESSION, "n1", SEED, 2),
    Armed(SESSION, "n2", Answer.READY),
    Armed(SESSION, "n2", Answer.UNABLE, "no packet socket"),
    Ask(SESSION, "n1", 1),
    Report(SESSION, "n2", 1, END),
    Bye(SESSION, "n1"),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_what_is_written_is_read_back(message: Message) -> None:
    assert parse(encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES)
def test_what_is_cut_off_or_goes_on_is_no_message(message: Message) -> None:
    whole = encode(message)
    assert [size for size in range(len(whole)) if parse(whole[:size]) is not None] == []
    assert parse(whole + b"\0") is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"LSPB" + encode(MESSAGES[0])[4:],
        encode(Arm(SESSION, "n1", SEED, 0)),
        encode(Arm(SESSION, "n1", SEED, MAX_CANARIES + 1)),
        encode(Bye(SESSION, "n1")).replace(b"n1", b"N_"),
        encode(Bye(SESSION, "n1")).replace(b"n1", b"\x1b1"),
        encode(Armed(SESSION, "n2", Answer.BUSY, "x")).replace(b"\x01\x01x", b"\x07\x01x"),
        encode(Armed(SESSION, "n2", Answer.BUSY, "x")).replace(b"\x01\x01x", b"\x01\x01\x1b"),
    ],
)
def test_what_cannot_be_a_message_is_none(payload: bytes) -> None:
    assert parse(payload) is None


def test_counts_and_notes_stop_where_their_fields_do() -> None:
    end = End(1000, 1 << 40, 1 << 20, 1 << 20, (Seen(1 << 20, 1 << 20, 1 << 20),))
    read = parse(encode(Report(SESSION, "n2", 1, end)))
    assert isinstance(read, Report)
    assert read.end == End(255, (1 << 32) - 1, MAX_COUNT, MAX_COUNT, (Seen(MAX_COUNT, MAX_COUNT, MAX_COUNT),))
    armed = parse(encode(Armed(SESSION, "n2", Answer.UNABLE, "é" * 500)))
    assert isinstance(armed, Armed)
    assert armed.note == "?" * MAX_NOTE


def test_more_canaries_than_a_reader_takes_are_not_written() -> None:
    with pytest.raises(ValueError, match="too many"):
        encode(Report(SESSION, "n2", 1, End(1, 0, 1, 1, (Seen(),) * (MAX_CANARIES + 1))))
    with pytest.raises(ValueError, match="no node name"):
        encode(Bye(SESSION, "x" * 254))


def test_tokens_differ_in_all_that_matters_and_no_message_contains_one() -> None:
    """A control message seen decrypted by a capture is no canary, and a peer cannot choose what is searched for."""
    wanted, other = tokens(SEED, 4), tokens(bytes(32), 4)
    everything = [wanted.control, *wanted.canaries]
    assert len({*everything, other.control, *other.canaries}) == 10
    assert {len(token) for token in everything} == {32}
    assert all(token.startswith(wanted.marker) for token in everything)
    said = b"".join(map(encode, MESSAGES))
    assert wanted.marker not in said
    assert tokens(SEED, 2).canaries == wanted.canaries[:2]


@pytest.mark.parametrize(("source", "target"), [("192.0.2.1", "192.0.2.2"), ("fd00::1", "fd00::2")])
def test_a_canary_is_of_one_size_and_an_icmp_error_does_not_quote_it(source: str, target: str) -> None:
    wanted = tokens(SEED, 1)
    packet = encode_udp(canary_payload(wanted.canaries[0], 6 if ":" in source else 4), source, target, 51830, 51830)
    assert len(packet) == CANARY_SIZE
    assert packet.endswith(wanted.canaries[0])
    assert wanted.canaries[0] not in packet[:548]
    assert wanted.marker not in packet[:548]


@pytest.mark.parametrize("family", [4, 6])
def test_a_control_is_told_from_a_canary_and_from_whatever_else_is_put_into_it(family: Literal[4, 6]) -> None:
    wanted = tokens(SEED, 1)
    control = control_payload(wanted.control, family)
    assert is_control(control)
    assert not is_control(canary_payload(wanted.canaries[0], family))
    for changed in (control[:-1], control + b"x", control[:100] + b"secret" + control[106:], b"", CONTROL_MAGIC):
        assert not is_control(changed)

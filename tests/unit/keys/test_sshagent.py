"""What an SSH agent answers, whatever it is; a real one signs in tests/kube/test_outside_ca.py."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from hypothesis import given
from hypothesis import strategies as st
from linkseal.keys import sshagent
from linkseal.keys.ca import CertificateAuthority, Trust
from linkseal.keys.errors import ConfigError, SignerError
from linkseal.keys.sshagent import AgentKey, identities
from unit.keys.cluster import NOW

KEY = ec.derive_private_key(7, ec.SECP384R1())
OTHER = ec.derive_private_key(8, ec.SECP384R1())
SHA = ec.ECDSA(SHA384())


def string(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def number(value: int) -> bytes:
    """An mpint (RFC 4251 §5): a zero in front where it would be negative."""
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def signature(key: ec.EllipticCurvePrivateKey, data: bytes, algorithm: bytes = sshagent.ALGORITHM) -> bytes:
    r, s = decode_dss_signature(key.sign(data, SHA))
    return b"\x0e" + string(string(algorithm) + string(number(r) + number(s)))


def take(raw: bytes) -> tuple[bytes, bytes]:
    end = 4 + struct.unpack(">I", raw[:4])[0]
    return raw[4:end], raw[end:]


class Agent:
    """Answers every request with `answer`, or as an agent with KEY does."""

    def __init__(self, path: Path, answer: bytes | None, *, framed: bool = True) -> None:
        self.path, self._answer, self._framed = path, answer, framed
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                (length,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
                request = connection.recv(length, socket.MSG_WAITALL)
                answer = self._signed(request) if self._answer is None else self._answer
                connection.sendall(string(answer) if self._framed else answer)

    @staticmethod
    def _signed(request: bytes) -> bytes:
        blob, rest = take(request[1:])
        data, flags = take(rest)
        line = KEY.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        assert (request[0], flags) == (13, bytes(4))
        assert serialization.load_ssh_public_key(line) == KEY.public_key()
        return signature(KEY, data) if blob[4 : 4 + len(sshagent.ALGORITHM)] == sshagent.ALGORITHM else b"\x05"


@contextmanager
def agent(answer: bytes | None, *, framed: bool = True) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        made = Agent(Path(folder) / "sock", answer, framed=framed)
        try:
            yield made.path
        finally:
            made.close()


def test_a_ca_signs_with_a_key_that_it_does_not_hold() -> None:
    with agent(None) as path:
        held = AgentKey(path, KEY.public_key())
        found = CertificateAuthority.create("Held", NOW, timedelta(days=9), held)
        trust = Trust([found.certificate])
        assert trust.signed_grant("a grant", found.sign_grant("a grant"))
        assert trust.policy_signer("a policy", found.sign_policy("a policy")) == found.fingerprint
        found.check()
        assert found.elsewhere
        assert found.key_pem() == b"ssh-agent"
        again = CertificateAuthority.from_pem(
            found.key_pem() + b"\n", found.certificate_pem(), lambda public: AgentKey(path, public)
        )
        assert trust.signed_grant("another", again.sign_grant("another"))
        vouched = found.cross_sign(CertificateAuthority.create("Next", NOW, timedelta(days=9), OTHER).certificate)
        assert "BEGIN CERTIFICATE" in vouched


def test_it_gives_nothing_else_away() -> None:
    held = AgentKey(Path("/nowhere"), KEY.public_key())
    assert (copy(held), deepcopy(held)) == (held, held)
    assert (held.curve.name, held.key_size) == ("secp384r1", 384)
    with pytest.raises(TypeError):
        held.private_numbers()
    with pytest.raises(TypeError):
        held.exchange(ec.ECDH(), OTHER.public_key())
    with pytest.raises(TypeError, match="SHA-384 only"):
        held.sign(b"", ec.ECDSA(SHA256()))


def test_a_key_on_another_curve_is_refused() -> None:
    with pytest.raises(ConfigError, match="P-384"):
        AgentKey(Path("/nowhere"), ec.derive_private_key(7, ec.SECP256R1()).public_key())


def test_without_an_agent_it_is_said_what_to_name() -> None:
    pem = CertificateAuthority.create("Held", NOW, timedelta(days=9), KEY).certificate_pem()
    with pytest.raises(ConfigError, match="--ssh-agent SOCKET"):
        CertificateAuthority.from_pem(b"ssh-agent", pem)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\x05", "refuses"),
        (b"\x06", "something else"),
        (b"\x0e", "no signature"),
        (signature(OTHER, b"data"), "no signature"),
        (signature(KEY, b"other data"), "no signature"),
        (signature(KEY, b"data", b"ssh-ed25519"), "no signature"),
        (signature(KEY, b"data") + b"x", "no signature"),
        (signature(KEY, b"data")[:-1], "no signature"),
    ],
    ids=["failure", "other type", "empty", "other key", "other data", "other algorithm", "too long", "cut off"],
)
def test_what_is_no_signature_by_the_key_is_refused(answer: bytes, words: str) -> None:
    with agent(answer) as path, pytest.raises(SignerError, match=words):
        AgentKey(path, KEY.public_key()).sign(b"data", SHA)


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\0", b"\0\0\0\x09short", b"\xff\xff\xff\xffx"])
def test_what_is_no_message_is_refused(sent: bytes) -> None:
    with agent(sent, framed=False) as path, pytest.raises(SignerError, match="cannot be asked"):
        AgentKey(path, KEY.public_key()).sign(b"data", SHA)


def test_nobody_there_or_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = AgentKey(tmp_path / "sock", KEY.public_key())
    with pytest.raises(SignerError, match="No such file"):
        held.sign(b"data", SHA)
    monkeypatch.setattr(sshagent, "SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "sock"))
        silent.listen()
        with pytest.raises(SignerError, match="no answer in time"):
            held.sign(b"data", SHA)


def listed(*keys: tuple[bytes, str]) -> bytes:
    return (
        b"\x0c" + struct.pack(">I", len(keys)) + b"".join(string(blob) + string(name.encode()) for blob, name in keys)
    )


def test_its_keys_on_the_curve_are_listed() -> None:
    ours = sshagent._blob(KEY.public_key())
    with agent(listed((string(b"ssh-ed25519") + string(bytes(32)), "x"), (ours, "the CA"))) as path:
        (found,) = identities(path)
    assert (found.public, found.comment) == (KEY.public_key(), "the CA")


@given(rest=st.binary(max_size=60), count=st.integers(0, 3))
def test_no_list_is_worse_than_refused(rest: bytes, count: int) -> None:
    answer = b"\x0c" + struct.pack(">I", count) + rest
    with agent(answer) as path:
        try:
            assert identities(path) == ()
        except SignerError as error:
            assert "cannot be read" in str(error)  # noqa: PT017 - either is fine


@pytest.mark.parametrize("rest", [b"", string(b"nistp384") + string(b"x")], ids=["none", "no point"])
def test_a_list_with_a_broken_key_is_refused(rest: bytes) -> None:
    answer = listed((string(sshagent.ALGORITHM) + rest, "x"))
    with agent(answer) as path, pytest.raises(SignerError, match="cannot be read"):
        identities(path)

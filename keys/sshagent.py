"""A CA's key that this process never holds: an SSH agent signs with it, and has a file, a token or an HSM behind it.

Two requests of the SSH agent protocol (draft-ietf-sshm-ssh-agent §3.5, §3.6) over its Unix socket; a signature is as in
RFC 5656 §3.1.2. There ECDSA signs with SHA-384, as we do everywhere, with keys on P-384 only.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Final, NamedTuple, Never

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from linkseal.keys.elsewhere import IN_SSH_AGENT, KeyElsewhere
from linkseal.keys.errors import ConfigError, SignerError

SECONDS: Final = 5.0
"""Until an answer must be there: an HSM may be in another data centre, and nobody touches a token that often."""

MAX_ANSWER: Final = 262_144
"""Bytes of an answer (AGENT_MAX_LEN of OpenSSH, 256 KiB)."""

ALGORITHM: Final = b"ecdsa-sha2-nistp384"

_FAILURE, _IDENTITIES, _IDENTITIES_ANSWER, _SIGN, _SIGN_RESPONSE = 5, 11, 12, 13, 14


class Identity(NamedTuple):
    """A P-384 key that an SSH agent holds."""

    public: ec.EllipticCurvePublicKey
    comment: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-add -l` shows it."""
        return f"SHA256:{b64encode(hashlib.sha256(_blob(self.public)).digest()).decode().rstrip('=')}"


class AgentKey(KeyElsewhere):
    """A P-384 private key in the SSH agent at `path`: it signs, and gives nothing else away."""

    def __init__(self, path: Path, public: ec.EllipticCurvePublicKey) -> None:
        if not isinstance(public.curve, ec.SECP384R1):
            raise ConfigError("a CA whose key is in an SSH agent must be on P-384: no other signs with SHA-384 there")
        self._path, self._public = path, public

    def sign(
        self, data: bytes | bytearray | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm
    ) -> bytes:
        """Return a DER signature with SHA-384. Blocks up to SECONDS. Raises SignerError."""
        digest = signature_algorithm.algorithm
        if isinstance(digest, Prehashed) or not isinstance(digest, SHA384):
            raise TypeError("an SSH agent signs with SHA-384 only")
        wanted = bytes(data)
        answer = _ask(self._path, _SIGN, _string(_blob(self._public)) + _string(wanted) + struct.pack(">I", 0))
        try:
            signature = _signature(answer)
            self._public.verify(signature, wanted, signature_algorithm)
        except (ValueError, InvalidSignature):
            raise SignerError(f"the SSH agent at {self._path} gave no signature by the CA's key") from None
        return signature

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public key."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-384."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits."""
        return self._public.key_size

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002 - the name is cryptography's
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> bytes:
        """Return the words that stand for a key in an SSH agent, wherever a key is stored."""
        del encoding, format, encryption_algorithm
        return IN_SSH_AGENT

    def private_numbers(self) -> Never:
        """Nobody gets them."""
        raise TypeError("the key is in an SSH agent")

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> Never:
        """The key signs, and does nothing else."""
        del algorithm, peer_public_key
        raise TypeError("the key is in an SSH agent")

    def __copy__(self) -> AgentKey:
        return self

    def __deepcopy__(self, memo: object) -> AgentKey:
        return self


def identities(path: Path) -> tuple[Identity, ...]:
    """Return the P-384 keys of the SSH agent at `path`, in its order. Raises SignerError."""
    answer = _ask(path, _IDENTITIES, b"")
    try:
        found, rest = [], answer[4:]
        for _ in range(struct.unpack(">I", answer[:4])[0]):
            blob, rest = _take(rest)
            comment, rest = _take(rest)
            if _take(blob)[0] == ALGORITHM:
                public = serialization.load_ssh_public_key(ALGORITHM + b" " + b64encode(blob))
                assert isinstance(public, ec.EllipticCurvePublicKey)
                found.append(Identity(public, comment.decode(errors="replace")))
    except (ValueError, struct.error, NotImplementedError, UnsupportedAlgorithm):
        raise SignerError(f"the SSH agent at {path} lists keys that cannot be read") from None
    return tuple(found)


def _blob(public: ec.EllipticCurvePublicKey) -> bytes:
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return b64decode(line.split()[1])


def _ask(path: Path, kind: int, body: bytes) -> bytes:
    """Send a request on a connection of its own and return what follows the type of the answer."""
    try:
        answer = _exchange(path, _string(bytes([kind]) + body))
    except OSError as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise SignerError(f"the SSH agent at {path}, which holds the CA's key, cannot be asked: {why}") from None
    if answer[0] == _FAILURE:
        raise SignerError(
            f"the SSH agent at {path} refuses: it does not hold the CA's key, or is locked (`ssh-add -l`)"
        )
    if answer[0] != {_SIGN: _SIGN_RESPONSE, _IDENTITIES: _IDENTITIES_ANSWER}[kind]:
        raise SignerError(f"the SSH agent at {path} answers something else than it was asked ({answer[0]})")
    return answer[1:]


def _exchange(path: Path, request: bytes) -> bytes:
    """Return the message that answers, at least one byte long. Raises OSError."""
    deadline = time.monotonic() + SECONDS
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(str(path))
        connection.sendall(request)
        (length,) = struct.unpack(">I", _receive(connection, 4, deadline))
        if not 0 < length <= MAX_ANSWER:
            raise OSError("it sends no answer of an SSH agent")
        return _receive(connection, length, deadline)


def _receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    found = b""
    while len(found) < count:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(count - len(found))
        if not piece:
            raise OSError("it closed the connection")
        found += piece
    return found


def _signature(answer: bytes) -> bytes:
    """Return DER of what an agent signed. Raises ValueError."""
    signature, end = _take(answer)
    algorithm, rest = _take(signature)
    numbers, more = _take(rest)
    r, last = _take(numbers)
    s, left = _take(last)
    if algorithm != ALGORITHM or end or more or left:
        raise ValueError("no ECDSA signature")
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def _string(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def _take(raw: bytes) -> tuple[bytes, bytes]:
    """Return the string that `raw` begins with (RFC 4251 §5), and what follows. Raises ValueError."""
    length = int.from_bytes(raw[:4], "big")
    if len(raw) < 4 + length:
        raise ValueError("it is cut off")
    return raw[4 : 4 + length], raw[4 + length :]

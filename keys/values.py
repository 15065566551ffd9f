"""Small values every layer shares: key and prefix text, node names and UIDs.

Prefixes and addresses are canonical text (`10.244.1.0/24`, `fd00::/64`, as `str(ip_network(...))` gives it): equal
networks are equal strings, so they compare and hash in C.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NewType

from linkseal.keys.errors import ConfigError

PublicKey = NewType("PublicKey", str)
"""A Curve25519 public key, canonical base64 (44 characters); made only by `linkseal.keys.secrets.parse_public_key`."""

Prefix = NewType("Prefix", str)
"""An IP network as canonical text, host bits clear; made only by `linkseal.keys.documents.canonical_prefix`."""

MAX_COMMON_NAME: Final = 64
"""Characters a common name may have (RFC 5280, ub-common-name); node names may be longer."""

Protocol = Literal["wireguard", "ipsec"]
"""What a generation's key is for."""

MAX_NUMBER = 2**53 - 1
"""Largest serial and generation number: what every JSON reader holds exactly (RFC 8259 §6)."""

NODE_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
"""A node name: RFC 1123 subdomain, at most 253 characters, as Kubernetes demands; safe as a file name."""

UID_PATTERN = r"^[A-Za-z0-9][-A-Za-z0-9._]{0,63}$"
"""A node's UID: Kubernetes gives a UUID, bare metal may use its machine id."""

_NODE = re.compile(NODE_PATTERN[1:-1])
_UID = re.compile(UID_PATTERN[1:-1])


def is_node_name(text: str) -> bool:
    """Tell whether `text` can be a node's name."""
    return len(text) <= 253 and _NODE.fullmatch(text) is not None  # noqa: PLR2004 - RFC 1123


def check_identity(node: str, uid: str) -> None:
    """Raise ConfigError unless `node` and `uid` can name a node in documents, certificates and files."""
    if not is_node_name(node):
        raise ConfigError(f"{node[:80]!r} is no node name: use lower-case letters, digits, '-' and '.' (RFC 1123)")
    if not _UID.fullmatch(uid):
        raise ConfigError(f"{uid[:80]!r} is no node UID: use at most 64 letters, digits, '-', '.' and '_'")

"""Private keys of a CA that another process holds: what stands for one where keys are stored, and how one is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

IN_SSH_AGENT: Final = b"ssh-agent"
"""Stands where a CA's key would, if an SSH agent holds it (`linkseal.keys.sshagent`)."""


class KeyElsewhere(ec.EllipticCurvePrivateKey):
    """A private key that another process holds: it signs, slowly, and may raise SignerError."""


Elsewhere = Callable[[ec.EllipticCurvePublicKey], KeyElsewhere]
"""Makes, of a public key, the private one that another process holds; raises ConfigError."""

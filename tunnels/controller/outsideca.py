"""The certificate of a CA whose key is in an SSH agent, for the operator who brings it (docs/ca.md)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from linkseal.keys.ca import CertificateAuthority
from linkseal.keys.errors import ConfigError
from linkseal.keys.sshagent import AgentKey, identities
from linkseal.tunnels.controller.carotation import BACKDATED, LIFETIME


def chosen_key(path: Path, named: str | None) -> AgentKey:
    """Return the P-384 key with this comment or fingerprint, or the only one. Raises ConfigError, SignerError."""
    found = identities(path)
    fitting = [one for one in found if named is None or named in (one.comment, one.fingerprint)]
    if len(fitting) == 1:
        return AgentKey(path, fitting[0].public)
    held = ", ".join(f"{one.comment!r} ({one.fingerprint})" for one in found) or "none"
    which = "more than one" if fitting else "no"
    by_that = "" if named is None else f" that is called {named!r}"
    raise ConfigError(
        f"the SSH agent at {path} holds {which} key on P-384{by_that}; those on P-384: {held}. "
        "Name one with --key by its comment or fingerprint"
    )


def certificate(key: ec.EllipticCurvePrivateKey, name: str, days: int | None) -> str:
    """Return a certificate (PEM) of the CA by itself; for as long as one made here, if not said. Raises SignerError."""
    lifetime = (LIFETIME if days is None else timedelta(days=days)) + BACKDATED
    return CertificateAuthority.create(name, datetime.now(UTC) - BACKDATED, lifetime, key).certificate_pem()

"""The exception tree, split by who is at fault; each message says what is wrong and what to do next.

    LinksealError
    ├── ConfigError       the user: a flag, a file, a setting           exit 2 (also a ValueError)
    ├── PeerError         another node: what it announced is refused    a finding, never a crash
    ├── HostError         this host: the kernel or a daemon refused     exit 1, carries errno
    ├── DirectoryError    the cluster API or the directory's files      exit 3
    │   └── SignerError   what holds the CA's key does not sign
    └── Refused           unsafe without --yes                          exit 5

No message ever holds a secret: the types of `linkseal.keys.secrets` cannot be formatted.
"""

from __future__ import annotations


class LinksealError(Exception):
    """Base of every error Linkseal raises on purpose; anything else that escapes is our bug (exit 70)."""


class ConfigError(LinksealError, ValueError):
    """The user gave something that cannot be used."""


class PeerError(LinksealError):
    """Another node's (or the cluster's) signed document is refused.

    `code` is the finding it becomes, `node` the node whose property it claims to be, `other` the second
    party of a conflict.
    """

    def __init__(self, message: str, *, code: str, node: str | None = None, other: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.node = node
        self.other = other


class HostError(LinksealError):
    """The kernel, a daemon or the file system of this host refused; `errno` is the reason where there is one."""

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class DirectoryError(LinksealError):
    """The directory (cluster API or folder) cannot be read or written now; nothing that works is torn down."""

    after: float = 0.0
    """Seconds for which it wants to be left alone; 0: it does not say."""
    status: int = 0
    """Of HTTP, where an API server answered; 0: it did not, or there is none."""


class CertificateRefusedError(DirectoryError):
    """The signer refused this node's request for a certificate; the next one is another request."""


class SignerError(DirectoryError):
    """What holds the CA's key does not sign now: what it signed before stays good, and nothing new is."""


class Refused(LinksealError):  # noqa: N818 - a refusal is no failure
    """Doing this would be unsafe; `--yes` says it is meant."""

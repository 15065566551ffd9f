"""What is known of one link: the value that the link book keeps. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Final

from linkseal.keys.values import PublicKey
from linkseal.tunnels.addressing import slot_name, slot_port
from linkseal.tunnels.model import LinkKey
from linkseal.wireguard.model import Endpoint, PeerState

HANDSHAKE_FRESH: Final = 180.0
"""Seconds. REJECT_AFTER_TIME of the WireGuard paper: a session older than this carries nothing."""


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """What is known of one link. Times are the caller's clock in Unix seconds; None is never."""

    key: LinkKey
    own_key: PublicKey
    remote_key: PublicKey
    since: float
    """When this node learned of the pair."""
    initiator: bool = False
    installed: bool = False
    endpoint: Endpoint | None = None
    """As the kernel has it."""
    endpoint_set: Endpoint | None = None
    """The announced one that was last written to the kernel, and when."""
    endpoint_set_at: float = -inf
    handshake_at: float | None = None
    kernel_handshake: float = 0.0
    """The same as the kernel gave it, by its wall clock; 0.0 is never."""
    session_lost_at: float | None = None
    """When its session was found to be gone though the peer is there; handshakes up to then are of no use."""
    proven_at: float | None = None
    proof_size: int = 0
    lost: bool = False
    """Proven once, but the last three rounds of probes came to nothing, or its session ended: a new proof is needed."""
    code: str | None = None
    """The diagnosis of the last failed probe."""
    detail: str = ""
    peer_uses: tuple[int, int] | None = None
    """The pair (ours, theirs) by which the peer said it sends to us, and when."""
    peer_uses_at: float | None = None
    provoke: bool = False
    """Initiate, whoever should: this end has just made the peer anew."""
    provoked: int = 0
    next_provoke: float = 0.0
    rx_bytes: int = 0
    tx_bytes: int = 0

    @property
    def doubted(self) -> bool:
        """Whether a probe says that it does not carry traffic; a link taken over at start was not asked yet."""
        return self.lost or (self.proven_at is None and self.code is not None)

    @property
    def slot(self) -> str:
        """The interface it lives in."""
        return slot_name(self.key.own, self.key.remote)

    @property
    def pair(self) -> tuple[int, int]:
        """Generations: ours, the peer's."""
        return self.key.own, self.key.remote

    def is_as_before(self, state: PeerState) -> bool:
        """Whether the kernel says of it what it said at the last look."""
        said = (state.endpoint, state.last_handshake, state.rx_bytes, state.tx_bytes)
        return self.installed and said == (self.endpoint, self.kernel_handshake, self.rx_bytes, self.tx_bytes)

    def fresh(self, now: float) -> bool:
        """Whether the session can carry data."""
        return self.handshake_at is not None and now - self.handshake_at <= HANDSHAKE_FRESH

    def usable(self, now: float) -> bool:
        """Proven, and nothing says otherwise since."""
        proven = self.proven_at is not None and self.code is None and not self.lost
        return self.installed and proven and self.fresh(now)

    def without_peer(self) -> LinkRecord:
        """The link after its peer vanished from the kernel: to be made anew, as announced."""
        bare = replace(self, installed=False, handshake_at=None, kernel_handshake=0.0, endpoint=None, endpoint_set=None)
        return replace(bare, session_lost_at=None, provoke=True, lost=self.proven_at is not None)

    def without_session(self, now: float) -> LinkRecord:
        """The link after the kernel forgot its session: the peer, and where it was heard from last, are still there."""
        bare = replace(self, handshake_at=None, session_lost_at=now)
        return replace(bare, provoke=True, lost=self.proven_at is not None)


def slot_endpoint(base: Endpoint, key: LinkKey) -> Endpoint:
    """The peer's endpoint of one link."""
    return Endpoint(base.host, slot_port(base.port, key.remote, key.own))

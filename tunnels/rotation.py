"""When this node makes itself a new key, and when its old generation may be retired. Pure.

    raise g+1 ── slots made ── announced ── peers prove it ── they move ── their replies say so ── retire g
                                                                                     │
              a link still alive on g, or a peer that still sends to g, holds ◄──────┘

Nobody is asked to agree: each peer moves its own sending when it has proven the new link, and says by which pair it
sends in every reply to a probe. Links dead for ten minutes do not hold; a link alive on the old generation always does.
An aborted generation goes by the same rule, with the older as the one that stays.
"""

from __future__ import annotations

import hashlib
from math import inf
from typing import Final

from linkseal.tunnels.linkrecord import LinkRecord
from linkseal.tunnels.links import LinkBook
from linkseal.tunnels.model import LinkKey

GRACE: Final = 1.0
"""Seconds between the later of both ends' moves and the end of the old slot: packets in flight. With none 21 packets
were lost at 20 ms delay, 0.5 s was enough."""


SPREAD: Final = 0.1
"""Of the interval between two new keys of a node: all nodes of a cluster were made at once, and need not rotate so."""


def due_after(node: str, interval: float) -> float:
    """Return the age in seconds at which a node's key is to be replaced: never above the interval.

    It lies in the last tenth of it, at a place of the node's own that is always the same.
    """
    place = int.from_bytes(hashlib.sha256(node.encode()).digest()[:4]) / 2**32
    return interval * (1 - SPREAD * place)


def holders(book: LinkBook, old: int, new: int, now: float) -> dict[str, str]:
    """Return the peers that hold the retirement of generation `old` in favour of `new`, each with the reason.

    The book must have seen the kernel's devices in this pass: a peer of which nothing was ever heard does not hold.
    """
    reasons = {name: _reason(book, name, old, new, now) for name in sorted({key.peer for key in book.records})}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _reason(book: LinkBook, name: str, old: int, new: int, now: float) -> str | None:
    if not book.alive(name, now, own=(old,)):
        return None  # without a session it cannot send by it
    current = book.current.get(name)
    if current is None:
        return "its link is alive, but none has been proven yet"
    if current[0] != new:
        return f"this node still sends to it by generation {current[0]}"
    return _silent(book, LinkKey(name, *current), new, now)


def _silent(book: LinkBook, key: LinkKey, new: int, now: float) -> str | None:
    """Why the peer's word is not enough; `key` is the link by which this node sends."""
    word = book.records[key]
    if word.peer_uses is None or word.peer_uses_at is None or word.peer_uses[0] != new:
        return f"it has not yet replied that it sends by generation {new}"
    last = max(book.of_peer(key.peer), key=_last_reply)
    if last.peer_uses is None or last.peer_uses[0] != new:
        return "it replied since that it sends by another again"
    if now - max(word.peer_uses_at, book.moved_at.get(key.peer, 0.0)) < GRACE:
        return "packets sent before both ends moved may still be under way"
    return None


def _last_reply(record: LinkRecord) -> float:
    return -inf if record.proven_at is None else record.proven_at

"""A token bucket; the clock is the caller's."""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens a second, at most `burst` at once; may be overdrawn by `spend`."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        if self.ready_at(now) > now:
            return False
        self._tokens -= 1
        return True

    def spend(self, tokens: int) -> None:
        """Take tokens, there or not: what comes next waits for them."""
        self._tokens -= tokens

    def ready_at(self, now: float) -> float:
        """When there will be one token; not after `now` if there is one."""
        self._tokens = min(self._burst, self._tokens + self._rate * max(0.0, now - self._at))
        self._at = max(self._at, now)
        return now if self._tokens >= 1 else now + (1 - self._tokens) / self._rate

"""Two nodes with one index, one key, or overlapping property: who keeps it.

The answer depends on the accepted documents alone, never on the order in which they came, so every node of the cluster
comes to the same one. A loser loses just what is contested; every finding names both sides.

    prefix, address   the grant issued earlier keeps it, then the lower index, then the name; whoever is there, where
                      the other is gone and kept all the same
    index             the same; the loser is treated like a node without agent (no links), its grant stands
    public key        both have proven that they hold it (a cloned disk): the lower index, then the name
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Final

from linkseal.keys import codes
from linkseal.keys.announcement import Announcement
from linkseal.keys.grant import Grant, address_prefix
from linkseal.keys.values import Prefix, PublicKey
from linkseal.tunnels.acceptance import Entry, Finding, Span

_NAMED: Final = 3
"""Prefixes a finding lists before it only counts them."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a node loses in conflicts."""

    prefixes: frozenset[Prefix] = frozenset()
    keys: frozenset[PublicKey] = frozenset()
    index: bool = False

    def grant(self, grant: Grant) -> Grant:
        """Return `grant` without the contested prefixes and addresses."""
        if not self.prefixes:
            return grant
        return replace(
            grant,
            addresses=tuple(a for a in grant.addresses if address_prefix(a) not in self.prefixes),
            prefixes=tuple(p for p in grant.prefixes if p not in self.prefixes),
        )

    def announcement(self, announcement: Announcement | None) -> Announcement | None:
        """Return `announcement` without the contested generations; None if nothing of it is left."""
        if announcement is None or self.index:
            return None
        left = tuple(g for g in announcement.generations if g.public_key not in self.keys)
        return replace(announcement, generations=left) if left else None


def resolve(
    entries: Mapping[str, Entry], absent: frozenset[str] = frozenset()
) -> tuple[dict[str, Loss], list[Finding]]:
    """Return what each node in a conflict loses, and the findings, for all `entries` that have a grant.

    `absent`: those that are gone and kept; a controller that grants what they had knows that they are.
    """
    findings: list[Finding] = []
    losses: dict[str, Loss] = {}
    for name, other, index in _same_index(entries, absent):
        losses[name] = Loss(index=True)
        message = f"{name} and {other} were both granted index {index}: {other} keeps it, {name} gets no links"
        findings.append(Finding(codes.DUPLICATE_INDEX, name, message, other))
    for name, other, number, key in _same_key(entries, losses):
        loss = losses.get(name, Loss())
        losses[name] = replace(loss, keys=loss.keys | {key})
        message = (
            f"{name} (generation {number}) and {other} announce one public key and both hold it, as after cloning "
            f"a disk: {other} keeps it; move the state directory of {name} away and restart its agent"
        )
        findings.append(Finding(codes.DUPLICATE_KEY, name, message, other))
    contested: dict[tuple[str, str], list[Prefix]] = defaultdict(list)
    for name, other, prefix in _overlaps(entries, absent):
        loss = losses.get(name, Loss())
        losses[name] = replace(loss, prefixes=loss.prefixes | {prefix})
        contested[name, other].append(prefix)
    findings.extend(_overlap_finding(name, other, prefixes) for (name, other), prefixes in contested.items())
    return losses, findings


def _overlap_finding(name: str, other: str, prefixes: list[Prefix]) -> Finding:
    listed = ", ".join(prefixes[:_NAMED]) + (f" and {len(prefixes) - _NAMED} more" if len(prefixes) > _NAMED else "")
    message = f"the grants of {name} and {other} overlap in {listed}: {other} keeps it, {name} loses it"
    return Finding(codes.GRANTS_OVERLAP, name, message, other)


def _rank(name: str, entries: Mapping[str, Entry], absent: frozenset[str]) -> tuple[bool, datetime, int, str]:
    """Order of precedence of a node's grant: lower keeps."""
    accepted = entries[name].grant
    assert accepted is not None
    return name in absent, accepted.value.issued, accepted.value.index, name


def _same_index(entries: Mapping[str, Entry], absent: frozenset[str]) -> Iterator[tuple[str, str, int]]:
    """Yield (loser, keeper, index)."""
    holders: dict[int, list[str]] = defaultdict(list)
    for name, entry in entries.items():
        if entry.grant is not None:
            holders[entry.grant.value.index].append(name)
    for index, names in holders.items():
        if len(names) > 1:
            keeper, *losers = sorted(names, key=lambda name: _rank(name, entries, absent))
            yield from ((loser, keeper, index) for loser in losers)


def _same_key(entries: Mapping[str, Entry], losses: Mapping[str, Loss]) -> Iterator[tuple[str, str, int, PublicKey]]:
    """Yield (loser, keeper, the loser's generation, key); nodes without a valid index do not count."""
    holders: dict[PublicKey, list[tuple[int, str, int]]] = defaultdict(list)
    for name, entry in entries.items():
        if entry.grant is not None and entry.announcement is not None and name not in losses:
            for generation in entry.announcement.value.generations:
                holders[generation.public_key].append((entry.grant.value.index, name, generation.number))
    for key, found in holders.items():
        if len(found) > 1:
            (_, keeper, _), *losers = sorted(found)
            yield from ((loser, keeper, number, key) for _, loser, number in losers)


def _overlaps(entries: Mapping[str, Entry], absent: frozenset[str]) -> Iterator[tuple[str, str, Prefix]]:
    """Yield (loser, keeper, the loser's prefix)."""
    spans = [(span, name) for name, entry in entries.items() if entry.grant for span in entry.grant.spans]
    spans.sort(key=itemgetter(0))
    for cluster in _clusters(spans):
        if len({name for _, name in cluster}) > 1:
            yield from _contest(cluster, entries, absent)


def _clusters(spans: Iterable[tuple[Span, str]]) -> Iterator[list[tuple[Span, str]]]:
    """Group sorted spans into outermost prefixes and all that lies within; prefixes nest or are apart."""
    cluster: list[tuple[Span, str]] = []
    version, high = 0, -1
    for item in spans:
        span = item[0]
        if span.version != version or span.low > high:
            if len(cluster) > 1:
                yield cluster
            cluster, version, high = [], span.version, -span.minus_high
        cluster.append(item)
    if len(cluster) > 1:
        yield cluster


def _contest(
    cluster: list[tuple[Span, str]], entries: Mapping[str, Entry], absent: frozenset[str]
) -> Iterator[tuple[str, str, Prefix]]:
    """Give each span of the cluster to the first in rank; a span that meets one given to another node is lost."""
    lows: list[int] = []  # of the ranges given away, sorted; they do not touch each other
    given: list[tuple[int, str]] = []  # high and owner, in the same order
    # By rank, then wide before narrow: a node's own nested prefixes lie within a range it has already.
    for span, name in sorted(
        cluster, key=lambda item: (_rank(item[1], entries, absent), item[0].minus_high + item[0].low)
    ):
        low, high = span.low, -span.minus_high
        at = bisect_right(lows, low)
        around = given[at - 1] if at and given[at - 1][0] >= low else None
        inside = given[at] if at < len(lows) and lows[at] <= high else None
        keeper = around or inside
        if keeper is None:
            lows.insert(at, low)
            given.insert(at, (high, name))
        elif keeper[1] != name:
            yield name, keeper[1], span.prefix

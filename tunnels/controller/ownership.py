"""Who is granted what, of what the address provider offers and nodes say: the one place where that is decided. Pure.

    holds it and still claims it    keeps it, whoever else claims it
    held by another that claims it  refused, and both are named
    held by another that does not   given in a later pass, when the other's grant no longer says it
    nobody holds it                 the first node by name that claims it

So no address is ever in two grants, though each is written by itself: a swap of two nodes takes two passes, and for as
long as one write takes its addresses are in no grant. A claim that is refused is refused whole, but for what the node
holds of it. A node that is offered no prefix at all keeps what it has until another claims it: that all objects of a
CNI are gone must not open the way for plaintext. A Node's addresses are said by its own kubelet, which may lie: none is
granted outside the networks that the operator names, and none that is no unicast address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Final, TypeVar

from linkseal.keys.grant import MAX_ADDRESSES, MAX_PREFIXES, Grant
from linkseal.keys.values import Prefix
from linkseal.tunnels.addressing import MAX_INDEX
from linkseal.tunnels.controller.land import Land, Span, common, minus, prefixes_of, span, spans
from linkseal.tunnels.intervals import outermost
from linkseal.tunnels.world import host_prefix

NOT_UNICAST: Final = spans(
    Prefix(text)
    for text in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",
        "::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip
"""What no node can own: unspecified, loopback, link-local, mapped, multicast, broadcast (RFC 6890, RFC 4291)."""

Text = TypeVar("Text", bound=str)

NO_INDEXES: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class SeenNode:
    """A Node as the API server and the address provider have it.

    `grant`: the one it carries that is by our CA, for this very Node. `sent`: a newer one that was sent and has not
    been seen on it yet. `keeps`: not all that it has could be read, so what it was granted counts as claimed too.
    """

    name: str
    uid: str
    addresses: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    grant: Grant | None = None
    sent: Grant | None = None
    keeps: bool = False

    @property
    def newest(self) -> Grant | None:
        """What was granted last."""
        return self.sent or self.grant

    def holds(self, *, pods_only: bool = False) -> Iterator[Prefix]:
        """Yield what the node may have been granted."""
        for grant in (self.grant, self.sent):
            if grant is not None:
                yield from grant.prefixes
                if not pods_only:
                    yield from map(host_prefix, grant.addresses)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a node is to be granted."""

    name: str
    uid: str
    index: int
    addresses: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    opted_out: bool


@dataclass(frozen=True, slots=True)
class Owned:
    """What is to be granted. `problems`: what was not, and why, as lines."""

    claims: tuple[Claim, ...] = ()
    problems: tuple[str, ...] = ()


def owned(
    nodes: Sequence[SeenNode],
    opted_out: Collection[str],
    networks: Collection[str] = (),
    pod_networks: Collection[str] = (),
    former: Mapping[str, int] = NO_INDEXES,
) -> Owned:
    """Return what each node is to be granted.

    `networks`, `pod_networks`: where addresses of nodes and prefixes of pods may be, anywhere if empty. Indexes stay,
    but for those that nodes have from a `former` cluster: others know their probe addresses by them.
    """
    ordered = sorted(nodes, key=lambda node: node.name)
    indexes = _indexes(ordered, former)
    # Of a former cluster's nodes those that have not reported have indexes too: beyond what is known at first.
    most = max((one for one in former.values() if one <= MAX_INDEX), default=0)
    left = set(range(1, MAX_INDEX + 1)) - set(indexes.values()) - set(former.values())
    free = iter(sorted(left, key=lambda index: (index < most, index)))
    problems: list[str] = []
    claimed = spans(one for node in ordered for one in (*map(host_prefix, node.addresses), *node.prefixes))
    wanted = {node.name: _wanted(node, claimed, networks, pod_networks, problems) for node in ordered}
    sharing = _Sharing(ordered, wanted, problems)
    claims: list[Claim] = []
    for node in ordered:
        index = indexes.get(node.name) or next(free, 0)
        if not index:
            problems.append(f"{node.name}: there are more than {MAX_INDEX} nodes; it gets no grant")
            continue
        addresses, prefixes = sharing.share_of(node.name)
        claims.append(Claim(node.name, node.uid, index, addresses, prefixes, node.name in opted_out))
    return Owned(tuple(claims), tuple(problems))


def _indexes(ordered: Sequence[SeenNode], former: Mapping[str, int]) -> dict[str, int]:
    """Return the index of every node that has one: from a former cluster, else what it was granted last.

    Of two that say the same the one that was granted it keeps it, else the first by name has it.
    """
    granted = {node.name: node.newest.index for node in ordered if node.newest is not None}
    said = [node.name for node in ordered if 1 <= former.get(node.name, 0) <= MAX_INDEX]
    said.sort(key=lambda name: granted.get(name) != former[name])
    taken: dict[int, str] = {}
    for name in said:
        taken.setdefault(former[name], name)
    placed = set(taken.values())
    for name, index in granted.items():
        if name not in placed:
            taken.setdefault(index, name)
    return {name: index for index, name in taken.items()}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a node claims and may have by itself; `whole` is all of it."""

    addresses: tuple[str, ...]
    prefixes: tuple[Prefix, ...]
    whole: tuple[Span, ...]


def _wanted(
    node: SeenNode,
    claimed: Sequence[Span],
    networks: Collection[str],
    pod_networks: Collection[str],
    problems: list[str],
) -> _Wanted:
    prefixes = node.prefixes
    had = () if node.grant is None else node.grant.prefixes
    if node.keeps:
        covered = spans(prefixes)
        prefixes += tuple(one for one in had if not _within(span(one), covered))
    elif not prefixes:
        prefixes = tuple(part for one in had for part in prefixes_of(minus((span(one),), claimed)))
    addresses = node.addresses or _kept_addresses(node, problems)
    mine = _allowed(node.name, {one: span(host_prefix(one)) for one in addresses}, "node", networks, problems)
    pods = _allowed(node.name, {one: span(one) for one in prefixes}, "pod", pod_networks, problems)
    return _Wanted(mine, pods, spans((*map(host_prefix, mine), *pods)))


def _kept_addresses(node: SeenNode, problems: list[str]) -> tuple[str, ...]:
    """Return the addresses of a Node that says none any more: those that it was granted, whoever claims them now.

    Peers would send to them in plaintext else. Whoever may write the status of Nodes can empty it.
    """
    kept = () if node.grant is None else node.grant.addresses
    if kept:
        problems.append(f"{node.name}: its Node says no address any more: it keeps {', '.join(kept)}")
    return kept


def _allowed(
    name: str, listed: Mapping[Text, Span], whose: str, networks: Collection[str], problems: list[str]
) -> tuple[Text, ...]:
    """Return what may be granted at all."""
    inside = spans(Prefix(str(ip_network(one))) for one in networks)
    found: list[Text] = []
    for text, one in listed.items():
        what = f"{name}: {'its address' if whose == 'node' else 'the prefix'} {text}"
        if common((one,), NOT_UNICAST):
            problems.append(f"{what} is not of unicast addresses alone: not granted")
        elif networks and not _within(one, inside):
            where = ", ".join(sorted(networks))
            problems.append(f"{what} is in none of the {whose}s' networks ({where}): not granted")
        else:
            found.append(text)
    return tuple(found)


def _within(one: Span, land: Sequence[Span]) -> bool:
    return not minus((one,), land)


class _Sharing:
    """Shares out what is claimed; asked for nodes in their order."""

    def __init__(self, nodes: Sequence[SeenNode], wanted: Mapping[str, _Wanted], problems: list[str]) -> None:
        self._wanted, self._problems = wanted, problems
        ranked = sorted(nodes, key=_rank)
        self._holds = {node.name: spans(node.holds()) for node in ranked}
        self._holds_for_pods = {node.name: spans(node.holds(pods_only=True)) for node in nodes}
        self._held = Land.shared_out((one, name) for name, ranges in self._holds.items() for one in ranges)
        self._given = Land()

    def share_of(self, name: str) -> tuple[tuple[str, ...], tuple[Prefix, ...]]:
        """Return addresses and prefixes of a node. New ones of two nodes go to the one that is asked for first."""
        wanted = self._wanted[name]
        addresses = [one for one in wanted.addresses if self._gives(name, host_prefix(one))]
        given = outermost(tuple(one for one in wanted.prefixes if self._gives(name, one)))
        kept = (part for one in wanted.prefixes if one not in given for part in self._kept(name, one))
        prefixes = (*given, *prefixes_of(minus(spans(kept), spans(given))))
        if len(prefixes) > MAX_PREFIXES:
            prefixes = prefixes_of(spans(prefixes))
        return (
            self._fitting(name, {one: span(host_prefix(one)) for one in addresses}, MAX_ADDRESSES, "addresses"),
            self._fitting(name, {one: span(one) for one in prefixes}, MAX_PREFIXES, "prefixes"),
        )

    def _gives(self, name: str, claim: Prefix) -> bool:
        """Whether a node gets all of what it claims."""
        one = span(claim)
        held = self._held.within(one)
        if held == [(one, name)]:
            return True
        others = [(part, holder) for part, holder in held if holder != name]
        refused = [taken for taken in others if common((taken[0],), self._wanted[taken[1]].whole)]
        refused += [taken for taken in self._given.within(one) if taken[1] != name]
        if refused:
            part, holder = refused[0]
            what = f"which {holder} holds" if part == one else f"of which {holder} holds {prefixes_of((part,))[0]}"
            self._problems.append(f"{name} claims {claim}, {what}: not granted")
        elif not others:
            self._given.give(one, name)
        return not refused and not others

    def _kept(self, name: str, claim: Prefix) -> tuple[Prefix, ...]:
        """Return what a node has for pods of what it claims."""
        mine = tuple(part for part, holder in self._held.within(span(claim)) if holder == name)
        return prefixes_of(common(mine, self._holds_for_pods[name]))

    def _fitting(self, name: str, listed: Mapping[Text, Span], most: int, what: str) -> tuple[Text, ...]:
        """Return as many as a grant holds: what the node has already before what is new."""
        if len(listed) <= most:
            return tuple(listed)
        self._problems.append(
            f"{name}: a grant holds {most} {what} at most, and there are {len(listed)}: the rest is not granted"
        )
        first = sorted(listed, key=lambda text: not _within(listed[text], self._holds[name]))
        kept = frozenset(first[:most])
        return tuple(text for text in listed if text in kept)


def _rank(node: SeenNode) -> tuple[bool, datetime, str]:
    """Order in which nodes keep what two were granted: that of the receivers (`linkseal.tunnels.conflicts`)."""
    grant = node.grant or node.sent
    return grant is None, datetime.min.replace(tzinfo=UTC) if grant is None else grant.issued, node.name

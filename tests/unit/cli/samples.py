"""Reports of a made-up cluster, as the directory would hold them, at one fixed moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from linkseal.tunnels.cli.load import Seen
from linkseal.tunnels.cluster import cluster_status
from linkseal.tunnels.model import LinkState, Scope, Stage
from linkseal.tunnels.policy import Policy
from linkseal.tunnels.status import (
    FindingStatus,
    GenerationStatus,
    LinkCounts,
    Metadata,
    NodeEncryption,
    NodeStatus,
    PairStatus,
    UnsealedPeer,
)

NOW = 1_793_872_800.0  # 2026-11-05T10:00:00Z

States = Mapping[tuple[str, str], tuple[LinkState, str | None]]
SEALED: tuple[LinkState, str | None] = (LinkState.SEALED, None)


def names(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count + 1)]


def pair(peer: str, state: LinkState, code: str | None, *, own: int = 3, remote: int = 2) -> PairStatus:
    alive = state in (LinkState.SEALED, LinkState.PROVEN, LinkState.STALE)
    return PairStatus(
        peer=peer,
        own=own,
        remote=remote,
        slot=f"lsl{own % 2}{remote % 2}",
        state=state,
        since=NOW - 7500,
        last_handshake=NOW - (400 if state is LinkState.STALE else 42) if alive else None,
        last_proof=NOW - (390 if state is LinkState.STALE else 12) if alive else None,
        rx_bytes=3_400_000 if alive else 0,
        tx_bytes=1_200 if alive else 592,
        endpoint=f"192.0.2.{peer[1:]}:51822",
        path_mtu=1440 if alive else None,
        carries=alive,
        code=code,
    )


def report(
    name: str,
    everybody: Sequence[str],
    states: States,
    *,
    age: float = 5,
    stage: Stage = Stage.PREFER,
    findings: Sequence[FindingStatus] = (),
) -> NodeEncryption:
    pairs = tuple(pair(peer, *states.get((name, peer), SEALED)) for peer in everybody if peer != name)
    counts = {state.value: sum(one.state is state for one in pairs) for state in LinkState}
    status = NodeStatus(
        observed_at=NOW - age,
        stage=stage,
        scope=Scope.OVERLAY,
        protocol="wireguard",
        driver="kernel",
        door=True,
        version="0.1.0",
        kernel="6.1.0-38-amd64",
        mtu=1440,
        serial=7,
        announced_serial=7,
        generations=(GenerationStatus(3, "live", "4f1c-9a22", NOW - 187_000),),
        links=LinkCounts(total=len(pairs), **counts),
        unsealed=tuple(UnsealedPeer(one.peer, one.state, one.code) for one in pairs if one.state != LinkState.SEALED),
        pairs=pairs,
        findings=tuple(findings),
    )
    return NodeEncryption(Metadata(name), status=status)


def seen(
    reports: Mapping[str, NodeEncryption | None], *, stage: Stage = Stage.PREFER, opted_out: Sequence[str] = ()
) -> Seen:
    policy = Policy(stage=stage)
    return Seen(cluster_status(reports, policy, NOW, nodes=list(reports), opted_out=opted_out), policy, NOW)


def healthy(count: int) -> Seen:
    everybody = names(count)
    return seen({name: report(name, everybody, {}) for name in everybody})


def troubled() -> Seen:
    """n2 has lost n3, n4 has never reported, n5 is opted out."""
    everybody = ["n1", "n2", "n3", "n4"]
    states: States = {
        ("n2", "n3"): (LinkState.STALE, "LS2001"),
        ("n3", "n2"): (LinkState.PENDING, "LS2001"),
        **{(name, "n4"): (LinkState.ABSENT, None) for name in ("n1", "n2", "n3")},
    }
    lost = FindingStatus("LS2001", "n3", "no handshake with n3 for 6 minutes", NOW - 390)
    narrow = FindingStatus("LS3008", "n3", "the path to n3 carries 1400 bytes", NOW - 90_000)
    return seen(
        {
            "n1": report("n1", everybody, states),
            "n2": report("n2", everybody, states, findings=(lost, narrow)),
            "n3": report("n3", everybody, states, age=42),
            "n4": None,
            "n5": None,
        },
        opted_out=("n5",),
    )

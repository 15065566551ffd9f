"""A node in trouble, as its agent tells Prometheus of it."""

from __future__ import annotations

from linkseal.tunnels.agent.web import PictureCollector
from linkseal.tunnels.metrics import BUCKETS, Heard, LoopFigures, Picture
from linkseal.tunnels.model import Scope, Stage
from linkseal.tunnels.status import FindingStatus, GenerationStatus, LinkCounts, NodeStatus
from linkseal.tunnels.statusparts import AppliedStatus, GuardStatus, PlaintextCount, Verification
from prometheus_client.registry import CollectorRegistry

STATUS = NodeStatus(
    observed_at=1000.0,
    stage=Stage.PREFER,
    scope=Scope.OVERLAY,
    protocol="wireguard",
    driver="kernel",
    door=True,
    version="0.1.0",
    kernel='6.1.0 "odd"\\',
    mtu=1440,
    serial=7,
    announced_serial=6,
    generations=(GenerationStatus(4, "live", "f" * 16, 400.0),),
    links=LinkCounts(total=5, sealed=3, stale=2),
    findings=(
        FindingStatus("LS2001", "n2", "no handshake", 1.0),
        FindingStatus("LS2001", "n3", "no handshake", 1.0),
        FindingStatus("LS9999", "n3", "of a later version", 1.0),
    ),
    policy=AppliedStatus(12, applied=True),
    guard=GuardStatus(
        "drop",
        whole=False,
        broken_glass="an emergency",
        counts=(
            PlaintextCount("out", "unproven", "dropped", 3, 180),
            PlaintextCount("in", "exempt", "counted", 4, 200),
            PlaintextCount("out", "bypass", "counted", 1, 60),
        ),
        masqueraded=9,
    ),
    verified=(Verification("n2", "proven", 900.0), Verification("n3", "leaked", 950.0)),
)
LOOP = LoopFigures(6, 12.5, (1, 2, *[0] * (len(BUCKETS) - 4), 1, 1, 1), 1, 2, 3, 4, ready=True)
PICTURE = Picture(LOOP, STATUS, Heard(40.0, 1, (("n2", 40.0), ("n3", 90.0))))


def registry(picture: Picture) -> CollectorRegistry:
    found = CollectorRegistry(auto_describe=False)
    found.register(PictureCollector(lambda: picture))
    return found

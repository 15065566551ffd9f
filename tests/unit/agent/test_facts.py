"""What is announced of this host."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from linkseal.keys.announcement import AnnouncedEndpoint
from linkseal.keys.grant import Grant
from linkseal.tunnels.agent.facts import Peers, behind, endpoints_to_announce, opted_out, peers_of
from linkseal.tunnels.model import Observed, Stage
from linkseal.tunnels.policy import Policy, Pool
from linkseal.tunnels.register import NodeDocuments
from linkseal.tunnels.register import Peer as Accepted
from linkseal.tunnels.settings import parse_agent_settings
from unit.keys.cluster import fresh

CONFIG = {"apiVersion": "linkseal.io/v1alpha1", "kind": "AgentConfig", "uid": "u", "directory": {"path": "/d"}}
GRANT = Grant("n1", "u", 1, 1, datetime.now(UTC), ("192.0.2.11",), ("10.244.1.0/24",))
BEFORE = (AnnouncedEndpoint("192.0.2.11", 51820),)


def announced(observed: Observed, before: tuple[AnnouncedEndpoint, ...], **config: object) -> object:
    settings = parse_agent_settings({**CONFIG, **config}, "test", hostname="n1")
    return endpoints_to_announce(settings, GRANT, observed, 51820, before)


def test_while_the_nic_is_away_what_was_announced_holds() -> None:
    """Peers that are told of no endpoint take this node for one behind NAT and wait for it to begin."""
    here = Observed(host_addresses={"192.0.2.11": "eth0"})
    assert announced(here, ()) == BEFORE
    assert announced(Observed(), BEFORE) == BEFORE
    assert announced(Observed(), ()) == ()


def test_who_says_that_it_cannot_be_reached_is_believed() -> None:
    assert announced(Observed(), BEFORE, endpoints=[]) == ()


def test_who_has_opted_out_is_known_by_what_it_owns_and_is_no_peer() -> None:
    grants = {name: replace(GRANT, node=name, opted_out=name != "n2") for name in ("n1", "n2", "n3")}
    accepted = {name: Accepted(name, "u", grant, None, NodeDocuments()) for name, grant in grants.items()}
    out = opted_out(accepted, "n1")
    assert set(out) == {"n3"}
    assert (out["n3"].addresses, out["n3"].prefixes, out["n3"].generations) == (GRANT.addresses, GRANT.prefixes, ())
    assert set(peers_of(accepted, "n1")) == {"n2"}


def test_whom_a_pool_leaves_at_stage_off_is_no_peer_and_is_known_by_what_it_owns() -> None:
    grants = {name: replace(GRANT, node=name, opted_out=name == "n4") for name in ("n1", "n2", "n3", "n4")}
    accepted = {name: Accepted(name, "u", grant, None, NodeDocuments()) for name, grant in grants.items()}
    for stage, others in ((Stage.OFF, {"n3"}), (Stage.PREPARE, set[str]())):
        policy = Policy(stage=stage, pool=Pool(Stage.ENFORCE, frozenset({"n1", "n2"})))
        found = behind(accepted, "n1", policy)
        assert set(found) == others
        assert set(peers_of(accepted, "n1", policy)) == {"n2", "n3"} - others
        assert all(one.prefixes == GRANT.prefixes for one in found.values())


def test_who_said_nothing_new_is_the_same_peer_as_before_and_who_went_is_forgotten() -> None:
    accepted = {
        name: Accepted(name, "u", replace(GRANT, node=name), None, NodeDocuments()) for name in ("n1", "n2", "n3", "n4")
    }
    peers, policy = Peers(), Policy()
    first = peers.of(accepted, "n1", policy)
    moved = replace(accepted["n3"], grant=replace(accepted["n3"].grant, addresses=("192.0.2.33",)))
    second = peers.of({**{name: accepted[name] for name in ("n1", "n2")}, "n3": moved}, "n1", policy)
    assert set(first) == {"n2", "n3", "n4"}
    assert set(second) == {"n2", "n3"}
    assert set(peers._known) == {"n1", "n2", "n3"}
    assert second["n2"] is first["n2"]
    assert second["n3"].addresses == ("192.0.2.33",)
    staged = peers.of(accepted, "n1", Policy(stage=Stage.PREPARE, pool=Pool(Stage.ENFORCE, frozenset({"n1", "n2"}))))
    assert {name: peer.stage for name, peer in staged.items()} == {
        "n2": Stage.ENFORCE,
        "n3": Stage.PREPARE,
        "n4": Stage.PREPARE,
    }
    assert peers.of(accepted, "n1", policy)["n2"].stage is None


def test_ways_are_looked_for_anew_when_somebody_owns_something_else_or_has_come_to_speak() -> None:
    one = Accepted("n2", "u", replace(GRANT, node="n2"), None, NodeDocuments())
    peers = Peers()
    assert peers.own_anew({"n2": one}, ["n2"]), "nobody knew of it"
    peers.of({"n2": one}, "n1", Policy())
    assert not peers.own_anew({"n2": one}, ["n2"])
    assert not peers.own_anew({}, [])
    said = fresh().peers["n2"].announcement
    assert said is not None
    speaks = replace(one, announcement=said)
    assert peers.own_anew({"n2": speaks}, ["n2"])
    peers.of({"n2": speaks}, "n1", Policy())
    assert not peers.own_anew({"n2": replace(speaks, announcement=replace(said, serial=9))}, ["n2"]), "another key"
    moved = replace(speaks, grant=replace(speaks.grant, addresses=("192.0.2.33",)))
    assert peers.own_anew({"n2": moved}, ["n2"])
    assert peers.own_anew({}, ["n2"]), "it is gone"

"""Where a cluster's object sends it: all nodes, a pool before them, and what may not be lowered by an old file."""

from __future__ import annotations

import logging

import pytest
from linkseal.tunnels.controller.aims import Aim
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool
from linkseal.tunnels.stages import TIMEOUT, Evidence, Position, Walk
from unit.controller.aiming import ENFORCE, NAMES, OFF, POOL, PREFER, PREPARE, Cluster, ahead
from unit.test_stages import report


def test_a_pool_goes_first_and_the_others_follow_to_where_it_is() -> None:
    cluster = Cluster()
    aim = cluster.ask(OFF, ahead(PREFER))
    assert cluster.walk(aim) == ["off (n1, n2: prepare)", "off (n1, n2: prefer)"]
    assert aim.goal == cluster.at == Position(OFF, Pool(PREFER, POOL))
    aim = cluster.ask(PREFER, ahead(PREFER))
    assert cluster.walk(aim) == ["prepare (n1, n2: prefer)", "prefer"]
    assert aim.goal == cluster.at == Position(PREFER)


def test_all_go_first_and_then_the_pool_if_both_are_asked_for_at_once() -> None:
    cluster = Cluster()
    aim = cluster.ask(PREPARE, ahead(PREFER))
    assert cluster.walk(aim) == ["prepare", "prepare (n1, n2: prefer)"]
    assert cluster.at == aim.goal


def test_a_pool_is_taken_back_only_if_its_lower_to_says_so(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(PREPARE, PREFER)
    for pool in (ahead(PREPARE), ahead(OFF), None):
        aim = cluster.ask(PREPARE, pool)
        assert cluster.walk(aim) == []
        assert cluster.at == Position(PREPARE, Pool(PREFER, POOL)), "an old file lowers nothing"
    assert "not lowered unless `pool.lowerTo: prepare`" in caplog.text
    assert cluster.walk(cluster.ask(PREPARE, ahead(OFF, OFF))) == ["prepare"], "no further back than the others"


def test_to_lower_all_takes_the_pool_back_first_and_does_not_begin_it_anew() -> None:
    cluster = Cluster(PREPARE, PREFER)
    aim = cluster.ask(OFF, ahead(PREFER), OFF)
    assert cluster.walk(aim) == ["prepare", "off"]
    assert cluster.walk(aim) == []
    assert cluster.at == Position(OFF)


def test_to_lower_all_to_where_they_are_leaves_the_pool_where_it_is() -> None:
    """Only its own lowerTo takes it back: who breaks off a walk of all asks for just that."""
    cluster = Cluster(OFF, ENFORCE)
    cluster.ask(ENFORCE, ahead(ENFORCE))
    assert cluster.step() == "prepare (n1, n2: enforce)"
    aim = cluster.ask(PREPARE, ahead(ENFORCE), PREPARE)
    assert cluster.walk(aim) == []
    assert cluster.walk(cluster.ask(PREPARE, ahead(ENFORCE))) == []
    assert cluster.at == aim.goal == Position(PREPARE, Pool(ENFORCE, POOL))


def test_a_walk_down_that_is_broken_off_leaves_the_pool_where_it_is() -> None:
    cluster = Cluster(PREPARE, ENFORCE)
    cluster.ask(OFF, ahead(OFF, OFF), OFF)
    assert cluster.step() == "prepare (n1, n2: prefer)"
    aim = cluster.ask(PREPARE, ahead(PREFER, PREFER), PREPARE)
    assert cluster.walk(aim) == []
    assert cluster.walk(cluster.ask(PREPARE, ahead(PREFER))) == []
    assert cluster.at == aim.goal == Position(PREPARE, Pool(PREFER, POOL))


def test_a_pool_that_went_on_meanwhile_comes_back_to_where_it_is_asked_to_stay() -> None:
    cluster = Cluster(PREPARE)
    cluster.ask(PREPARE, ahead(ENFORCE))
    cluster.step()
    aim = cluster.ask(PREPARE, ahead(PREPARE, PREPARE))
    cluster.walk(aim)
    assert cluster.at == aim.goal == Position(PREPARE)


def test_who_is_to_be_lower_and_must_not_goes_no_further_up() -> None:
    cluster = Cluster(PREPARE)
    cluster.ask(PREPARE, ahead(ENFORCE))
    cluster.step()
    assert cluster.walk(cluster.ask(PREPARE, ahead(PREPARE))) == []
    assert cluster.at == Position(PREPARE, Pool(PREFER, POOL))
    lowering = Cluster(ENFORCE)
    aim = lowering.ask(OFF, lower_to=OFF)
    lowering.step()
    assert lowering.walk(lowering.ask(OFF)) == ["prepare", "off"], "what was asked for is not undone without lowerTo"
    assert aim.goal == lowering.at


def test_a_part_of_a_pool_is_not_taken_back_nor_further() -> None:
    """The rest would fall with it, without a stage between."""
    for pool in (ahead(PREFER, PREFER, frozenset({"n1"})), ahead(PREFER, None, frozenset({"n2", "n3"}))):
        cluster = Cluster(OFF, ENFORCE)
        aim = cluster.ask(OFF, pool)
        assert cluster.walk(aim) == []
        assert cluster.at == Position(OFF, Pool(ENFORCE, POOL))
        assert "there is a pool already" in (cluster.stages.unmet(aim, NAMES) or "")


def test_a_pool_of_which_one_is_gone_goes_on() -> None:
    cluster = Cluster(OFF, PREPARE)
    aim = Aim(OFF, None, ahead(PREFER))
    cluster.stages.aim(aim, ("n1",), 1.0)
    assert cluster.stages.unmet(aim, ("n1",)) is None
    assert cluster.step() == "off (n1, n2: prefer)"


def test_a_pool_does_not_go_ahead_of_a_walk_that_was_taken_back() -> None:
    cluster = Cluster(PREPARE)
    aim = cluster.ask(PREFER, ahead(ENFORCE))
    cluster.step()
    late = Evidence(7, {"n3": report("n3", serial=6, at=cluster.now + TIMEOUT)}, ())
    cluster.stages.signed(7)
    cluster.now += TIMEOUT + 1
    assert cluster.stages.tick(late, cluster.now)
    cluster.stages.aim(aim, NAMES, cluster.now)
    assert (cluster.at, cluster.stages.walk) == (Position(PREPARE), None)
    assert not cluster.stages.ended[cluster.stages.number].good
    aim = cluster.ask(PREFER, ahead(ENFORCE), asked="2026-11-02T10:00:00Z")
    assert cluster.stages.walk is not None, "asked for once more it is walked once more"
    assert cluster.stages.walk.target is PREFER


def test_asked_once_more_it_is_only_begun_where_it_is_not_there() -> None:
    cluster = Cluster(PREPARE, PREFER)
    assert cluster.walk(cluster.ask(PREPARE, ahead(PREFER), asked="1")) == []
    assert cluster.walk(cluster.ask(PREPARE, ahead(PREFER))) == [], "who does not say it does not ask"
    cluster.anew()
    assert not cluster.stages.wants(Aim(PREPARE, None, ahead(PREFER), asked="1"))


def test_lowered_under_way_nothing_begins_by_itself_after_that() -> None:
    cluster = Cluster(PREPARE)
    cluster.ask(PREPARE, ahead(ENFORCE))
    cluster.step()
    cluster.ask(PREFER, ahead(ENFORCE))
    aim = cluster.ask(OFF, ahead(ENFORCE), OFF)
    cluster.walk(aim)
    assert (cluster.at, cluster.stages.walk) == (Position(OFF), None)
    assert cluster.walk(aim) == []


def test_a_pool_that_comes_back_when_all_are_to_go_up_does_so_after_that() -> None:
    cluster = Cluster(OFF, ENFORCE)
    cluster.ask(OFF, ahead(PREPARE, PREPARE))
    cluster.step()
    aim = cluster.ask(PREFER, ahead(PREPARE, PREPARE))
    assert cluster.walk(aim)[-1] == "prefer"
    assert cluster.at == aim.goal == Position(PREFER)


def test_another_pool_waits_for_the_last_step_of_the_one_before() -> None:
    """Where that leads there may be a pool again; two at once there are never."""
    cluster = Cluster(OFF, PREPARE)
    cluster.ask(OFF, ahead(OFF, OFF))
    assert cluster.step() == "off"
    aim = cluster.ask(OFF, ahead(PREFER, nodes=frozenset({"n3"})))
    walk = cluster.stages.walk
    assert walk is not None
    assert walk.nodes == POOL
    assert cluster.walk(aim) == ["off (n3: prepare)", "off (n3: prefer)"]


def test_a_pool_that_is_refused_stops_the_one_that_it_replaces() -> None:
    cluster = Cluster(OFF)
    cluster.ask(OFF, ahead(ENFORCE))
    cluster.step()
    aim = cluster.ask(OFF, ahead(PREFER, nodes=frozenset({"n3"})))
    assert cluster.walk(aim) == []
    assert str(cluster.at) == "off (n1, n2: prepare)"
    assert "there is a pool already" in (cluster.stages.unmet(aim, NAMES) or "")


@pytest.mark.parametrize("lower_to", [None, ENFORCE])
def test_all_lowered_to_where_they_were_a_step_ago_leave_the_pool_where_it_is(lower_to: Stage | None) -> None:
    cluster = Cluster(PREPARE, ENFORCE)
    cluster.ask(PREFER, ahead(ENFORCE))
    assert cluster.step() == "prefer (n1, n2: enforce)"
    aim = cluster.ask(PREPARE, ahead(ENFORCE, lower_to), PREPARE)
    assert cluster.walk(aim) == []
    assert cluster.at == aim.goal == Position(PREPARE, Pool(ENFORCE, POOL))


def test_a_walk_down_that_is_to_end_where_all_are_ends_with_its_step() -> None:
    cluster = Cluster(PREPARE, ENFORCE)
    cluster.ask(OFF, ahead(OFF, OFF), OFF)
    assert cluster.step() == "prepare (n1, n2: prefer)"
    aim = cluster.ask(PREPARE, ahead(ENFORCE))
    assert cluster.walk(aim) == []
    assert cluster.at == aim.goal, "the step down was taken back"


def test_a_pool_that_comes_back_says_that_it_waits_for_all() -> None:
    cluster = Cluster(PREPARE, ENFORCE)
    cluster.stages.aim(Aim(PREFER, None, ahead(ENFORCE)), NAMES, 1.0)
    aim = cluster.ask(PREFER, ahead(PREPARE, PREPARE))
    assert "comes back when all nodes are at stage prefer" in (cluster.stages.unmet(aim, NAMES) or "")


def test_without_a_pool_one_more_time_the_pool_stops() -> None:
    cluster = Cluster(OFF)
    cluster.ask(OFF, ahead(ENFORCE))
    cluster.step()
    assert cluster.walk(cluster.ask(OFF, asked="1")) == []
    assert str(cluster.at) == "off (n1, n2: prepare)"


def test_why_a_walk_was_taken_back_is_known_after_a_restart() -> None:
    cluster = Cluster(PREPARE)
    cluster.ask(PREFER)
    cluster.step()
    cluster.stages.signed(7)
    late = Evidence(7, {"n3": report("n3", serial=6, at=cluster.now + TIMEOUT)}, ())
    assert cluster.stages.tick(late, cluster.now + TIMEOUT + 1)
    assert "not applied everywhere" in cluster.stages.taken_back
    cluster.anew()
    assert "not applied everywhere" in cluster.stages.taken_back
    cluster.ask(PREFER, asked="1")
    assert cluster.stages.taken_back == ""


def test_one_pool_is_told_to_wait_only_when_its_turn_has_come() -> None:
    cluster = Cluster(OFF, PREFER)
    aim = cluster.ask(PREFER, ahead(ENFORCE, nodes=frozenset({"n3"})))
    assert cluster.stages.unmet(aim, NAMES) is None, "when all are there, there is no other pool any more"


def test_a_pool_that_goes_up_is_overtaken_by_all_without_a_step_back_and_goes_on_after_that() -> None:
    """To take its step back would bring plaintext."""
    cluster = Cluster(PREPARE)
    cluster.ask(PREPARE, ahead(ENFORCE))
    assert cluster.step() == "prepare (n1, n2: prefer)"
    cluster.ask(PREFER, ahead(ENFORCE))
    assert str(cluster.at) == "prepare (n1, n2: prefer)"
    places = [cluster.step() for _ in range(3)]
    assert places[-1] == "prefer"
    assert "prepare" not in places
    cluster.ask(PREFER, ahead(ENFORCE))
    assert cluster.stages.walk is not None
    assert (cluster.stages.walk.nodes, cluster.stages.walk.target) == (POOL, ENFORCE)


def test_who_no_longer_asks_for_a_pool_leaves_it_where_it_is() -> None:
    cluster = Cluster()
    cluster.ask(OFF, ahead(ENFORCE))
    assert cluster.step() == "off (n1, n2: prepare)"
    aim = cluster.ask(OFF)
    assert cluster.walk(aim) == []
    assert cluster.at == Position(OFF, Pool(PREPARE, POOL))


def test_a_pool_may_be_told_to_go_no_further_or_to_turn() -> None:
    cluster = Cluster()
    cluster.ask(OFF, ahead(ENFORCE))
    cluster.step()
    assert cluster.walk(cluster.ask(OFF, ahead(PREPARE))) == []
    assert cluster.at == Position(OFF, Pool(PREPARE, POOL))
    cluster.ask(OFF, ahead(PREFER))
    assert cluster.step() == "off (n1, n2: prefer)"
    assert cluster.walk(cluster.ask(OFF, ahead(OFF, OFF))) == ["off"], "the step under way was taken back before"


def test_another_pool_waits_until_there_is_none_and_says_so() -> None:
    cluster = Cluster(OFF, PREPARE)
    aim = cluster.ask(OFF, ahead(PREFER, nodes=frozenset({"n3"})))
    assert cluster.stages.walk is None
    why = cluster.stages.unmet(aim, NAMES)
    assert why is not None
    assert "spec.pool.nodes: there is a pool already (off (n1, n2: prepare))" in why
    assert cluster.stages.wants(aim)
    aim = cluster.ask(PREPARE, aim.pool)
    assert cluster.walk(aim) == ["prepare", "prepare (n3: prefer)"]
    assert cluster.stages.unmet(aim, NAMES) is None


def test_nobody_by_a_wrong_name_makes_a_pool() -> None:
    cluster = Cluster()
    aim = cluster.ask(OFF, ahead(PREFER, nodes=frozenset({"n1", "m2"})))
    assert cluster.stages.walk is None
    assert cluster.stages.unmet(aim, NAMES) == (
        "spec.pool.nodes: no node in scope is called m2: correct the names, or leave them out"
    )
    cluster.stages.aim(aim, (*NAMES, "m2"), 1.0)
    assert cluster.stages.walk is not None, "as soon as it is there"


def test_a_pool_comes_back_though_one_of_it_is_gone() -> None:
    cluster = Cluster(OFF, PREPARE)
    cluster.stages.aim(Aim(OFF, None, ahead(OFF, OFF)), ("n1",), 1.0)
    assert cluster.step() == "off"


def test_a_controller_that_starts_anew_asks_for_nothing_again() -> None:
    cluster = Cluster(PREPARE)
    assert cluster.walk(cluster.ask(PREPARE, ahead(PREFER))) == ["prepare (n1, n2: prefer)"]
    lowered = cluster.ask(OFF, ahead(PREFER), OFF)
    assert cluster.walk(lowered) == ["prepare", "off"]
    cluster.anew()
    assert not cluster.stages.wants(lowered)
    assert cluster.walk(lowered) == []


def test_a_source_that_knows_no_pools_takes_none_back() -> None:
    """As an inventory that is brought into line with where all are."""
    cluster = Cluster(PREFER)
    cluster.stages.start(Walk(ENFORCE, True, "me", 0.0, 0.0, nodes=POOL, attached=False))  # noqa: FBT003
    cluster.ask(PREFER, lower_to=PREFER)
    assert cluster.stages.walk is not None
    assert (cluster.stages.walk.who, cluster.stages.walk.target) == ("me", ENFORCE)


def test_what_may_not_be_lowered_is_not_raised_later_instead() -> None:
    """Somebody looks on while all go off; a file that then says prepare does not begin to go there after that."""
    cluster = Cluster(PREFER)
    cluster.stages.start(Walk(OFF, False, "me", 0.0, 0.0))  # noqa: FBT003
    aim = cluster.ask(PREPARE)
    assert cluster.walk(aim) == ["prepare", "off"]
    assert cluster.walk(aim) == []


def test_a_pool_walk_that_becomes_that_of_all_is_its_own() -> None:
    cluster = Cluster(OFF)
    cluster.stages.start(Walk(ENFORCE, True, "me", 0.0, 0.0, nodes=POOL, timeout=7.0, attached=False))  # noqa: FBT003
    cluster.ask(PREFER, timeout=99.0)
    walk = cluster.stages.walk
    assert walk is not None
    assert (walk.who, walk.nodes, walk.target, walk.timeout) == ("object", None, PREFER, 99.0)


def test_the_time_for_a_step_is_that_of_the_object_also_while_it_walks() -> None:
    cluster = Cluster()
    cluster.ask(PREPARE)
    assert cluster.stages.walk is not None
    assert cluster.stages.walk.timeout == TIMEOUT
    cluster.ask(PREPARE, timeout=600.0)
    assert cluster.stages.walk.timeout == 600.0
    other = Cluster()
    other.stages.start(Walk(PREPARE, True, "me", 0.0, 0.0, timeout=7.0, attached=False))  # noqa: FBT003
    other.ask(OFF)
    assert other.stages.walk is not None
    assert other.stages.walk.timeout == 7.0, "somebody else's"


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "linkseal.controller")

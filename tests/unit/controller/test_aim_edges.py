"""What a cluster's object says of its walks, which nodes are meant, and where a pool cannot go."""

from __future__ import annotations

from typing import Any

import pytest
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.controller.aims import Aim, PoolAim, aim_of, check, picked
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import Pool, parse_policy
from linkseal.tunnels.stages import Position, Walk

OFF, PREPARE, PREFER = Stage.OFF, Stage.PREPARE, Stage.PREFER
NAMES = ("n1", "n2", "n3")
POOL = frozenset({"n1", "n2"})


def test_what_the_object_says_of_its_walks_is_read_and_checked() -> None:
    def read(**spec: Any) -> Aim:
        said = {"scope": "overlay", "stage": "prepare", **spec}
        return aim_of(parse_policy({"scope": "overlay", "stage": "prepare"}, "test"), said, "the object")

    assert read() == Aim(PREPARE)
    pool = {"stage": "prefer", "nodes": ["n1", "n2"], "lowerTo": "prefer"}
    assert read(pool=pool, stepTimeout="5m", lowerTo="prepare") == Aim(
        PREPARE, PREPARE, PoolAim(PREFER, POOL, PREFER), 300.0
    )
    for wrong, words in (
        ({"stepTimeout": "5 minutes"}, "stepTimeout: must be a number of seconds, or text"),
        ({"stepTimeout": 9}, "stepTimeout: must be 10 to 86400 seconds"),
        ({"pool": {**pool, "nodes": []}}, "pool.nodes"),
        ({"pool": {**pool, "nodes": ["N1"]}}, "pool.nodes"),
        ({"pool": {**pool, "nodes": [f"{n:0250}" for n in range(200)]}}, "let fewer nodes go first"),
        ({"pool": {**pool, "stage": "on"}}, "pool.stage"),
        ({"pool": {**pool, "other": 1}}, "pool.other"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(**wrong)


@pytest.mark.parametrize(
    ("selector", "found"),
    [("n1", {"n1"}), ("n1, n3", {"n1", "n3"}), ("n[12]", {"n1", "n2"}), ("*", set(NAMES)), ("n?,", set(NAMES))],
)
def test_nodes_are_picked_by_names_and_patterns(selector: str, found: set[str]) -> None:
    assert picked(selector, NAMES) == found


@pytest.mark.parametrize(("selector", "words"), [("m*", "there are: n1, n2, n3"), (" ,", "names nobody")])
def test_who_picks_nobody_is_told(selector: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        picked(selector, NAMES)


def test_a_pool_is_not_behind_the_others_and_there_is_one() -> None:
    def walk(target: Stage, *nodes: str) -> Walk:
        return Walk(target, True, "me", 0.0, 0.0, nodes=frozenset(nodes))  # noqa: FBT003

    check(Position(PREPARE), walk(PREFER, "n1"))
    with pytest.raises(ConfigError, match="a pool cannot be behind them"):
        check(Position(PREFER), walk(PREPARE, "n1"))
    with pytest.raises(ConfigError, match="there is a pool already"):
        check(Position(OFF, Pool(PREFER, POOL)), walk(PREFER, "n3"))

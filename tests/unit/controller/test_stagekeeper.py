"""A step that could not be signed is none: what is remembered goes back to what was signed last."""

from __future__ import annotations

from linkseal.tunnels.controller.aims import Aim
from linkseal.tunnels.controller.kubecopies import MapStore
from linkseal.tunnels.controller.stagekeeper import Stagekeeper
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import parse_policy
from linkseal.tunnels.stages import Evidence
from unit.test_stages import report

POLICY = parse_policy({"scope": "overlay", "stage": "off"}, "test")
NOBODY = Evidence(7, {}, ())
"""Without nodes nobody is waited for."""


def keeper(store: MapStore) -> Stagekeeper:
    made = Stagekeeper(store, POLICY, 0.0)
    made.aim(Aim(Stage.OFF), (), 0.0)
    made.signed(7)
    return made


def test_a_step_that_was_not_signed_is_taken_back_and_taken_again() -> None:
    store = MapStore(None)
    stages = keeper(store)
    before = store.text
    stages.aim(Aim(Stage.ENFORCE), (), 1.0)
    assert stages.tick(NOBODY, 2.0)
    assert stages.position.stage is Stage.PREPARE
    stages.undo()
    assert (stages.position.stage, stages.walk, store.text) == (Stage.OFF, None, before)
    stages.aim(Aim(Stage.ENFORCE), (), 3.0)
    stages.signed(8)
    assert stages.tick(NOBODY, 4.0)
    stages.signed(9)
    stages.undo()
    assert (stages.position.stage, stages.serial) == (Stage.PREPARE, 9), "what was signed stays"
    assert stages.walk is not None


def test_that_all_have_applied_a_stage_is_not_forgotten_with_the_step_after_it() -> None:
    """Else the step would be taken for one that was not applied in time, though only the key was away."""
    stages = keeper(MapStore(None))
    stages.aim(Aim(Stage.ENFORCE), (), 1.0)
    stages.signed(8)
    assert stages.tick(NOBODY, 2.0)
    stages.signed(9)
    began = stages.walk
    assert stages.tick(NOBODY, 500.0)
    stages.undo()
    assert stages.walk is not None
    assert began is not None
    assert stages.position.stage is Stage.PREPARE
    assert stages.walk != began


def test_without_a_key_no_step_is_taken_and_what_all_have_applied_is_noted() -> None:
    """Also when somebody is late by then: the step was applied everywhere."""
    stages = keeper(MapStore(None))
    stages.aim(Aim(Stage.PREPARE), (), 1.0)
    stages.signed(8)
    assert not stages.tick(NOBODY, 2.0, signs=False)
    assert stages.position.stage is Stage.OFF
    assert stages.tick(NOBODY, 2.0)
    stages.signed(9)
    late = Evidence(9, {"n1": report("n1", serial=8, at=500.0)}, ())
    assert not stages.tick(late, 500.0, signs=False), "nor one back"
    assert stages.position.stage is Stage.PREPARE
    assert stages.walk is not None
    assert not stages.tick(NOBODY, 501.0, signs=False)
    stages.undo()
    assert (stages.position.stage, stages.walk) == (Stage.PREPARE, None), "the walk has ended, and stays so"
    assert not stages.tick(late, 510.0)
    assert stages.wants(Aim(Stage.ENFORCE))
    assert not stages.wants(Aim(Stage.PREPARE))


def test_a_policy_that_is_newer_than_what_is_remembered_is_where_the_cluster_is() -> None:
    """As after a controller that had lost its lease wrote what it knew: nothing may be lowered by that."""
    store = MapStore(None)
    stages = keeper(store)
    stages.aim(Aim(Stage.PREPARE), (), 1.0)
    stages.signed(8)
    assert stages.tick(NOBODY, 2.0)
    stages.signed(9)
    spec = {"scope": "overlay", "stage": "prefer", "pool": {"stage": "enforce", "nodes": ["n1"]}}
    anew = Stagekeeper(MapStore(store.text), POLICY, 3.0)
    assert anew.position.stage is Stage.PREPARE
    anew.hold_to(parse_policy(spec, "test"), 12, 4.0)
    assert (str(anew.position), anew.walk, anew.serial) == ("prefer (n1: enforce)", None, 12)
    anew.aim(Aim(Stage.PREPARE), (), 5.0)
    assert (str(anew.position), anew.walk) == ("prefer (n1: enforce)", None), "not lowered without lowerTo"
    anew.undo()
    assert str(anew.position) == "prefer (n1: enforce)"


def test_what_is_remembered_counts_no_more_than_the_signed_policy_of_that_serial() -> None:
    """It is signed by nobody: who may write it could else lower the stage, or have serials run out."""
    store = MapStore(None)
    stages = keeper(store)
    stages.aim(Aim(Stage.PREPARE), (), 1.0)
    stages.signed(8)
    policy = parse_policy({"scope": "overlay", "stage": "enforce"}, "test")
    anew = Stagekeeper(MapStore(store.text), policy, 3.0)
    anew.hold_to(policy, 5, 4.0)
    assert (anew.position.stage, anew.walk, anew.serial) == (Stage.ENFORCE, None, 5)
    anew.aim(Aim(Stage.PREPARE), (), 5.0)
    assert (anew.position.stage, anew.walk) == (Stage.ENFORCE, None)
    anew.aim(Aim(Stage.PREPARE, lower_to=Stage.PREPARE), (), 6.0)
    assert anew.walk is not None, "what is asked for is begun once more"


def test_a_walk_goes_on_where_the_policy_in_force_says_the_same() -> None:
    store = MapStore(None)
    stages = keeper(store)
    stages.aim(Aim(Stage.ENFORCE), (), 1.0)
    assert stages.tick(NOBODY, 2.0)
    stages.signed(9)
    policy = parse_policy({"scope": "overlay", "stage": "prepare"}, "test")
    anew = Stagekeeper(MapStore(store.text), policy, 3.0)
    anew.hold_to(policy, 9, 4.0)
    assert (anew.position.stage, anew.walk, anew.serial) == (Stage.PREPARE, stages.walk, 9)

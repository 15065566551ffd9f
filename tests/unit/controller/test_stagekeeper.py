"""A step that could not be signed is none: what is remembered goes back to what was signed last."""

from __future__ import annotations

from linkseal.tunnels.controller.kubecopies import MapStore
from linkseal.tunnels.controller.stagekeeper import Stagekeeper
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import parse_policy
from linkseal.tunnels.stages import Evidence

POLICY = parse_policy({"scope": "overlay", "stage": "off"}, "test")
NOBODY = Evidence(7, {}, ())
"""Without nodes nobody is waited for."""


def keeper(store: MapStore) -> Stagekeeper:
    made = Stagekeeper(store, POLICY, 0.0)
    made.aim(Stage.OFF, None, 0.0)
    made.signed(7)
    return made


def test_a_step_that_was_not_signed_is_taken_back_and_taken_again() -> None:
    store = MapStore(None)
    stages = keeper(store)
    before = store.text
    stages.aim(Stage.ENFORCE, None, 1.0)
    assert stages.tick(NOBODY, 2.0)
    assert stages.position.stage is Stage.PREPARE
    stages.undo()
    assert (stages.position.stage, stages.walk, store.text) == (Stage.OFF, None, before)
    stages.aim(Stage.ENFORCE, None, 3.0)
    stages.signed(8)
    assert stages.tick(NOBODY, 4.0)
    stages.signed(9)
    stages.undo()
    assert (stages.position.stage, stages.serial) == (Stage.PREPARE, 9), "what was signed stays"
    assert stages.walk is not None


def test_that_all_have_applied_a_stage_is_not_forgotten_with_the_step_after_it() -> None:
    """Else the step would be taken for one that was not applied in time, though only the key was away."""
    stages = keeper(MapStore(None))
    stages.aim(Stage.ENFORCE, None, 1.0)
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

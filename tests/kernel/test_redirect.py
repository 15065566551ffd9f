"""The program on the NIC in the lab kernel (clsact, no tcx); tests/unit/redirect/test_on_a_kernel.py has more."""

from __future__ import annotations

import pytest
from ground.redirects import host_with_pod, redirector
from ground.redirecttests import SCENARIOS, Scenario

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: str(one.__name__))
def test_the_program_on_the_nic(scenario: Scenario) -> None:
    with host_with_pod():
        scenario(redirector)

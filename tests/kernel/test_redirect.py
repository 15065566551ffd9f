"""The program on the NIC in the lab kernel (clsact, no tcx); tests/unit/redirect/test_on_a_kernel.py has more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from ground.hosts import TABLE, Threaded, reconcile, run, secrets, sh
from ground.redirects import FRAMES, POD, REMOTE_POD, SPEC, crossing, frame, host_with_pod, redirector
from ground.redirecttests import SCENARIOS, Scenario
from linkseal.tunnels.diff import diff
from linkseal.tunnels.host.cleanup import cleanup
from linkseal.tunnels.host.events import Events
from linkseal.tunnels.host.host import ALL, Aspect, Host
from linkseal.tunnels.model import Desired
from linkseal.tunnels.redirect.model import AttachRedirect
from linkseal.wireguard.kernel import KernelDriver

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: str(one.__name__))
def test_the_program_on_the_nic(scenario: Scenario) -> None:
    with host_with_pod():
        scenario(redirector)


# --- through the host driver, as the agent has it ------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    with host_with_pod():
        driver = KernelDriver()
        made = Host(driver, TABLE)
        yield made
        made.close()
        driver.close()


WANTED = Desired(redirect=SPEC)


def test_the_host_has_it_keeps_still_and_gives_it_back(host: Host) -> None:
    features = host.features()
    assert (features.redirect, features.no_redirect) == (True, "")
    assert host.writes == 0, "trying leaves nothing behind"
    assert reconcile(host, WANTED) == ()
    writes = host.writes
    assert diff(WANTED, host.observe()) == ()
    assert host.writes == writes
    assert crossing(frame(POD, REMOTE_POD), "nic", "wire") == 0
    assert {line for line in cleanup(host, {}) if "nic" in line} == {"program on nic (in)", "program on nic (out)"}
    assert crossing(frame(POD, REMOTE_POD), "nic", "wire") == FRAMES
    seen = host.observe().redirect
    assert seen is not None
    assert not seen.standing


DRIFT = {
    "filter deleted": "tc filter del dev nic egress pref 1",
    "qdisc deleted": "tc qdisc del dev nic clsact",
    "NIC made anew": "ip link del nic; ip link add nic type veth peer name wire; ip link set dev nic up",
}


@pytest.mark.parametrize("what", DRIFT)
def test_drift_is_told_and_repaired(what: str) -> None:
    with host_with_pod():
        threaded = Threaded()
        try:
            run(_drift(threaded, DRIFT[what]))
        finally:
            threaded.close()


async def _drift(threaded: Threaded, line: str) -> None:
    host = threaded.host
    assert await threaded(reconcile, host, WANTED) == ()
    seen = await threaded(host.observe)
    told = asyncio.Event()
    events = Events(lambda aspects: told.set() if Aspect.REDIRECT in aspects else None, TABLE)
    events.start(asyncio.get_running_loop())
    try:
        sh(line)
        await asyncio.wait_for(told.wait(), 60)
        now = await threaded(host.observe, ALL, seen)
        steps = diff(WANTED, now)
        assert steps
        assert {type(step) for step in steps} == {AttachRedirect}
        assert await threaded(host.apply, steps, secrets) == ()
        assert diff(WANTED, await threaded(host.observe)) == ()
    finally:
        events.close()

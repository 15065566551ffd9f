"""What the controller says of its CA; that it keeps and replaces it is in tests/kube."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import cast

import pytest
from linkseal.keys import grant as grants
from linkseal.keys.ca import CertificateAuthority, Trust
from linkseal.keys.grant import Grant
from linkseal.tunnels.controller.cakeeper import CaKeeper
from linkseal.tunnels.controller.carotation import Authorities, Phase
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.waiting import TURN, in_turns
from linkseal.tunnels.directory.kubeapi import KubeApi
from unit.keys.cluster import NOW, authority


@pytest.mark.parametrize("made", [True, False])
def test_it_says_whether_it_made_it(made: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """By that an uninstall takes its Secret or leaves it: one that was brought is the operator's."""
    keeper = CaKeeper(cast("KubeApi", None), "linkseal")
    keeper.keys = Authorities(CertificateAuthority.create("any", NOW, timedelta(days=9)), made=made)
    assert keeper.status().made is made


def test_by_whom_a_node_s_grant_is_signed_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes milliseconds a node, and every pass looks at all of them until the last has a new certificate."""
    keeper, asked = CaKeeper(cast("KubeApi", None), "linkseal"), list[str]()
    keeper.keys, keeper.trust = (
        Authorities(authority(), phase=Phase.SIGNING),
        Trust.from_pem(authority().certificate_pem()),
    )
    text = grants.wrap(grants.sign(authority(), Grant("n1", "u1", 1, 7, NOW, ("192.0.2.1",), ())))
    facts, real = NodeFacts("u1", ("192.0.2.1",), (), text), Trust.grant_signer

    def signer(trust: Trust, text: str, signature: str) -> str:
        asked.append(text)
        return real(trust, text, signature)

    monkeypatch.setattr(Trust, "grant_signer", signer)
    for _ in range(2):
        assert keeper._seen("n1", facts, None, NOW).granted_by == authority().fingerprint
    assert len(asked) == 1
    assert keeper._seen("n1", replace(facts, grant="{}"), None, NOW).granted_by == ""
    keeper.trust = Trust.from_pem(authority().certificate_pem())
    keeper._seen("n1", facts, None, NOW)
    assert len(asked) == 2, "another CA may be trusted"


async def test_others_work_while_many_nodes_are_looked_at() -> None:
    seen = list[int]()

    async def look() -> None:
        async for number in in_turns(range(3 * TURN)):
            seen.append(number)

    looking = asyncio.ensure_future(look())
    for turn in range(1, 4):
        await asyncio.sleep(0)
        assert len(seen) == turn * TURN
    await looking

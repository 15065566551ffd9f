"""What the controller says of its CA; that it keeps and replaces it is in tests/kube."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import pytest
from linkseal.keys.ca import CertificateAuthority
from linkseal.tunnels.controller.cakeeper import CaKeeper
from linkseal.tunnels.controller.carotation import Authorities
from linkseal.tunnels.directory.kubeapi import KubeApi
from unit.keys.cluster import NOW


@pytest.mark.parametrize("made", [True, False])
def test_it_says_whether_it_made_it(made: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """By that an uninstall takes its Secret or leaves it: one that was brought is the operator's."""
    keeper = CaKeeper(cast("KubeApi", None), "linkseal")
    keeper.keys = Authorities(CertificateAuthority.create("any", NOW, timedelta(days=9)), made=made)
    assert keeper.status().made is made

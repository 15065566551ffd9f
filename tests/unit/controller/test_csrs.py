"""Who may have a node's certificate, by what the API server attests."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from linkseal.tunnels.controller.csrs import Asker, asked, node_refused, pod_refused

ACCOUNT = "system:serviceaccount:linkseal:linkseal-agent"
ASKER = Asker("n1", "u1", "agent-x", "p1")
EXTRA = {"node-name": ["n1"], "node-uid": ["u1"], "pod-name": ["agent-x"], "pod-uid": ["p1"]}


def request(
    extra: dict[str, list[str]] | None = None, status: dict[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    found = EXTRA if extra is None else extra
    usual = {
        "signerName": "linkseal.io/node",
        "username": ACCOUNT,
        "request": b64encode(b"PEM").decode(),
        "extra": {f"authentication.kubernetes.io/{key}": value for key, value in found.items()},
    }
    return {"metadata": {"name": "r"}, "spec": {**usual, **spec}, "status": status or {}}


def test_a_good_request_is_read() -> None:
    found = asked(request(), ACCOUNT)
    assert found is not None
    assert (found.name, found.pem, found.asker, found.refused) == ("r", "PEM", ASKER, None)


@pytest.mark.parametrize(
    "item",
    [
        request(signerName="kubernetes.io/kube-apiserver-client"),
        request(status={"certificate": "x"}),
        request(status={"conditions": [{"type": "Denied"}]}),
        request(status={"conditions": [{"type": "Failed"}]}),
    ],
)
def test_others_and_answered_ones_are_none_of_ours(item: dict[str, Any]) -> None:
    assert asked(item, ACCOUNT) is None


def test_one_that_was_approved_and_not_signed_still_waits() -> None:
    assert asked(request(status={"conditions": [{"type": "Approved"}]}), ACCOUNT) is not None


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (request(username="system:node:n1"), "only"),
        *((request({k: v for k, v in EXTRA.items() if k != key}), f"{key} is missing") for key in EXTRA),
        *((request({**EXTRA, key: [EXTRA[key][0], "second"]}), f"{key} is missing") for key in EXTRA),
        (request({**EXTRA, "pod-uid": [""]}), "pod-uid is missing"),
        (request({}), "is missing"),
        (request(request="%%%"), "no PEM"),
        (request(request=b64encode(b"x" * 1_000_000).decode()), "too large"),
        (request(request=b64encode("ä".encode()).decode()), "no PEM"),
    ],
)
def test_what_is_not_attested_is_refused(item: dict[str, Any], why: str) -> None:
    found = asked(item, ACCOUNT)
    assert found is not None
    assert why in (found.refused or "")


def test_node_and_pod_must_be_the_ones_that_are_there() -> None:
    assert node_refused(ASKER, "u1") is None
    assert "no Node n1" in (node_refused(ASKER, None) or "")
    assert "has UID u1" in (node_refused(ASKER, "u2") or "")
    meta, spec = {"uid": "p1"}, {"nodeName": "n1", "serviceAccountName": "linkseal-agent"}
    assert pod_refused(ASKER, {"metadata": meta, "spec": spec}, ACCOUNT) is None
    for pod in (
        None,
        {"metadata": {"uid": "p2"}, "spec": spec},
        {"metadata": {**meta, "deletionTimestamp": "x"}, "spec": spec},
        {"metadata": meta, "spec": {**spec, "nodeName": "n2"}},
        {"metadata": meta, "spec": {**spec, "serviceAccountName": "default"}},
        {},
    ):
        assert pod_refused(ASKER, pod, ACCOUNT) is not None

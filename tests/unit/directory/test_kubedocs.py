"""What is read out of objects of the Kubernetes API: only what is ours, and nothing new where nothing is."""

from __future__ import annotations

from typing import Any

import pytest
from linkseal.keys import codes
from linkseal.keys import grant as grants
from linkseal.tunnels.directory.kubedocs import (
    ANNOUNCEMENT,
    CA_MAP,
    CERTIFICATE,
    GRANT,
    SIGNATURE,
    map_data,
    node_entry,
    signed_policy,
    spec_text,
    uid_of,
)
from unit.keys.cluster import GOOD, policy


def item(name: str = "n1", uid: str = "u", **annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": uid, "annotations": {"foreign/one": "x", **annotations}}}


def whole() -> dict[str, str]:
    said, grant = GOOD["n1"].announcement, GOOD["n1"].grant
    assert said is not None
    assert grant is not None
    return {
        ANNOUNCEMENT: said.text,
        SIGNATURE: said.signature,
        CERTIFICATE: said.certificate,
        GRANT: grants.wrap(grant),
    }


def test_a_node_is_read_whole_and_what_others_write_is_no_news() -> None:
    first = node_entry(item(**whole()), None)
    assert first is not None
    assert (first.documents, first.problems) == (GOOD["n1"], ())
    assert node_entry({**item(**whole()), "spec": {"unschedulable": True}}, first) is first
    assert first.made is None
    other = node_entry(item(uid="another", **whole()), first)
    assert other is not None
    assert (other.uid, other.documents) == ("another", GOOD["n1"])


@pytest.mark.parametrize(
    ("text", "made"), [("2026-11-02T10:00:00Z", 1793613600.0), ("2026-11-02T10:00:00", None), ("x", None), (7, None)]
)
def test_when_a_node_was_made(text: object, made: float | None) -> None:
    found = item()
    found["metadata"]["creationTimestamp"] = text
    entry = node_entry(found, None)
    assert entry is not None
    assert entry.made == made


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({SIGNATURE: None}, codes.MALFORMED),
        ({ANNOUNCEMENT: "x" * 100_000}, codes.TOO_LARGE),
        ({CERTIFICATE: "x" * 100_000}, codes.TOO_LARGE),
        ({GRANT: "{"}, codes.MALFORMED),
        ({GRANT: "x" * 1_000_000}, codes.TOO_LARGE),
    ],
)
def test_nonsense_is_a_finding_about_its_node(changed: dict[str, str | None], code: str) -> None:
    annotations = {key: value for key, value in {**whole(), **changed}.items() if value is not None}
    found = node_entry(item(**annotations), None)
    assert found is not None
    assert [(problem.code, problem.node) for problem in found.problems] == [(code, "n1")]


def test_a_node_without_anything_of_ours_is_a_node() -> None:
    found = node_entry({"metadata": {"name": "n1", "uid": "u"}}, None)
    assert found is not None
    assert (found.documents.announcement, found.documents.grant, found.problems) == (None, None, ())
    assert node_entry({"metadata": {"name": "../x", "uid": "u"}}, None) is None


def test_maps_and_requests() -> None:
    assert map_data({"metadata": {"name": "kube-root-ca.crt"}, "data": {"a": "b"}}, None) is None
    ours = map_data({"metadata": {"name": CA_MAP}, "data": {"ca.crt": "x"}}, None)
    assert ours == {"ca.crt": "x"}
    assert map_data({"metadata": {"name": CA_MAP}, "data": {"ca.crt": "x"}}, ours) is ours
    text = spec_text({"metadata": {}, "spec": {"requests": []}}, None)
    assert spec_text({"metadata": {}, "status": {"a": 1}}, text) is text
    assert uid_of({"metadata": {"uid": "c1"}}, None) == "c1"


def test_a_policy_needs_its_signature() -> None:
    signed = policy()
    assert signed_policy({"policy": signed.text, "signature": signed.signature}) == signed
    assert signed_policy({"policy": signed.text}) is None
    assert signed_policy({"policy": "x" * 10_000_000, "signature": signed.signature}) is None

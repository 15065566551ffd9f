"""Which grants the controller of a Kubernetes cluster sends, and what it takes for granted until it sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from linkseal.keys import grant as grants
from linkseal.keys.ca import CertificateAuthority, Trust, generate_identity, make_csr
from linkseal.keys.grant import Grant
from linkseal.keys.values import Prefix
from linkseal.tunnels.controller import kubesigner
from linkseal.tunnels.controller.cakeeper import CaKeeper
from linkseal.tunnels.controller.carotation import Authorities
from linkseal.tunnels.controller.csrs import Asked, Asker
from linkseal.tunnels.controller.kubesigner import SETTLE, KubeSigner, Passed
from linkseal.tunnels.controller.nodefacts import NodeFacts
from linkseal.tunnels.controller.providers.base import Offered
from linkseal.tunnels.controller.providers.choice import Granting
from linkseal.tunnels.directory.kubeapi import ApiError, KubeApi
from linkseal.tunnels.directory.kubedocs import GRANT
from unit.keys.cluster import NOW, authority

SECOND = timedelta(seconds=1)
NOTHING = Offered()


class Server:
    """Takes what is applied; the copies of Nodes see it when `seen` is called."""

    def __init__(self) -> None:
        self.sent: list[Grant] = []
        self.fails = False
        self.refuses: set[str] = set()
        self.texts: dict[str, str] = {}

    async def apply(self, _path: str, body: Mapping[str, Any], **_how: Any) -> dict[str, Any]:
        name, text = body["metadata"]["name"], body["metadata"]["annotations"][GRANT]
        if name in self.refuses:
            raise ApiError("metadata.annotations: Too long", 422)
        self.sent.append(grants.parse(grants.unwrap(text, node=name).text, node=name))
        self.texts[name] = text
        if self.fails:
            raise ApiError("no answer")
        return {}

    def seen(self, nodes: Mapping[str, NodeFacts]) -> dict[str, NodeFacts]:
        return {name: replace(facts, grant=self.texts.get(name, facts.grant)) for name, facts in nodes.items()}


def node(number: int) -> NodeFacts:
    return NodeFacts(f"u{number}", (f"192.0.2.{number}",), (), "")


class Keeper:
    """Of a cluster whose CA is never replaced, or is, by `keys`."""

    def __init__(self) -> None:
        self.keys = Authorities(authority())
        self.trust = Trust.from_pem(authority().certificate_pem())

    async def signed(self, sign: Callable[[CertificateAuthority], str]) -> str:
        return sign(self.keys.signer)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def signer(server: Server) -> KubeSigner:
    return KubeSigner(cast("KubeApi", server), "linkseal", cast("CaKeeper", Keeper()))


async def granted(
    signer: KubeSigner, nodes: Mapping[str, NodeFacts], offered: Offered | None = NOTHING, now: datetime = NOW
) -> Passed:
    return await signer.grant(nodes, offered, (), Granting(), now)


async def test_what_was_sent_is_not_sent_again_before_it_must_have_been_seen(
    signer: KubeSigner, server: Server
) -> None:
    nodes = {"n1": node(1)}
    assert (await granted(signer, nodes)).granted == ("n1",)
    assert (await granted(signer, nodes, now=NOW + SECOND)).granted == ()
    assert (await granted(signer, nodes, now=NOW + SETTLE + SECOND)).granted == ("n1",)
    nodes = server.seen(nodes)
    assert (await granted(signer, nodes, now=NOW + 3 * SETTLE)).granted == ()
    assert [one.serial for one in server.sent] == sorted({one.serial for one in server.sent}), "serials rise"


async def test_what_got_no_answer_is_sent_again_at_once_and_counts_as_granted(
    signer: KubeSigner, server: Server
) -> None:
    prefix = {"n1": (Prefix("10.0.0.0/24"),)}
    nodes = server.seen({"n1": node(1), "n2": node(2)})
    await granted(signer, nodes)
    nodes, server.fails = server.seen(nodes), True
    with pytest.raises(ApiError):
        await granted(signer, nodes, Offered(prefix), NOW + SECOND)
    server.fails = False
    found = await granted(signer, nodes, Offered({"n2": prefix["n1"]}), NOW + SECOND)
    assert server.sent[-1].node == "n1", "it is taken back first, whether it was there or not"
    assert server.sent[-1].prefixes == ()
    assert found.granted == ("n1",)
    assert (await granted(signer, server.seen(nodes), Offered({"n2": prefix["n1"]}), NOW + SECOND)).granted == ("n2",)


async def test_before_the_provider_has_been_read_nothing_new_is_granted_and_nothing_is_taken(
    signer: KubeSigner, server: Server
) -> None:
    nodes = {"n1": node(1), "n2": node(2)}
    await granted(signer, {"n1": nodes["n1"]}, Offered({"n1": (Prefix("10.0.0.0/24"),)}))
    nodes = server.seen(nodes)
    assert (await granted(signer, nodes, None, NOW + SECOND)).granted == ()
    moved = {**nodes, "n1": replace(nodes["n1"], addresses=("192.0.2.9",))}
    assert (await granted(signer, moved, None, NOW + SECOND)).granted == ("n1",)
    assert (server.sent[-1].addresses, server.sent[-1].prefixes) == (("192.0.2.9",), ("10.0.0.0/24",))


async def test_a_new_node_keeps_its_index_though_another_comes_before_its_grant_is_seen(
    signer: KubeSigner, server: Server
) -> None:
    await granted(signer, {"n2": node(2)})
    await granted(signer, {"n1": node(1), "n2": node(2)}, now=NOW + SECOND)
    assert {one.node: one.index for one in server.sent} == {"n2": 1, "n1": 2}


async def test_a_node_made_anew_has_been_sent_nothing(signer: KubeSigner, server: Server) -> None:
    await granted(signer, {"n1": node(1)})
    found = await granted(signer, {"n1": replace(node(1), uid="u9")}, now=NOW + SECOND)
    assert found.granted == ("n1",)
    assert server.sent[-1].uid == "u9"


async def test_a_node_whose_grant_the_api_server_refuses_holds_up_no_other(
    signer: KubeSigner, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who fills the annotations of one Node would stop the controller of all."""
    clock = [100.0]
    monkeypatch.setattr(kubesigner.time, "monotonic", lambda: clock[0])
    nodes = {f"n{number}": node(number) for number in (1, 2, 3)}
    server.refuses = {"n2"}
    found = await granted(signer, nodes)
    assert found.granted == ("n1", "n3")
    assert found.problems == (
        "the grant of n2: the API server refuses it, and all others go on: metadata.annotations: Too long",
    )
    nodes, server.refuses = server.seen(nodes), set()
    found = await granted(signer, nodes, now=NOW + SECOND)
    assert (found.granted, len(found.problems)) == ((), 1), "it is not asked again at once, and still said"
    clock[0] += kubesigner.PUT_OFF + 1
    assert await granted(signer, nodes, now=NOW + 2 * SECOND) == Passed(granted=("n2",))


async def test_what_is_refused_of_many_is_no_matter_of_theirs(signer: KubeSigner, server: Server) -> None:
    nodes = {f"n{number}": node(number) for number in range(1, kubesigner.MAX_REFUSED + 3)}
    server.refuses = set(nodes)
    with pytest.raises(ApiError):
        await granted(signer, nodes)


async def test_a_node_made_anew_is_granted_later_than_before_though_the_clock_went_back(
    signer: KubeSigner, server: Server
) -> None:
    """Peers refuse one that is dated before what they have of that name."""
    ahead = NOW + timedelta(minutes=30)
    await granted(signer, {"n1": node(1), "n2": node(2)}, now=ahead)
    await granted(signer, {"n1": replace(node(1), uid="u9"), "n2": node(2)}, now=NOW)
    dates = [one.issued for one in server.sent if one.node == "n1"]
    assert dates == [ahead, ahead + SECOND]


class Requests:
    """Certificate requests by name, and one agent's pod."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.refuses, self.approved = set[str](), set[str]()
        spec = {"nodeName": "n1", "serviceAccountName": "linkseal-agent"}
        self.pod: dict[str, Any] | None = {"metadata": {"uid": "p1"}, "spec": spec}

    async def find(self, path: str) -> dict[str, Any] | None:
        assert path == "/api/v1/namespaces/linkseal/pods/agent-x"
        return self.pod

    async def get(self, path: str) -> dict[str, Any]:
        name = path.rpartition("/")[2]
        approved = [{"type": "Approved"}] if name in self.approved else []
        return {"metadata": {"name": name}, "status": {"conditions": approved}}

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        name, said = body["metadata"]["name"], [one["type"] for one in body["status"]["conditions"]]
        if {"Approved", "Denied"} <= set(said) or name in self.refuses:
            raise ApiError("Approved and Denied are mutually exclusive", 422)
        assert ("Failed" in said) <= path.endswith("/status")
        self.answers[name] = said[-1]
        return dict(body)


async def test_a_request_waits_a_moment_for_a_node_that_another_watch_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent of a new node would be denied else, and the node be without a certificate meanwhile."""
    clock, server = [100.0], Requests()
    monkeypatch.setattr(kubesigner.time, "monotonic", lambda: clock[0])
    signer = KubeSigner(cast("KubeApi", server), "linkseal", cast("CaKeeper", Keeper()))
    asker = Asker("n1", "u1", "agent-x", "p1")
    requests = {"r": Asked("r", make_csr(generate_identity(), "n1", "u1"), asker)}
    old = {"n1": replace(node(1), uid="u0")}
    for nodes in ({}, old):
        assert await signer.certify(requests, nodes, NOW) == Passed()
        clock[0] += 4
    found = await signer.certify(requests, {"n1": node(1)}, NOW)
    assert (found.certified, found.askers, server.answers) == (("r",), (asker,), {"r": "Approved"})
    requests["s"] = replace(requests.pop("r"), name="s")
    assert await signer.certify(requests, old, NOW) == Passed(), "it waits for itself"
    clock[0] += kubesigner.NODE_COMES + 1
    found = await signer.certify(requests, old, NOW)
    assert [one for one, _ in found.denied] == [asker]
    assert server.answers["s"] == "Denied"


@pytest.mark.parametrize(
    "pod",
    [
        None,
        {"metadata": {"uid": "p2"}, "spec": {"nodeName": "n1", "serviceAccountName": "linkseal-agent"}},
        {"metadata": {"uid": "p1"}, "spec": {"nodeName": "n2", "serviceAccountName": "linkseal-agent"}},
        {"metadata": {"uid": "p1"}, "spec": {"nodeName": "n1", "serviceAccountName": "default"}},
    ],
    ids=["gone", "made anew", "elsewhere", "another's"],
)
async def test_a_request_by_a_pod_that_is_not_the_node_s_agent_now_is_denied(pod: dict[str, Any] | None) -> None:
    server = Requests()
    server.pod = pod
    signer = KubeSigner(cast("KubeApi", server), "linkseal", cast("CaKeeper", Keeper()))
    asker = Asker("n1", "u1", "agent-x", "p1")
    requests = {"r": Asked("r", make_csr(generate_identity(), "n1", "u1"), asker)}
    found = await signer.certify(requests, {"n1": node(1)}, NOW)
    assert (found.certified, server.answers) == ((), {"r": "Denied"})
    assert [one for one, _ in found.denied] == [asker]


async def test_what_somebody_approved_that_is_to_be_denied_is_failed() -> None:
    server = Requests()
    server.pod, server.approved = None, {"r"}
    signer = KubeSigner(cast("KubeApi", server), "linkseal", cast("CaKeeper", Keeper()))
    requests = {"r": Asked("r", make_csr(generate_identity(), "n1", "u1"), Asker("n1", "u1", "agent-x", "p1"))}
    await signer.certify(requests, {"n1": node(1)}, NOW)
    assert server.answers == {"r": "Failed"}


async def test_an_answer_that_the_api_server_refuses_holds_up_no_other() -> None:
    server = Requests()
    server.refuses = {"q"}
    signer = KubeSigner(cast("KubeApi", server), "linkseal", cast("CaKeeper", Keeper()))
    good = Asked("q", make_csr(generate_identity(), "n1", "u1"), Asker("n1", "u1", "agent-x", "p1"))
    found = await signer.certify({"q": good, "r": replace(good, name="r")}, {"n1": node(1)}, NOW)
    assert found.certified == ("r",)
    assert "the answer to q: the API server refuses it" in found.problems[0]

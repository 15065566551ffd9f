"""The signed policy: what the cluster decided for all nodes, with a serial, signed by the CA.

    {"format": 1, "cluster": "…", "serial": 1793613600, "issued": "2026-11-02T10:00:00Z", "spec": {"stage": "prefer"}}

It travels as `{"uid": …, "policy": TEXT, "signature": BASE64}`; the signature covers a label and the exact bytes of
TEXT. `after` is the serial of the policy that it follows, 0 for the first: one that follows an older one than is in
force was signed by a controller that did not know that, since its memory was put back, and is no successor. What `spec`
means is the matter of `linkseal.tunnels.policy`; here it is any JSON object. A directory that was rolled back, or is in
other hands, can withhold a policy and cannot bring back an old one.

`authorities`, where there are any, are the fingerprints of the CAs in force: the first has signed this very policy, and
nodes no longer trust those that came before it and are not named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final

from linkseal.keys import codes
from linkseal.keys.ca import CertificateAuthority, Trust
from linkseal.keys.cabundle import MAX_AUTHORITIES
from linkseal.keys.documents import (
    FORMAT,
    MAX_SIGNATURE,
    Document,
    check_size,
    format_time,
    malformed,
    parse_time,
    read_document,
    write_object,
)
from linkseal.keys.errors import PeerError
from linkseal.keys.values import MAX_NUMBER, UID_PATTERN
from pydantic import Field

MAX_POLICY: Final = 128 * 1024
"""Bytes of a policy: some hundred exemptions with owner and reason, and a pool of 2,000 nodes by name."""
_WHAT: Final = "the policy"
_NODE: Final = "the cluster"
"""Whose document it is, where errors about others' name a node."""


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A policy as its text says. `spec`: plain JSON values, not checked yet."""

    cluster: str
    serial: int
    issued: datetime
    spec: Mapping[str, Any] = field(default_factory=dict)
    authorities: tuple[str, ...] = ()
    after: int | None = None
    """None: signed by a version that does not say."""


@dataclass(frozen=True, slots=True)
class SignedPolicy:
    """A policy as it travels: JSON text and base64 signature over label and exact bytes."""

    text: str
    signature: str


class _Policy(Document):
    format: Annotated[int, Field(ge=1)]
    cluster: Annotated[str, Field(pattern=UID_PATTERN)]
    serial: Annotated[int, Field(ge=1, le=MAX_NUMBER)]
    after: Annotated[int | None, Field(ge=0, le=MAX_NUMBER)] = None
    issued: Annotated[str, Field(max_length=40)]
    spec: dict[str, Any]
    authorities: Annotated[
        list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]], Field(max_length=MAX_AUTHORITIES)
    ] = Field(default_factory=list)


def encode(policy: PolicyDocument) -> str:
    """Return the JSON text of a policy. Same policy, same bytes."""
    return write_object(
        {
            "format": FORMAT,
            "cluster": policy.cluster,
            "serial": policy.serial,
            **({} if policy.after is None else {"after": policy.after}),
            "issued": format_time(policy.issued),
            **({"authorities": list(policy.authorities)} if policy.authorities else {}),
            "spec": dict(policy.spec),
        }
    )


def sign(authority: CertificateAuthority, policy: PolicyDocument) -> SignedPolicy:
    """Return the policy signed by the CA. Raises ValueError if no receiver could accept it."""
    text = encode(policy)
    try:
        parse(text)
    except PeerError as error:
        raise ValueError(str(error)) from error
    return SignedPolicy(text, authority.sign_policy(text))


def parse(text: str) -> PolicyDocument:
    """Read a policy; its signature is not checked here. Raises PeerError: TOO_LARGE, MALFORMED or UNKNOWN_FORMAT."""
    model = read_document(_Policy, text, what=_WHAT, node=_NODE, limit=MAX_POLICY)
    try:
        named = tuple(model.authorities)
        return PolicyDocument(model.cluster, model.serial, parse_time(model.issued), model.spec, named, model.after)
    except ValueError as error:
        raise malformed(_WHAT, _NODE, str(error)[:200]) from None


def verify(signed: SignedPolicy, trust: Trust, *, cluster: str) -> PolicyDocument:
    """Return the policy if a trusted CA signed it for this cluster. Its serial is the receiver's matter.

    Raises PeerError with the code of what is wrong; nothing is parsed before its signature is known to be good.
    """
    check_size(signed.text, MAX_POLICY, what=_WHAT, node=_NODE)
    check_size(signed.signature, MAX_SIGNATURE, what="the policy's signature", node=_NODE)
    signer = trust.policy_signer(signed.text, signed.signature)
    if not signer:
        raise PeerError("the policy is not signed by a CA trusted here", code=codes.SIGNATURE_INVALID, node=_NODE)
    policy = parse(signed.text)
    if policy.cluster != cluster:
        raise PeerError(
            f"the policy is for cluster {policy.cluster}, this node belongs to {cluster}",
            code=codes.WRONG_IDENTITY,
            node=_NODE,
        )
    if policy.authorities and policy.authorities[0] != signer:
        raise malformed(_WHAT, _NODE, "authorities: the first is not the CA that signed it")
    return policy

"""The CA of a cluster and how it is replaced. Pure: keys, time and what was observed are arguments.

    steady ──asked──► trusting ──every live agent trusts the next──► signing ──all is under the next──► steady

trusting   the next CA is there, the present one vouches for it with a cross certificate and still signs
signing    the next CA signs certificates, grants and the policy; nodes still take what either signed
steady     the old CA's key is gone, and the policy says so to the nodes; its cross certificate stays, for agents that
           were away

Every step is made on evidence and kept in the Secret before anybody acts on it. Nodes of which nothing was heard for
ten minutes hold none: they have what they need when they come back.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from linkseal.keys.ca import CertificateAuthority, Trust
from linkseal.keys.cabundle import MAX_AUTHORITIES, bundle_pem, read_bundle
from linkseal.keys.elsewhere import Elsewhere
from linkseal.keys.errors import ConfigError
from linkseal.tunnels.directory.kubedocs import CA_KEY, CROSS_KEY
from linkseal.tunnels.stages import LIVE
from linkseal.tunnels.status import NodeStatus
from pydantic import BaseModel, ConfigDict, Field, ValidationError

SILENT: Final = LIVE
"""Seconds without a report after which a node holds no step."""

LIFETIME: Final = timedelta(days=3650)
"""Of a CA made here: it is replaced on purpose, not because a date passed at night."""

BACKDATED: Final = timedelta(minutes=5)
"""By which something is valid before it was signed: clocks differ."""

RENEW_AT: Final = 2 / 3
"""Of its life, a CA that was made here is replaced by itself; of one that was brought it is told."""

NAME: Final = "Linkseal"
NEXT_SECRET: Final = "linkseal-ca-next"  # noqa: S105 - the name of the object, not what is in it

STATE, NEXT_KEY, NEXT_CERTIFICATE, CROSSES = "state.json", "next.key", "next.crt", "cross.crt"
"""Keys of the Secret beside tls.key and tls.crt."""


class Phase(StrEnum):
    """Where a rotation is."""

    STEADY = "steady"
    TRUSTING = "trusting"
    SIGNING = "signing"


class _State(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    phase: Annotated[Phase, Field(strict=False)]
    asked: Annotated[str, Field(max_length=64)]
    since: float
    done: list[str]
    made: bool


@dataclass(frozen=True, slots=True)
class Authorities:
    """The CAs of a cluster. `coming` is there from phase trusting on; `crosses` are PEM, the oldest first."""

    present: CertificateAuthority
    coming: CertificateAuthority | None = None
    crosses: tuple[str, ...] = ()
    phase: Phase = Phase.STEADY
    asked: str = ""
    """What asked for the rotation under way, or for the last one."""
    since: float = 0.0
    """Unix seconds when the phase began; 0: the CA was never rotated."""
    done: tuple[str, ...] = ()
    """What asked for those before: asked for again they are done."""
    made: bool = True
    """The newest CA was made here, and not brought."""

    @property
    def signer(self) -> CertificateAuthority:
        """The CA that signs now."""
        return self.coming if self.phase is Phase.SIGNING and self.coming is not None else self.present

    @property
    def in_force(self) -> tuple[str, ...]:
        """Fingerprints for the policy: the one that signs comes first."""
        both = (self.present, self.coming)
        others = (one.fingerprint for one in both if one is not None and one is not self.signer)
        return (self.signer.fingerprint, *others)

    def trust(self) -> Trust:
        """By which what was signed before is judged; the older CA first."""
        return Trust(one.certificate for one in (self.present, self.coming) if one is not None)

    def published(self) -> dict[str, str]:
        """What the ConfigMap for agents says."""
        crosses = {CROSS_KEY: "".join(self.crosses)} if self.crosses else {}
        return {CA_KEY: bundle_pem(self.trust().roots), **crosses}


# --- the Secret ----------------------------------------------------------------------------------------------------


def data_of(found: Authorities) -> dict[str, str]:
    """Return the Secret's data, values in base64."""
    state = _State(
        phase=found.phase, asked=found.asked, since=found.since, done=list(found.done), made=found.made
    ).model_dump_json()
    raw = {"tls.key": found.present.key_pem(), "tls.crt": found.present.certificate_pem().encode()}
    if found.coming is not None:
        raw |= {NEXT_KEY: found.coming.key_pem(), NEXT_CERTIFICATE: found.coming.certificate_pem().encode()}
    if found.crosses:
        raw[CROSSES] = "".join(found.crosses).encode()
    raw[STATE] = state.encode()
    return {key: b64encode(value).decode() for key, value in raw.items()}


def read_data(data: Mapping[str, str], where: str, now: datetime, elsewhere: Elsewhere | None = None) -> Authorities:
    """Read the Secret's data. Raises ConfigError, which names `where`.

    Without a state it was brought by the operator, who is told at once if its dates are wrong. `elsewhere` makes keys
    that another process holds.
    """
    if not {"tls.key", "tls.crt"} <= data.keys():
        raise ConfigError(
            f"{where} must hold the CA as tls.key and tls.crt: put it back from a copy, or delete it for a new CA, "
            "which no agent trusts before its node is told of it by `linkseal agent trust-ca` (docs/ca.md)"
        )
    try:
        raw = {key: b64decode(value, validate=True) for key, value in data.items()}
        present = CertificateAuthority.from_pem(raw["tls.key"], raw["tls.crt"].decode(errors="replace"), elsewhere)
        if STATE not in raw:
            return _without_state(present, now)
        state = _State.model_validate_json(raw[STATE])
        coming = None
        if state.phase is not Phase.STEADY:
            text = raw[NEXT_CERTIFICATE].decode(errors="replace")
            coming = CertificateAuthority.from_pem(raw[NEXT_KEY], text, elsewhere)
        crosses = tuple(bundle_pem([one]) for one in read_bundle(raw[CROSSES].decode())) if CROSSES in raw else ()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (ValidationError, KeyError, ValueError):
        raise ConfigError(f"{where} is damaged in {STATE}, {NEXT_KEY} or {CROSSES}: put it back from a copy") from None
    return Authorities(present, coming, crosses, state.phase, state.asked, state.since, tuple(state.done), state.made)


def _without_state(present: CertificateAuthority, now: datetime) -> Authorities:
    ours = present.certificate.subject.rfc4514_string() == f"CN={NAME}" and not present.elsewhere
    if ours:  # made here, before there was a state
        return Authorities(present)
    if why := _untimely(present, now):
        raise ConfigError(why)
    return Authorities(present, made=False)


def brought(
    data: Mapping[str, str], where: str, now: datetime, elsewhere: Elsewhere | None = None
) -> CertificateAuthority:
    """Read a CA that an operator brought as the next one: tls.key and tls.crt. Raises ConfigError."""
    both = {key: data[key] for key in ("tls.key", "tls.crt") if key in data}
    found = read_data(both, where, now, elsewhere).present
    if why := _untimely(found, now):
        raise ConfigError(f"{where}: {why}")
    return found


def _untimely(found: CertificateAuthority, now: datetime) -> str:
    certificate = found.certificate
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if since - BACKDATED <= now < until:
        return ""
    return f"the CA's certificate is valid from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC: issue it anew"


def make(now: datetime) -> CertificateAuthority:
    """Make a CA of our own."""
    return CertificateAuthority.create(NAME, now - BACKDATED, LIFETIME)


# --- the steps -----------------------------------------------------------------------------------------------------


class Wish(NamedTuple):
    """What is to be done about a steady CA. `asked` empty: nothing; `problem`: what only the operator can do."""

    asked: str = ""
    problem: str = ""


def wish(found: Authorities, asked: str, now: datetime) -> Wish:
    """Return whether a rotation is to begin: asked for by a value that is new, or two thirds of the CA's life over."""
    if found.phase is not Phase.STEADY:
        return Wish()
    if asked and asked not in found.done:
        return Wish(asked)
    certificate = found.present.certificate
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < since + (until - since) * RENEW_AT:
        return Wish()
    if found.made:
        return Wish(f"auto-{now:%Y-%m-%d}")
    return Wish(
        problem=f"the CA that was brought ends on {until:%Y-%m-%d}: put the next one into the Secret {NEXT_SECRET} "
        "and set spec.ca.rotate to a new value"
    )


def begun(found: Authorities, coming: CertificateAuthority, asked: str, now: datetime, *, made: bool) -> Authorities:
    """Return them with the next CA, for which the present one vouches. Raises ConfigError: it is the same CA."""
    if coming.fingerprint == found.present.fingerprint:
        raise ConfigError("the next CA has the key of the present one: make a new key for it")
    crosses = (*found.crosses, found.present.cross_sign(coming.certificate))[-MAX_AUTHORITIES:]
    at = now.timestamp()
    return replace(found, coming=coming, crosses=crosses, phase=Phase.TRUSTING, asked=asked, since=at, made=made)


def advanced(found: Authorities, now: datetime) -> Authorities:
    """Return them one step on: the next CA signs, or it is the only one."""
    at = now.timestamp()
    if found.phase is Phase.TRUSTING:
        return replace(found, phase=Phase.SIGNING, since=at)
    assert found.coming is not None
    done = (*found.done, found.asked)[-MAX_AUTHORITIES:]
    return replace(found, present=found.coming, coming=None, phase=Phase.STEADY, since=at, done=done)


# --- the evidence --------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What is there of one node. `granted_by`, `certified_by`: fingerprints of CAs, empty if that is no CA of ours."""

    name: str
    announced: bool
    """An agent has once announced itself there."""
    report: NodeStatus | None
    granted_by: str = ""
    certified_by: str = ""


def holds(
    found: Authorities, nodes: Iterable[Seen], policy: tuple[tuple[str, ...], int], now: datetime
) -> tuple[str, ...]:
    """Return what holds up the next step, as lines; none: it may be made. `policy`: CAs and serial of the one in force.

    A node whose report is missing or old counts for as long after the phase began as after a report.
    """
    if found.coming is None:
        return ()
    lines: list[str] = []
    authorities, serial = policy
    if found.phase is Phase.SIGNING and authorities != found.in_force:
        lines.append("the policy is not signed by the next CA yet")
    for node in nodes:
        why = _missing(found, found.coming.fingerprint, node, serial, now.timestamp())
        lines += [f"{node.name}: {why}"] if why else []
    return tuple(lines)


def _missing(found: Authorities, coming: str, node: Seen, serial: int, now: float) -> str:
    """Return what a node lacks for the next step."""
    signing = found.phase is Phase.SIGNING
    if signing and node.granted_by == found.present.fingerprint:
        return "its grant is by the old CA"
    heard = 0.0 if node.report is None else min(node.report.observed_at, now)
    if not node.announced or now - max(heard, found.since) >= SILENT:
        return ""
    if node.report is None:
        return "its agent does not report"
    if coming not in node.report.trust:
        return "its agent does not trust the next CA yet"
    if signing and node.certified_by != coming:
        return "its certificate is by the old CA"
    return "its agent has not taken the policy yet" if signing and node.report.policy.serial < serial else ""


def ends(found: Authorities) -> float:
    """Return the Unix seconds when the certificate of the CA that signs ends."""
    return found.signer.certificate.not_valid_after_utc.astimezone(UTC).timestamp()

"""The CAs this node trusts: the first it was installed with, and those that one of them vouches for.

    STATE/ca.crt            the CAs in force, the older first
    STATE/ca-retired.crt    those that no longer count: what was accepted under them stays, nothing new is

The directory's bundle can bring in a CA with a cross certificate of one in force. Only a policy signed by a later CA
puts an earlier one out of force, so that whoever can write the directory can neither add nor take away. Where the CA's
key was lost there is nobody to vouch: then root on the host names the next by its fingerprint (`STATE/ca-named`).
"""

from __future__ import annotations

import logging
from typing import Final

from cryptography import x509
from linkseal.keys import codes as documents
from linkseal.keys.ca import Trust
from linkseal.keys.cabundle import MAX_AUTHORITIES, bundle_pem, fingerprint_of, read_bundle, vouched
from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels import codes
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.findings import HOST_SUBJECT
from linkseal.tunnels.register import Finding

_LOG: Final = logging.getLogger("linkseal.agent")


class Anchors:
    """Owned by the worker's thread, which alone changes it. `trust` None: the node was never given a CA."""

    def __init__(self, keyring: Keyring) -> None:
        self.trust: Trust | None = None
        self.signing = ""
        """Fingerprint of the CA that signs now, by the policy in force; empty: it does not say."""
        self.refused = ""
        """Why a CA that is vouched for could not be kept on disk, and so does not count yet."""
        self._keyring = keyring
        self._retired: tuple[x509.Certificate, ...] = ()
        self._judged: tuple[tuple[str, str], tuple[Finding, ...]] | None = None
        self._unsaved = False

    def recall(self) -> None:
        """Take up what is on disk. Raises HostError, ConfigError."""
        bundle, retired = self._keyring.ca_bundle(), self._keyring.retired_cas()
        if bundle is None:
            return
        self.trust = Trust.from_pem(bundle)
        try:
            found = () if retired is None else read_bundle(retired)
        except ConfigError as error:
            _LOG.warning("the retired CAs on disk cannot be read; what they signed is not known any more: %s", error)
            return
        self._retired = tuple(one for one in found if fingerprint_of(one) not in self.trust.fingerprints)

    def ever(self) -> Trust:
        """Every CA that was trusted: by them what was accepted before is judged."""
        return Trust((*self._retired, *(() if self.trust is None else self.trust.roots)))

    def offer(self, bundle: str, crosses: str) -> tuple[Finding, ...]:
        """Take what the directory says of CAs and of who vouches for whom; returns what is wrong with it."""
        if not bundle:
            return ()
        again = bool(self.refused)
        self.take_named(bundle)
        if self._judged is None or self._judged[0] != (bundle, crosses) or again:
            self._judged = ((bundle, crosses), self._judge(bundle, crosses))
        return self._judged[1]

    def take_named(self, bundle: str) -> None:
        """Trust the CA in this bundle that root on this host has named, if there is one; once."""
        self.refused = ""
        try:
            named = self._keyring.named_ca()
            if named is None or self.trust is None:
                return
            found = [one for one in read_bundle(bundle) if fingerprint_of(one) == named]
            if found and named not in self.trust.fingerprints:
                self._retired = tuple(one for one in self._retired if fingerprint_of(one) != named)
                self._admit(found[:1], "root on this host has named it")
            if named in self.trust.fingerprints:
                self._judged = None
                self._keyring.forget_named_ca()
        except ConfigError:
            return
        except HostError as error:
            self.refused = str(error)

    def strangers(self, bundle: str) -> tuple[Finding, ...]:
        """Return what is to be told of the CAs in the bundle of another cluster, of which none is taken."""
        if self.trust is None or not bundle:
            return ()
        try:
            found = {fingerprint_of(one) for one in read_bundle(bundle)}
        except ConfigError as error:
            return (Finding(codes.DIRECTORY_UNREADABLE, HOST_SUBJECT, str(error)),)
        named = sorted(found - set(self.trust.fingerprints))
        return (_not_vouched(named),) if named else ()

    def _judge(self, bundle: str, crosses: str) -> tuple[Finding, ...]:
        try:
            offered = read_bundle(bundle)
            vouching = read_bundle(crosses) if crosses else ()
        except ConfigError as error:
            return (Finding(codes.DIRECTORY_UNREADABLE, HOST_SUBJECT, str(error)),)
        if self.trust is None:
            first = Trust(offered)
            self._keyring.save_ca_bundle(bundle_pem(first.roots))
            self.trust = first
            return ()
        known = {fingerprint_of(one) for one in self._retired}
        good, strangers = vouched(self.trust.roots, offered, vouching)
        new = [one for one in good if fingerprint_of(one) not in {*known, *self.trust.fingerprints}]
        self._admit(new, "one that was vouches for it")
        named = [fingerprint_of(one) for one in strangers if fingerprint_of(one) not in known]
        if not named:
            return ()
        return (_not_vouched(named),)

    def _admit(self, new: list[x509.Certificate], why: str) -> None:
        """Trust these too, once they are on disk."""
        if not new or self.trust is None:
            return
        grown = Trust((*self.trust.roots, *new))
        try:
            self._keyring.save_ca_bundle(bundle_pem(grown.roots))
        except HostError as error:
            self.refused = str(error)
            return
        self.trust = grown
        for one in new:
            _LOG.info("one more CA is trusted, since %s: %s", why, fingerprint_of(one))

    def told(self, authorities: tuple[str, ...]) -> None:
        """A policy was accepted that was signed by the first of these CAs and names those in force."""
        if not authorities or self.trust is None:
            return
        self.signing = authorities[0]
        known = self.trust.fingerprints
        earlier = known[: known.index(self.signing)] if self.signing in known else ()
        going = [one for one in self.trust.roots if fingerprint_of(one) in set(earlier) - set(authorities)]
        if not going:
            return
        self.trust = Trust(one for one in self.trust.roots if one not in going)
        self._retired = (*self._retired, *going)[-MAX_AUTHORITIES:]
        self._unsaved = True
        for one in going:
            _LOG.info("a CA was retired; what it signed before stays: %s", fingerprint_of(one))

    def save(self) -> None:
        """Write what was retired: to where retired ones are first, so that none is ever in neither. HostError."""
        if self._unsaved and self.trust is not None:
            self._keyring.save_retired_cas(bundle_pem(self._retired))
            self._keyring.save_ca_bundle(bundle_pem(self.trust.roots))
            self._unsaved = False


def _not_vouched(named: list[str]) -> Finding:
    message = f"the directory names a CA that none trusted here vouches for, and it is not trusted: {', '.join(named)}"
    return Finding(documents.CA_NOT_VOUCHED, HOST_SUBJECT, message)

"""Codes of the findings about keys, certificates and documents; a code is never used for anything else again.

Severity, cause and fix of each are in the catalogue of `linkseal.tunnels.findings`.
"""

from __future__ import annotations

from typing import Final

SIGNATURE_INVALID: Final = "LS1001"  # the announcement's signature does not fit its bytes and certificate
UNTRUSTED_CERTIFICATE: Final = "LS1002"  # the certificate was not issued, as a node's, by a CA trusted here
WRONG_IDENTITY: Final = "LS1003"  # certificate or announcement is for another node or UID
CERTIFICATE_EXPIRED: Final = "LS1004"  # outside the certificate's dates: new announcements are refused
SERIAL_REPLAYED: Final = "LS1005"  # an announcement with a lower serial than one already accepted
EQUIVOCATION: Final = "LS1006"  # the same serial with other bytes
MALFORMED: Final = "LS1007"  # a document that does not follow its format
TOO_LARGE: Final = "LS1008"  # a document above its size limit, not parsed
UNKNOWN_FORMAT: Final = "LS1009"  # written by a version of Linkseal this one cannot read
POSSESSION_NOT_PROVEN: Final = "LS1010"  # the announcer did not show that it holds the private key
DUPLICATE_KEY: Final = "LS1011"  # two nodes announce one public key
GRANTS_OVERLAP: Final = "LS1012"  # two nodes were granted one address or overlapping prefixes
GRANT_SIGNATURE_INVALID: Final = "LS1013"  # no trusted CA signed this grant
GRANT_WRONG_NODE: Final = "LS1014"  # the grant is for another node, or its UID is older than the accepted one
GRANT_REPLAYED: Final = "LS1015"  # a grant with a lower serial, or the same serial with other bytes
DUPLICATE_INDEX: Final = "LS1016"  # two nodes were granted one index
NO_GRANT: Final = "LS1017"  # a node announces itself and the cluster granted it nothing
OWN_DOCUMENTS: Final = "LS1018"  # this node's own documents are absent from the directory or were altered there
ACCEPTED_EXPIRED: Final = "LS1019"  # the certificate of an accepted node has expired since; it is kept
GENERATION_REUSED: Final = "LS1020"  # an announcement brings back a withdrawn generation number or key
CAPABILITY_LOST: Final = "LS1021"  # a node no longer announces a capability it had
DELETIONS_HELD: Final = "LS1022"  # many nodes, or this one, disappeared at once: nothing is removed
CLUSTER_CHANGED: Final = "LS1023"  # the directory now belongs to another cluster: nothing is removed
CA_NOT_VOUCHED: Final = "LS1024"  # the directory names a CA that none trusted here has cross-signed

"""Codes of the findings about probes, hosts and the agent; a code is never used for anything else again.

Those about keys and documents (LS1xxx) are in `linkseal.keys.codes`. Severity, cause and fix of each are in
`linkseal.tunnels.catalogue`.
"""

from __future__ import annotations

from typing import Final

NO_HANDSHAKE: Final = "LS2001"
NOTHING_CROSSES: Final = "LS2002"
NOT_FORWARDED: Final = "LS2003"
MTU_HOLE: Final = "LS2004"
PREFIX_NOT_CARRIED: Final = "LS2005"

NO_WIREGUARD: Final = "LS3001"
NO_NFT: Final = "LS3002"
NO_DOOR: Final = "LS3003"
PORT_IN_USE: Final = "LS3004"
NOT_PRIVILEGED: Final = "LS3005"
RP_FILTER_LOOSENED: Final = "LS3006"
CNI_MTU: Final = "LS3007"
PATH_MTU: Final = "LS3008"
DRIFT_HEALED: Final = "LS3009"
STEP_REFUSED: Final = "LS3010"
NO_FORWARDING: Final = "LS3011"
PROBE_RANGE_USED: Final = "LS3012"
ROUTING_COLLISION: Final = "LS3013"
STATE_PERMISSIONS: Final = "LS3014"
STATE_NOT_SAVED: Final = "LS3015"
CLOCK_BACK: Final = "LS3016"
NO_IPV6: Final = "LS3017"
FOREIGN_RULE: Final = "LS3018"
FOREIGN_MANAGER: Final = "LS3019"
NO_UNDERLAY: Final = "LS3020"

DIRECTORY_UNREADABLE: Final = "LS4001"
NO_CERTIFICATE: Final = "LS4002"
OWN_GRANT_MISSING: Final = "LS4003"
NOT_PUBLISHED: Final = "LS4004"
DIRECTORY_OLDER: Final = "LS4005"
ROTATION_HELD: Final = "LS4006"
AGENT_SILENT: Final = "LS4007"
NO_ENDPOINT: Final = "LS4008"
INCOMPATIBLE: Final = "LS4009"
NO_AGENT: Final = "LS4010"
OPTED_OUT: Final = "LS4011"
DIRECTORY_PERMISSIONS: Final = "LS4012"
POLICY_REFUSED: Final = "LS4013"

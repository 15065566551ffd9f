"""What `agent restore` does beside restoring: it waits for an address, or says beforehand whether it could work."""

from __future__ import annotations

import time
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.store import KeyStore
from linkseal.tunnels.addressing import OURS
from linkseal.tunnels.agent.keyring import Keyring
from linkseal.tunnels.agent.knowledge import Knowledge
from linkseal.tunnels.agent.memory import no_core
from linkseal.tunnels.agent.state import KnownGood
from linkseal.tunnels.findings import ActiveFindings
from linkseal.tunnels.host.addresses import Addresses
from linkseal.tunnels.host.links import open_route
from linkseal.tunnels.host.nft import Nft, run_nft
from linkseal.tunnels.settings import AgentSettings

_LOOK: Final = 0.2
"""Seconds between two looks for an address."""


def recalled(settings: AgentSettings) -> Knowledge:
    """Return what the disk knows of the cluster, reading alone: an agent may be writing there."""
    state = settings.state_directory
    keyring = Keyring(state, settings.node)
    knowledge = Knowledge(settings.node, keyring, KnownGood(state), ActiveFindings())
    knowledge.recall()
    return knowledge


def check(settings: AgentSettings) -> str:
    """Say what a restore would start from; changes nothing, and needs neither /proc nor the kernel's WireGuard.

    Raises HostError, ConfigError with what a restore would stop at, or could not bring back whole.
    """
    no_core()
    store = KeyStore(settings.state_directory)
    owner = store.owner()
    if owner is None:
        raise HostError(f"there is nothing to restore in {settings.state_directory}: this node was never set up")
    if owner.node != settings.node:
        raise HostError(f"{settings.state_directory} is that of {owner.node}, and the settings are for {settings.node}")
    generations = store.load_generations()
    keys = [number for number in (generations.numbers if generations else ()) if store.load_key(number) is not None]
    knowledge = recalled(settings)
    if knowledge.policy is None:
        raise HostError(f"{settings.state_directory} knows no cluster policy: start the agent, which reads it")
    nft = Nft().version()
    if nft is None:
        raise HostError("nft is not installed, or does not run: install the package nftables (1.0.6 or later)")
    run_nft(["nft", "-j", "list", "tables"])
    count = 0 if knowledge.register is None else len(knowledge.register.peers)
    stage = knowledge.policy.stage_of(settings.node).value
    return f"stage {stage}, {count} nodes, keys of {len(keys)} generations, nft {nft}"


def missing_addresses(settings: AgentSettings) -> tuple[str, ...]:
    """Return the granted addresses that are on no interface of this host but our own. HostError."""
    grant = recalled(settings).grant
    if grant is None:
        return ()
    route = open_route()
    try:
        names = {one["index"]: one.get_attr("IFLA_IFNAME") for one in route.get_links()}
        _, everywhere = Addresses(route).read(names)
    finally:
        route.close()
    here = {address for address, name in everywhere.items() if name not in OURS}
    return tuple(address for address in grant.addresses if address not in here)


def wait_for_address(settings: AgentSettings, seconds: float) -> None:
    """Wait until one of the granted addresses is on this host, at most `seconds`. HostError."""
    grant = recalled(settings).grant
    if grant is None:
        return
    deadline = time.monotonic() + seconds
    while len(missing_addresses(settings)) == len(grant.addresses) and time.monotonic() < deadline:
        time.sleep(_LOOK)

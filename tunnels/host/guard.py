"""The guard in the kernel: loads its transactions by nft and reads it back."""

from __future__ import annotations

import json

from linkseal.keys.errors import HostError
from linkseal.tunnels.guard.commands import commands, parse
from linkseal.tunnels.guard.model import Guard, GuardTransaction
from linkseal.tunnels.guard.readings import Readings
from linkseal.tunnels.host.guardread import read_counters
from linkseal.tunnels.host.nfnetlink import hook_devices, our_tables
from linkseal.tunnels.host.nft import listings, run_nft
from linkseal.tunnels.host.nftcache import Remembered


class GuardTables:
    """The two tables of that name in the calling thread's network namespace. `writes` counts transactions."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.writes = 0
        self.remembered: Remembered[Guard | None] = Remembered()

    def read_again(self, interfaces: object) -> Guard | None:
        """As `read`, but what was read last if nothing has changed since (`linkseal.tunnels.host.nftcache`)."""
        return self.remembered.get(interfaces, self.read)

    def read(self) -> Guard | None:
        """Return what is there; None: neither table is. HostError."""
        families = our_tables(self.table)
        if not families:
            return None
        devices = hook_devices(self.table) if "netdev" in families else {}
        items = []
        for listing in listings(families, self.table):
            try:
                items += json.loads(listing)["nftables"]
            except ValueError:
                raise HostError(f"nft printed no JSON: {listing[:80]!r}") from None
        return parse(self.table, items, devices)

    def readings(self, guard: Guard | None) -> Readings:
        """Return what the guard has counted, in the sets that were seen there. HostError."""
        if guard is None or guard.foreign:
            return Readings()
        sets = (place for place, one in guard.sets.items() if one.counted)
        return read_counters(self.table, sets, sorted({family for family, _ in guard.counters}))

    def apply(self, transaction: GuardTransaction) -> bool:
        """Carry out a transaction; whether there was any. HostError if the kernel refuses it: nothing is done then."""
        wanted = commands(transaction)
        if wanted:
            self.writes += 1
            run_nft(["nft", "-j", "-f", "/proc/self/fd/0"], json.dumps({"nftables": wanted}))
        return bool(wanted)

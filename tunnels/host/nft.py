"""Runs nft: one atomic transaction a call, JSON in and out."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.host.nfnetlink import hook_devices, our_tables
from linkseal.tunnels.host.nftcache import Remembered
from linkseal.tunnels.host.programs import with_path
from linkseal.tunnels.model import NftTransaction, Ruleset
from linkseal.tunnels.nftables import TABLE, adjust, commands, door_chain, parse

_SECONDS = 30
"""5,000 elements take 0.04 s to add (0.8 s in the lab kernel); past this nft hangs."""

_STDIN = "/proc/self/fd/0"
"""Not `-`: nft opens /dev/stdin for that, which only udev or a container runtime makes."""

_LISTING: Final = ("-j", "--numeric-protocol", "list", "table")
"""How a table is asked for: names of protocols depend on /etc/protocols, which slim images do not have."""

_TRIAL: Final = NftTransaction(create=True, set_chains=(door_chain()._replace(name="trial", device="lo"),))

_PAUSES: Final = (0.1, 0.4, 1.5)
"""Seconds between attempts to find out whether there can be a door."""

_NO: Final = (
    "nft is not installed",
    "rule: Operation not supported",  # EOPNOTSUPP: no such hook (nft: "Could not process rule: …")
    "rule: No such file or directory",  # ENOENT: no expression `fwd`, no family netdev
    "rule: Protocol not supported",  # EPROTONOSUPPORT: no nf_tables for this family
    "Error: Invalid",  # an nft that does not know the hook or the statement
)


class Nft:
    """nftables of the calling thread's network namespace. `writes` counts transactions."""

    def __init__(self) -> None:
        self.writes = 0
        self.remembered: Remembered[Ruleset | None] = Remembered()

    def version(self) -> str | None:
        """Return nft's version, None if it is not installed."""
        try:
            words = run_nft(["nft", "--version"]).split()
        except HostError:
            return None
        return words[1].removeprefix("v") if len(words) > 1 else None

    def has_door(self) -> bool:
        """Whether kernel and nft can make the door; tried by a dry run, which the kernel checks and forgets.

        Needs egress hooks (kernel ≥ 5.16, CONFIG_NETFILTER_EGRESS) and CONFIG_NFT_FWD_NETDEV. Only the kernel's plain
        no counts, since whoever is told "no door" takes a standing one down: a failure of another kind (nft hung, the
        kernel busy) is tried again, and is a HostError in the end.
        """
        for pause in _PAUSES:
            try:
                return self._try_door()
            except HostError:
                time.sleep(pause)
        return self._try_door()

    def _try_door(self) -> bool:
        """HostError: it cannot be told now."""
        try:
            _execute(commands(_TRIAL), "-c")
        except HostError as error:
            if self._door_stands():
                return True
            if _is_no(error):
                return False
            raise
        return True

    def _door_stands(self) -> bool:
        """Whether our door is in the kernel already."""
        door = door_chain()
        try:
            ruleset = self.read()
        except HostError:
            return False
        return ruleset is not None and (door.family, door.name) in ruleset.chains

    def read_again(self, interfaces: object) -> Ruleset | None:
        """As `read`, but what was read last if nothing has changed since (`linkseal.tunnels.host.nftcache`)."""
        return self.remembered.get(interfaces, self.read)

    def read(self) -> Ruleset | None:
        """Return what our tables hold, None if there is none. HostError."""
        families = our_tables()
        if not families:
            return None
        devices = hook_devices() if "netdev" in families else {}
        return parse(listings(families, TABLE), devices)

    def apply(self, transaction: NftTransaction) -> bool:
        """Carry out a transaction; whether just that was done, and at once. HostError.

        If the kernel refuses it, an element may have come or gone since it was computed: it is tried once more
        against what is there now.
        """
        wanted = commands(transaction)
        if not wanted:
            return False
        self.writes += 1
        try:
            _execute(wanted)
        except HostError:
            left = adjust(transaction, self.read())
            if left == transaction:
                raise
            if wanted := commands(left):
                self.writes += 1
                _execute(wanted)
            return False
        return True


def listings(families: Sequence[str], table: str) -> list[str]:
    """Return what nft prints of a table in each of these families, asked side by side. HostError.

    One nft for all would be enough, but 1.0.6 then finds only one of the tables.
    """
    with ThreadPoolExecutor(len(families)) as side_by_side:
        return list(side_by_side.map(lambda family: run_nft(["nft", *_LISTING, family, table]), families))


def _execute(wanted: Sequence[dict[str, Any]], *options: str) -> None:
    run_nft(["nft", "-j", *options, "-f", _STDIN], json.dumps({"nftables": wanted}))


def run_nft(argv: Sequence[str], text: str = "") -> str:
    """Run nft, `text` on its standard input; return what it prints. HostError with its own words if it fails."""
    try:
        done = subprocess.run(
            with_path(argv), input=text, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise HostError("nft is not installed: install the package nftables (1.0.6 or later)") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot run {' '.join(argv)}: {error}") from None
    if done.returncode:
        words = " ".join(done.stderr.split())[:400] or f"exit status {done.returncode}"
        raise HostError(f"{' '.join(argv[:3])} failed: {words}{_advice(words)}")
    return done.stdout


def _is_no(error: HostError) -> bool:
    """Whether this host says that it cannot, as opposed to not just now."""
    return any(words in str(error) for words in _NO)


def _advice(words: str) -> str:
    if "Operation not permitted" in words:
        return "; run as root, or with CAP_NET_ADMIN in this network namespace"
    if "not supported" in words or "No such file or directory" in words:
        return "; what it names is gone, or the kernel lacks it: see `linkseal check --pre`"
    return ""

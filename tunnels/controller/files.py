"""The controller of a file directory: keeps the CA, reads the inventory, signs what nodes ask for until stopped.

    CA/ca.key  CA/ca.crt   the CA (the key 0600 in a folder 0700), made at the first run; keep a copy where it is safe
    INVENTORY              every node and what it owns; read again when it changes
    DIRECTORY/             what nodes see of it: certificates, grants, cluster.json

If it is down, nothing that works stops working: it is needed for new nodes and changed grants only.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from linkseal.keys.ca import CertificateAuthority
from linkseal.keys.errors import ConfigError, DirectoryError
from linkseal.keys.files import PUBLIC, SECRET, atomic_write, private_folder, read_file
from linkseal.tunnels.directory.inventory import load_inventory
from linkseal.tunnels.directory.signer import FileSigner, Signed

_LOG: Final = logging.getLogger("linkseal.controller")

LIFETIME: Final = timedelta(days=3650)
"""Of the CA made here: it is replaced on purpose, not because a date passed at night."""

BACKDATED: Final = timedelta(hours=1)
"""By which the CA is valid before it was made: clocks differ."""

LOOK: Final = 2.0
"""Seconds between two looks at the inventory; a node's request wakes at once."""

CA_KEY: Final = "ca.key"
CA_CERTIFICATE: Final = "ca.crt"


def authority_in(folder: Path, now: datetime) -> CertificateAuthority:
    """Return the CA kept in `folder`, made at the first call. Raises HostError, ConfigError (half of it is there)."""
    private_folder(folder)
    key, certificate = read_file(folder / CA_KEY, secret=True), read_file(folder / CA_CERTIFICATE)
    if key is not None and certificate is not None:
        return CertificateAuthority.from_pem(key, certificate.decode(errors="replace"))
    if key is not None or certificate is not None:
        there, missing = (CA_KEY, CA_CERTIFICATE) if key is not None else (CA_CERTIFICATE, CA_KEY)
        raise ConfigError(f"{folder} has {there} but not {missing}: put it back, or use an empty folder for a new CA")
    authority = CertificateAuthority.create("Linkseal", now - BACKDATED, LIFETIME)
    atomic_write(folder / CA_KEY, authority.key_pem(), SECRET)
    atomic_write(folder / CA_CERTIFICATE, authority.certificate_pem().encode(), PUBLIC)
    _LOG.info("made a CA in %s", folder)
    return authority


class FileController:
    """Signs for one directory. Raises ConfigError, HostError, DirectoryError when made."""

    def __init__(self, directory: Path, inventory: Path, ca: Path) -> None:
        self._directory = directory
        self._inventory = inventory
        load_inventory(inventory)  # before anything is made
        self._authority = authority_in(ca, datetime.now(UTC))
        self._seen = self._stamp()
        self._signer = self._new_signer()
        self._told: set[str] = set()

    def sign(self) -> Signed:
        """Do one pass and say what was done."""
        self._reload()
        signed = self._signer.sign(datetime.now(UTC))
        for name in signed.granted:
            _LOG.info("signed the grant of %s", name)
        for name in signed.certified:
            _LOG.info("signed the certificate of %s", name)
        self._tell_once(
            [f"request refused: {error}" for error in signed.refused]
            + [
                f"{name} is in the directory and not in {self._inventory}: it stays in the cluster until its folder "
                f"{self._directory / 'nodes' / name} is removed"
                for name in signed.unlisted
            ]
        )
        return signed

    async def run(self, stop: asyncio.Event) -> None:
        """Sign until `stop`."""
        while not stop.is_set():
            try:
                self.sign()
            except DirectoryError as error:
                self._tell_once([f"the directory cannot be written now: {error}"])
                await _within(stop, LOOK)
                continue
            waiting = asyncio.ensure_future(self._signer.wait_for_request(LOOK))
            stopped = asyncio.ensure_future(stop.wait())
            _, pending = await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
        self._signer.close()

    def _reload(self) -> None:
        """Take up a changed inventory; one that cannot be used is said once, and the former one goes on."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            signer = self._new_signer()
        except (ConfigError, DirectoryError) as error:
            _LOG.error("the changed inventory is not used: %s", error)
            return
        self._signer.close()
        self._signer = signer
        _LOG.info("read %s: %d nodes", self._inventory, len(signer.inventory.nodes))

    def _new_signer(self) -> FileSigner:
        signer = FileSigner(self._directory, self._authority, load_inventory(self._inventory))
        signer.prepare()
        return signer

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self._inventory.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _tell_once(self, messages: list[str]) -> None:
        for message in messages:
            if message not in self._told:
                _LOG.warning("%s", message)
        self._told = set(messages)


async def _within(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `stop`, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def run(directory: Path, inventory: Path, ca: Path) -> None:
    """Sign until SIGTERM or SIGINT. Raises ConfigError, HostError, DirectoryError."""

    async def work() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await FileController(directory, inventory, ca).run(stop)

    asyncio.run(work())

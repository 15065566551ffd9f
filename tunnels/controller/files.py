"""The controller of a file directory: keeps the CA, reads the inventory, signs what nodes ask for until stopped.

    CA/ca.key  CA/ca.crt   the CA (the key 0600 in a folder 0700), made at the first run; keep a copy where it is safe
    CA/stage.json          where the cluster is, and who took it there (`linkseal.tunnels.controller.stagefile`)
    CA/controller.sock     where `linkseal enable` and `disable` ask (`linkseal.tunnels.controller.stageserver`)
    INVENTORY              every node and what it owns; read again when it changes
    DIRECTORY/             what nodes see of it: certificates, grants, cluster.json

If it is down, nothing that works stops working: it is needed for new nodes and changed grants only.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from linkseal.keys.ca import CertificateAuthority
from linkseal.keys.errors import ConfigError, DirectoryError
from linkseal.keys.files import PUBLIC, SECRET, atomic_write, private_folder, read_file
from linkseal.tunnels.controller.aims import Aim
from linkseal.tunnels.controller.reports import Reports
from linkseal.tunnels.controller.stagefile import FileStore
from linkseal.tunnels.controller.stagekeeper import MAX_STEPS, Stagekeeper
from linkseal.tunnels.controller.stageserver import StageServer
from linkseal.tunnels.controller.waiting import pause
from linkseal.tunnels.directory.inventory import Inventory, load_inventory
from linkseal.tunnels.directory.signer import FileSigner, Signed
from linkseal.tunnels.model import Stage
from linkseal.tunnels.policy import read_signed
from linkseal.tunnels.stages import Evidence

_LOG: Final = logging.getLogger("linkseal.controller")

LIFETIME: Final = timedelta(days=3650)
"""Of the CA made here: it is replaced on purpose, not because a date passed at night."""

BACKDATED: Final = timedelta(hours=1)
"""By which the CA is valid before it was made: clocks differ."""

LOOK: Final = 2.0
"""Seconds between two looks at the inventory; a node's request wakes at once."""

STEP: Final = 0.5
"""Seconds between two looks at the nodes' reports while a stage is walked to."""

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
    """Signs for one directory and keeps the cluster's stage. ConfigError, HostError, DirectoryError when made."""

    def __init__(self, directory: Path, inventory: Path, ca: Path) -> None:
        self._directory = directory
        self._inventory = inventory
        self._ca = ca
        found = load_inventory(inventory)  # before anything is made
        _without_pool(found, inventory)
        self._authority = authority_in(ca, datetime.now(UTC))
        self._seen = self._stamp()
        self._reports = Reports(directory)
        self._told: set[str] = set()
        signer = FileSigner(directory, self._authority, found)
        present = signer.policy()
        self.stages = Stagekeeper(FileStore(ca), None if present is None else read_signed(present.spec)[0], time.time())
        self._asked: dict[str, Any] | None = None if present is None else dict(present.spec)
        """What the inventory asks for and can be signed."""
        self._unfit = ""
        """Why what it asks for now cannot be; empty: it can."""
        self._signer = self._prepared(signer)
        self.changed = asyncio.Event()
        """Somebody asks for something: do not wait for the next look."""

    @property
    def inventory(self) -> Inventory:
        """As it is used now."""
        return self._signer.inventory

    def sign(self) -> Signed:
        """Do one pass and say what was done."""
        self._reload()
        self.walk()
        signed = self._signer.sign(datetime.now(UTC))
        for name in signed.granted:
            _LOG.info("signed the grant of %s", name)
        for name in signed.certified:
            _LOG.info("signed the certificate of %s", name)
        conflict = self.stages.conflict(self._signer.inventory.policy)
        self._tell_once(
            [f"request refused: {error}" for error in signed.refused]
            + [
                f"{name} is in the directory and not in {self._inventory}: it stays in the cluster until its folder "
                f"{self._directory / 'nodes' / name} is removed"
                for name in signed.unlisted
            ]
            + ([] if conflict is None else [conflict])
            + ([self._unfit] if self._unfit else [])
        )
        return signed

    def walk(self) -> None:
        """Bring the policy up to date, and take the steps that are due: several at once where nobody is waited for."""
        self._publish()
        for _ in range(MAX_STEPS):
            if self.stages.walk is None or not self.stages.tick(self.evidence(), time.time()):
                break
            self._publish()

    def abort(self, why: str) -> None:
        """Break off the walk under way, and sign the stage before it."""
        self.stages.abort(why, time.time())
        self._publish()

    def evidence(self) -> Evidence:
        """What the nodes report. Raises DirectoryError."""
        nodes = self._signer.inventory.nodes
        out = tuple(node.name for node in nodes if node.opted_out)
        return Evidence(self.stages.serial, self._reports.of(n.name for n in nodes if not n.opted_out), out)

    async def run(self, stop: asyncio.Event) -> None:
        """Sign until `stop`."""
        server = StageServer(self._ca, self)
        await server.start()
        try:
            while not stop.is_set():
                try:
                    self.sign()
                except DirectoryError as error:
                    self._tell_once([f"the directory cannot be written now: {error}"])
                    await pause(stop, LOOK)
                    continue
                await self._wait(stop)
        finally:
            await server.close()
            self._signer.close()

    async def _wait(self, stop: asyncio.Event) -> None:
        """Wait for something to do."""
        pause = LOOK if self.stages.walk is None else STEP
        tasks = {
            asyncio.ensure_future(self._signer.wait_for_request(pause)),
            asyncio.ensure_future(stop.wait()),
            asyncio.ensure_future(self.changed.wait()),
        }
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        self.changed.clear()

    def _reload(self) -> None:
        """Take up a changed inventory; one that cannot be used is said once, and the former one goes on."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            found = load_inventory(self._inventory)
            _without_pool(found, self._inventory)
            signer = self._prepared(FileSigner(self._directory, self._authority, found))
        except (ConfigError, DirectoryError) as error:
            _LOG.error("the changed inventory is not used: %s", error)
            return
        self._signer.close()
        self._signer = signer
        _LOG.info("read %s: %d nodes", self._inventory, len(signer.inventory.nodes))

    def _prepared(self, signer: FileSigner) -> FileSigner:
        found = signer.inventory
        signer.prepare(self._spec(found), above=self.stages.serial)
        self._aim(found)
        return signer

    def _aim(self, found: Inventory) -> None:
        lower = found.spec.get("lowerTo")
        aim = Aim(found.policy.stage, None if lower is None else Stage(lower))
        self.stages.aim(aim, [node.name for node in found.nodes if not node.opted_out], time.time())

    def _spec(self, found: Inventory) -> dict[str, Any]:
        """What is to be signed; what cannot be with what stays leaves what was asked for before."""
        try:
            self._asked, _ = self.stages.merged(found.spec, found.policy)
            self._unfit = ""
        except ConfigError as error:
            self._unfit = f"{error}; what was asked for before goes on"
            if self._asked is None:
                raise
        return self.stages.spec(self._asked)

    def _publish(self) -> None:
        found = self._signer.inventory
        self._aim(found)
        spec = self._spec(found)
        self.stages.signed(self._signer.publish(spec, datetime.now(UTC), above=self.stages.serial))

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


def _without_pool(inventory: Inventory, path: Path) -> None:
    if inventory.policy.pool is not None:
        raise ConfigError(f"{path}: spec.pool: a pool is made by `linkseal enable --nodes`, not in the inventory")


def run(directory: Path, inventory: Path, ca: Path) -> None:
    """Sign until SIGTERM or SIGINT. Raises ConfigError, HostError, DirectoryError."""

    async def work() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await FileController(directory, inventory, ca).run(stop)

    asyncio.run(work())

"""A real CA, a real folder, real nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from linkseal.keys.ca import CertificateAuthority
from linkseal.tunnels.directory.files import FileDirectory
from linkseal.tunnels.directory.inventory import Inventory, InventoryNode
from linkseal.tunnels.directory.signer import FileSigner

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create("test", NOW - timedelta(days=1), timedelta(days=3650))


@pytest.fixture
def inventory() -> Inventory:
    nodes = tuple(InventoryNode(f"n{i}", f"uid-{i}", i, (f"192.0.2.{i}",), (f"10.244.{i}.0/24",)) for i in (1, 2, 3))
    return Inventory(nodes, {"scope": "overlay"})


@pytest.fixture
def signer(tmp_path: Path, authority: CertificateAuthority, inventory: Inventory) -> FileSigner:
    signer = FileSigner(tmp_path / "d", authority, inventory)
    signer.prepare()
    return signer


@pytest.fixture
async def directory(signer: FileSigner) -> AsyncIterator[FileDirectory]:
    signer.sign(NOW)
    directory = FileDirectory(signer.path)
    yield directory
    await directory.close()

"""The controller of a file directory: its CA, its inventory, what it signs."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from linkseal.keys.ca import generate_identity, make_csr
from linkseal.keys.errors import ConfigError, HostError
from linkseal.tunnels.cli.main import main
from linkseal.tunnels.controller.files import FileController, authority_in

INVENTORY = """
apiVersion: linkseal.io/v1alpha1
kind: Inventory
spec: {scope: overlay, stage: prefer}
nodes:
  - {name: a, uid: ua, index: 1, addresses: [192.0.2.1], prefixes: [10.244.1.0/24]}
"""

SECOND = "  - {name: b, uid: ub, index: 2, addresses: [192.0.2.2], prefixes: [10.244.2.0/24]}\n"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return path


def controller(tmp_path: Path, inventory: Path) -> FileController:
    return FileController(tmp_path / "directory", inventory, tmp_path / "ca")


def test_the_ca_is_made_once_and_nobody_else_can_read_its_key(tmp_path: Path) -> None:
    first = authority_in(tmp_path / "ca", datetime.now(UTC))
    again = authority_in(tmp_path / "ca", datetime.now(UTC))
    assert first.certificate_pem() == again.certificate_pem()
    assert (tmp_path / "ca/ca.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("gone", "left"), [("ca.key", "ca.crt"), ("ca.crt", "ca.key")])
def test_half_a_ca_is_never_replaced_by_a_new_one(tmp_path: Path, gone: str, left: str) -> None:
    authority_in(tmp_path / "ca", datetime.now(UTC))
    (tmp_path / "ca" / gone).unlink()
    with pytest.raises(ConfigError, match=f"has {left} but not {gone}"):
        authority_in(tmp_path / "ca", datetime.now(UTC))
    assert not (tmp_path / "ca" / gone).exists()


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    authority_in(tmp_path / "ca", datetime.now(UTC))
    (tmp_path / "ca/ca.key").chmod(0o644)
    with pytest.raises(HostError, match="can be read"):
        authority_in(tmp_path / "ca", datetime.now(UTC))


def test_a_node_of_the_inventory_gets_grant_and_certificate(tmp_path: Path, inventory: Path) -> None:
    signs = controller(tmp_path, inventory)
    assert signs.sign().granted == ("a",)
    request = tmp_path / "directory/nodes/a/request.csr"
    request.write_text(make_csr(generate_identity(), "a", "ua"))
    assert signs.sign().certified == ("a",)
    assert (tmp_path / "directory/nodes/a/certificate.pem").exists()
    assert not request.exists()


def test_a_changed_inventory_is_taken_up_and_a_broken_one_is_not(
    tmp_path: Path, inventory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs = controller(tmp_path, inventory)
    signs.sign()
    inventory.write_text("nodes: [")
    monkeypatch.setattr(logging.getLogger("linkseal"), "propagate", True)
    with caplog.at_level(logging.ERROR, "linkseal.controller"):
        assert signs.sign().granted == ()
    assert "the changed inventory is not used" in caplog.text
    inventory.write_text(INVENTORY + SECOND)
    assert signs.sign().granted == ("b",)


def test_a_node_taken_out_of_the_inventory_stays_until_its_folder_is_removed(tmp_path: Path, inventory: Path) -> None:
    inventory.write_text(INVENTORY + SECOND)
    signs = controller(tmp_path, inventory)
    signs.sign()
    inventory.write_text(INVENTORY)
    os.utime(inventory, (1, 1))
    assert signs.sign().unlisted == ("b",)
    assert (tmp_path / "directory/nodes/b/grant.json").exists()


def test_run_once_signs_and_says_how_much(tmp_path: Path, inventory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["controller", "run", "--once", "--directory", str(tmp_path / "d"), "--inventory", str(inventory)]
    assert main([*line, "--ca", str(tmp_path / "ca")]) == 0
    assert "signed 1 grant and 0 certificates" in capsys.readouterr().err


def test_run_needs_a_directory(tmp_path: Path, inventory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["controller", "run", "--once", "--inventory", str(inventory), "--ca", str(tmp_path / "ca")]) == 2
    assert "--directory" in capsys.readouterr().err

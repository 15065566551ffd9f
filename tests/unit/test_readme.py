"""What the README tells people to write is accepted, and the commands it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml
from linkseal.tunnels.cli.main import cli
from linkseal.tunnels.directory.inventory import parse_inventory
from linkseal.tunnels.findings import CATALOGUE
from linkseal.tunnels.settings import parse_agent_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LAB = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8")
BLOCKS = {block["kind"]: block for block in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))}


def test_its_files_are_accepted_and_belong_together() -> None:
    inventory = parse_inventory(BLOCKS["Inventory"], "README")
    agent = parse_agent_settings(BLOCKS["AgentConfig"], "README", hostname="elsewhere")
    assert (agent.node, agent.uid) in [(node.name, node.uid) for node in inventory.nodes]
    assert f"--directory {agent.directory.path} " in README


@pytest.mark.parametrize("line", sorted(set(re.findall(r"linkseal ((?:[a-z]+ ?)+)", README + LAB))))
def test_every_command_named_exists(line: str) -> None:
    command: click.Command = cli
    for word in line.split():
        if not isinstance(command, click.Group):
            break
        found = command.get_command(click.Context(command), word)
        assert found is not None, line
        command = found


def test_every_finding_and_file_named_exists() -> None:
    codes = set(re.findall(r"LS\d{4}", README + LAB))
    assert codes <= set(CATALOGUE)
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link

"""Write docs/commands.md from the tree of commands: `python docs/commands.py`."""

from pathlib import Path

from linkseal.tunnels.cli.reference import markdown

if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(markdown(), encoding="utf-8")

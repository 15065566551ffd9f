"""Write docs/findings.md from the catalogue: `python docs/findings.py`."""

from pathlib import Path

from linkseal.tunnels.findings import markdown

if __name__ == "__main__":
    Path(__file__).with_name("findings.md").write_text(markdown(), encoding="utf-8")

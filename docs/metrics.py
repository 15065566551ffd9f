"""Write docs/metrics.md from the catalogue of metrics: `python docs/metrics.py`."""

from pathlib import Path

from linkseal.tunnels.metrics import markdown

if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(markdown(), encoding="utf-8")

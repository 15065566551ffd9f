"""The per-node process: last known good, reconcile loop, restore and cleanup."""

"""Probes: full-size, unfragmentable packets that prove a link in both directions."""

"""Proof on the wire: a canary through the tunnel, captures of the underlay at both ends, a positive control."""

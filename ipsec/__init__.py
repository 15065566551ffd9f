"""IPsec by strongSwan: suites, connections, VICI, XFRM. Filled by its own milestone; see docs/architecture.md."""

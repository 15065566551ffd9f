"""Address providers: from what the prefixes of nodes' pods are taken."""

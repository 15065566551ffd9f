"""The product: plan, diff, routes, door, probes, reconcile, agent, directories, lab and commands."""

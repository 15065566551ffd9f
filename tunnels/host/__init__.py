"""This host: what is observed in its kernel, and how steps are applied to it."""

"""The `linkseal` command."""

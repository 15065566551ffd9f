"""Where the lab kernel lies, if there is one. Nothing here builds it: `make test` does (tests/ground/kernel.py)."""

from __future__ import annotations

import os
from pathlib import Path

from linkseal.keys.errors import ConfigError

OVERRIDE = "LINKSEAL_LAB_KERNEL"
"""Environment variable that names a User-Mode Linux kernel to use instead of the cached one."""


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/linkseal`, by default `~/.cache/linkseal`; it may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linkseal"


def find_lab_kernel() -> Path | None:
    """Return the lab kernel to boot, or None where none has been built.

    Raises ConfigError if `LINKSEAL_LAB_KERNEL` names something that cannot be run: a wish is not silently replaced.
    """
    if wanted := os.environ.get(OVERRIDE):
        if not _runnable(Path(wanted)):
            raise ConfigError(f"{OVERRIDE}={wanted} is no program: name a User-Mode Linux kernel or unset it")
        return Path(wanted)
    kernel = cache_folder() / "kernel" / "current" / "linux"
    return kernel.resolve() if _runnable(kernel) else None


def _runnable(kernel: Path) -> bool:
    return kernel.is_file() and os.access(kernel, os.X_OK)

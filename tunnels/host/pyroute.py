"""What we use of pyroute2, without all that its package imports.

`import pyroute2` brings in its database NDB with sqlite3, and nl80211, ipvs, plan9, ethtool and more: 5 MiB in every
agent and a fifth of a second at every start, for two names. So the package is entered by its submodules; whoever
asks the package itself for a name, as its documentation shows, gets all of it as ever.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_PACKAGE = "pyroute2"


class _OnDemand(ModuleType):
    """A package whose `__init__` runs when a name is asked for that is neither a submodule nor loaded yet."""

    def __getattr__(self, name: str) -> Any:
        machinery = name.startswith("__") and name != "__version__"
        if machinery or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if find_spec(f"{_PACKAGE}.{name}") is not None:  # `from pyroute2 import config`, as its submodules do
            return import_module(f"{_PACKAGE}.{name}")
        self.__class__ = ModuleType  # type: ignore[assignment]  # once
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _enter() -> None:
    """Make the package known as imported, its `__init__` not yet run; where it was imported before, leave it."""
    if _PACKAGE in sys.modules:
        return
    spec = find_spec(_PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
    package = module_from_spec(spec)
    package.__class__ = _OnDemand
    sys.modules[_PACKAGE] = package


_enter()

from pyroute2.iproute import IPRoute  # type: ignore[attr-defined]  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError as PyrouteError  # noqa: E402

__all__ = ["IPRoute", "PyrouteError"]

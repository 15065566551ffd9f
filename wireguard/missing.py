"""Stands for a driver where a host has none: what needs no device can still be done, the guard above all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

from linkseal.keys.errors import HostError
from linkseal.wireguard.driver import Secrets
from linkseal.wireguard.model import DeviceState, WireguardStep


class MissingDriver:
    """Implements `driver.Driver`: there is no device, and none can be made; `error` says why."""

    kind: Final = "kernel"
    writes: Final = 0

    def __init__(self, error: HostError) -> None:
        self._error = error

    def _refuse(self) -> NoReturn:
        raise HostError(str(self._error), errno=self._error.errno)

    def create(self, name: str, mtu: int) -> None:  # noqa: ARG002 - the protocol's
        """HostError."""
        self._refuse()

    def delete(self, name: str) -> None:
        """Do nothing: it is absent."""

    def up(self, name: str) -> None:  # noqa: ARG002
        """HostError."""
        self._refuse()

    def dump(self, names: Iterable[str]) -> dict[str, DeviceState]:  # noqa: ARG002
        """Return that there is none."""
        return {}

    def apply(self, steps: Sequence[WireguardStep], secrets: Secrets) -> None:  # noqa: ARG002
        """HostError where there is anything to do."""
        if steps:
            self._refuse()

    def close(self) -> None:
        """Do nothing."""

"""A control plane as another process than the one that holds it sees it: where it is, and tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from linkseal.keys.errors import HostError
from linkseal.keys.files import SECRET, atomic_write


@dataclass(frozen=True, slots=True)
class Served:
    """What there is to know of it. `server`: URL; tokens of kubelets by their nodes' names."""

    server: str
    address: str
    port: int
    ca_file: Path
    admin_token: str = field(repr=False)
    kubelet_tokens: Mapping[str, str] = field(repr=False)

    def kubelet_token(self, node: str) -> str:
        """Bearer token of a node's kubelet."""
        return self.kubelet_tokens[node]

    def save(self, path: Path) -> None:
        """Write it, for root alone. HostError."""
        atomic_write(path, json.dumps({**asdict(self), "ca_file": str(self.ca_file)}).encode(), SECRET)

    @classmethod
    def load(cls, path: Path) -> Served:
        """Read what `save` wrote. HostError if it is not there."""
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise HostError(
                "the control plane of this lab never got ready: see its logs, or start the lab anew"
            ) from None
        return cls(**{**found, "ca_file": Path(found["ca_file"])})

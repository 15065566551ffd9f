"""Names of the address providers, for commands and the chart. No I/O."""

from __future__ import annotations

from typing import Final, Literal, get_args

ProviderName = Literal["podCIDRs", "calico", "cilium", "ovn", "pods"]

PROVIDER_NAMES: Final[tuple[ProviderName, ...]] = get_args(ProviderName)

BY_THE_NODE: Final[frozenset[ProviderName]] = frozenset({"ovn", "pods"})
"""What these read a kubelet may write for its own node: they are used only with the pods' networks named."""

"""Where a control plane's programs and the chart lie. Nothing here builds them: tests/ground/controlbuild.py does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from linkseal import tunnels
from linkseal.keys.errors import HostError
from linkseal.tunnels.lab.kernelcache import cache_folder

PROGRAMS: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "helm")


def programs_folder() -> Path:
    """Return the folder that they are in, once they are built."""
    return cache_folder() / "controlplane" / "current"


def find_programs() -> Path:
    """Return the folder of all of PROGRAMS. HostError where there is none."""
    folder = programs_folder()
    if not all(os.access(folder / name, os.X_OK) for name in PROGRAMS):
        raise HostError(
            "no control plane has been built here: run `make test-kube` or `make demo KUBERNETES=1` once, in a clone"
        )
    return folder.resolve()


def find_chart() -> Path:
    """Return the Helm chart's folder. HostError where this program is installed without it."""
    chart = Path(str(tunnels.__file__)).resolve().parents[1] / "charts" / "linkseal"
    if not (chart / "Chart.yaml").is_file():
        raise HostError(
            f"there is no chart at {chart}: --kubernetes works in a clone, where charts/ is beside tunnels/"
        )
    return chart

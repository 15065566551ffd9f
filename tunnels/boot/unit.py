"""The systemd units that run `linkseal agent restore` out of the copied root, and how they are enabled. Pure.

    linkseal-restore-early.service   before networking is offered to anyone: the guard, and tunnels as far as they go
    linkseal-restore.service         when addresses are there, before whatever starts containers

They are enabled by links, as `systemctl enable` makes them: at the next boot systemd reads them, told by nobody. Beside
the root is a script, by which a host has the command itself: of a node without an agent nobody could clean up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from linkseal.keys.errors import HostError

HEAD: Final = "# Written by Linkseal's agent, which keeps it as it is; `linkseal agent cleanup` removes it.\n"

WAIT: Final = 180
"""Seconds the second unit waits for an address of this node, and whatever starts containers with it: a switch may take
50 (spanning tree) and a DHCP client that was not answered 124 more. A node whose addresses changed waits in vain."""

WAITING_FOR_US: Final = (
    "kubelet.service",
    "containerd.service",
    "crio.service",
    "docker.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
    "k0scontroller.service",
    "k0sworker.service",
    "snap.microk8s.daemon-containerd.service",
    "snap.microk8s.daemon-kubelite.service",
)
"""What starts pods. All of them come after network.target, and so does the second unit: no new order is made that
could be a circle, which systemd would break where it likes."""

CAPABILITIES: Final = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN")
"""As the agent's pod has them, without what that needs for making the root (charts/linkseal/templates/agent.yaml)."""

PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are in the copied root."""

PROGRAM: Final = "/usr/bin/linkseal"
"""In the copied root: our command."""

_PLAIN: Final = re.compile(r"/[A-Za-z0-9._+@/-]*")
"""Paths that mean themselves in every setting of a unit: no blank, quote, colon or per cent sign."""

UNITS_IN_ROOT: Final = "/etc/systemd/system"
"""In the copied root: where the command looks for units, wherever this host has them."""

EARLY: Final = "linkseal-restore-early.service"
LATE: Final = "linkseal-restore.service"


class Enabled(NamedTuple):
    """A unit, and the target that pulls it in."""

    name: str
    target: str

    @property
    def link(self) -> str:
        """The link below the folder of units."""
        return f"{self.target}.wants/{self.name}"


UNITS: Final = (Enabled(EARLY, "sysinit.target"), Enabled(LATE, "multi-user.target"))


@dataclass(frozen=True, slots=True)
class Place:
    """Absolute paths, the same for pod and host."""

    root: str
    """The copied root."""
    python: str
    """In it: the interpreter."""
    state: str
    run: str


def unit_texts(place: Place) -> dict[str, str]:
    """Return name → text. Raises HostError for a path that cannot stand in a unit as it is."""
    _require_plain(place.root, place.python, place.state, place.run)
    return {EARLY: _early(place), LATE: _late(place)}


def host_command(place: Place, units: str) -> str:
    """Return the script that runs the command in the copied root. `units`: this host's folder of them. HostError."""
    _require_plain(place.root, place.python, place.state, place.run, units)
    settings = (
        f"RootDirectory={place.root}",
        "MountAPIVFS=yes",
        f"'BindPaths={' '.join(_binds(place))} {units}:{UNITS_IN_ROOT}'",
        f"Environment=PATH={PATH}",
        "UMask=0077",
    )
    options = " ".join(f"-p {one}" for one in settings)
    return f"""#!/bin/sh
{HEAD}# `linkseal agent …` where no pod of the agent runs, or no API server lets you into it.
exec systemd-run --quiet --collect --pipe --wait {options} -- {place.python} -IB {PROGRAM} "$@"
"""


def _require_plain(*paths: str) -> None:
    for path in paths:
        if not _PLAIN.fullmatch(path):
            raise HostError(f"{path}: cannot be named in a systemd unit: letters, digits and . _ + @ / - only")


def _binds(place: Place) -> list[str]:
    return ["/run", place.state, *([] if place.run.startswith("/run/") else [place.run])]


def _early(place: Place) -> str:
    # nftables.service flushes every table there is (Debian, Fedora); systemd-sysctl sets rp_filter of all interfaces
    after = "local-fs.target systemd-modules-load.service systemd-sysctl.service systemd-tmpfiles-setup-dev.service"
    return f"""{HEAD}
[Unit]
Description=Linkseal: guard and tunnels from disk, before networking
DefaultDependencies=no
RequiresMountsFor={place.state}
After={after} nftables.service
Wants=network-pre.target
Before=network-pre.target shutdown.target
Conflicts=shutdown.target

[Service]
{_service(place, "agent restore")}
[Install]
WantedBy=sysinit.target
"""


def _late(place: Place) -> str:
    return f"""{HEAD}
[Unit]
Description=Linkseal: guard and tunnels from disk, with this host's addresses
RequiresMountsFor={place.state}
After={EARLY} network.target
Before={" ".join(WAITING_FOR_US)}

[Service]
{_service(place, f"agent restore --wait {WAIT}s")}
[Install]
WantedBy=multi-user.target
"""


def _service(place: Place, command: str) -> str:
    """Return the section. All of /run: wireguard-go's sockets and ours, neither of which is there yet at boot.

    wireguard-go, where it is used, outlives the command: RemainAfterExit keeps its control group, KillMode leaves it
    alone when the unit is stopped.
    """
    return f"""Type=oneshot
RemainAfterExit=yes
RootDirectory={place.root}
MountAPIVFS=yes
BindPaths={" ".join(_binds(place))}
Environment=PATH={PATH}
ExecStart={place.python} -IB {PROGRAM} {command}
TimeoutStartSec={WAIT + 120}s
KillMode=process
CapabilityBoundingSet={" ".join(CAPABILITIES)}
NoNewPrivileges=yes
UMask=0077
"""

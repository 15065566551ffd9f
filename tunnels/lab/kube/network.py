"""Network of a pod that is not on its node's: a namespace, held by a process that sleeps, on the node's bridge."""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from ipaddress import ip_network
from itertools import islice
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.tunnels.lab.namespaces import ip_batch

BRIDGE: Final = "cni0"

FIRST: Final = 100
"""The lab's own pods have the addresses before."""

WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL", "--")
"""Begin of a command that the kernel kills when the kubelet dies, even of SIGKILL: nothing else would find it then."""

MOST: Final = 100
"""Pods of a node that have a network of their own."""


class PodNetwork:
    """One pod's. Made in the node's network namespace."""

    def __init__(self, address: str, holder: subprocess.Popen[bytes]) -> None:
        self.address = address
        self._holder = holder

    @property
    def pid(self) -> int:
        """The process whose network namespace it is."""
        return self._holder.pid

    @classmethod
    def make(cls, cidr: str, taken: Collection[str]) -> PodNetwork:
        """Make one with an address of `cidr` that is not taken. HostError."""
        network = ip_network(cidr)
        address = next((str(one) for one in islice(network, FIRST, FIRST + MOST) if str(one) not in taken), None)
        if address is None:
            raise HostError(f"no address of {cidr} is left for a pod")
        ready = "ip link set lo up; echo; exec sleep infinity"
        words = [*WITH_PARENT, "unshare", "--net", "sh", "-c", ready]
        holder = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        assert holder.stdout is not None
        holder.stdout.readline()
        made = cls(address, holder)
        try:
            made._connect(str(network[1]), network.prefixlen)
        except BaseException:
            made.remove()
            raise
        return made

    def remove(self) -> None:
        """End its holder; the kernel takes the rest away."""
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()

    def _connect(self, gateway: str, length: int) -> None:
        name = f"vk{self.pid}"
        ip_batch(
            [
                f"link add {name} type veth peer name eth0 netns {self.pid}",
                f"link set {name} master {BRIDGE} up",
            ]
        )
        lines = f"address add {self.address}/{length} dev eth0\nlink set eth0 up\nroute add default via {gateway}"
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "-batch", "-"]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostError(f"network of a pod: {done.stderr.strip()}")

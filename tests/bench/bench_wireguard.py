"""WireGuard configuration at 5,000 peers, as ratios in one run. Needs root and a kernel with WireGuard.

Prints one line per figure: name, value, target, PASS or FAIL. `python tests/bench/bench_wireguard.py`
"""

from __future__ import annotations

import base64
import ctypes
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from ground.figures import Figures, best
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.values import Prefix, PublicKey
from linkseal.wireguard import codec
from linkseal.wireguard.diff import diff_device
from linkseal.wireguard.kernel import KernelDriver
from linkseal.wireguard.model import DeviceSpec, DeviceState, Endpoint, PeerSpec
from linkseal.wireguard.netlink import NETLINK_GENERIC, NetlinkSocket, family_id

PEERS = 5000
CLONE_NEWNET = 0x40000000
OWN = PrivateKey.generate()
FIGURES = Figures()
NEEDS_KERNEL = True


def make_spec() -> DeviceSpec:
    """Peers as a cluster has them: an endpoint, a /24 and a /32 each."""
    rng = random.Random(1)
    peers = {}
    for n in range(PEERS):
        key = PublicKey(base64.b64encode(rng.randbytes(31) + b"\x42").decode())
        prefixes = frozenset({Prefix(f"10.{n >> 8}.{n & 255}.0/24"), Prefix(f"172.16.{n >> 8}.{n & 255}/32")})
        peers[key] = PeerSpec(key, prefixes, Endpoint(f"172.16.{n >> 8}.{n & 255}", 51820))
    return DeviceSpec("lsl00", OWN.public_key, 51820, 0x200000, peers)


def setconf_text(spec: DeviceSpec) -> str:
    private = base64.b64encode(OWN.reveal()).decode()
    lines = [f"[Interface]\nPrivateKey = {private}\nListenPort = {spec.listen_port}\nFwMark = {spec.fwmark}"]
    lines += [
        f"[Peer]\nPublicKey = {one.public_key}\nAllowedIPs = {','.join(one.allowed_ips)}\nEndpoint = {one.endpoint}"
        for one in spec.peers.values()
    ]
    return "\n".join(lines) + "\n"


def bench_install(driver: KernelDriver, spec: DeviceSpec) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(setconf_text(spec))
        file.flush()
        ours, theirs = [], []
        steps = diff_device(spec, DeviceState("lsl00"))
        for _ in range(5):
            driver.create("lsl00", 1420)
            ours.append(best(lambda: driver.apply(steps, lambda _key: OWN), 1))
            assert len(driver.dump(["lsl00"])["lsl00"].peers) == PEERS
            driver.delete("lsl00")
            driver.create("lsl00", 1420)
            theirs.append(best(lambda: subprocess.run(["wg", "setconf", "lsl00", file.name], check=True), 1))
            assert len(driver.dump(["lsl00"])["lsl00"].peers) == PEERS
            driver.delete("lsl00")
    FIGURES.told(f"install {PEERS} peers (encode and send)", min(ours), "ms")
    FIGURES.told(f"install {PEERS} peers with `wg setconf`", min(theirs), "ms")
    FIGURES.at_most("install: ours / `wg setconf`", min(ours) / min(theirs), 1.0)


def bench_change(driver: KernelDriver, spec: DeviceSpec) -> None:
    key = list(spec.peers)[PEERS // 2]
    state = driver.dump(["lsl00"])["lsl00"]
    changed = dict(spec.peers)
    changed[key] = changed[key]._replace(endpoint=Endpoint("172.31.0.1", 1))
    steps = diff_device(DeviceSpec("lsl00", OWN.public_key, 51820, 0x200000, changed), state)
    assert len(steps) == 1
    FIGURES.at_most(f"change one peer of {PEERS}", best(lambda: driver.apply(steps, lambda _key: OWN), 50), 1.0, "ms")


def bench_dump(driver: KernelDriver, spec: DeviceSpec) -> None:
    with NetlinkSocket(NETLINK_GENERIC) as generic:
        question = codec.dump_message(family_id(generic, codec.FAMILY_NAME), "lsl00")
        answers = generic.dump(question)
        FIGURES.told(f"dump {PEERS} peers: receive", best(lambda: generic.dump(question)), "ms")
        FIGURES.told(f"dump {PEERS} peers: parse", best(lambda: codec.decode_device("lsl00", answers)), "ms")
    shown = best(lambda: subprocess.run(["wg", "show", "lsl00", "dump"], check=True, stdout=subprocess.DEVNULL))
    ours = best(lambda: driver.dump(["lsl00"]))
    FIGURES.told("dump: ours / `wg show dump`", ours / shown)
    state = driver.dump(["lsl00"])["lsl00"]
    FIGURES.at_most(f"diff of {PEERS} equal peers", best(lambda: diff_device(spec, state)), 10.0, "ms")


def main() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        print(f"needs root: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return 1
    driver, spec = KernelDriver(), make_spec()
    bench_install(driver, spec)
    driver.create("lsl00", 1420)
    driver.apply(diff_device(spec, DeviceState("lsl00")), lambda _key: OWN)
    bench_dump(driver, spec)
    bench_change(driver, spec)
    driver.delete("lsl00")
    driver.close()
    print(f"# kernel {Path('/proc/sys/kernel/osrelease').read_text().strip()}", flush=True)
    return FIGURES.status


if __name__ == "__main__":
    sys.exit(main())

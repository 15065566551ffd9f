"""Finds out what `linkseal check` judges: the facts of this host and of the directory. Changes nothing that stays.

Whether the kernel has WireGuard is found out by making a device, which is removed at once; whether it has what the door
needs by a dry run of nft. Everything else is read. What cannot be read is said to be unknown, never taken for fine.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from linkseal.keys import grant as grants
from linkseal.keys.errors import DirectoryError, HostError, LinksealError, PeerError
from linkseal.tunnels.addressing import SLOTS
from linkseal.tunnels.agent.control import ask
from linkseal.tunnels.checks import DirectoryFacts, Facts, Interface, PolicyRule, RouteFact, StateFacts
from linkseal.tunnels.directory.base import DirectoryView
from linkseal.tunnels.host.links import open_route
from linkseal.tunnels.host.nft import Nft
from linkseal.tunnels.host.routes import PROTOCOL
from linkseal.tunnels.model import Family
from linkseal.tunnels.policy import Policy
from linkseal.wireguard.choose import choose_driver

CAP_NET_ADMIN: Final = 12
"""Bit of CapEff in /proc/self/status (capabilities(7))."""

_MAIN: Final = 254
"""RT_TABLE_MAIN of linux/rtnetlink.h."""

_SELECTORS: Final = (
    *("FRA_SRC", "FRA_DST", "FRA_IIFNAME", "FRA_OIFNAME", "FRA_UID_RANGE", "FRA_IP_PROTO", "FRA_SPORT_RANGE"),
    *("FRA_DPORT_RANGE", "FRA_TUN_ID"),
)
"""Attributes of a rule that limit it, linux/fib_rules.h."""

_FAMILIES: Final[tuple[tuple[Family, int], ...]] = ((4, socket.AF_INET), (6, socket.AF_INET6))


@dataclass(frozen=True, slots=True)
class Subject:
    """What to look at. `root` is where /proc, /etc, /run and the like are read; None: not looked at."""

    policy: Policy
    node: str = ""
    interface: str | None = None
    state_directory: Path | None = None
    run_directory: Path | None = None
    view: DirectoryView | DirectoryError | None = None
    """What the directory says, or why it does not."""
    root: Path = Path("/")


def gather(subject: Subject) -> Facts:
    """Return what was found out. Raises nothing of its own: what fails is a fact."""
    unknown: dict[str, str] = {}
    root = subject.root
    interfaces, rules, routes, rp_filter_all = _network(unknown, root)
    agent = None if subject.run_directory is None else _agent(subject.run_directory)
    return Facts(
        now=time.time(),
        net_admin=_net_admin(root),
        kernel_wireguard=_kernel_wireguard(),
        wireguard_go=shutil.which("wireguard-go"),
        nft=Nft().version(),
        door=_door(unknown),
        ports=frozenset(_ports(root)) - _our_ports(subject.policy, interfaces),
        ipv6=_ipv6(root),
        forwarding={4: _flag(root, "ipv4/ip_forward"), 6: _flag(root, "ipv6/conf/all/forwarding")},
        rp_filter_all=rp_filter_all,
        interfaces=interfaces,
        underlay=subject.interface or _default_interface(routes),
        rules=rules,
        routes=tuple(route for route in routes if not route.prefix.endswith("/0")),
        managers=tuple(_managers(root)),
        state=None if subject.state_directory is None else state_facts(subject.state_directory),
        directory=_directory(subject),
        agent=agent,
        unknown=unknown,
    )


# --- kernel --------------------------------------------------------------------------------------------------------


def _net_admin(root: Path) -> bool:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", _read(root / "proc/self/status"), re.MULTILINE)
    return match is not None and bool(int(match[1], 16) >> CAP_NET_ADMIN & 1)


def _kernel_wireguard() -> str | None:
    try:
        choose_driver("kernel").close()
    except HostError as error:
        return str(error)
    return None


def _ipv6(root: Path) -> bool:
    switch = _read(root / "proc/sys/net/ipv6/conf/all/disable_ipv6").strip()
    return switch == "0"


def _door(unknown: dict[str, str]) -> bool:
    try:
        return Nft().has_door()
    except HostError as error:
        unknown["door"] = str(error)
        return False


def _flag(root: Path, name: str) -> bool:
    return _read(root / "proc/sys/net" / name).strip() not in ("", "0")


def _ports(root: Path) -> Iterator[int]:
    """Yield the UDP ports that are bound, by /proc/net/udp and udp6 (`sl local_address …`, hexadecimal)."""
    for name in ("udp", "udp6"):
        for line in _read(root / "proc/net" / name).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 1 and ":" in fields[1]:
                yield int(fields[1].rpartition(":")[2], 16)


def _our_ports(policy: Policy, interfaces: tuple[Interface, ...]) -> frozenset[int]:
    """Ports of the slots that are there, in the order of their names."""
    names = {interface.name for interface in interfaces}
    return frozenset(policy.wireguard.port + number for number, name in enumerate(SLOTS) if name in names)


# --- interfaces, rules, routes -------------------------------------------------------------------------------------


def _network(
    unknown: dict[str, str], root: Path
) -> tuple[tuple[Interface, ...], tuple[PolicyRule, ...], tuple[RouteFact, ...], int]:
    try:
        with open_route() as route:
            links = {link["index"]: link for link in route.get_links()}
            names = {index: link.get_attr("IFLA_IFNAME") for index, link in links.items()}
            interfaces = tuple(
                Interface(names[index], link.get_attr("IFLA_MTU") or 0, _rp_filter(root, names[index]))
                for index, link in links.items()
            )
            rules = tuple(_rules(route))
            routes = tuple(_routes(route, names))
    except (OSError, LinksealError) as error:
        unknown["rules"] = unknown["interfaces"] = str(error)
        return (), (), (), 0
    return interfaces, rules, routes, _rp_filter(root, "all")


def _rp_filter(root: Path, name: str) -> int:
    text = _read(root / "proc/sys/net/ipv4/conf" / name / "rp_filter").strip()
    return int(text) if text.isdecimal() else 0


def _rules(route: Any) -> Iterator[PolicyRule]:
    for family, number in _FAMILIES:
        for one in route.get_rules(family=number):
            mark, mask = one.get_attr("FRA_FWMARK"), one.get_attr("FRA_FWMASK")
            yield PolicyRule(
                family,
                one.get_attr("FRA_PRIORITY") or 0,
                one.get_attr("FRA_TABLE") or one["table"],
                None if mark is None else (mark, 0xFFFFFFFF if mask is None else mask),
                ours=one.get_attr("FRA_PROTOCOL") == PROTOCOL,
                limited=_limited(one),
            )


def _limited(rule: Any) -> bool:
    lengths = rule["src_len"] or rule["dst_len"]
    suppress = rule.get_attr("FRA_SUPPRESS_PREFIXLEN") not in (None, -1, 0xFFFFFFFF)
    return bool(lengths) or suppress or any(rule.get_attr(name) is not None for name in _SELECTORS)


def _routes(route: Any, names: dict[int, str]) -> Iterator[RouteFact]:
    for family, number in _FAMILIES:
        for one in route.get_routes(family=number):
            target = one.get_attr("RTA_DST") or ("0.0.0.0" if family == 4 else "::")  # noqa: PLR2004, S104 - default route
            interface = names.get(one.get_attr("RTA_OIF") or 0, "")
            yield RouteFact(f"{target}/{one['dst_len']}", one.get_attr("RTA_TABLE") or one["table"], interface)


def _default_interface(routes: tuple[RouteFact, ...]) -> str | None:
    return next((r.interface for r in routes if r.prefix.endswith("/0") and r.table == _MAIN and r.interface), None)


# --- managers ------------------------------------------------------------------------------------------------------


def _managers(root: Path) -> Iterator[str]:
    if (root / "run/systemd/netif/state").exists():
        wanted = ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules")
        found = _networkd(root)
        missing = [name for name in wanted if found.get(name.lower(), "yes").lower() not in ("no", "false", "0", "off")]
        if missing:
            yield f"systemd-networkd without {' and '.join(f'{name}=no' for name in missing)}"
    if (root / "run/NetworkManager").is_dir():
        texts = [
            _read(path) for path in _config_files(root, "NetworkManager/NetworkManager.conf", "NetworkManager/conf.d")
        ]
        if not any(
            re.search(r"^\s*unmanaged-devices\s*\+?=.*interface-name:lsl", text, re.MULTILINE) for text in texts
        ):
            yield "NetworkManager without unmanaged-devices=interface-name:lsl*"


def _networkd(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in _config_files(root, "systemd/networkd.conf", "systemd/networkd.conf.d"):
        parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
        try:
            parser.read_string(_read(path))
        except configparser.Error:
            continue
        if parser.has_section("Network"):
            found.update({key: value or "" for key, value in parser.items("Network")})
    return found


def _config_files(root: Path, main: str, drop_in: str) -> Iterator[Path]:
    """Yield a program's configuration files, in the order in which later ones win."""
    yield root / "etc" / main
    folders = (root / base / drop_in for base in ("usr/lib", "run", "etc"))
    yield from sorted((path for folder in folders for path in folder.glob("*.conf")), key=lambda path: path.name)


# --- state, directory, agent ---------------------------------------------------------------------------------------


def state_facts(path: Path) -> StateFacts:
    """Return what the state directory is like. Never follows a link in its place."""
    free = _free(path)
    try:
        mode = path.lstat()
    except OSError:
        return StateFacts(str(path), free=free)
    problems = list(_unsafe(path, mode, "0700"))
    newest: float | None = None
    try:
        files = [entry for folder in (path, path / "keys") if folder.is_dir() for entry in folder.iterdir()]
        for file in files:
            found = file.lstat()
            if file.suffix == ".key":
                problems += _unsafe(file, found, "0600")
            newest = max(newest or 0.0, found.st_mtime)
    except PermissionError:
        pass  # not root: the folder itself has been looked at
    return StateFacts(str(path), exists=True, problems=tuple(problems), free=free, newest=newest)


def _unsafe(path: Path, found: os.stat_result, wanted: str) -> Iterator[str]:
    if stat.S_ISLNK(found.st_mode):
        yield f"{path} is a link"
    elif found.st_mode & 0o077:
        yield f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, not {wanted}"
    if found.st_uid not in (0, os.geteuid()):
        yield f"{path} belongs to user {found.st_uid}"


def _free(path: Path) -> int | None:
    """Return the bytes free where `path` is or would be."""
    for folder in (path, *path.parents):
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        return found.f_bavail * found.f_frsize
    return None


def _directory(subject: Subject) -> DirectoryFacts | None:
    view = subject.view
    if view is None or isinstance(view, DirectoryError):
        return None if view is None else DirectoryFacts(error=str(view))
    own = view.snapshot.nodes.get(subject.node)
    announced = own is not None and own.announcement is not None
    return DirectoryFacts(
        certificate=announced or _certified(subject),
        grant=own is not None and own.grant is not None,
        announced=announced,
        ipv6=any(_has_ipv6(name, documents) for name, documents in view.snapshot.nodes.items()),
    )


def _certified(subject: Subject) -> bool:
    """Whether the agent has stored a certificate: without an announcement there is none to be seen in the directory."""
    return subject.state_directory is not None and (subject.state_directory / "identity.crt").exists()


def _has_ipv6(name: str, documents: Any) -> bool:
    if documents.grant is None:
        return False
    try:
        grant = grants.parse(documents.grant.text, node=name)
    except PeerError:
        return False
    return any(":" in item for item in (*grant.prefixes, *grant.addresses))


def _agent(run_directory: Path) -> str | None:
    try:
        ask(run_directory, {"do": "status"}, timeout=5.0)
    except LinksealError as error:
        return str(error)
    return None


def _read(path: Path) -> str:
    """Return the text of a small file, empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

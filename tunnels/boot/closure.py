"""All that `linkseal agent restore` needs in an empty root: interpreter, packages, libraries, nft, wireguard-go.

The interpreter and system libraries keep their paths, so that loader and interpreter find them as they do here; our
packages and those they ask for go to one folder, from an image and from a development clone alike. Of a package's
extras nothing is taken: `restore` speaks to no API.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from linkseal.keys.errors import HostError
from linkseal.tunnels.boot.config import restore_config
from linkseal.tunnels.boot.libraries import is_elf, libraries_of, loader_of
from linkseal.tunnels.boot.unit import PROGRAM, UNITS_IN_ROOT
from linkseal.tunnels.settings import AgentSettings
from linkseal.wireguard.launch import BINARY_VARIABLE

PACKAGES: Final = "opt/linkseal"
"""Where packages go in the root."""

FOLDERS: Final = ("keys", "wireguard", "ipsec", "tunnels")
"""Ours, below `linkseal`."""

CONFIG: Final = "etc/linkseal/agent.yaml"
"""Where the command looks for the agent's file if none is named."""

_LEFT_OUT: Final = frozenset({
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip",
    "lib2to3", "pydoc_data", "sqlite3",
})  # fmt: skip
"""Folders of the standard library that no service needs; the proof would say if one did."""

_NOT_LOADED: Final = re.compile(r"^(_tkinter|_sqlite3|_curses\w*|_dbm|_gdbm|readline|nis|_test\w*|_xx\w*|xx\w*)\.")
"""Modules in C whose libraries are large and used by nothing of ours."""

_ALIASES: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Links at the top of a system whose programs are all below /usr."""

_EMPTY: Final = ("dev", "proc", "sys", "run", "tmp", "root")
"""What systemd mounts on."""

_COMMAND: Final = f"""import sys
sys.path.insert(0, "/{PACKAGES}")
from linkseal.tunnels.cli.main import run
sys.exit(run())
"""

_USERS: Final = "root:x:0:0:root:/root:/usr/sbin/nologin\n"
_GROUPS: Final = "root:x:0:\n"


class File(NamedTuple):
    """An ordinary file: a copy, or with its bytes at hand."""

    source: Path | None
    data: bytes = b""
    mode: int = 0o644


@dataclass(slots=True)
class Closure:
    """Paths are below the root, without a slash in front."""

    python: str
    """The interpreter's path in the root, absolute."""
    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        """Bytes of all files. Raises OSError."""
        return sum(one.source.stat().st_size if one.source else len(one.data) for one in self.files.values())

    def copy(self, source: Path, path: str) -> None:
        """Add a copy of an ordinary file; nobody but root may write it, whoever may here."""
        mode = 0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644
        self.files[path.lstrip("/")] = File(source, mode=mode)

    def say(self, path: str, text: str, mode: int = 0o644) -> None:
        """Add a file with this text."""
        self.files[path] = File(None, text.encode(), mode)


def closure_of(settings: AgentSettings) -> Closure:
    """Return it. Raises HostError, with what is missing here."""
    try:
        return _closure(settings)
    except OSError as error:
        raise HostError(f"what the boot unit needs cannot be read: {error}", errno=error.errno) from error


def _closure(settings: AgentSettings) -> Closure:
    python = Path(os.path.realpath(sys.executable))
    found = Closure(str(python))
    found.copy(python, str(python))
    _add_standard_library(found)
    _add_ours(found)
    for name in sorted(_distributions("linkseal") - {"linkseal"}):
        _add_distribution(found, name)
    for program in _programs(settings):
        found.copy(Path(os.path.realpath(program)), f"usr/bin/{Path(program).name}")
    _add_libraries(found, python)
    for name in _ALIASES:
        if Path("/", name).is_symlink():
            found.links[name] = str(Path("/", name).readlink()).lstrip("/")
    _add_sockets(found, settings)
    found.folders |= {*_EMPTY, UNITS_IN_ROOT.lstrip("/"), *(str(folder).lstrip("/") for folder in _mounted(settings))}
    found.say("etc/passwd", _USERS)
    found.say("etc/group", _GROUPS)
    found.say(PROGRAM.lstrip("/"), _COMMAND, 0o755)
    found.say(CONFIG, restore_config(settings), 0o600)
    return found


def _add_sockets(found: Closure, settings: AgentSettings) -> None:
    """Lead wireguard-go's folder (/var/run/wireguard, compiled into it) to where pods have the host's mounted.

    Where a supervisor runs it these are the agent's pod and its own (charts/linkseal/templates/daemons.yaml).
    """
    if settings.daemons is None:
        found.links["var/run"] = "../run"
    else:
        found.links["var/run/wireguard"] = f"../..{settings.run_directory}/wireguard"


def _mounted(settings: AgentSettings) -> Iterator[Path]:
    yield settings.state_directory
    if not settings.run_directory.is_relative_to("/run"):
        yield settings.run_directory


def _add_standard_library(found: Closure) -> None:
    """Pure modules and those in C; the interpreter finds them by where it is itself."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix, "installed_base": sys.base_prefix}
    base["installed_platbase"] = sys.base_exec_prefix
    folders = {os.path.realpath(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    for folder in sorted(folders):
        for file in _files_in(Path(folder), _LEFT_OUT):
            if file.suffix in (".py", ".so") and not _NOT_LOADED.match(file.name):
                found.copy(file, str(file))


def _files_in(folder: Path, left_out: frozenset[str]) -> Iterator[Path]:
    """Yield the ordinary files below a folder; links are not followed, nor is anything outside taken."""
    for where, inside, names in os.walk(folder):
        inside[:] = sorted(
            name for name in inside if name not in left_out and not name.startswith("config-") and name != "lib-tk"
        )
        for name in sorted(names):
            file = Path(where, name)
            if file.is_file() and not file.is_symlink():
                yield file


def _add_ours(found: Closure) -> None:
    for name in FOLDERS:
        spec = find_spec(f"linkseal.{name}")
        if spec is None or not spec.submodule_search_locations:
            raise HostError(f"the package linkseal.{name} is not here: Linkseal is not wholly installed")
        folder = Path(spec.submodule_search_locations[0])
        for file in _files_in(folder, frozenset({"__pycache__"})):
            found.copy(file, f"{PACKAGES}/linkseal/{name}/{file.relative_to(folder)}")
    _add_metadata(found, metadata.distribution("linkseal"))


def _distributions(name: str) -> set[str]:
    """Return a distribution and all that it asks for without extras, as far as it is here."""
    found, waiting = set[str](), [name]
    while waiting:
        one = _normal(waiting.pop())
        if one in found:
            continue
        try:
            asked = metadata.distribution(one).requires or []
        except metadata.PackageNotFoundError:  # for another Python or system
            continue
        found.add(one)
        waiting += [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in asked if "extra ==" not in line]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _add_distribution(found: Closure, name: str) -> None:
    distribution = metadata.distribution(name)
    for file in distribution.files or ():
        inside = ".." not in file.parts and not file.is_absolute() and "__pycache__" not in file.parts
        where = Path(str(distribution.locate_file(file)))
        if inside and ".dist-info" not in file.parts[0] and where.is_file():
            found.copy(where, f"{PACKAGES}/{file}")
    _add_metadata(found, distribution)


def _add_metadata(found: Closure, distribution: metadata.Distribution) -> None:
    """Its name and version, which is all that is asked for."""
    name = f"{_normal(distribution.name).replace('-', '_')}-{distribution.version}.dist-info"
    text = f"Metadata-Version: 2.1\nName: {distribution.name}\nVersion: {distribution.version}\n"
    found.say(f"{PACKAGES}/{name}/METADATA", text)


def _programs(settings: AgentSettings) -> Iterator[str]:
    """Yield what is run: nft; wireguard-go where it may be used and is here. Raises HostError."""
    nft = shutil.which("nft")
    if nft is None:
        raise HostError("nft is not installed: install the package nftables (1.0.6 or later)")
    yield nft
    if settings.driver != "kernel":
        daemon = shutil.which(os.environ.get(BINARY_VARIABLE) or "wireguard-go")
        if daemon is not None:
            yield daemon
        elif settings.driver == "userspace":
            raise HostError("wireguard-go is not on PATH, and the settings ask for it")


def _add_libraries(found: Closure, python: Path) -> None:
    """Libraries keep their names and folders; the loader's cache says where those are that are not in its defaults."""
    loader = loader_of(python)
    if loader is None:
        raise HostError(f"{python} is static: its modules in C cannot be found out")
    binaries = [file.source for file in found.files.values() if file.source is not None and is_elf(file.source)]
    packaged = {os.path.realpath(one) for one in binaries}
    for library in sorted(libraries_of(loader, binaries) | {loader}):
        if os.path.realpath(library) not in packaged:
            folder, name = os.path.split(library)
            found.copy(Path(os.path.realpath(library)), f"{os.path.realpath(folder)}/{name}")
    cache = Path("/etc/ld.so.cache")
    if cache.is_file():
        found.copy(cache, str(cache))

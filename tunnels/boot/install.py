"""Puts the boot units on this host and takes them away. Blocking; for a thread of its own: it reads all it copies.

The order is that of law 1: the new root is on disk and proven, then the units name it, then the old one goes. A second
run that finds all as it should be writes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from linkseal.keys.errors import HostError
from linkseal.keys.files import atomic_write, read_file, sync_folder
from linkseal.tunnels.boot.closure import Closure, closure_of
from linkseal.tunnels.boot.root import folder_of, is_whole, make, manifest_of, name_of, others
from linkseal.tunnels.boot.unit import HEAD, UNITS, Enabled, Place, host_command, unit_texts
from linkseal.tunnels.settings import AgentSettings, BootSettings

_LOG: Final = logging.getLogger("linkseal.agent")

_MOUNTS: Final = Path("/proc/self/mountinfo")
PASSING: Final = frozenset({"tmpfs", "ramfs"})
"""File systems that a reboot empties."""

FAILED: Final = "failed:"
LEFT: Final = "left alone:"
"""How lines begin that tell of something that was not removed."""

COMMAND: Final = "linkseal"
"""Of this host, in the folder of the roots."""


def install(settings: AgentSettings, boot: BootSettings) -> Path:
    """Have the units and their root on this host; returns the root. Raises HostError: what was there still works."""
    state = settings.state_directory
    require_host(boot, state)
    closure = closure_of(settings)
    try:
        manifest = manifest_of(closure)
        root = folder_of(state) / name_of(manifest)
        if not is_whole(root, closure, manifest):
            root = make(closure, manifest, state)
            _LOG.info("boot unit: %s made and proven, %d MiB", root, closure.size >> 20)
        place = _place(settings, closure, root)
        _write_units(boot.units, unit_texts(place))
        atomic_write(command_of(state), host_command(place, str(boot.units)).encode(), 0o700)
        for old in others(state, root):
            shutil.rmtree(old)
    except OSError as error:
        raise HostError(f"the boot unit cannot be installed: {error}", errno=error.errno) from error
    return root


def stands(boot: BootSettings, root: Path) -> bool:
    """Whether what was installed is still there, by a quick look: units, links, the root's folder."""
    texts = {name: _read(boot.units / name) for name in (unit.name for unit in UNITS)}
    linked = all(_is_linked(boot.units, unit) for unit in UNITS)
    there = linked and root.is_dir() and f" RootDirectory={root} " in (_read(command_of(root.parents[1])) or "")
    return there and all(f"RootDirectory={root}\n" in (text or "") for text in texts.values())


def command_of(state: Path) -> Path:
    """The script that is this host's `linkseal`."""
    return folder_of(state) / COMMAND


def require_host(boot: BootSettings, state: Path) -> None:
    """Raise HostError where a unit would not be run at the next boot, or not be there."""
    if not (boot.systemd / "system").is_dir():
        raise HostError(f"this host was not booted by systemd: there is no {boot.systemd}/system")
    if not boot.units.is_dir():
        raise HostError(f"there is no folder {boot.units}: this host keeps its units elsewhere, or has none")
    for folder in (boot.units, state):
        kind = _file_system(folder)
        if kind in PASSING:
            raise HostError(f"{folder} is on a {kind}, which a reboot empties")


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on; empty if it cannot be told (some have no device)."""
    number = folder.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for line in _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.split()
        if words[2] == device:
            return words[words.index("-") + 1]
    return ""


def _place(settings: AgentSettings, closure: Closure, root: Path) -> Place:
    return Place(str(root), closure.python, str(settings.state_directory), str(settings.run_directory))


def _write_units(units: Path, texts: dict[str, str]) -> None:
    for name in texts:
        if (units / name).is_symlink():
            raise HostError(f"{name} is masked on this host ({units / name} is a link): `systemctl unmask {name}`")
    for name, text in texts.items():
        atomic_write(units / name, text.encode())
    for unit in UNITS:
        if not _is_linked(units, unit):
            _link(units, unit)


def _is_linked(units: Path, unit: Enabled) -> bool:
    link = units / unit.link
    return link.is_symlink() and str(link.readlink()) == f"../{unit.name}"


def _link(units: Path, unit: Enabled) -> None:
    """Make the link whole or not at all. Raises OSError."""
    link = units / unit.link
    link.parent.mkdir(mode=0o755, exist_ok=True)
    temporary = link.with_name(f".{unit.name}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(f"../{unit.name}")
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise
    sync_folder(link.parent)


# --- away ----------------------------------------------------------------------------------------------------------


def remove(state: Path, units: Path) -> list[str]:
    """Remove units, links and roots of this state directory; returns a line each, `failed:` in front where it failed.

    Units first: one without its root would fail at every boot. Where one cannot be removed the roots stay, and so does
    the one that this very command runs in (`command_of`), which a line says.
    """
    lines = [line for unit in UNITS for line in _remove_unit(units, unit, state)]
    if any(line.startswith(FAILED) for line in lines):
        return lines
    for root in others(state, None):
        if root.samefile("/"):
            lines.append(f"{LEFT} boot root {root}, in which this command runs: remove {state} when it has ended")
            continue
        try:
            shutil.rmtree(root)
            lines.append(f"boot root {root}")
        except OSError as error:
            lines.append(f"{FAILED} boot root {root}: {error}")
    with contextlib.suppress(OSError):
        if not others(state, None):
            command_of(state).unlink(missing_ok=True)
        folder_of(state).rmdir()
    return lines


def _remove_unit(units: Path, unit: Enabled, state: Path) -> Iterator[str]:
    file, link = units / unit.name, units / unit.link
    text = _read(file)
    if text is None or not text.startswith(HEAD) or f"RootDirectory={folder_of(state)}/" not in text:
        return
    try:
        link.unlink(missing_ok=True)
        file.unlink()
        with contextlib.suppress(OSError):  # others' links are in it
            link.parent.rmdir()
        yield f"systemd unit {file}"
    except OSError as error:
        yield f"{FAILED} systemd unit {file}: {error}"


def _read(file: Path) -> str | None:
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return None
        data = read_file(file)
    except (OSError, HostError):
        return None
    return None if data is None else data.decode(errors="replace")

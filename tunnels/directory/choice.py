"""From what the settings say to the directory itself: a folder of files, or the Kubernetes API."""

from __future__ import annotations

from linkseal.keys.errors import ConfigError
from linkseal.tunnels.directory.base import Directory
from linkseal.tunnels.settings import FileDirectorySettings, KubeDirectorySettings


def open_directory(chosen: FileDirectorySettings | KubeDirectorySettings, node: str = "") -> Directory:
    """Return the directory; `node`: whose requests are to be watched. Raises ConfigError where a package is missing."""
    if isinstance(chosen, FileDirectorySettings):
        from linkseal.tunnels.directory.files import FileDirectory  # noqa: PLC0415 - one of the two is needed

        return FileDirectory(chosen.path)
    try:
        from linkseal.tunnels.directory.kube import kube_directory  # noqa: PLC0415 - an extra, and 10 MiB
    except ModuleNotFoundError as error:
        raise lacking("the Kubernetes directory", error) from error
    return kube_directory(chosen, node)


def lacking(what: str, error: ModuleNotFoundError) -> ConfigError:
    """Return what is said where the packages for Kubernetes are missing, which not everybody needs."""
    return ConfigError(f"{what} needs more: {error}; `pip install '.[kubernetes]'` in a clone of Linkseal")

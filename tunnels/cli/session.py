"""What the global options say, and what follows from them: the directory, the agent's settings, colour."""

# ruff: noqa: PLC0415 - what `linkseal version` does not need is imported where it is needed
from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, TypeVar

from linkseal.keys.errors import ConfigError

if TYPE_CHECKING:  # each of these takes longer to import than `linkseal version` may run
    from linkseal.tunnels.directory.base import Directory
    from linkseal.tunnels.directory.kubeapi import Access
    from linkseal.tunnels.settings import AgentSettings, FileDirectorySettings, KubeDirectorySettings

ResultT = TypeVar("ResultT")

DEFAULT_CONFIG: Final = Path("/etc/linkseal/agent.yaml")


@dataclass(slots=True)
class Session:
    """One run of `linkseal`; filled by the global options, wherever on the line they stand."""

    directory: Path | None = None
    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    config: Path | None = None
    output: str | None = None
    no_color: bool = False
    verbose: bool = False
    inherited: set[str] = field(default_factory=set)
    """Names of options that only an environment variable gave: what is on the command line goes before."""
    told: set[str] = field(default_factory=set)
    """Warnings that were given, by commands that look again and again."""

    def settings(self) -> AgentSettings:
        """Return the settings of this host's agent. Raises ConfigError."""
        from linkseal.tunnels.settings import load_agent_settings

        path = self.config or DEFAULT_CONFIG
        if self.config is None and not path.exists():
            raise ConfigError(f"there is no {path}; name the agent's file with --config FILE")
        return load_agent_settings(path)

    def with_directory(self, action: Callable[[Directory], Awaitable[ResultT]]) -> ResultT:
        """Return what `action` makes of the directory. Raises ConfigError, DirectoryError, what `action` raises."""
        import asyncio

        directory = self._directory()

        async def act() -> ResultT:
            try:
                return await action(directory)
            finally:
                await directory.close()

        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # leaves the thread's own loop alone
            return runner.run(act())

    def _directory(self) -> Directory:
        """Return the directory that the options or the agent's file name. Raises ConfigError."""
        from linkseal.tunnels.directory.choice import open_directory

        chosen = self._chosen()
        if chosen is None:
            raise ConfigError(
                "no directory is given: use --directory PATH or --kubeconfig FILE, set LINKSEAL_DIRECTORY or "
                f"KUBECONFIG, or name the agent's file with --config FILE (there is no {DEFAULT_CONFIG})"
            )
        return open_directory(chosen)

    def cluster(self) -> Access | None:
        """Return how the cluster's API is reached, None where the directory is no cluster. Raises ConfigError."""
        from linkseal.tunnels.settings import KubeDirectorySettings

        chosen = self._chosen()
        if not isinstance(chosen, KubeDirectorySettings):
            return None
        try:
            from linkseal.tunnels.directory.kubeapi import Access
        except ModuleNotFoundError as error:
            from linkseal.tunnels.directory.choice import lacking

            raise lacking("the Kubernetes API", error) from error
        return Access(chosen.kubeconfig, chosen.context)

    def kube_namespace(self) -> str:
        """Return the namespace of the cluster that `cluster` names. Raises ConfigError."""
        from linkseal.tunnels.settings import KubeDirectorySettings

        chosen = self._chosen()
        return (chosen if isinstance(chosen, KubeDirectorySettings) else KubeDirectorySettings()).namespace

    def from_afar(self) -> Access | None:
        """Return how the cluster's API is reached where the cluster is meant, and not this host. Raises ConfigError.

        It is if an option names it, or if kubectl would find one and this host has no agent's file.
        """
        return None if self.has_agent() else self.cluster()

    def has_agent(self) -> bool:
        """Whether this host is meant, which has an agent's file, and no option names a cluster."""
        named = self.names_cluster or (self.directory is not None and "directory" not in self.inherited)
        return not named and (self.config is not None or DEFAULT_CONFIG.exists())

    @property
    def names_cluster(self) -> bool:
        """Whether an option names a cluster."""
        return (self.namespace, self.kubeconfig, self.context) != (None, None, None)

    def chosen(self, name: str, value: object, *, inherited: bool) -> bool:
        """Whether an option that names something other than a cluster counts. ConfigError: so do others.

        `inherited`: an environment variable gave it.
        """
        if value is None or not self.names_cluster:
            return value is not None
        if not inherited:
            raise ConfigError(f"{name} and options that name a cluster exclude each other: give one of them")
        return False

    def _chosen(self) -> FileDirectorySettings | KubeDirectorySettings | None:
        """Return where the directory is, by the options, the agent's file or kubectl's; None: nothing says it."""
        from linkseal.tunnels.settings import FileDirectorySettings, KubeDirectorySettings

        directory = self.directory
        if directory is not None and self.chosen("--directory", directory, inherited="directory" in self.inherited):
            return FileDirectorySettings(directory)
        if self.has_agent():
            return self.settings().directory
        if self.names_cluster or _has_kubeconfig():
            namespace = self.namespace or KubeDirectorySettings().namespace
            return KubeDirectorySettings(namespace, self.kubeconfig, self.context)
        return None

    def colour(self, stream: TextIO | None = None) -> bool:
        """Whether to colour what goes to `stream` (stdout): a terminal, and nobody asked for none (no-color.org)."""
        stream = stream or sys.stdout
        wanted = not self.no_color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return wanted and stream.isatty()


def _has_kubeconfig() -> bool:
    """Whether kubectl would find a cluster without being told."""
    return bool(os.environ.get("KUBECONFIG")) or Path("~/.kube/config").expanduser().exists()

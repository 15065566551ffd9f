"""What the global options say, and what follows from them: the directory, the agent's settings, colour."""

# ruff: noqa: PLC0415 - what `linkseal version` does not need is imported where it is needed
from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, TypeVar

from linkseal.keys.errors import ConfigError

if TYPE_CHECKING:  # each of these takes longer to import than `linkseal version` may run
    from linkseal.tunnels.directory.files import FileDirectory
    from linkseal.tunnels.settings import AgentSettings

ResultT = TypeVar("ResultT")

DEFAULT_CONFIG: Final = Path("/etc/linkseal/agent.yaml")


@dataclass(slots=True)
class Session:
    """One run of `linkseal`; filled by the global options, wherever on the line they stand."""

    directory: Path | None = None
    config: Path | None = None
    output: str | None = None
    no_color: bool = False
    verbose: bool = False

    def settings(self) -> AgentSettings:
        """Return the settings of this host's agent. Raises ConfigError."""
        from linkseal.tunnels.settings import load_agent_settings

        path = self.config or DEFAULT_CONFIG
        if self.config is None and not path.exists():
            raise ConfigError(f"there is no {path}; name the agent's file with --config FILE")
        return load_agent_settings(path)

    def with_directory(self, action: Callable[[FileDirectory], Awaitable[ResultT]]) -> ResultT:
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

    def _directory(self) -> FileDirectory:
        """Return the directory that --directory or the agent's file names. Raises ConfigError."""
        from linkseal.tunnels.directory.files import FileDirectory

        if self.directory is not None:
            return FileDirectory(self.directory)
        if self.config is None and not DEFAULT_CONFIG.exists():
            raise ConfigError(
                "no directory is given: use --directory PATH, set LINKSEAL_DIRECTORY, or name the agent's file with "
                f"--config FILE (there is no {DEFAULT_CONFIG})"
            )
        return FileDirectory(self.settings().directory.path)

    def colour(self, stream: TextIO | None = None) -> bool:
        """Whether to colour what goes to `stream` (stdout): a terminal, and nobody asked for none (no-color.org)."""
        stream = stream or sys.stdout
        wanted = not self.no_color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return wanted and stream.isatty()

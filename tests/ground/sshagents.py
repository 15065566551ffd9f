"""A real SSH agent with a P-384 key: of a file, or of a token that made it and never lets it out (SoftHSM, PKCS #11).

with ssh_agent(tmp_path) as agent:
    agent.holds_file("next")          # its comment; the file is gone afterwards
    agent.stop()                      # ... start(), freeze(), thaw(); what it held is to be loaded again
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from linkseal.tunnels.lab.daemons import Daemon

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "1234"
TOKEN = "linkseal"


class Keys:
    """What is given to the agent at `socket`; files of this are in `folder`."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self._folder, self.socket = folder, socket
        (folder / "tokens").mkdir()
        (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
        ask = folder / "ask"
        ask.write_text(f"#!/bin/sh\necho {PIN}\n")
        ask.chmod(0o700)
        self._env = {
            "SOFTHSM2_CONF": str(folder / "softhsm2.conf"), "SSH_AUTH_SOCK": str(self.socket),
            "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force",
        }  # fmt: skip

    def holds_file(self, comment: str, *, curve: int = 384) -> None:
        """Give it a new key, whose file is deleted."""
        file = self._folder / comment
        self._run("ssh-keygen", "-q", "-t", "ecdsa", "-b", str(curve), "-N", "", "-C", comment, "-f", str(file))
        self._run("ssh-add", "-q", str(file))
        file.unlink()

    def holds_token(self) -> None:
        """Give it the key of the token, which is made there at the first call."""
        if not any((self._folder / "tokens").iterdir()):
            self._run("softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--pin", PIN, "--so-pin", PIN)
            self._run(
                "pkcs11-tool", "--module", str(MODULE), "--token-label", TOKEN, "--login", "--pin", PIN,
                "--keypairgen", "--key-type", "EC:secp384r1", "--label", "token", "--id", "01",
            )  # fmt: skip
        self._run("ssh-add", "-q", "-s", str(MODULE))

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, env={**os.environ, **self._env}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


class SshAgent(Keys):
    """An `ssh-agent` of this machine."""

    def __init__(self, folder: Path, starter: ThreadPoolExecutor) -> None:
        super().__init__(folder, folder / "agent.sock")
        env = [f"{name}={value}" for name, value in self._env.items()]
        command = ["env", *env, "ssh-agent", "-D", "-a", str(self.socket)]
        self._daemon = Daemon(command, folder / "agent.log", starter)

    def start(self) -> None:
        """Have it run; it holds nothing."""
        self.socket.unlink(missing_ok=True)
        self._daemon.start()
        self._daemon.wait_until(self.socket.exists, "its socket", 20.0)

    def stop(self) -> None:
        """End it; what it held is gone from it."""
        self._daemon.stop()

    def freeze(self) -> None:
        """Have it answer nothing."""
        self._daemon.pause()

    def thaw(self) -> None:
        """Have it go on."""
        self._daemon.resume()


@contextmanager
def ssh_agent(folder: Path) -> Iterator[SshAgent]:
    """One that holds nothing yet, in a new folder below `folder`."""
    made = folder / "ssh-agent"
    made.mkdir()
    with ThreadPoolExecutor(1) as starter:
        agent = SshAgent(made, starter)
        agent.start()
        try:
            yield agent
        finally:
            agent.stop()

"""Which file a program is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence


def with_path(argv: Sequence[str]) -> list[str]:
    """Return a command with its program's whole path, if PATH has it.

    Left to exec(3), each folder of PATH without it is a failed execve(2), for which the kernel makes an address space
    and throws it away. In the lab kernel each such try costs a big process 30 ms, and a PATH has a dozen folders.

    >>> with_path(["true", "-x"])[0].endswith("/true"), with_path(["no-such-program", "-x"])
    (True, ['no-such-program', '-x'])
    """
    name, *rest = argv
    return [shutil.which(name) or name, *rest]

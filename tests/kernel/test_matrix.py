from __future__ import annotations

import os

import pytest
from ground.matrix import HEADER, Case, Cell, Walk

pytestmark = pytest.mark.kernel

TRY = os.environ.get("TRY", "device peer route rule element table nic link-down:5 agent-kill:2").split()


@pytest.mark.timeout(1500)
def test_try() -> None:
    cell = Cell(*os.environ.get("CELL", "kernel overlay 4 prefer").split())
    with Walk(cell) as walk:
        print(HEADER)
        for word in TRY:
            name, _, rest = word.partition(":")
            hold, _, then = rest.partition(":")
            walk.run(Case(name.removesuffix("!"), float(hold or 0), float(then or 0), dead=name.endswith("!")))

"""What all tests share."""

from __future__ import annotations

import asyncio

# looptime asks for an event loop in tests that have none. Unless told that there is none, asyncio then makes one that
# nobody closes: a warning, and warnings fail tests.
asyncio.set_event_loop(None)

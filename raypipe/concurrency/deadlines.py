"""Bounds a wait by the time in which the event loop turned. Knows nothing of what is awaited.

A loop that a synchronous call holds up, or whose process is starved or stopped, hears of an answer only once it turns
again: by the clock the answer is late then, whatever it is. So time is counted in looks, and one in which the loop was
held up counts for nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from raypipe.concurrency.background import TaskScope

T = TypeVar("T")

LOOK_EVERY_S = 5.0
LATE = 2.0
"""A look that took so many times as long as it should was held up."""


async def run_within(bound_s: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Raises TimeoutError when it takes longer than `bound_s` of a loop that turns."""
    async with TaskScope() as scope:
        task = scope.start(work)
        every_s = min(LOOK_EVERY_S, bound_s)
        left = math.ceil(bound_s / every_s)
        while left:
            began = time.monotonic()
            await asyncio.wait({task}, timeout=every_s)
            if task.done():
                return task.result()
            left -= time.monotonic() - began < every_s * LATE
        raise TimeoutError

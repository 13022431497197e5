"""Bounds a wait by the time in which the event loop turned. Knows nothing of what is awaited.

A loop that a synchronous call holds up, or whose process is starved or stopped, hears of an answer only once it turns
again: by the clock the answer is late then, whatever it is. So time is counted in looks: however long one of them
took, it counts as one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

from raypipe.background import TaskScope

T = TypeVar("T")

LOOK_EVERY_S = 5.0


async def within(bound_s: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Raises TimeoutError when it takes longer than `bound_s` of a loop that turns."""
    async with TaskScope() as scope:
        task = scope.start(work)
        every_s = min(LOOK_EVERY_S, bound_s)
        for _ in range(math.ceil(bound_s / every_s)):
            await asyncio.wait({task}, timeout=every_s)
            if task.done():
                return task.result()
        raise TimeoutError

"""I decide when a call may be sent.

A permit is held only while a call is on its way, never while a row waits to try again. An
endpoint that asks to slow down pauses every call of the limiter, not only the one it answered.
I do not know what is sent, nor what an error means.
"""

from __future__ import annotations

import asyncio
import random
from types import TracebackType

from raypipe.errors import CallError, Retry

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_SLOW_DOWN_S = 900.0
SHORTEST_SLOW_DOWN_S = 0.1


class Limiter:
    """Permits for the calls of one worker: `async with limiter: …`."""

    def __init__(self, concurrency: int) -> None:
        self._free = asyncio.Semaphore(concurrency)
        self._paused_until = 0.0
        self.in_flight = 0

    async def __aenter__(self) -> None:
        await self._free.acquire()
        try:
            if self._paused_until:
                await self._unpaused()
        except BaseException:
            self._free.release()
            raise
        self.in_flight += 1

    async def _unpaused(self) -> None:
        pause = self._paused_until - asyncio.get_running_loop().time()
        if pause > 0:
            await asyncio.sleep(pause)
            await self._unpaused()
        else:
            self._paused_until = 0.0

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.in_flight -= 1
        self._free.release()

    def pause(self, after_s: float) -> None:
        """No call is sent for the next `after_s` seconds."""
        until = asyncio.get_running_loop().time() + after_s
        self._paused_until = max(self._paused_until, until)


class Patience:
    """How often and how long one call is tried: bounded tries, exponential pauses with jitter.

    A request to slow down does not count as a try, but the time spent on such requests is bounded too.
    """

    def __init__(self, max_tries: int) -> None:
        self._max_tries = max_tries
        self._slowed_s = 0.0
        self._slow_downs = 0
        self.tries = 0

    def pause_after(self, error: CallError) -> float | None:
        """Seconds to wait before the next try; `None` when there is none."""
        if error.retry is Retry.NEVER:
            self.tries += 1
            return None
        if error.retry is Retry.SLOW_DOWN:
            self._slow_downs += 1
            pause = error.after_s if error.after_s is not None else _growing(self._slow_downs)
            # An endpoint that always asks for no time at all must not be asked forever.
            self._slowed_s += max(pause, SHORTEST_SLOW_DOWN_S)
            return pause if self._slowed_s <= LONGEST_SLOW_DOWN_S else None
        self.tries += 1
        if self.tries >= self._max_tries:
            return None
        return max(error.after_s or 0.0, _growing(self.tries))


def _growing(times: int) -> float:
    longest = min(FIRST_PAUSE_S * 2 ** (times - 1), LONGEST_PAUSE_S)
    return longest * random.uniform(0.75, 1.25)

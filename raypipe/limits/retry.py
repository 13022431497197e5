"""Decides how often and how long one call is tried. Knows nothing of what is sent."""

from __future__ import annotations

import random

from raypipe.errors import CallError, Retry

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_WAIT_S = 900.0
"""The default of the longest wait for an endpoint."""
SHORTEST_SLOW_DOWN_S = 0.1


class RetryPolicy:
    """How often and how long one call is tried: a bounded number of tries, exponential pauses with jitter.

    A request to slow down does not count as a try, but the time spent on such requests is bounded too, by `max_wait_s`.
    A pause beyond the bound ends the tries at once.
    """

    def __init__(self, max_tries: int, max_wait_s: float = LONGEST_WAIT_S) -> None:
        self._max_tries = max_tries
        self._max_wait_s = max_wait_s
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
            return pause if self._slowed_s <= self._max_wait_s else None
        self.tries += 1
        if self.tries >= self._max_tries or (error.after_s or 0.0) > self._max_wait_s:
            return None
        return max(error.after_s or 0.0, _growing(self.tries))


def _growing(times: int) -> float:
    longest = min(FIRST_PAUSE_S * 2 ** (times - 1), LONGEST_PAUSE_S)
    return longest * random.uniform(0.75, 1.25)

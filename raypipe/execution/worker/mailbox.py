"""Holds what a worker has not sent to one conductor yet, and wakes the exchange that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from raypipe.contracts.step import Step
from raypipe.execution.wire import Answer, Results

_LONGEST_POLL_S = 5.0


class Mailbox:
    """The results of one conductor's rows that it does not have yet."""

    def __init__(self, steps: Mapping[str, Step], most_bytes: int) -> None:
        """`most_bytes`: of what is sent at once; a larger row is sent alone."""
        self._most_bytes = most_bytes
        self.results = {name: Results(step.writes()) for name, step in steps.items()}
        self.has_news = False
        self._waiting: asyncio.Future[bool] | None = None

    @property
    def rows(self) -> int:
        """How many rows have ended."""
        return sum(map(len, self.results.values()))

    async def wait(self) -> bool:
        """Whether there is news; False when a later exchange took this one's place or time ran out."""
        _resolve(self._waiting, False)  # an earlier exchange that still waits
        if self.has_news:
            return True
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        timer = loop.call_later(_LONGEST_POLL_S, _resolve, waiting, False)
        try:
            return await waiting
        finally:
            timer.cancel()

    def notify(self) -> None:
        """There is news: wake the exchange that waits."""
        if not self.has_news:
            self.has_news = True
            _resolve(self._waiting, True)

    def take(self) -> list[Answer]:
        """What is to be sent now; there is news left where that is not all."""
        self.has_news = False
        answers: list[Answer] = []
        left = self._most_bytes
        for step, results in self.results.items():
            if not len(results):
                continue
            if left <= 0:
                self.has_news = True
                break
            size = results.size_bytes
            answers.append(results.take(step, left))
            self.has_news = bool(len(results))
            left -= size
        return answers


def _resolve(waiting: asyncio.Future[bool] | None, value: bool) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(value)

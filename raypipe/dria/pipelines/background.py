"""Runs work in a thread, so that an event loop is free meanwhile and can ask it to stop.

Knows nothing of the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from raypipe.concurrency.background import start_thread
from raypipe.execution.stopping import Stop

T = TypeVar("T")


class Background(Generic[T]):
    """Work in a thread, which begins when this is made."""

    def __init__(self, work: Callable[[Stop], T]) -> None:
        self._stop = Stop()
        self.future: Future[T] = Future()
        """What the work returns or raises."""

        def run() -> None:
            try:
                self.future.set_result(work(self._stop))
            except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                self.future.set_exception(error)

        start_thread(run, "raypipe-dria", None)

    async def result(self) -> T:
        """What the work returned. Cancelled once, it asks the work to finish its calls; twice, to end at once."""
        waiting = asyncio.wrap_future(self.future)
        while True:
            try:
                return await asyncio.shield(waiting)
            except asyncio.CancelledError:
                if waiting.cancelled():
                    raise
                self._stop.ask()

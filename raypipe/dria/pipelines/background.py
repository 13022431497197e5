"""I run something in a thread, so that an event loop goes on meanwhile and can be asked to stop it.

I do not know what is run.
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
    """Work that began when this was made."""

    def __init__(self, work: Callable[[Stop], T]) -> None:
        self._stop = Stop()
        self.future: Future[T] = Future()
        start_thread(lambda: self._work(work), "raypipe-dria", None)

    def _work(self, work: Callable[[Stop], T]) -> None:
        try:
            self.future.set_result(work(self._stop))
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            self.future.set_exception(error)

    async def result(self) -> T:
        """What the work returned. To be cancelled once asks it to finish its calls, twice to end at once."""
        waiting = asyncio.wrap_future(self.future)
        while True:
            try:
                return await asyncio.shield(waiting)
            except asyncio.CancelledError:
                if waiting.cancelled():
                    raise
                self._stop.ask()

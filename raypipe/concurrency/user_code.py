"""Runs functions that others wrote in a thread beside the event loop, which goes on meanwhile.

Knows nothing of what they do. Those of one owner run one after the other, as they would in the loop, so that they need
not be safe for threads. The thread begins with the first function and ends when none came for a while; nobody waits for
it at the end, so that a function which never returns keeps no process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from raypipe.concurrency.background import start_thread

LONG = 20_000
"""Characters of a text that is read beside the loop even by functions of our own."""
_IDLE_S = 5.0

T = TypeVar("T")


class CapturedResult:
    """What a function returned or raised, as a future takes it."""

    result: Any = None
    error: Exception | None = None

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is not None:
            # A future takes no StopIteration, and SystemExit would end the loop.
            if not isinstance(error, Exception) or isinstance(error, StopIteration):
                error = RuntimeError(f"it raised {type(error).__name__} {error}".rstrip())
            self.error = error
        return True

    def deliver(self, loop: asyncio.AbstractEventLoop, waiting: asyncio.Future[Any]) -> None:
        """End the future, from another thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._end, waiting)

    def _end(self, waiting: asyncio.Future[Any]) -> None:
        if waiting.done():
            return
        if self.error is None:
            waiting.set_result(self.result)
        else:
            waiting.set_exception(self.error)


class UserCodeThread:
    """The thread of one owner. It travels to workers without its work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._is_running = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return UserCodeThread, (self._name,)

    def __eq__(self, other: object) -> bool:
        """Any is as good as another, so that what holds one is equal to what says the same."""
        return isinstance(other, UserCodeThread)

    def __hash__(self) -> int:
        return hash(UserCodeThread)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns. Raises what it raises."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            if waiting.cancelled():
                return
            held = CapturedResult()
            with held:
                held.result = context.run(function, *args)
            held.deliver(loop, waiting)

        self._work.put(work)
        self._begin()
        return await waiting

    def _begin(self) -> None:
        with self._lock:
            if not self._is_running:
                self._is_running = True
                start_thread(self._go_on, self._name, None)

    def _go_on(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], None] | None:
        """`None` when none came for a while; then the thread ends."""
        with suppress(Empty):
            return self._work.get(timeout=_IDLE_S)
        with self._lock:
            self._is_running = not self._work.empty()
            return self._work.get() if self._is_running else None

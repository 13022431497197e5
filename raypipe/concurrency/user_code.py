"""Runs users' functions in a thread beside the event loop, which goes on meanwhile.

Knows nothing of what they do. Those of one owner run one after the other, as they would in the loop, so they need not
be thread-safe. The thread starts with the first function and ends when none has come for a while; nothing waits for it
at exit, so a function that never returns does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from raypipe.concurrency.background import Caught, start_thread

LONG = 20_000
"""Characters of a text that is read beside the loop even by functions of raypipe."""
_IDLE_S = 5.0

T = TypeVar("T")


def run_and_deliver(function: Callable[[], Any], loop: asyncio.AbstractEventLoop, waiting: asyncio.Future[Any]) -> None:
    """Call the function in this thread, and end a future of another thread's loop with what it returns or raises.

    It is not called any more where the future was cancelled before.
    """
    if waiting.cancelled():
        return
    result: Any = None
    with Caught() as caught:
        result = function()
    error = caught.error
    # A future takes no StopIteration, and SystemExit would end the loop.
    if error is not None and (not isinstance(error, Exception) or isinstance(error, StopIteration)):
        error = RuntimeError(f"it raised {type(error).__name__} {error}".rstrip())

    def deliver() -> None:
        if not waiting.done():
            waiting.set_result(result) if error is None else waiting.set_exception(error)

    with suppress(RuntimeError):  # the loop is closed: nothing waits any more
        loop.call_soon_threadsafe(deliver)


@dataclass(unsafe_hash=True, repr=False)
class UserCodeThread:
    """The thread of one owner. Pickled without its work.

    Any two are equal, so that steps which hold one compare by their options alone.
    """

    name: str = field(compare=False)
    _work: SimpleQueue[Callable[[], None]] = field(
        default_factory=SimpleQueue[Callable[[], None]], init=False, compare=False
    )
    _is_running: bool = field(default=False, init=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return UserCodeThread, (self.name,)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns. Raises what it raises."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        self._work.put(partial(run_and_deliver, partial(context.run, function, *args), loop, waiting))
        with self._lock:
            if not self._is_running:
                self._is_running = True
                start_thread(self._work_until_idle, self.name, None)
        return await waiting

    def _work_until_idle(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    self._is_running = not self._work.empty()
                    if not self._is_running:
                        return
                continue
            work()
            del work

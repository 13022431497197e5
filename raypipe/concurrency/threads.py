"""Runs functions in threads that never hold up the end of the process. Knows nothing of what they do.

The interpreter waits for the threads of a plain `ThreadPoolExecutor`, and a loop for those of its default executor,
however long a user's function sleeps in them. These are daemon threads that nothing joins: one that is busy when the
process ends, ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from raypipe.concurrency.background import Caught, start_thread

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")

_LOOK_EVERY_S = 0.1

_Work = tuple["Future[Any]", Callable[[], Any]]


class DaemonThreads(ThreadPoolExecutor):
    """Up to `most` daemon threads, each started when none is idle. A loop takes one for its default executor, too."""

    def __init__(self, most: int = 32, name: str = "raypipe-work") -> None:
        super().__init__(1)  # whose own threads are never started; loops ask for the class
        self._most, self._name = most, name
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._started = self._busy = 0
        self._is_closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Raises RuntimeError once it was shut down."""
        future: Future[R] = Future()
        with self._guard:
            if self._is_closed:
                raise RuntimeError("no work is taken after the shutdown")
            self._busy += 1
            is_short = self._busy > self._started < self._most
            self._started += is_short
            self._waiting.put((future, lambda: fn(*args, **kwargs)))
        if is_short:
            start_thread(self._work, self._name, None)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; does not wait for any, with or without `wait`."""
        with self._guard:
            if self._is_closed:
                return
            self._is_closed = True
            while cancel_futures and not self._waiting.empty():  # only here and in `_work` is anything taken
                with suppress(Empty):
                    work = self._waiting.get_nowait()
                    if work is not None:
                        work[0].cancel()
            for _ in range(self._started):
                self._waiting.put(None)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            _run(*work)
            del work
            with self._guard:
                self._busy -= 1


def _run(future: Future[Any], function: Callable[[], Any]) -> None:
    """Whatever the function raises is raised where the future is awaited."""
    if not future.set_running_or_notify_cancel():
        return
    result: Any = None
    with Caught() as caught:
        result = function()
    if caught.error is not None:
        future.set_exception(caught.error)
    else:
        future.set_result(result)


def iterate_in_thread(items: Iterable[T], name: str, is_left: Callable[[], bool]) -> Iterator[T]:
    """Item after item, each taken in a daemon thread, so that the iteration can be left while the iterator blocks.

    Ends once `is_left` while the next is awaited. Raises whatever the iterator raises.
    """
    taken, threads = iter(items), DaemonThreads(1, name)
    nothing: Any = object()
    while True:
        future = threads.submit(next, taken, nothing)
        while not future.done():
            wait([future], _LOOK_EVERY_S)
            if not future.done() and is_left():
                threads.shutdown()
                return
        if (item := future.result()) is nothing:
            threads.shutdown()
            return
        yield item

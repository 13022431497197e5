"""Runs functions in threads that never hold up the end of the process. Knows nothing of what they do.

The interpreter waits for the threads of a plain `ThreadPoolExecutor`, and a loop for those of its default one, however
long a user's function sleeps in them. These are daemon threads that nobody joins: one that is busy when the process
ends, ends with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

from raypipe.concurrency.background import start_thread

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
        """Take no more work; nobody is waited for, with or without `wait`."""
        with self._guard:
            if self._is_closed:
                return
            self._is_closed = True
            if cancel_futures:
                self._cancel_waiting()
            for _ in range(self._started):
                self._waiting.put(None)

    def _cancel_waiting(self) -> None:
        while True:
            try:
                work = self._waiting.get_nowait()
            except Empty:
                return
            if work is not None:
                work[0].cancel()

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            _done(*work)
            del work
            with self._guard:
                self._busy -= 1


def _done(future: Future[Any], function: Callable[[], Any]) -> None:
    """Whatever the function raises is for whoever waits for it."""
    if not future.set_running_or_notify_cancel():
        return
    result: Any = None
    with ExitStack() as stack:
        stack.push(partial(_tell, future))
        result = function()
    if not future.done():
        future.set_result(result)


def _tell(future: Future[Any], kind: object, error: BaseException | None, trace: object) -> bool:
    if error is not None:
        future.set_exception(error)
    return True


class ThreadedIterator(Generic[T]):
    """What an iterator gives, taken from it in a daemon thread, so that it can be left while it is blocked."""

    def __init__(self, items: Iterable[T], name: str) -> None:
        self._items = iter(items)
        self._threads = DaemonThreads(1, name)

    def until(self, is_left: Callable[[], bool]) -> Iterator[T]:
        """Item after item; the end once `is_left` while the next is awaited. Raises whatever the iterator raises."""
        nothing: Any = object()
        while True:
            future = self._threads.submit(next, self._items, nothing)
            while not future.done():
                wait([future], _LOOK_EVERY_S)
                if not future.done() and is_left():
                    self._threads.shutdown()
                    return
            if (item := future.result()) is nothing:
                self._threads.shutdown()
                return
            yield item

"""Starts tasks and threads that have an owner, which learns how each of them ends.

Knows nothing of what they do. asyncio drops the exception of a task that nobody awaits, and a thread prints its own to
stderr and ends: in both cases the run would wait for ever for what the lost one should have done. A test keeps
`create_task`, `ensure_future`, `run_coroutine_threadsafe` and `Thread` out of every other module.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from raypipe.errors import InfrastructureError, RaypipeError

T = TypeVar("T")

OnFailure = Callable[[RaypipeError], object]

_CLOSE_S = 5.0
"""How long cancelled tasks are waited for; one that ignores it must not hold up the rest."""


class Caught(AbstractContextManager["Caught"]):
    """A block whose exception is kept in `error`, whatever it is, and ends with the block."""

    error: BaseException | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.error = error
        return True


def to_raypipe_error(what: str, error: BaseException) -> RaypipeError:
    """What ended `what`, as a RaypipeError: itself where it is one, also where its own text cannot be made."""
    if isinstance(error, RaypipeError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return InfrastructureError(f"{what} was given up by something other than its owner")
    kind = type(error).__name__
    with Caught() as caught:
        return InfrastructureError(f"{what} broke: {kind}: {error}".strip().removesuffix(":"))
    return InfrastructureError(f"{what} broke: {kind} (its text cannot be made: {type(caught.error).__name__})")


@dataclass(eq=False)
class TaskScope(AbstractAsyncContextManager["TaskScope"]):
    """Tasks that a block starts and awaits: `async with TaskScope() as scope: task = scope.start(work)`.

    Those that are not done when the block is left are cancelled, and waited for.
    """

    _tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]], init=False)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is not done, and wait for it. For an owner whose scope is no block."""
        await _cancel(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """A task that the block awaits, or cancels by leaving."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # raised where the task is awaited; unread, asyncio would report it at exit


@dataclass(eq=False)
class TaskOwner:
    """Background tasks of one owner; `on_failure` is called with the error of each that fails.

    A task may return. One that is started with `is_endless` fails if it returns before the owner is closed.
    """

    on_failure: OnFailure
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]], init=False)
    _dismissed: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]], init=False)

    def start(self, work: Coroutine[Any, Any, T], what: str, *, is_endless: bool = False) -> asyncio.Task[T]:
        """Start `what`, as a failure names it."""
        task = asyncio.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_end, is_endless))
        return task

    def dismiss(self, task: asyncio.Task[Any]) -> None:
        """Cancel one task; its end is not a failure then."""
        if task in self._tasks:
            self._dismissed.add(task)
            task.cancel()

    async def close(self) -> None:
        """Cancel all tasks and wait for them; none is a failure then. Never waits for the task that calls it."""
        tasks = self._tasks - {asyncio.current_task()}
        self._dismissed |= tasks
        await _cancel(tasks)

    def _on_end(self, is_endless: bool, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if task in self._dismissed:
            self._dismissed.discard(task)
        elif error is not None:
            self.on_failure(to_raypipe_error(task.get_name(), error))
        elif is_endless:
            self.on_failure(InfrastructureError(f"{task.get_name()} came to an end too early"))


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    waited = {task for task in tasks if not task.done()}
    for task in waited:
        task.cancel()
    if waited:
        await asyncio.wait(waited, timeout=_CLOSE_S)


def start_thread(work: Callable[[], None], what: str, on_failure: OnFailure | None) -> threading.Thread:
    """A daemon thread that does `work`. `on_failure` is called, in that thread, when it ends by an exception.

    `None` only where `work` reports its own end, whatever it is.
    """

    def run() -> None:
        if on_failure is None:
            work()
            return
        with Caught() as caught:
            work()
        if caught.error is not None:
            on_failure(to_raypipe_error(what, caught.error))

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    return thread


def submit(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    """Let the loop of another thread do `work`; the future raises what `work` raises.

    A loop that has ended never does it: wait for the result with a bound, or where something else ends the process.
    """
    return asyncio.run_coroutine_threadsafe(work, loop)

"""Starts tasks and threads that somebody owns: whoever starts one hears of its end, however it ends.

Knows nothing of what they do. asyncio drops the exception of a task that nobody awaits, and a thread prints its own to
stderr and is gone: in both cases the run would wait for ever for what the lost one should have done. A test keeps
`create_task`, `ensure_future`, `run_coroutine_threadsafe` and `Thread` out of every other module.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from raypipe.errors import InfrastructureError, RaypipeError

T = TypeVar("T")

OnFailure = Callable[[RaypipeError], None]

_CLOSE_S = 5.0
"""How long tasks that were told to end are waited for; one that does not hear it must not hold up the rest."""


def to_raypipe_error(what: str, error: BaseException) -> RaypipeError:
    """What ended `what`, as an error of ours: itself where it is one."""
    if isinstance(error, RaypipeError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return InfrastructureError(f"{what} was given up by something other than its owner")
    return InfrastructureError(f"{what} broke: {describe_error(error)}")


def describe_error(error: BaseException) -> str:
    """The type and text of an exception, also of one whose text cannot be made."""
    with _Caught() as caught:
        return f"{type(error).__name__}: {error}".strip().removesuffix(":")
    return f"{type(error).__name__} (its text cannot be made: {type(caught.error).__name__})"


class TaskScope:
    """Tasks that a block starts and awaits: `async with TaskScope() as scope: task = scope.start(work)`.

    Those that are not done when the block is left are cancelled, and waited for.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is not done, and wait for it. For an owner whose scope is no block."""
        await _ended(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """A task that the block awaits, or cancels by leaving."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits it raises it; without anybody it would be told at exit


class TaskOwner:
    """Background tasks of one owner; `on_failure` is told of each that ends otherwise than it may.

    A task may return. One that is started with `is_endless` may not, before the owner is closed.
    """

    def __init__(self, on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dismissed: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], what: str, *, is_endless: bool = False) -> asyncio.Task[T]:
        """Start `what`, as a failure names it."""
        task = asyncio.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._endless_ended if is_endless else self._task_ended)
        return task

    def dismiss(self, task: asyncio.Task[Any]) -> None:
        """End one task, whose end is no failure then."""
        if task in self._tasks:
            self._dismissed.add(task)
            task.cancel()

    async def close(self) -> None:
        """End all tasks and wait for them; none is a failure any more. Never waits for the task that calls it."""
        tasks = self._tasks - {asyncio.current_task()}
        self._dismissed |= tasks
        await _ended(tasks)

    def _endless_ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None and task not in self._dismissed:
            self._on_failure(InfrastructureError(f"{task.get_name()} came to an end too early"))
        self._task_ended(task)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        is_dismissed = task in self._dismissed
        self._dismissed.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None and not is_dismissed:
            self._on_failure(to_raypipe_error(task.get_name(), error))


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    waited = {task for task in tasks if not task.done()}
    for task in waited:
        task.cancel()
    if waited:
        await asyncio.wait(waited, timeout=_CLOSE_S)


def start_thread(work: Callable[[], None], what: str, on_failure: OnFailure | None) -> threading.Thread:
    """A daemon thread that does `work`. `on_failure` is told, in that thread, when it ends by an exception.

    `None` only where `work` gives its end away itself, whatever it is.
    """

    def run() -> None:
        if on_failure is None:
            work()
            return
        with _Caught() as caught:
            work()
        if caught.error is not None:
            on_failure(to_raypipe_error(what, caught.error))

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    return thread


def submit(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    """Let the loop of another thread do `work`; the caller awaits the future, which raises what `work` raises."""
    return asyncio.run_coroutine_threadsafe(work, loop)


class _Caught:
    """What a block raised, kept."""

    error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.error = error
        return True

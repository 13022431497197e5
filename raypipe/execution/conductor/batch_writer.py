"""Writes what of batches is ready, and tells whoever waits for a batch what came of it.

Knows nothing of rows or workers. Whatever is raised while something is written becomes an error of the run, and every
batch that is waited for ends: with its result, or with that error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from raypipe.concurrency.background import TaskOwner, TaskScope
from raypipe.errors import RaypipeError
from raypipe.execution.conductor.batches import Batch, BatchResult, FinishedRows, explain_unwritable
from raypipe.execution.conductor.ledger import BatchLedger
from raypipe.execution.conductor.row_flow import Ready
from raypipe.execution.conductor.spill import SpilledBatch
from raypipe.storage.paths import AnyPath

T = TypeVar("T")


class BatchWriter:
    """Of one conductor. `on_written` is called when room was made or rows of a batch that goes on are in a file.

    `end_calls` is awaited when nothing can be written, as on a full disk, before the run ends: a call in flight is paid
    for, and its answer may still find its way into the call log.
    """

    def __init__(
        self,
        folder: AnyPath,
        ledger: BatchLedger,
        tasks: TaskOwner,
        on_written: Callable[[], None],
        end_calls: Callable[[], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._end_calls = end_calls
        self._ledger = ledger
        self._tasks = tasks
        self._on_written = on_written
        self.pending: dict[int, asyncio.Future[BatchResult]] = {}
        """What will come of each batch of which rows are on their way, by number."""
        self.error: RaypipeError | None = None
        """What ended the run."""

    def fail(self, error: RaypipeError) -> None:
        """End every wait for a batch with an error; the first one is the run's."""
        self.error = self.error or error
        for result in self.pending.values():
            if not result.done():
                result.set_exception(error)

    def write(self, ready: Ready) -> None:
        """Begin to write."""
        for finished in ready.finished:
            self._tasks.start(self._write_rows(finished), "the writing of finished rows")
        for batch in ready.batches:
            task = self._tasks.start(self._write_batch(batch), "the writing of a batch")
            task.add_done_callback(partial(self._resolve, self.pending.pop(batch.number)))

    async def _write_rows(self, finished: FinishedRows) -> None:
        part = await self._to_disk(finished.write)
        self._ledger.note_part(finished, part)
        self._on_written()

    async def _write_batch(self, batch: Batch | SpilledBatch) -> BatchResult:
        number = batch.number
        result = await self._to_disk(batch.write)
        self._ledger.close(number)
        self._on_written()
        return result

    async def _to_disk(self, write: Callable[[AnyPath], T]) -> T:
        async with TaskScope() as scope:
            writing = scope.start(asyncio.to_thread(write, self._folder))
            await asyncio.wait({writing})
            if (error := writing.exception()) is not None:
                if isinstance(error, OSError):
                    await self._end_calls()
                raise explain_unwritable(self._folder, error)
            return writing.result()

    def _resolve(self, result: asyncio.Future[BatchResult], writing: asyncio.Task[BatchResult]) -> None:
        """Tell who waits for a batch how its writing ended, however that was: nobody else would end the wait."""
        if writing.cancelled():
            result.cancel()
            return
        error = writing.exception()
        if result.done():
            return
        if error is None:
            result.set_result(writing.result())
        else:
            result.set_exception(self.error or explain_unwritable(self._folder, error))

"""Runs the steps of one worker on its rows; only here does an exception become a failed row.

Rows wait in a backlog and coroutines pull them one by one, the deepest step first, so that a slow row holds up no
other. What a row became goes to the mailbox of the conductor that sent it. Knows nothing of conductors.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from raypipe.concurrency.loop_lag import works_for
from raypipe.concurrency.threads import DaemonThreads
from raypipe.contracts.llm import Caller
from raypipe.contracts.step import Output, Runs, Step
from raypipe.errors import InfrastructureError, RaypipeError, RowError
from raypipe.execution.counts import CallCounts
from raypipe.execution.wire import FILTERED, FIRST_ROWS, FLUSH_S, UNFINISHED
from raypipe.execution.worker.backlog import Backlog, Item
from raypipe.execution.worker.boundary import Boundary, describe, error_text, is_cancelled
from raypipe.execution.worker.call_context import CallContext
from raypipe.execution.worker.caller import NoModel, RowCaller
from raypipe.execution.worker.mailbox import Mailbox
from raypipe.execution.worker.outcomes import Rows, accept, make_failure
from raypipe.plan.plan import Pool
from raypipe.row import Values

_TASKS_A_PERMIT = 2
"""Row coroutines for each call that may be in flight, so that one which waits for the log keeps no permit idle."""
_MOST_ROWS_A_THREAD = 1024
_WORTH_AN_EXCHANGE = 256
"""Rows for which an exchange is worth its cost though more might come: an idle worker waits for new rows."""


class RowRunner:
    """The rows of one worker while they are worked on.

    `mailboxes` has one for each sender of rows; `context` is `None` where no step has a model.
    """

    def __init__(
        self,
        name: str,
        pool: Pool,
        steps: Mapping[str, Step],
        context: CallContext | None,
        mailboxes: Mapping[str, Mailbox],
    ) -> None:
        self._name, self._steps, self._context, self._mailboxes = name, steps, context, mailboxes
        self._concurrency = pool.concurrency
        self._most_tasks = pool.concurrency * (1 if pool.llm is None else _TASKS_A_PERMIT)
        self._threads = DaemonThreads(pool.concurrency) if pool.llm is None else None
        self.backlog = Backlog(steps)
        self.tasks: set[asyncio.Task[None]] = set()
        """Coroutines that work on rows."""
        self._working = 0
        """Of these, the ones that still look for rows."""
        self.idle = asyncio.Event()
        """Nothing is worked on and there is much to report: no use in gathering more."""
        self.fatal: RaypipeError | None = None
        """Why the run cannot go on: no row is begun any more."""
        self.halted_for = ""
        """The failure for which a step stops the run; empty while there is none."""
        self._failed_rows = 0
        self.has_news = False
        """Whether its first rows have failed, which a conductor should know before more calls are sent."""

    def begin(self, count: int) -> None:
        """Start coroutines, then twice as many as long as rows still wait: one is enough for rows that need no call."""
        while count and self.fatal is None and self._working < self._most_tasks and self.backlog.next_step():
            count -= 1
            self._working += 1
            self.tasks.add(asyncio.create_task(self._work()))
            if not count:
                asyncio.get_running_loop().call_soon(self.begin, 2 * self._working)

    def stop_for(self, error: RaypipeError) -> None:
        """Begin no row any more; every exchange raises the first error that ended the work."""
        self.fatal = self.fatal or error
        for mailbox in self._mailboxes.values():
            mailbox.notify()

    async def close(self) -> None:
        """Stop working; rows that have not ended are dropped."""
        self.backlog.clear()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        """Work on row after row until none waits."""
        try:
            while self.fatal is None and (name := self.backlog.next_step()):
                step = self._steps[name]
                if step.is_given_batches:
                    await self._run_batch(name, step)
                elif step.runs is Runs.THREAD:
                    share = min(_MOST_ROWS_A_THREAD, -(-self.backlog.waiting(name) // self._concurrency))
                    await self._run_in_thread(name, step, self.backlog.begin(name, share))
                else:
                    await self._run_row(name, step, self.backlog.begin_one(name))
        except RaypipeError as error:
            self.stop_for(error)
        except OSError as error:
            self.stop_for(InfrastructureError(f"worker {self._name!r} cannot go on: {error}"))
        finally:
            lost = sys.exception()
            if lost is not None and not is_cancelled():
                # A defect, or what no step may raise: its row has no end.
                self.stop_for(InfrastructureError(f"worker {self._name!r} broke: {describe(lost)}"))
            # Now, not once the loop reports the task as done: rows that come until then would find no coroutine.
            self._working -= 1
            self.tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            rows_ended = (mailbox.rows for mailbox in self._mailboxes.values())
            if not self.backlog.begun and any(rows >= _WORTH_AN_EXCHANGE for rows in rows_ended):
                self.idle.set()

    async def _run_batch(self, name: str, step: Step) -> None:
        self.backlog.with_batch.add(name)
        if self.backlog.waiting(name) < step.input_batch_size:
            await asyncio.sleep(FLUSH_S)  # others may be on their way
        try:
            await self._run_in_thread(name, step, self.backlog.begin(name, step.input_batch_size))
        finally:
            self.backlog.with_batch.discard(name)

    @works_for("name")
    async def _run_row(self, name: str, step: Step, item: Item) -> None:
        caller = RowCaller(self._context, name, item.row_id) if self._context is not None else None
        llm: Caller = caller or NoModel(name)
        counts = caller.counts if caller is not None else CallCounts()
        output: Output = None
        with Boundary() as boundary:
            output = await step.process_row(item.row, llm)
        del self.backlog.begun[item]
        if caller is not None and caller.is_halted:
            mailbox = self._mailboxes[item.sender]
            mailbox.results[name].end(item.place, UNFINISHED, counts)
            mailbox.notify()
        else:
            made = accept(name, step, output) if boundary.error is None else boundary.error
            self._deliver(name, item, made, counts)

    async def _run_in_thread(self, name: str, step: Step, items: list[Item]) -> None:
        outputs = await asyncio.get_running_loop().run_in_executor(
            self._threads, _process, name, step, [item.row for item in items]
        )
        for item in items:
            del self.backlog.begun[item]
        counts = CallCounts()
        for item, output in zip(items, outputs, strict=True):
            self._deliver(name, item, output, counts)

    def _deliver(self, name: str, item: Item, made: Rows | Exception | None, counts: CallCounts) -> None:
        """Put what a row became into the mailbox of its sender. Raises what is no failure of the row."""
        mailbox = self._mailboxes[item.sender]
        results = mailbox.results[name]
        if isinstance(made, Exception):
            if isinstance(made, RaypipeError) and not isinstance(made, RowError):
                raise made
            step = self._steps[name]
            if step.on_error == "null":
                results.complete(item.place, (dict.fromkeys(step.writes()),), counts, make_failure(made))
            else:
                results.fail(item.place, make_failure(made), counts)
            self._failed_rows += 1
            if self._failed_rows == FIRST_ROWS:
                self.has_news = True
                self.idle.set()
            if step.on_error == "stop":
                self.halted_for = f"step {name!r} stops the run for a row that failed: {error_text(made)}"
                if self._context is not None:
                    self._context.selector.halt(self.halted_for)
        elif made is None:
            results.end(item.place, FILTERED, counts)
        else:
            results.complete(item.place, made, counts)
        mailbox.notify()


def _process(name: str, step: Step, rows: Sequence[Values]) -> list[Rows | Exception | None]:
    """What a step makes of each row, or what it raises, in this thread. A batch that raises is run row by row."""
    made: list[Any] | None = None
    if step.is_given_batches:
        with Boundary():
            made = step.process_batch_in_thread(rows)
    if made is None:
        made = []
        for row in rows:
            with Boundary() as boundary:
                made.append(step.process_row_in_thread(row))
            if boundary.error is not None:
                made.append(boundary.error)
    return [one if isinstance(one, Exception) else accept(name, step, one) for one in made]

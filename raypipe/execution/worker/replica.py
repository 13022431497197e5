"""I run a step's row program on one model, and only here does an exception become a failed row.

Rows wait in a queue and coroutines pull them one by one, the deepest step first, so a slow row
holds up no other. I am a plain class: inside a Ray actor or in this process, the same.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from raypipe.calls.index import CallIndex, CallReader, index_with_segments, load_index
from raypipe.concurrency.loop_lag import works_for
from raypipe.concurrency.threads import DaemonThreads
from raypipe.contracts.llm import LLM, Caller
from raypipe.contracts.model_pool import ModelOrPool, change_members
from raypipe.contracts.step import Output, Runs, Step
from raypipe.errors import InfrastructureError, RaypipeError, RowError
from raypipe.execution.context import RunContext
from raypipe.execution.counts import CallCounts
from raypipe.execution.wire import FLUSH_S, Answer, Chunk, Reply, Sender, WorkerStatus
from raypipe.execution.worker.backlog import Backlog, Item
from raypipe.execution.worker.boundary import Boundary, close_step, is_cancelled, named, process_rows, said
from raypipe.execution.worker.caller import NoModel, RowCaller
from raypipe.execution.worker.mailbox import Mailbox
from raypipe.execution.worker.model_selection import Backend, Desk, Log, make_backends
from raypipe.execution.worker.outcomes import Rows, accepted, failure_of
from raypipe.limits.limiter import LeaseSource
from raypipe.plan.plan import Pool
from raypipe.row import Values

_TASKS_A_PERMIT = 2
"""Row coroutines for each call that may be in flight, so that one which waits for the log keeps no permit idle."""
_MOST_ROWS_A_THREAD = 1024
_WORTH_TELLING = 256
"""Rows for which an exchange is worth its cost though more might come: a worker that rests waits for new ones."""


@dataclass(frozen=True)
class ReplicaSetup:
    """What a replica is made from; plain data that travels to its worker."""

    name: str
    pool: Pool
    steps: Mapping[str, Step]
    """The steps that work here, the deepest first."""
    run: RunContext

    def reached(self, llm: ModelOrPool) -> ModelOrPool:
        """The model as it is reached from here."""
        return change_members(llm, self._at_its_server)

    def _at_its_server(self, llm: LLM) -> LLM:
        address = self.run.servers.get(llm.server_key) if llm.serve else None
        return llm if address is None else llm.model_copy(update={"base_url": address})


class Replica:
    """One worker of a pool, bound to one model."""

    def __init__(self, setup: ReplicaSetup, index: CallIndex, log: Log, coordinator: LeaseSource) -> None:
        self.name = setup.name
        self.concurrency = setup.pool.rows
        self.setup = setup
        self._steps = setup.steps
        self._opened: dict[str, Step] = {}
        self._backlog = Backlog(setup.steps)
        self._mailboxes: dict[str, Mailbox] = {}
        self._stages: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rested = asyncio.Event()
        """Nothing is worked on and there is much to tell: no use in gathering more."""
        self._working = 0
        """Coroutines that still look for rows."""
        self._most_tasks = setup.pool.concurrency * (1 if setup.pool.llm is None else _TASKS_A_PERMIT)
        self._halted_for = ""
        self._fatal: RaypipeError | None = None
        self._index = index
        self._known_epoch = 0
        self._threads = DaemonThreads(setup.pool.concurrency) if setup.pool.llm is None else None
        self._desk = None if setup.pool.llm is None else self._open_desk(log, coordinator)

    def _open_desk(self, log: Log, coordinator: LeaseSource) -> Desk:
        setup = self.setup
        asked: list[tuple[ModelOrPool, list[Backend]]] = []
        for llm in setup.pool.llms:
            beside = asked[0][1][0] if asked else None
            options = (self.name, setup.pool.most, coordinator, setup.run.options.caps, beside)
            asked.append((llm, make_backends(setup.reached(llm), *options)))
        forgotten = frozenset(name for name, step in self._steps.items() if not step.use_cache)
        return Desk(
            [member for _, members in asked for member in members],
            log,
            CallReader(self._index),
            setup.run,
            forgotten=forgotten,
            of_step={name: members for name, step in self._steps.items() for llm, members in asked if llm == step.llm},
        )

    async def open(self) -> None:
        """Get model and steps ready. Raises RaypipeError when the run cannot go on."""
        for name, step in self._steps.items():
            step.keep_artifacts_in(self.setup.run.artifacts)
            with Boundary() as boundary:
                step.open()
            if isinstance(boundary.error, RaypipeError):
                raise boundary.error
            if boundary.error is not None:
                raise InfrastructureError(f"step {name!r} cannot be loaded: {named(boundary.error)}") from None
            self._opened[name] = step
        if self._desk is not None:
            await self._desk.open()

    async def halt(self, reason: str) -> None:
        """Send no call any more. Calls in flight are finished; a row that needs another is left as it is."""
        if self._desk is not None:
            self._desk.halt(reason)
        for mailbox in self._mailboxes.values():
            mailbox.tell()

    async def pulse(self) -> str:
        """Nothing to tell: who asks lives in the same event loop."""
        return ""

    async def examine(self) -> str:
        """As `pulse`."""
        return ""

    async def close(self) -> None:
        """Stop working; rows that have not ended are dropped."""
        self._backlog.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._desk is not None:
            await self._desk.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        while self._opened:
            close_step(*self._opened.popitem())

    async def exchange(self, sender: Sender, chunks: list[Chunk], flush_s: float = FLUSH_S) -> Reply:
        """Take new rows of `sender`; come back when some of its rows ended, at the latest after 5 s.

        Answers are gathered for `flush_s`, if there are rows to work on meanwhile.
        A later exchange of the same sender ends an earlier one that still waits.
        """
        mailbox = self._mailboxes.get(sender.name)
        if mailbox is None:
            self._forget_predecessor(sender.stage)
            mailbox = self._mailboxes[sender.name] = Mailbox(self._steps, self.setup.run.options.bounds.batch_bytes)
        self._look_back(max([self._known_epoch, *(chunk.epoch for chunk in chunks)]))
        for chunk in chunks:
            self._backlog.add(sender.name, chunk)
            self._begin(1)
        if not await mailbox.wait():
            return self._reply(sender.name, [])
        if self._tasks and self._fatal is None:
            await self._gather(flush_s)
        if self._fatal is not None:
            raise self._fatal
        return self._reply(sender.name, mailbox.take())

    def _reply(self, sender: str, answers: list[Answer]) -> Reply:
        """What is told now, and how many rows of the sender are still here."""
        held = self._backlog.held if len(self._mailboxes) == 1 else self._backlog.held_for(sender)
        return Reply(answers, self.status(), held + self._mailboxes[sender].rows)

    async def _gather(self, flush_s: float) -> None:
        """Wait for more to tell: for a moment, and up to `flush_s` as long as rows wait to be worked on."""
        for _ in range(round(flush_s / FLUSH_S)):
            self._rested.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._rested.wait()
            if self._fatal is not None or not (self._backlog.next_step() or self._backlog.begun > self.concurrency):
                return

    def _forget_predecessor(self, stage: int) -> None:
        """A second conductor of one stage redoes what the first, which is gone, had here."""
        if stage in self._stages:
            self._backlog.clear()
            self._look_back(self._known_epoch + 1)
        self._stages.add(stage)

    def _look_back(self, epoch: int) -> None:
        """Rows are redone: what this run's workers have logged so far, lost ones too, is known from now on."""
        if epoch > self._known_epoch and self._desk is not None:
            self._known_epoch = epoch
            run = self.setup.run
            index = index_with_segments(self._index, run.calls, run.owner)
            self._desk.known = CallReader(index)
            if self._desk.forgotten:
                nothing = load_index(run.calls, known=False)
                recent = index_with_segments(nothing, run.calls, run.owner)
                self._desk.known_of_this_run = CallReader(recent)

    def status(self) -> WorkerStatus:
        held, (oldest_s, oldest_step) = self._backlog.held, self._backlog.oldest()
        if self._desk is None:
            there, why = len(self._tasks), self._halted_for
            return WorkerStatus(there, held=held, oldest_s=oldest_s, halted_for=why, oldest_step=oldest_step)
        desk, total = self._desk, self._desk.total
        return WorkerStatus(
            desk.in_flight,
            total.calls_sent,
            total.calls_cached,
            total.input_tokens,
            total.output_tokens,
            held,
            desk.waits_for,
            oldest_s,
            desk.halted_for,
            tuple(desk.figures()),
            oldest_step,
        )

    def _begin(self, count: int) -> None:
        """Start coroutines, then twice as many as long as rows still wait: one is enough for rows that need no call."""
        while count and self._can_begin():
            count -= 1
            self._working += 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            if not count:
                asyncio.get_running_loop().call_soon(self._begin, 2 * self._working)

    def _can_begin(self) -> bool:
        return self._fatal is None and self._working < self._most_tasks and bool(self._backlog.next_step())

    async def _work(self) -> None:
        """Row after row until none waits."""
        try:
            while self._fatal is None and (name := self._backlog.next_step()):
                await self._take_from(name)
        except RaypipeError as error:
            self.stop_for(error)
        except OSError as error:
            self.stop_for(InfrastructureError(f"worker {self.name!r} cannot go on: {error}"))
        finally:
            lost = sys.exception()
            if lost is not None and not is_cancelled():
                # A defect, or what no step may raise: its row has no end.
                self.stop_for(InfrastructureError(f"worker {self.name!r} broke: {named(lost)}"))
            # Now, not once the loop has told that the task is done: rows that come until then would find nobody.
            self._working -= 1
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            if not self._backlog.begun and any(mailbox.rows >= _WORTH_TELLING for mailbox in self._mailboxes.values()):
                self._rested.set()

    async def _take_from(self, name: str) -> None:
        step = self._steps[name]
        if step.is_given_batches:
            await self._run_batch(name, step)
        elif step.runs is Runs.THREAD:
            share = min(_MOST_ROWS_A_THREAD, -(-self._backlog.waiting(name) // self.setup.pool.concurrency))
            await self._run_in_thread(name, step, self._backlog.begin(name, share))
        else:
            await self._run_row(name, step, self._backlog.begin_one(name))

    async def _run_batch(self, name: str, step: Step) -> None:
        self._backlog.begin_batch(name)
        if self._backlog.waiting(name) < step.input_batch_size:
            await asyncio.sleep(FLUSH_S)  # others may be on their way
        try:
            await self._run_in_thread(name, step, self._backlog.begin(name, step.input_batch_size))
        finally:
            self._backlog.end_batch(name)

    def stop_for(self, error: RaypipeError) -> None:
        """No row is begun any more; every exchange raises what ended the work."""
        self._fatal = self._fatal or error
        for mailbox in self._mailboxes.values():
            mailbox.tell()

    @works_for("name")
    async def _run_row(self, name: str, step: Step, item: Item) -> None:
        caller = RowCaller(self._desk, name, item.row_id) if self._desk is not None else None
        llm: Caller = caller or NoModel(name)
        counts = caller.counts if caller is not None else CallCounts()
        output: Output = None
        with Boundary() as boundary:
            output = await step.process_row(item.row, llm)
        self._backlog.end_one(item)
        if caller is not None and caller.is_halted:
            mailbox = self._mailboxes[item.sender]
            mailbox.results[name].unfinished(item.place, counts)
            mailbox.tell()
        else:
            made = accepted(name, step, output) if boundary.error is None else boundary.error
            self._ended(name, item, made, counts)

    async def _run_in_thread(self, name: str, step: Step, items: list[Item]) -> None:
        outputs = await asyncio.get_running_loop().run_in_executor(
            self._threads, _processed, name, step, [item.row for item in items]
        )
        self._backlog.end(items)
        counts = CallCounts()
        for item, output in zip(items, outputs, strict=True):
            self._ended(name, item, output, counts)

    def _ended(self, name: str, item: Item, made: Rows | Exception | None, counts: CallCounts) -> None:
        mailbox = self._mailboxes[item.sender]
        if isinstance(made, Exception):
            self._failed(name, item, made, counts)
        elif made is None:
            mailbox.results[name].filtered(item.place, counts)
        else:
            mailbox.results[name].done(item.place, made, counts)
        mailbox.tell()

    def _failed(self, name: str, item: Item, error: Exception, counts: CallCounts) -> None:
        if isinstance(error, RaypipeError) and not isinstance(error, RowError):
            raise error
        step, mailbox = self._steps[name], self._mailboxes[item.sender]
        if step.on_error == "null":
            mailbox.results[name].done(item.place, (dict.fromkeys(step.writes()),), counts)
        else:
            mailbox.results[name].failed(item.place, failure_of(error), counts)
        if step.on_error == "stop":
            self._halted_for = f"step {name!r} stops the run for a row that failed: {said(error)}"
            if self._desk is not None:
                self._desk.halt(self._halted_for)
        mailbox.tell()


def _processed(name: str, step: Step, rows: Sequence[Values]) -> list[Rows | Exception | None]:
    """What a step makes of rows, in this thread."""
    made = process_rows(step, rows)
    return [one if isinstance(one, Exception) else accepted(name, step, one) for one in made]

"""Carries rows from step to step until each has ended. Knows pools and workers by name only.

Each step that works in a pool has a queue of Arrow tables. For each worker a coroutine keeps a window of rows with it,
the deepest step first, and takes back what has ended; `row_flow` decides where those rows go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from raypipe.concurrency.background import TaskOwner, TaskScope
from raypipe.concurrency.deadlines import LOOK_EVERY_S
from raypipe.concurrency.loop_lag import LoopLag
from raypipe.errors import InfrastructureError, RaypipeError, ReplicaLostError
from raypipe.execution.conductor.batch_writer import BatchWriter
from raypipe.execution.conductor.batches import BatchResult
from raypipe.execution.conductor.dispatch import Dispatcher
from raypipe.execution.conductor.draining import Drain
from raypipe.execution.conductor.failure_rates import FailureRates
from raypipe.execution.conductor.ledger import BatchLedger
from raypipe.execution.conductor.queues import StepQueue, open_queues
from raypipe.execution.conductor.recovery import Recovery, Replaceable
from raypipe.execution.conductor.row_flow import Router
from raypipe.execution.conductor.scaling import Scaler, ScalingPool
from raypipe.execution.conductor.spill import end_spilled, read_spilled
from raypipe.execution.conductor.watchdog import Watchdog
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.counts import StepCounts
from raypipe.execution.wire import Reply, Sender, Worker, WorkerStatus
from raypipe.plan.plan import Stage
from raypipe.storage.paths import AnyPath
from raypipe.values.byte_bounds import Bounds

_SETTLE_S = 0.002


class Pool(ScalingPool, Replaceable, Protocol):
    """The workers of one model."""

    workers: list[Any]
    """Each is a `Worker`."""


@dataclass(frozen=True)
class ConductorSetup:
    """What a conductor is made from; plain data that travels to its process."""

    name: str
    """Unlike that of any other conductor whose rows the same workers have."""
    stage: Stage
    parts: AnyPath
    """Folder for part files."""
    drain_s: float = 60.0
    """How long calls in flight are waited for when the run is stopped."""
    share: float = 1.0
    """Its share of each worker's window, when several conductors feed the same workers."""
    phase: frozenset[str] = frozenset()
    """Steps whose workers are loaded; all where none is named."""
    bounds: Bounds = field(default_factory=Bounds)
    look_every_s: float = LOOK_EVERY_S
    """How often the watchdog looks at the workers."""
    max_failure_rate: float | None = None
    """Share of a step's last rows that may not fail for one kind of reason; `None`: all may."""


@dataclass(frozen=True)
class Snapshot:
    """What a conductor sees, for progress."""

    counts: Mapping[str, StepCounts]
    queued: Mapping[str, int]
    workers: Mapping[str, WorkerStatus]
    """By name."""


class Conductor:
    """Feeds the workers of one stage; lives in one event loop."""

    def __init__(self, setup: ConductorSetup, pools: Mapping[str, Pool]) -> None:
        stage, bounds = setup.stage, setup.bounds
        self._setup = setup
        self._sender = Sender(stage.index, setup.name)
        self._pools = pools
        self._tasks = TaskOwner(self.stop_for)
        self._start = partial(self._tasks.start, what="the conductor")
        self._room, self._wanted = asyncio.Event(), asyncio.Event()
        self._queues = open_queues(stage, setup.phase, pools, bounds)
        shown = {name: planned.shown or name for name, planned in stage.steps.items()}
        self._rates = FailureRates(shown, setup.max_failure_rate)
        self._ledger = BatchLedger(stage.steps, bounds, self._rates)
        self._router = Router(stage, self._queues, self._ledger, bounds)
        self._writer = BatchWriter(setup.parts, self._ledger, self._tasks, self._settle, self._end_calls)
        self._recovery = Recovery(pools, self._router, self._queues, self._wanted)
        self._dispatcher = Dispatcher(self._queues, self._router, self._recovery, setup.share, bounds)
        self._slots = self._dispatcher.slots
        changes = (self._add_worker, self._remove_worker, self._start, self.stop_for)
        self._scaler = Scaler(pools, self._queues, self._slots, *changes)
        self._watchdog = Watchdog(self._slots, self._awaited, self.stop_for, setup.look_every_s)
        asking = {step.pool for step in stage.steps.values() if step.step.llm is not None}
        self._drain = Drain(self._router, self._ledger.totals, self._slots, asking)
        self._lag = LoopLag()
        self._has_left = False
        self.halted_for = ""
        """Why no call is sent any more; empty while calls are."""

    async def open(self) -> None:
        """Start feeding the workers, in this event loop."""
        for name, pool in self._pools.items():
            for worker in pool.workers:
                self._add_worker(name, worker)
        self._tasks.start(self._watchdog.run(), "the watchdog over the workers", is_endless=True)
        self._tasks.start(self._lag.run(), "the watch over the event loop", is_endless=True)
        self._start(self._scaler.run())

    async def close(self) -> None:
        """End all tasks, within seconds."""
        await self._tasks.close()

    async def _serve(self, slot: WorkerSlot) -> None:
        """Send rows, wait, take what has ended; without a bound, since the watchdog marks a slot as lost."""
        async with TaskScope() as scope:
            exchanges: set[asyncio.Task[Reply]] = set()
            while self._writer.error is None:
                chunks = self._dispatcher.chunks_for(slot, is_halted=bool(self.halted_for))
                if chunks or not exchanges:
                    slot.is_alone = not exchanges
                    exchange = slot.worker.exchange(self._sender, chunks, self._dispatcher.flush_s(slot))
                    exchanges.add(scope.start(exchange))
                rung = scope.start(slot.bell.wait())
                await asyncio.wait({rung, *exchanges}, return_when=asyncio.FIRST_COMPLETED)
                is_rung = not rung.cancel()
                slot.bell.clear()
                try:
                    for task in [task for task in exchanges if task.done()]:
                        exchanges.discard(task)
                        self._take(slot, task.result())
                    if slot.lost is not None:
                        raise slot.lost
                except ReplicaLostError as error:
                    for task in exchanges:
                        task.cancel()
                    exchanges.clear()
                    await self._replace(slot, error)
                    if self.halted_for:
                        return
                except RaypipeError as error:
                    self.stop_for(error)
                if is_rung:
                    await asyncio.sleep(_SETTLE_S)

    def _take(self, slot: WorkerSlot, reply: Reply) -> None:
        slot.status = reply.status
        if self._has_left:
            return
        if reply.status.halted_for:
            self.halt(reply.status.halted_for, self._setup.drain_s)
        for answer in reply.answers:
            self._router.take_answer(slot.window, answer)
        if reply.answers:
            self._settle()
        if missing := slot.note_reply(reply.kept):
            problem = f"worker {slot.worker.name!r} no longer has {missing} rows that were sent to it"
            self.stop_for(InfrastructureError(f"{problem}; run the same command again to go on"))

    def _settle(self) -> None:
        """After anything ended: write what is ready, look for work for every worker, let batches in.

        Where too many rows of a step have failed alike, the run is halted.
        """
        if self._rates.problem:
            self.halt(self._rates.problem, self._setup.drain_s)
        self._writer.write(self._router.take_ready())
        if not self._writer.pending:
            self._wanted.clear()
        for slot in self._slots:
            slot.bell.set()
        if not self._router.is_full:
            self._room.set()

    async def _replace(self, slot: WorkerSlot, lost: ReplicaLostError) -> None:
        """A worker is gone: its rows go to others, another worker comes in its place."""
        self._recovery.epoch += 1
        if self.halted_for:
            for step, rows in slot.window.take_back():
                self._router.leave(step, rows)
            self._settle()
            return
        slot.status = None
        self._recovery.requeue(slot, lost)
        self._settle()
        try:
            await self._recovery.replace(slot, lost)
        except RaypipeError as error:
            self.stop_for(error)

    def _add_worker(self, pool: str, worker: Worker) -> None:
        slot = self._dispatcher.add(pool, worker)
        slot.serving = self._start(self._serve(slot))

    def _remove_worker(self, slot: WorkerSlot) -> None:
        """Feed a worker no more that has no rows."""
        self._slots.remove(slot)
        if slot.serving is not None:
            self._tasks.dismiss(slot.serving)

    def snapshot(self) -> Snapshot:
        """May be called in any thread."""
        held_up = self._lag.described("this process")
        workers = {slot.worker.name: slot.describe(held_up) for slot in list(self._slots)}
        queued = {name: queue.rows for name, queue in self._queues.items()}
        return Snapshot(self._ledger.totals, queued, {name: one for name, one in workers.items() if one is not None})

    async def wait_for_room(self) -> None:
        """Wait while the first queues are long: until rows have ended, or the run ends."""
        while self._writer.error is None and not self.halted_for and self._router.is_full:
            self._room.clear()
            await self._room.wait()

    async def run_batch(self, rows: pa.Table) -> BatchResult:
        """Carry one batch of stage entry rows (with lineage) to their ends; one that comes after a halt is not begun.

        Raises RaypipeError when the run cannot go on.
        """
        if self._writer.error is not None:
            raise self._writer.error
        if self.halted_for:
            return BatchResult((), {}, self.halted_for)
        return await self._carry(self._router.enter(rows))

    async def resume_batch(self, path: str) -> BatchResult:
        """Go on with a spilled batch; after a halt its rows stay unfinished.

        Raises RaypipeError when the run cannot go on.
        """
        if self._writer.error is not None:
            raise self._writer.error
        if self.halted_for:
            return await asyncio.to_thread(end_spilled, path, self._setup.parts, self.halted_for)
        spilled = await asyncio.to_thread(read_spilled, path, self._setup.parts)
        return await self._carry(self._router.resume(spilled))

    async def _carry(self, number: int) -> BatchResult:
        """What comes of a batch that was taken in."""
        result = self._writer.pending[number] = asyncio.get_running_loop().create_future()
        self._wanted.set()
        self._settle()
        return replace(await result, halted_for=self.halted_for)

    def halt(self, reason: str, drain_s: float) -> None:
        """Send no call any more. Rows that can end without one, or with those in flight, end within `drain_s`.

        A later call with a `drain_s` of 0 leaves those that have not ended unfinished at once.
        """
        if self.halted_for and (drain_s or self._has_left):
            return
        self.halted_for = self.halted_for or reason
        self._room.set()
        for slot in self._slots:
            self._start(slot.worker.halt(reason))
        self._start(self._leave_all(drain_s))

    async def drain(self, reason: str) -> None:
        """Halt, and wait until every batch is through: a call in flight is paid for, so its answer is kept."""
        self.halt(reason, self._setup.drain_s)
        await asyncio.gather(*self._writer.pending.values(), return_exceptions=True)

    async def _end_calls(self) -> None:
        """Rows cannot be written: send no call any more, and wait for those in flight."""
        self.halt("rows cannot be written", self._setup.drain_s)
        await self._drain.wait_for_calls(self._setup.drain_s)

    async def _leave_all(self, drain_s: float) -> None:
        """Wait for calls in flight; the rows that have not ended then stay unfinished."""
        await self._drain.wait_for_calls(drain_s)
        self._has_left = True
        self._recovery.leave_quarantined()
        self._drain.leave_all()
        self._settle()

    def stop_for(self, error: RaypipeError) -> None:
        """End the run: every wait for a batch or for room ends."""
        self._writer.fail(error)
        self._room.set()

    def _awaited(self) -> Mapping[str, StepQueue] | None:
        """The queues, while rows that have not ended must be with a worker or in one of them."""
        may_stand = self._scaler.is_growing or self._recovery.has_quarantined or self._ledger.is_writing
        is_through = all(result.done() for result in self._writer.pending.values())
        return None if may_stand or is_through else self._queues

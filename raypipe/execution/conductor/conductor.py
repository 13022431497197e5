"""I carry rows from step to step until each has ended; I know pools by name only.

Each step that works in a pool has a queue of Arrow tables. For each worker a coroutine keeps a window of rows
with it, the deepest step first, and takes back what has ended; `row_flow` says where those rows go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Protocol

import pyarrow as pa

from raypipe.concurrency.background import TaskOwner, TaskScope
from raypipe.concurrency.deadlines import LOOK_EVERY_S
from raypipe.concurrency.loop_lag import LoopLag
from raypipe.errors import InfrastructureError, RaypipeError, ReplicaLostError
from raypipe.execution.conductor.batches import Batch, BatchResult, Finished, Writing, resolve, unwritable
from raypipe.execution.conductor.draining import Drain
from raypipe.execution.conductor.in_flight_window import InFlightWindow
from raypipe.execution.conductor.queues import StepQueue, homes_of
from raypipe.execution.conductor.recovery import Recovery, Replaceable
from raypipe.execution.conductor.row_flow import Router
from raypipe.execution.conductor.scaling import Scaler, ScalingPool
from raypipe.execution.conductor.spill import SpilledBatch, ended, read_spilled
from raypipe.execution.conductor.watchdog import Watch
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.counts import StepCounts
from raypipe.execution.wire import FED_FLUSH_S, FLUSH_S, Chunk, Reply, Sender, Worker, WorkerStatus
from raypipe.plan.plan import Stage
from raypipe.storage.paths import AnyPath
from raypipe.values.byte_bounds import Bounds

_SETTLE_S = 0.002


class Pool(ScalingPool, Replaceable, Protocol):
    """The workers of one model."""

    @property
    def workers(self) -> Sequence[Any]:
        """Each is a `Worker`."""
        ...


@dataclass(frozen=True)
class ConductorSetup:
    """What a conductor is made from; plain data that travels to its worker."""

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
    """Steps whose workers are there; all unless some are named."""
    bounds: Bounds = field(default_factory=Bounds)
    look_every_s: float = LOOK_EVERY_S
    """How often the watch over the workers looks."""


@dataclass(frozen=True)
class Snapshot:
    """What a conductor sees, for progress."""

    counts: Mapping[str, StepCounts]
    queued: Mapping[str, int]
    workers: Mapping[str, WorkerStatus]
    """By worker name."""


class Conductor:
    """Feeds the workers of one stage; lives in one event loop."""

    def __init__(self, setup: ConductorSetup, pools: Mapping[str, Pool]) -> None:
        self._setup = setup
        self._sender = Sender(setup.stage.index, setup.name)
        self._pools = pools
        self._router = Router(setup.stage, setup.phase, homes_of(setup.stage, pools), setup.bounds)
        self._results: dict[int, asyncio.Future[BatchResult]] = {}
        self._slots: list[WorkerSlot] = []
        self._tasks = TaskOwner(self.stop_for)
        self._room, self._wanted = asyncio.Event(), asyncio.Event()
        changes = (self._begin, self._end, self._start, self.stop_for)
        self._scaler = Scaler(pools, self._router.queues, self._slots, *changes)
        self._recovery = Recovery(pools, self._router, self._settle, self._wanted)
        self._watch = Watch(self._slots, self._awaited, self.stop_for, setup.look_every_s)
        asking = {step.pool for step in setup.stage.steps.values() if step.step.llm is not None}
        self._drain = Drain(self._router, self._slots, asking)
        self._lag = LoopLag()
        self._has_left = False
        self.halted_for = ""
        """Why no call is sent any more; empty while calls are."""
        self._fatal: RaypipeError | None = None

    def open(self) -> None:
        """Start feeding the workers; call inside the event loop."""
        for name, pool in self._pools.items():
            for worker in pool.workers:
                self._begin(name, worker)
        self._tasks.start(self._watch.run(), "the watch over the workers", is_endless=True)
        self._tasks.start(self._lag.run(), "the watch over the event loop", is_endless=True)
        self._start(self._scaler.run())

    def _begin(self, pool: str, worker: Worker) -> None:
        """Feed one more worker."""
        deepest_first = reversed(list(self._router.queues.items()))
        queues = {name: queue for name, queue in deepest_first if queue.pool == pool}
        taken = {slot.window.home for slot in self._slots if slot.pool == pool}
        home = next(number for number in count() if number not in taken)
        share, bounds = self._setup.share, self._setup.bounds
        window = InFlightWindow(queues, self._router.is_congested, worker.concurrency, share, home, bounds)
        slot = WorkerSlot(worker, window, pool)
        self._slots.append(slot)
        slot.serving = self._start(self._serve(slot))

    def _end(self, slot: WorkerSlot) -> None:
        """Feed a worker no more that has no rows."""
        self._slots.remove(slot)
        if slot.serving is not None:
            self._tasks.dismiss(slot.serving)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return self._tasks.start(work, "the conductor")

    async def close(self) -> None:
        """End all that goes on, within seconds."""
        await self._tasks.close()

    def snapshot(self) -> Snapshot:
        """Any thread may ask."""
        held_up = self._lag.described("this process")
        workers = {slot.worker.name: slot.seen(held_up) for slot in list(self._slots)}
        queued = {name: queue.rows for name, queue in self._router.queues.items()}
        return Snapshot(self._router.totals, queued, {name: one for name, one in workers.items() if one is not None})

    async def room(self) -> None:
        """Wait while the first queues are long: until rows have ended, or the run ends."""
        while self._fatal is None and not self.halted_for and self._router.is_full:
            self._room.clear()
            await self._room.wait()

    async def run_batch(self, rows: pa.Table) -> BatchResult:
        """Carry one batch of stage entry rows (with lineage) to their ends.

        Of a batch that comes after the run was halted nothing is begun. Raises RaypipeError when the run cannot go on.
        """
        if self._fatal is not None:
            raise self._fatal
        if self.halted_for:
            return BatchResult((), {}, self.halted_for)
        return await self._carried(self._router.enter(rows))

    async def resume_batch(self, path: str) -> BatchResult:
        """Go on with a batch that was put away; its rows are left as they are once the run was halted.

        Raises RaypipeError when the run cannot go on.
        """
        if self._fatal is not None:
            raise self._fatal
        if self.halted_for:
            return await asyncio.to_thread(ended, path, self._setup.parts, self.halted_for)
        spilled = await asyncio.to_thread(read_spilled, path, self._setup.parts)
        return await self._carried(self._router.resume_spilled(spilled))

    async def _carried(self, number: int) -> BatchResult:
        result = self._results[number] = asyncio.get_running_loop().create_future()
        self._wanted.set()
        self._settle()
        return await result

    def halt(self, reason: str, drain_s: float) -> None:
        """No call is sent any more. Rows that can end without one, or with those in flight, end within `drain_s`.

        Later on, with a `drain_s` of 0, those that have not ended are left as they are.
        """
        if self.halted_for and (drain_s or self._has_left):
            return
        self.halted_for = self.halted_for or reason
        self._room.set()
        for slot in self._slots:
            self._start(slot.worker.halt(reason))
        self._start(self._leave_all(drain_s))

    async def drained(self, reason: str) -> None:
        """Halt, and wait until every batch is through: a call in flight is paid for, its answer is to be kept."""
        self.halt(reason, self._setup.drain_s)
        await asyncio.gather(*self._results.values(), return_exceptions=True)

    async def _leave_all(self, drain_s: float) -> None:
        """Wait for calls in flight; the rows that have not ended then are left as they are."""
        await self._drain.calls(drain_s)
        self._has_left = True
        self._recovery.leave_suspects()
        self._drain.leave_all()
        self._settle()

    def _awaited(self) -> Mapping[str, StepQueue] | None:
        """The queues, while rows that have not ended must be with a worker or in one of them."""
        may_stand = self._scaler.is_growing or self._recovery.has_suspects or self._router.is_writing
        is_through = all(result.done() for result in self._results.values())
        return None if may_stand or is_through else self._router.queues

    async def _serve(self, slot: WorkerSlot) -> None:
        """Send rows, wait, take what has ended; without a bound of its own, since the watch marks a slot as lost."""
        async with TaskScope() as scope:
            exchanges: set[asyncio.Task[Reply]] = set()
            while self._fatal is None:
                chunks = self._chunks_for(slot)
                if chunks or not exchanges:
                    slot.asks(is_alone=not exchanges)
                    exchanges.add(scope.start(self._exchange(slot, chunks)))
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
                    await self._lose(slot, error)
                    if self.halted_for:
                        return
                except RaypipeError as error:
                    self.stop_for(error)
                if is_rung:
                    await asyncio.sleep(_SETTLE_S)

    async def _exchange(self, slot: WorkerSlot, chunks: list[Chunk]) -> Reply:
        return await slot.worker.exchange(self._sender, chunks, self._flush_s(slot))

    async def _lose(self, slot: WorkerSlot, lost: ReplicaLostError) -> None:
        """A worker is gone: its rows go to others, another worker comes in its place."""
        self._recovery.epoch += 1
        if self.halted_for:
            self._recovery.leave(slot)
            self._settle()
            return
        slot.status = None
        self._recovery.requeue(slot, lost)
        try:
            await self._recovery.replace(slot, lost)
        except RaypipeError as error:
            self.stop_for(error)

    def _chunks_for(self, slot: WorkerSlot) -> list[Chunk]:
        """What a worker should be sent now."""
        if not self.halted_for and self._recovery.tests(slot):
            return self._recovery.suspects_for(slot)
        return slot.window.fill(self._recovery.epoch, lambda home: self._has_room(slot.pool, home))

    def _has_room(self, pool: str, home: int) -> bool:
        return any(one.has_room for one in self._slots if one.pool == pool and one.window.home == home)

    def _flush_s(self, slot: WorkerSlot) -> float:
        """A worker may gather answers for longer while every step behind those that work there is at work."""
        behind = {after for step in slot.window.steps for after in self._router.behind(step)}
        return FED_FLUSH_S if all(self._is_fed(step) for step in behind) else FLUSH_S

    def _is_fed(self, step: str) -> bool:
        queue = self._router.queues[step]
        return bool(queue.rows) or all(slot.window.is_fed for slot in self._slots if slot.pool == queue.pool)

    def stop_for(self, error: RaypipeError) -> None:
        """End the run: everybody who waits is told so."""
        self._fatal = self._fatal or error
        self._room.set()
        for result in self._results.values():
            if not result.done():
                result.set_exception(error)

    def _take(self, slot: WorkerSlot, reply: Reply) -> None:
        slot.status = reply.status
        if self._has_left:
            return
        if reply.status.halted_for:
            self.halt(reply.status.halted_for, self._setup.drain_s)
        for answer in reply.answers:
            self._router.take(slot.window, answer)
        if reply.answers:
            self._settle()
        if missing := slot.heard(reply.kept):
            problem = f"worker {slot.worker.name!r} no longer knows of {missing} rows that were sent to it"
            self.stop_for(InfrastructureError(f"{problem}; run the same command again to go on"))

    def _settle(self) -> None:
        """After anything ended: write complete batches, look for work for every worker."""
        for finished in self._router.take_finished():
            self._start(self._flush(finished))
        for batch in (*self._router.take_complete(), *self._router.take_spilled()):
            task = self._tasks.start(self._written(batch), "the writing of a batch")
            task.add_done_callback(partial(resolve, self._results.pop(batch.number), self._unwritten))
        if not self._results:
            self._wanted.clear()
        for slot in self._slots:
            slot.bell.set()
        if not self._router.is_full:
            self._room.set()

    async def _written(self, batch: Batch | SpilledBatch) -> BatchResult:
        number = batch.number
        with Writing(self._setup.parts):
            written = await asyncio.to_thread(batch.write, self._setup.parts)
        self._router.forget(number)
        if not self._router.is_full:
            self._room.set()
        return replace(written, halted_for=self.halted_for)

    def _unwritten(self, error: BaseException) -> RaypipeError:
        return self._fatal or unwritable(self._setup.parts, error)

    async def _flush(self, finished: Finished) -> None:
        """Write rows of a batch that is not complete."""
        with Writing(self._setup.parts):
            part = await asyncio.to_thread(finished.write, self._setup.parts)
        self._router.written(finished, part)
        self._settle()

"""I carry rows from step to step until each has ended; I know pools by name only.

Each step that works in a pool has a queue of Arrow tables. For each worker a coroutine keeps a window of rows
with it, the deepest step first, and takes back what has ended; `routing` says where those rows go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import InfrastructureError, RaypipeError, ReplicaLostError
from raypipe.execution.batches import Batch, BatchResult, Counts, unwritable
from raypipe.execution.parking import Parked, ended, unparked
from raypipe.execution.queues import Lane, Outbox, homes_of
from raypipe.execution.routing import Router
from raypipe.execution.scaling import Scaler, ScalingPool
from raypipe.execution.standstill import standing_still
from raypipe.execution.suspects import Suspects, tried_again
from raypipe.execution.wire import FED_FLUSH_S, FLUSH_S, SILENT_S, Chunk, Reply, Vitals, Worker
from raypipe.places import Place
from raypipe.plan import Stage
from raypipe.row import ATTEMPT, Failure

_SUSPICIOUS = 2
"""So many workers were lost with a row: it may be the reason."""
_SETTLE_S = 0.002
_MOST_STILLBORN, _STILLBORN_PAUSE_S = 6, 1.0
"""Workers lost one after the other before they said anything; the first pause between two, which doubles."""
_WATCH_EVERY_S = 5.0
_DRAIN_EVERY_S, _GRACE_S = 0.05, 1.0
_LOST_S = 30.0
"""Rows that a worker does not know of for so long will never end."""


class Pool(ScalingPool, Protocol):
    """The workers of one model."""

    @property
    def workers(self) -> Sequence[Any]:
        """Each is a `Worker`."""
        ...

    async def replace(self, lost: Any) -> Worker:
        """A new worker in place of a lost one.

        Raises ReplicaLostError when it died at once, InfrastructureError when there can be none.
        """
        ...


@dataclass(frozen=True)
class ConductorSetup:
    """What a conductor is made from; plain data that travels to its worker."""

    name: str
    stage: Stage
    parts: Place
    """Folder for part files."""
    leaves: frozenset[str]
    drain_s: float = 60.0
    """How long calls in flight are waited for when the run is stopped."""
    share: float = 1.0
    """Its share of each worker's window, when several conductors feed the same workers."""
    phase: frozenset[str] = frozenset()
    """Steps whose workers are there; all unless some are named."""


@dataclass(frozen=True)
class Snapshot:
    """What a conductor sees, for progress."""

    counts: Mapping[str, Counts]
    queued: Mapping[str, int]
    vitals: Mapping[str, Vitals]
    """By worker name."""


class Conductor:
    """Feeds the workers of one stage; lives in one event loop."""

    def __init__(self, setup: ConductorSetup, pools: Mapping[str, Pool]) -> None:
        self._setup = setup
        self._pools = pools
        self._router = Router(setup.stage, setup.phase, homes_of(setup.stage, pools))
        self._results: dict[int, asyncio.Future[BatchResult]] = {}
        self._vitals: dict[str, Vitals] = {}
        self._lanes: list[Lane] = []
        self._suspects = {name: Suspects() for name in pools}
        self._tester: dict[str, Lane] = {}
        changes = (self._begin, self._end, self._start, self._stop_for)
        self._scaler = Scaler(pools, self._router.queues, self._lanes, *changes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._room, self._wanted = asyncio.Event(), asyncio.Event()
        self._losses = 0
        self._has_left = False
        self.halted_for = ""
        """Why no call is sent any more; empty while calls are."""
        self._fatal: RaypipeError | None = None

    def open(self) -> None:
        """Start feeding the workers; call inside the event loop."""
        for name, pool in self._pools.items():
            for worker in pool.workers:
                self._begin(name, worker)
        self._start(self._keep_watch())
        self._start(self._scaler.run())

    def _begin(self, pool: str, worker: Worker) -> None:
        """Feed one more worker."""
        deepest_first = reversed(list(self._router.queues.items()))
        queues = {name: queue for name, queue in deepest_first if queue.pool == pool}
        taken = {lane.outbox.home for lane in self._lanes if lane.pool == pool}
        home = next(number for number in count() if number not in taken)
        outbox = Outbox(queues, self._router.is_congested, worker.concurrency, self._setup.share, home)
        lane = Lane(worker, outbox, pool)
        self._lanes.append(lane)
        lane.serving = self._start(self._serve(self._pools[pool], lane))

    def _end(self, lane: Lane) -> None:
        """Feed a worker no more that has no rows."""
        self._lanes.remove(lane)
        self._vitals.pop(lane.worker.name, None)
        if lane.serving is not None:
            lane.serving.cancel()

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.add(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A defect of ours must end the run, never leave it waiting."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop_for(InfrastructureError(f"the conductor broke: {type(error).__name__}: {error}"))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def snapshot(self) -> Snapshot:
        queues = self._router.queues.items()
        return Snapshot(self._router.totals, {name: queue.rows for name, queue in queues}, dict(self._vitals))

    async def room(self) -> None:
        """Wait while the first queues are long."""
        while self._fatal is None and not self.halted_for and self._router.is_congested(self._setup.stage.entry):
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
            return await asyncio.to_thread(ended, path, self._setup.parts, self._setup.leaves, self.halted_for)
        parked = await asyncio.to_thread(unparked, path)
        return await self._carried(self._router.enter_parked(parked))

    async def _carried(self, number: int) -> BatchResult:
        result = self._results[number] = asyncio.get_running_loop().create_future()
        self._wanted.set()
        self._settle()
        return await result

    def halt(self, reason: str, drain_s: float) -> None:
        """No call is sent any more. Rows that can end without one, or with those in flight, end within `drain_s`."""
        if self.halted_for:
            return
        self.halted_for = reason
        self._room.set()
        for lane in self._lanes:
            self._start(lane.worker.halt(reason))
        self._start(self._drain(drain_s))

    async def drained(self, reason: str) -> None:
        """Halt, and wait until every batch is through: a call in flight is paid for, its answer is to be kept."""
        self.halt(reason, self._setup.drain_s)
        await asyncio.gather(*self._results.values(), return_exceptions=True)

    async def _drain(self, drain_s: float) -> None:
        """Wait for calls in flight, and a moment for the steps behind them; then leave the other rows."""
        loop = asyncio.get_running_loop()
        deadline, seen, moved = loop.time() + drain_s, -1, loop.time()
        while loop.time() < deadline and any(lane.outbox.rows for lane in self._lanes):
            ended = sum(counts.rows_done + counts.rows_unfinished for counts in self._router.totals.values())
            if ended != seen:
                seen, moved = ended, loop.time()
            if not self._calls_in_flight() and loop.time() > moved + _GRACE_S:
                break
            await asyncio.sleep(_DRAIN_EVERY_S)
        self._leave_all()

    def _calls_in_flight(self) -> int:
        asking = {step.pool for step in self._setup.stage.steps.values() if step.step.llm is not None}
        return sum(vitals.in_flight for worker, vitals in self._vitals.items() if worker.rpartition(":")[0] in asking)

    def _leave_all(self) -> None:
        """Rows that have not ended are left as they are."""
        self._has_left = True
        for suspects in self._suspects.values():
            while suspects:
                self._router.leave(*suspects.take())
        for lane in self._lanes:
            for step, rows in lane.outbox.take_back():
                self._router.leave(step, rows)
        while waiting := [queue for queue in self._router.queues.values() if queue.rows]:
            for queue in waiting:
                rows = queue.take(queue.rows)
                if rows is not None:
                    self._router.leave(queue.name, rows)
        self._router.leave_held()
        self._settle()

    async def _keep_watch(self) -> None:
        """Rows that nobody works on would keep the run waiting for ever."""
        since: dict[tuple[str, int], float] = {}
        while self._fatal is None:
            await asyncio.sleep(_WATCH_EVERY_S)
            # Where rows have ended meanwhile it is another standstill: each look saw a moment between two exchanges.
            moved = sum(lane.outbox.ended_rows for lane in self._lanes)
            may_stand = self._scaler.is_growing or any(self._suspects.values())
            may_stand = may_stand or all(result.done() for result in self._results.values())
            forgotten = standing_still(self._lanes, self._vitals, None if may_stand else self._router.queues)
            now, found = asyncio.get_running_loop().time(), {(what, moved): said for what, said in forgotten}
            since = {what: since.get(what, now) for what in found}
            for what, problem in found.items():
                if now - since[what] > _LOST_S:
                    self._stop_for(InfrastructureError(f"{problem}; run the same command again to go on"))

    async def _serve(self, pool: Pool, lane: Lane) -> None:
        exchanges: set[asyncio.Task[Reply]] = set()
        while self._fatal is None:
            chunks = self._chunks_for(lane)
            if chunks or not exchanges:
                exchanges.add(asyncio.create_task(self._exchange(lane, chunks)))
            rung = asyncio.create_task(lane.bell.wait())
            await asyncio.wait({rung, *exchanges}, return_when=asyncio.FIRST_COMPLETED)
            is_rung = not rung.cancel()
            lane.bell.clear()
            try:
                for task in [task for task in exchanges if task.done()]:
                    exchanges.discard(task)
                    self._take(lane, task.result())
            except ReplicaLostError as error:
                for task in exchanges:
                    task.cancel()
                exchanges.clear()
                await self._replace(pool, lane, error)
                if self.halted_for:
                    return
            except RaypipeError as error:
                self._stop_for(error)
            if is_rung:
                await asyncio.sleep(_SETTLE_S)

    def _chunks_for(self, lane: Lane) -> list[Chunk]:
        """What a worker should be sent now; one worker of a pool at a time tries suspects, with no other rows."""
        suspects, tester = self._suspects[lane.pool], self._tester.get(lane.pool)
        is_tester = tester is lane or (tester is None and bool(suspects))
        if self.halted_for or not is_tester:
            return lane.outbox.fill(self._losses, lambda home: self._has_room(lane.pool, home))
        self._tester[lane.pool] = lane
        if lane.outbox.rows:
            return []
        if not suspects:
            del self._tester[lane.pool]
            return lane.outbox.fill(self._losses)
        step, rows = suspects.take()
        return [lane.outbox.hold(step, rows, self._router.queues[step].for_worker(rows), self._losses)]

    def _has_room(self, pool: str, home: int) -> bool:
        return any(one.has_room for one in self._lanes if one.pool == pool and one.outbox.home == home)

    async def _exchange(self, lane: Lane, chunks: list[Chunk]) -> Reply:
        worker = lane.worker
        try:
            async with asyncio.timeout(SILENT_S):
                return await worker.exchange(self._setup.name, chunks, self._flush_s(lane))
        except TimeoutError:
            problem = f"worker {worker.name!r} gave no sign of life for {SILENT_S:.0f} s"
            raise ReplicaLostError(problem) from None

    def _flush_s(self, lane: Lane) -> float:
        """A worker may gather answers for longer while every step behind those that work there is at work."""
        behind = {after for step in lane.outbox.steps for after in self._router.behind(step)}
        return FED_FLUSH_S if all(self._is_fed(step) for step in behind) else FLUSH_S

    def _is_fed(self, step: str) -> bool:
        queue = self._router.queues[step]
        return bool(queue.rows) or all(lane.outbox.is_fed for lane in self._lanes if lane.pool == queue.pool)

    async def _replace(self, pool: Pool, lane: Lane, lost: ReplicaLostError) -> None:
        """Its unfinished rows go back to their queues; those that lost two workers are tried apart, one alone fails."""
        self._losses += 1
        if self.halted_for:
            for step, rows in lane.outbox.take_back():
                self._router.leave(step, rows)
            self._settle()
            return
        again = [(step, tried_again(rows)) for step, rows in lane.outbox.take_back()]
        suspects = [(step, rows.filter(pc.field(ATTEMPT) >= _SUSPICIOUS)) for step, rows in again]
        is_one = sum(rows.num_rows for _, rows in suspects) == 1
        for (step, rows), (_, suspicious) in zip(again, suspects, strict=True):
            self._router.queues[step].put_first(rows.filter(pc.field(ATTEMPT) < _SUSPICIOUS))
            if is_one and suspicious.num_rows:
                said = f"{lost} (worker {suspicious.column(ATTEMPT)[0]} that was lost with this row)"
                self._router.fail(step, suspicious, Failure("worker_lost", said))
            else:
                self._suspects[lane.pool].add(step, suspicious)
        self._settle()
        lane.stillborn = 0 if lane.worker.name in self._vitals else lane.stillborn + 1
        self._vitals.pop(lane.worker.name, None)
        lane.is_away = True
        try:
            await self._started_again(pool, lane, lost)
        except RaypipeError as error:
            self._stop_for(error)
        lane.is_away = False

    async def _started_again(self, pool: Pool, lane: Lane, lost: ReplicaLostError) -> None:
        """A new worker for a lane, once rows want one; those that die while they start are replaced, for a while."""
        await self._wanted.wait()
        while lane.stillborn < _MOST_STILLBORN:
            if lane.stillborn:
                # Its node may be gone without anybody knowing yet.
                await asyncio.sleep(_STILLBORN_PAUSE_S * 2 ** (lane.stillborn - 1))
            try:
                lane.worker = await pool.replace(lane.worker)
            except ReplicaLostError as error:
                lost, lane.stillborn = error, lane.stillborn + 1
            else:
                return
        raise InfrastructureError(f"worker {lane.worker.name!r} cannot be started ({lost})")

    def _stop_for(self, error: RaypipeError) -> None:
        self._fatal = self._fatal or error
        self._room.set()
        for result in self._results.values():
            if not result.done():
                result.set_exception(error)

    def _take(self, lane: Lane, reply: Reply) -> None:
        self._vitals[lane.worker.name] = reply.vitals
        if self._has_left:
            return
        if reply.vitals.halted_for:
            self.halt(reply.vitals.halted_for, self._setup.drain_s)
        for answer in reply.answers:
            self._router.take(lane.outbox, answer)
        if reply.answers:
            self._settle()

    def _settle(self) -> None:
        """After anything ended: write complete batches, look for work for every worker."""
        for batch in (*self._router.take_complete(), *self._router.take_parked()):
            self._start(self._finish(batch, self._results.pop(batch.number)))
        if not self._results:
            self._wanted.clear()
        for lane in self._lanes:
            lane.bell.set()
        if not self._router.is_congested(self._setup.stage.entry):
            self._room.set()

    async def _finish(self, batch: Batch | Parked, result: asyncio.Future[BatchResult]) -> None:
        try:
            written = await asyncio.to_thread(batch.write, self._setup.parts, self._setup.leaves)
        except OSError as error:
            self._stop_for(unwritable(self._setup.parts, error))
            if not result.done() and self._fatal is not None:
                result.set_exception(self._fatal)
        else:
            if not result.done():
                result.set_result(replace(written, halted_for=self.halted_for))

"""I carry rows from step to step until each has ended; I know pools by name only.

Each step that works in a pool has a queue of Arrow tables. For each worker a coroutine keeps a
window of rows with it, the deepest step first, and takes back what has ended; scatter, broadcast,
routing and family aggregates are table operations by row identity. Rows of many batches travel
together; a batch is complete when nothing of it is on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from raypipe.errors import InfrastructureError, OutputError, RaypipeError, ReplicaLostError
from raypipe.execution.batches import Batch, BatchResult, Counts
from raypipe.execution.families import Families
from raypipe.execution.queues import Lane, Outbox, StepQueue
from raypipe.execution.wire import DONE, FAILED, Answer, Reply, Vitals, Worker
from raypipe.identity import child_identity
from raypipe.plan import PlannedStep, Stage
from raypipe.row import ANCESTORS, ATTEMPT, BATCH, PATH, ROW_ID, Failure
from raypipe.step import Runs, Shape

_MOST_ATTEMPTS = 2
_SETTLE_S = 0.002


class Pool(Protocol):
    """The workers of one model."""

    @property
    def workers(self) -> Sequence[Worker]: ...

    async def replace(self, lost: Worker) -> Worker:
        """A new worker in place of a lost one. Raises InfrastructureError when there can be none."""
        ...


@dataclass(frozen=True)
class ConductorSetup:
    """What a conductor is made from; plain data that travels to its worker."""

    name: str
    stage: Stage
    parts: Path
    """Folder for part files."""
    leaves: frozenset[str]
    share: float = 1.0
    """Its share of each worker's window, when several conductors feed the same workers."""


@dataclass(frozen=True)
class Snapshot:
    """What a conductor sees, for progress."""

    counts: Mapping[str, Counts]
    queued: Mapping[str, int]
    vitals: Mapping[str, Vitals]
    """By worker name."""


class Conductor:
    """Routes the rows of one stage; lives in one event loop."""

    def __init__(self, setup: ConductorSetup, pools: Mapping[str, Pool]) -> None:
        self._setup = setup
        self._steps = setup.stage.steps
        self._pools = pools
        self._batches: dict[int, Batch] = {}
        self._results: dict[int, asyncio.Future[BatchResult]] = {}
        self._last_batch = 0
        self._totals: dict[str, Counts] = {name: Counts() for name in self._steps}
        self._vitals: dict[str, Vitals] = {}
        self._families = {name: Families(step) for name, step in self._steps.items() if step.gather is not None}
        self._queues = {name: StepQueue(step) for name, step in self._steps.items() if step.pool is not None}
        self._lanes: list[Lane] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._fatal: RaypipeError | None = None

    def open(self) -> None:
        """Start feeding the workers; call inside the event loop."""
        deepest_first = list(reversed(list(self._queues.items())))
        for pool_name, pool in self._pools.items():
            queues = {name: queue for name, queue in deepest_first if queue.pool == pool_name}
            for worker in pool.workers:
                lane = Lane(worker, Outbox(queues, self._is_congested, worker.concurrency, self._setup.share))
                self._lanes.append(lane)
                self._start(self._serve(pool, lane))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.add(task)

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
        queued = {name: queue.rows for name, queue in self._queues.items()}
        return Snapshot(self._totals, queued, dict(self._vitals))

    async def room(self) -> None:
        """Wait while the first queues are long."""
        while self._fatal is None and self._is_congested(self._setup.stage.entry):
            self._room.clear()
            await self._room.wait()

    async def run_batch(self, rows: pa.Table) -> BatchResult:
        """Carry one batch of stage entry rows (with lineage) to their ends.

        Raises RaypipeError when the run cannot go on.
        """
        if self._fatal is not None:
            raise self._fatal
        self._last_batch = number = self._last_batch + 1
        self._batches[number] = Batch(number)
        result = self._results[number] = asyncio.get_running_loop().create_future()
        rows = rows.append_column(BATCH, pa.array(np.full(rows.num_rows, number, np.int32)))
        rows = rows.append_column(ATTEMPT, pa.array(np.zeros(rows.num_rows, np.int8)))
        entry = self._steps[self._setup.stage.entry]
        count = Counts(rows_in=rows.num_rows, rows_done=rows.num_rows, rows_out=rows.num_rows)
        self._count(number, entry.name, count)
        for name in self._opened_by(entry.name):
            self._families[name].opened(rows, [1] * rows.num_rows)
        self._emit(entry, rows)
        self._settle()
        return await result

    def _is_congested(self, name: str) -> bool:
        """Whether enough rows wait behind a step; the last step never is."""
        return any(self._queues[after].is_long for after in self._behind(name))

    def _behind(self, name: str) -> list[str]:
        """The steps with a queue that a step's rows come to next."""
        found: list[str] = []
        for after in self._steps[name].successors:
            found.extend([after] if after in self._queues else self._behind(after))
        return found

    # Feeding workers.

    async def _serve(self, pool: Pool, lane: Lane) -> None:
        exchanges: set[asyncio.Task[Reply]] = set()
        while self._fatal is None:
            chunks = lane.outbox.fill()
            if chunks or not exchanges:
                exchanges.add(asyncio.create_task(lane.worker.exchange(self._setup.name, chunks)))
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
            except RaypipeError as error:
                self._stop_for(error)
            if is_rung:
                await asyncio.sleep(_SETTLE_S)

    async def _replace(self, pool: Pool, lane: Lane, lost: ReplicaLostError) -> None:
        """Its unfinished rows go back to their queues; a row that lost two workers is a failure."""
        for step, rows in lane.outbox.take_back():
            attempts = pa.array([attempt + 1 for attempt in rows.column(ATTEMPT).to_pylist()], pa.int8())
            rows = rows.set_column(rows.column_names.index(ATTEMPT), ATTEMPT, attempts)
            again = [attempt < _MOST_ATTEMPTS for attempt in attempts.to_pylist()]
            self._queues[step].put_first(rows.filter(pa.array(again)))
            for index in np.flatnonzero(~np.array(again)).tolist():
                failure = Failure("worker_lost", f"{lost} (the second worker lost with this row)")
                self._fail(self._steps[step], rows.slice(index, 1), failure)
        self._settle()
        try:
            lane.worker = await pool.replace(lane.worker)
        except RaypipeError as error:
            self._stop_for(error)

    def _stop_for(self, error: RaypipeError) -> None:
        self._fatal = self._fatal or error
        self._room.set()
        for result in self._results.values():
            if not result.done():
                result.set_exception(error)

    # What comes back.

    def _take(self, lane: Lane, reply: Reply) -> None:
        self._vitals[lane.worker.name] = reply.vitals
        for answer in reply.answers:
            self._take_answer(lane, self._steps[answer.step], answer)
        if reply.answers:
            self._settle()

    def _take_answer(self, lane: Lane, planned: PlannedStep, answer: Answer) -> None:
        inputs = lane.outbox.ended(answer.ended.column("chunk").to_numpy(), answer.ended.column("index").to_numpy())
        status = answer.ended.column("status").to_numpy()
        made, parent_of = self._made(lane, planned, answer, inputs)
        self._book(planned, inputs, answer.ended, made)
        for index in np.flatnonzero(status == FAILED).tolist():
            ended = {name: answer.ended.column(name)[index].as_py() for name in ("kind", "message", "tries")}
            self._put_in_failures(planned, inputs.slice(index, 1), Failure(**ended))
        self._note_families(planned, inputs, status, answer, parent_of)
        if made.num_rows:
            self._emit(planned, made)
        lane.outbox.release()

    def _made(
        self, lane: Lane, planned: PlannedStep, answer: Answer, inputs: pa.Table
    ) -> tuple[pa.Table, np.ndarray]:
        """The rows a step made: their input's columns, the outputs, and lineage; and each one's input."""
        chunk, index, child = (column.to_numpy() for column in answer.places.columns)
        one_each = answer.places.select(_ORIGIN).equals(answer.ended.select(_ORIGIN))
        rows = inputs if one_each else lane.outbox.inputs(chunk, index)
        for name in answer.made.column_names:
            rows = _with_column(rows, name, answer.made.column(name))
        copies = planned.step.copies
        if copies > 1:
            rows = rows.take(pa.array(np.repeat(np.arange(rows.num_rows), copies)))
            sample = np.tile(np.arange(copies), len(child))
            child = np.repeat(child * copies, copies) + sample
            rows = _with_column(rows, "sample", pa.array(sample, pa.int64()))
        if planned.step.shape is Shape.SCATTER or copies > 1:
            rows = _as_children(rows, planned.name, child)
        return rows, np.stack([chunk, index])

    def _book(self, planned: PlannedStep, inputs: pa.Table, ended: pa.Table, made: pa.Table) -> None:
        """Count by batch what ended and what it became."""
        batch = inputs.column(BATCH).to_numpy()
        made_batch = made.column(BATCH).to_numpy()
        status = ended.column("status").to_numpy()
        numbers = {name: ended.column(name).to_numpy() for name in _SUMMED}
        for number in np.unique(batch).tolist():
            here = batch == number
            done, failed = int(np.sum(status[here] == DONE)), int(np.sum(status[here] == FAILED))
            rows = int(np.sum(here))
            sums = [int(np.sum(values[here])) for values in numbers.values()]
            made_here = int(np.sum(made_batch == number))
            self._count(number, planned.name, Counts(rows, done, failed, rows - done - failed, made_here, *sums))
            self._batches[number].on_the_way -= rows

    def _count(self, batch: int, step: str, counts: Counts) -> None:
        self._batches[batch].counts[step].add(counts)
        self._totals[step].add(counts)

    def _note_families(
        self, planned: PlannedStep, inputs: pa.Table, status: np.ndarray, answer: Answer, parent_of: np.ndarray
    ) -> None:
        if not self._families:
            return
        place = {
            (chunk, index): row
            for row, (chunk, index) in enumerate(
                zip(answer.ended.column("chunk").to_pylist(), answer.ended.column("index").to_pylist(), strict=True)
            )
        }
        counts = np.zeros(inputs.num_rows, np.int64)
        for chunk, index in parent_of.T.tolist():
            counts[place[chunk, index]] += planned.step.copies
        done = status == DONE
        opened = self._opened_by(planned.name)
        for name in opened:
            self._families[name].opened(inputs.filter(pa.array(done)), counts[done].tolist())
        for outer in self._around(planned.name):
            # An inner family is on its way, for the outer one, until it fires.
            inner = sum(name in self._region(outer) for name in opened)
            self._families[outer].moved(inputs, (counts - 1 + inner * done).tolist())

    def _opened_by(self, step: str) -> list[str]:
        """The aggregates whose families a step opens."""
        return [name for name, families in self._families.items() if families.gather.opener == step]

    def _around(self, step: str) -> list[str]:
        """The aggregates whose members may be in a step, itself left out."""
        return [name for name in self._families if name != step and step in self._region(name)]

    def _region(self, aggregate: str) -> frozenset[str]:
        return self._families[aggregate].gather.region

    def _fail(self, planned: PlannedStep, row: pa.Table, failure: Failure) -> None:
        """A row (a table of one) ended without its worker's word."""
        batch = row.column(BATCH)[0].as_py()
        self._count(batch, planned.name, Counts(rows_in=1, rows_failed=1))
        self._batches[batch].on_the_way -= 1
        for name in self._around(planned.name):
            self._families[name].moved(row, [-1])
        self._put_in_failures(planned, row, failure)

    def _put_in_failures(self, planned: PlannedStep, row: pa.Table, failure: Failure) -> None:
        self._batches[row.column(BATCH)[0].as_py()].fail(planned.name, row, failure)

    # Where rows go.

    def _emit(self, planned: PlannedStep, rows: pa.Table) -> None:
        """Rows that leave a step go to every step behind it and to its sinks."""
        for name in planned.successors:
            self._arrive(self._steps[name], rows)
        for sink in planned.sinks:
            for number, part in _by_batch(rows):
                self._batches[number].collect(sink, part)

    def _arrive(self, planned: PlannedStep, rows: pa.Table) -> None:
        if planned.pool is not None:
            self._queues[planned.name].put(rows)
            for number, count in zip(*np.unique(rows.column(BATCH).to_numpy(), return_counts=True), strict=True):
                self._batches[int(number)].on_the_way += int(count)
        elif planned.gather is not None:
            self._families[planned.name].arrived(rows)
            for outer in self._around(planned.name):
                self._families[outer].moved(rows, [-1] * rows.num_rows)
            self._count_passed(planned, rows, made=None)
        elif planned.step.runs is Runs.TABLE:
            made = planned.step.process_table(rows)
            self._count_passed(planned, rows, made)
            self._emit(planned, made)

    def _count_passed(self, planned: PlannedStep, rows: pa.Table, made: pa.Table | None) -> None:
        for number, count in zip(*np.unique(rows.column(BATCH).to_numpy(), return_counts=True), strict=True):
            out = int(count) if made is not None else 0
            self._count(int(number), planned.name, Counts(rows_in=int(count), rows_done=int(count), rows_out=out))

    def _settle(self) -> None:
        """After anything ended: complete families, complete batches, work for idle workers."""
        while any([self._fire(name) for name in self._families]):
            pass
        for number, batch in list(self._batches.items()):
            if batch.on_the_way == 0:
                del self._batches[number]
                self._start(self._finish(batch, self._results.pop(number)))
        for lane in self._lanes:
            lane.bell.set()
        if not self._is_congested(self._setup.stage.entry):
            self._room.set()

    def _fire(self, name: str) -> bool:
        made = self._families[name].take_complete()
        if made is None:
            return False
        planned = self._steps[name]
        for number, count in zip(*np.unique(made.column(BATCH).to_numpy(), return_counts=True), strict=True):
            self._count(int(number), name, Counts(rows_out=int(count)))
        self._emit(planned, made)
        return True

    async def _finish(self, batch: Batch, result: asyncio.Future[BatchResult]) -> None:
        try:
            written = await asyncio.to_thread(batch.write, self._setup.parts, self._setup.leaves)
        except OSError as error:
            self._stop_for(_unwritable(self._setup.parts, error))
            if not result.done() and self._fatal is not None:
                result.set_exception(self._fatal)
        else:
            if not result.done():
                result.set_result(written)


_ORIGIN = ["chunk", "index"]
_SUMMED = ("sent", "cached", "input_tokens", "output_tokens")


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"the folder {folder} cannot be written ({error.strerror or error}); mend that and run again")


def _with_column(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def _as_children(rows: pa.Table, step: str, child: np.ndarray) -> pa.Table:
    """Rows that still carry their parent's lineage, as its children."""
    parents, above = rows.column(ROW_ID).to_pylist(), rows.column(ANCESTORS).to_pylist()
    paths, numbers = rows.column(PATH).to_pylist(), child.tolist()
    ids = [child_identity(parent, step, number) for parent, number in zip(parents, numbers, strict=True)]
    lineage = {
        ROW_ID: pa.array(ids, pa.binary(16)),
        ANCESTORS: pa.array([[*a, p] for a, p in zip(above, parents, strict=True)], pa.list_(pa.binary(16))),
        PATH: pa.array([[*path, number] for path, number in zip(paths, numbers, strict=True)], pa.list_(pa.int32())),
    }
    for name, column in lineage.items():
        rows = _with_column(rows, name, column)
    return rows


def _by_batch(rows: pa.Table) -> list[tuple[int, pa.Table]]:
    batch = rows.column(BATCH).to_numpy()
    numbers = np.unique(batch).tolist()
    if len(numbers) == 1:
        return [(numbers[0], rows)]
    return [(number, rows.filter(pa.array(batch == number))) for number in numbers]

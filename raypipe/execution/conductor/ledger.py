"""Keeps the books of the batches of one stage: what is on its way, what each step did, what is to be written when.

A batch is complete when nothing of it is on its way. Knows nothing of where rows go, and writes nothing itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from raypipe.execution.conductor.batches import Batch, FinishedRows, Part
from raypipe.execution.conductor.compound_rows import unfold, weights
from raypipe.execution.conductor.failure_rates import FailureRates
from raypipe.execution.conductor.lineage import batch_sizes, split_by_batch
from raypipe.execution.counts import StepCounts
from raypipe.execution.wire import DONE, FAILED, FILTERED, UNFINISHED
from raypipe.plan.plan import PlannedStep, Sink
from raypipe.row import BATCH, Failure
from raypipe.storage.tables import concat
from raypipe.values.byte_bounds import Bounds


class BatchLedger:
    """The batches that are not written, and what was counted in all of them."""

    def __init__(self, steps: Iterable[str], bounds: Bounds | None = None, rates: FailureRates | None = None) -> None:
        self.rates = rates or FailureRates({}, None)
        self.totals: Mapping[str, StepCounts] = {name: StepCounts() for name in steps}
        self._bounds = bounds or Bounds()
        self._batches: dict[int, Batch] = {}
        self._last_number = 0
        self._source_bytes: dict[int, int] = {}
        """Of the source rows of each batch that is not written."""
        self._ready_bytes = self._writing_bytes = 0

    @property
    def is_disk_behind(self) -> bool:
        """Whether so much waits to be written that no step should add to it."""
        return self._ready_bytes >= 2 * self._bounds.finished_bytes

    @property
    def is_full(self) -> bool:
        """Whether the batches that have begun are as many bytes as may be on their way."""
        return sum(self._source_bytes.values()) >= self._bounds.flight_bytes

    @property
    def is_writing(self) -> bool:
        """Whether rows are on their way to the disk, which may take its time."""
        return self._writing_bytes > 0

    def open(self, source_bytes: int = 0, batch: Batch | None = None) -> int:
        """Take in a new batch, or one that was spilled; its number here."""
        self._last_number = number = self._last_number + 1
        self._batches[number] = batch = batch or Batch(number)
        batch.number = number
        self._source_bytes[number] = source_bytes
        return number

    def count(self, batch: int, step: str, counts: StepCounts) -> None:
        """Add what a step did for rows of a batch."""
        self._batches[batch].counts[step].add(counts)
        self.totals[step].add(counts)

    def count_passed(self, step: str, rows: pa.Table, copies: int) -> None:
        """Count rows that went through a step without a worker, and became `copies` rows each."""
        for number, count in batch_sizes(rows):
            self.count(number, step, StepCounts(rows_in=count, rows_done=count, rows_out=count * copies))

    def count_made(self, step: str, rows: pa.Table) -> None:
        """Count rows that a step makes of rows counted before."""
        for number, count in batch_sizes(rows):
            self.count(number, step, StepCounts(rows_out=count))

    def count_ended(self, step: str, inputs: pa.Table, ended: pa.Table, made: pa.Table) -> None:
        """Count by batch what ended with a worker and what it became; it is no longer on its way."""
        self.rates.note(step, ended)
        numbers, which = np.unique(inputs.column(BATCH).to_numpy(), return_inverse=True)
        status = ended.column("status").to_numpy()
        here = np.bincount(which).tolist()
        stand_for = np.maximum(weights(inputs), status == FAILED)
        ends = np.bincount(which * len(_ENDS) + status, stand_for, len(numbers) * len(_ENDS)).reshape(-1, len(_ENDS))
        sums = {name: np.bincount(which, weights=ended.column(name).to_numpy()) for name in (*_SUMMED, *_SUMMED_USD)}
        out = dict(batch_sizes(made))
        for at, number in enumerate(numbers.tolist()):
            counts = StepCounts(rows_in=int(ends[at].sum()), rows_out=out.get(number, 0))
            for end, name in _ENDS.items():
                setattr(counts, name, int(ends[at, end]))
            for name, total in sums.items():
                setattr(counts, name, float(total[at]) if name in _SUMMED_USD else int(total[at]))
            self.count(number, step, counts)
            self._batches[number].on_the_way -= here[at]

    def wait(self, rows: pa.Table, change: int = 1) -> None:
        """Rows wait for a step or are with its worker; with a `change` of -1, no longer."""
        for number, count in batch_sizes(rows):
            self._batches[number].on_the_way += change * count

    def hold(self, step: str, rows: pa.Table) -> None:
        """Keep rows with their batches that wait for a step which is not loaded."""
        for number, part in split_by_batch(rows):
            batch = self._batches[number]
            batch.held[step].append(part)
            batch.held_rows += part.num_rows
        self.wait(rows)

    def leave(self, step: str, rows: pa.Table) -> None:
        """Rows on their way stay unfinished."""
        for number, part in split_by_batch(rows):
            left = int(weights(part).sum())
            self.count(number, step, StepCounts(rows_in=left, rows_unfinished=left))
        self.wait(rows, -1)

    def fail(self, planned: PlannedStep, row: pa.Table, failure: Failure, counts: StepCounts | None = None) -> None:
        """A row (a table of one) failed, and all that it stands for; `counts` where that is not counted yet."""
        number = row.column(BATCH)[0].as_py()
        if counts is not None:
            self.count(number, planned.name, counts)
            if planned.pool is not None:
                self.rates.fail(planned.name, failure.kind, failure.message)
        rows = unfold(row, next(iter(planned.step.consumes()), ""))
        self._batches[number].fail(planned.shown or planned.name, rows, failure)

    def collect(self, sink: Sink, rows: pa.Table) -> None:
        """Rows have come to a sink."""
        for number, part in split_by_batch(rows):
            self._batches[number].collect(sink, part)

    def take_complete(self) -> list[Batch]:
        """The batches of which nothing is on its way, since the last time."""
        complete = [batch for batch in self._batches.values() if batch.on_the_way == 0 and not batch.writing]
        for batch in complete:
            del self._batches[batch.number]
        return complete

    def take_waiting(self) -> list[Batch]:
        """The batches of which all that is on its way waits for steps that are not loaded, since the last time."""
        batches = [batch for batch in self._batches.values() if not batch.writing]
        waiting = [batch for batch in batches if 0 < batch.on_the_way == batch.held_rows]
        for batch in waiting:
            del self._batches[batch.number]
        return waiting

    def take_held(self) -> Iterator[tuple[str, pa.Table]]:
        """The rows that wait for steps which are not loaded, by step; they are still on their way."""
        for batch in self._batches.values():
            held, batch.held, batch.held_rows = dict(batch.held), defaultdict(list), 0
            for step, tables in held.items():
                yield step, concat(tables)

    def take_finished(self) -> list[FinishedRows]:
        """Rows to be written though their batch is not complete: they are many bytes, or all of them together are."""
        batches = self._batches.values()
        sinks = [(size, one, sink) for one in batches for sink, size in one.finished_bytes.items() if size]
        left, found = sum(size for size, *_ in sinks), list[FinishedRows]()
        most = self._bounds.finished_bytes if left < self._bounds.finished_bytes else self._bounds.finished_bytes // 2
        for size, batch, sink in sorted(sinks, key=lambda one: one[0], reverse=True):
            if size < self._bounds.part_bytes and left <= most:
                break
            found.append(batch.take_finished(sink))
            left -= size
            self._writing_bytes += size
        self._ready_bytes = left + self._writing_bytes
        return found

    def note_part(self, finished: FinishedRows, part: Part) -> None:
        """Rows that were taken are in a file."""
        self._writing_bytes -= finished.size_bytes
        finished.batch.note_part(part)

    def close(self, number: int) -> None:
        """A batch is written."""
        self._source_bytes.pop(number, None)


_ENDS = {DONE: "rows_done", FAILED: "rows_failed", FILTERED: "rows_filtered", UNFINISHED: "rows_unfinished"}
_CALLS = ("calls_sent", "calls_cached", "calls_unanswered", "calls_estimated", "calls_refused")
_SUMMED = (*_CALLS, "input_tokens", "output_tokens")
_SUMMED_USD = ("cost_usd", "estimated_usd")

"""I say what rows become and where they go: scatter, broadcast, fan-out, family aggregates, counts, by row identity.

I do not know workers or time: I am told what ended and I put rows into queues. Rows of many batches travel
together; a batch is complete when nothing of it is on its way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypipe.contracts.step import Runs, Shape
from raypipe.execution.conductor.batches import Batch, Finished, Part
from raypipe.execution.conductor.compound_rows import unfolded, weight, weights
from raypipe.execution.conductor.families import Families, Repeated, families_of, numbered
from raypipe.execution.conductor.group_keys import with_group
from raypipe.execution.conductor.in_flight_window import InFlightWindow
from raypipe.execution.conductor.lineage import as_children, by_batch, by_number, copied, with_column
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.conductor.spill import SpilledBatch
from raypipe.execution.counts import StepCounts
from raypipe.execution.wire import DONE, FAILED, FILTERED, UNFINISHED, Answer
from raypipe.graph.repeat import CANDIDATE, Until
from raypipe.plan.plan import PlannedStep, Sink, Stage
from raypipe.row import ATTEMPT, BATCH, MEMBERS, ROUTE, Failure
from raypipe.storage.tables import concat
from raypipe.values.byte_bounds import Bounds
from raypipe.values.selection import filter_rows, size_bytes, split

Routes = dict[str | Sink, pa.Table]
"""Rows by the step or sink that they go to."""


@dataclass(frozen=True)
class Ended:
    """Rows that are no longer in a step."""

    all: pa.Table
    done: pa.Table
    unfinished: pa.Table

    @staticmethod
    def of(rows: pa.Table) -> Ended:
        """Rows that are all done."""
        return Ended(rows, rows, rows.slice(0, 0))

    @staticmethod
    def by_status(rows: pa.Table, status: np.ndarray) -> Ended:
        if (status == DONE).all():
            return Ended.of(rows)
        return Ended(rows, filter_rows(rows, status == DONE), filter_rows(rows, status == UNFINISHED))


class Router:
    """The rows of one stage that are on their way."""

    def __init__(
        self, stage: Stage, loaded: frozenset[str], homes: Mapping[str, int], bounds: Bounds | None = None
    ) -> None:
        """`loaded`: the steps whose workers are there; all unless some are named.

        `homes`: in how many homes the rows of a pool's steps wait, where those that begin alike belong together.
        """
        self._entry = stage.steps[stage.entry]
        self._bounds = bounds or Bounds()
        self._flight: dict[int, int] = {}
        """Bytes of the source rows of each batch that is not written."""
        self._unwritten_bytes = self._writing_bytes = 0
        self._steps = stage.steps
        self._grouped_by = stage.grouped_by
        self._batches: dict[int, Batch] = {}
        self._last_batch = 0
        self._families = {name: families_of(step) for name, step in stage.steps.items() if step.gather is not None}
        self.totals: Mapping[str, StepCounts] = {name: StepCounts() for name in stage.steps}
        self.queues = {
            name: StepQueue(step, homes.get(step.pool, 1), self._bounds)
            for name, step in stage.steps.items()
            if step.pool is not None and (name in loaded or not loaded)
        }

    def is_congested(self, name: str) -> bool:
        """Whether enough rows wait behind a step: for the next one, or for the disk."""
        if self._unwritten_bytes >= 2 * self._bounds.finished_bytes:
            return True
        return any(self.queues[after].is_long for after in self.behind(name))

    @property
    def is_full(self) -> bool:
        """Whether no batch should come in now."""
        return self.is_congested(self._entry.name) or sum(self._flight.values()) >= self._bounds.flight_bytes

    def behind(self, name: str) -> list[str]:
        """The steps with a queue that a step's rows come to next."""
        found: list[str] = []
        for after in self._steps[name].successors:
            found.extend([after] if after in self.queues else self.behind(after))
        return found

    def enter(self, rows: pa.Table) -> int:
        """Take in a batch of stage entry rows (with lineage); its number."""
        self._last_batch = number = self._last_batch + 1
        self._batches[number] = Batch(number)
        self._flight[number] = size_bytes(rows)
        rows = rows.append_column(BATCH, pa.array(np.full(rows.num_rows, number, np.int32)))
        rows = rows.append_column(ATTEMPT, pa.array(np.zeros(rows.num_rows, np.int8)))
        count = StepCounts(rows_in=rows.num_rows, rows_done=rows.num_rows, rows_out=rows.num_rows)
        self._count(number, self._entry.name, count)
        self._passed(self._entry, Ended.of(rows), rows)
        return number

    def take_complete(self) -> list[Batch]:
        """The batches that are through since the last time, after every complete family has gone on."""
        while any([self._fire(name) for name in self._families]):
            pass
        complete = [batch for batch in self._batches.values() if batch.on_the_way == 0 and not batch.writing]
        for batch in complete:
            del self._batches[batch.number]
        return complete

    def take_finished(self) -> list[Finished]:
        """Rows to be written though their batch is not complete: they are many bytes, or all of them together are."""
        sinks = [(size, batch, sink) for batch in self._batches.values() for sink, size in batch.finished().items()]
        left, found = sum(size for size, *_ in sinks), list[Finished]()
        most = self._bounds.finished_bytes if left < self._bounds.finished_bytes else self._bounds.finished_bytes // 2
        for size, batch, sink in sorted(sinks, key=lambda one: one[0], reverse=True):
            if size < self._bounds.part_bytes and left <= most:
                break
            found.append(batch.take_finished(sink))
            left -= size
            self._writing_bytes += size
        self._unwritten_bytes = left + self._writing_bytes
        return found

    def written(self, finished: Finished, part: Part) -> None:
        """Rows that were taken are in a file."""
        self._writing_bytes -= finished.size_bytes
        finished.batch.written(part)

    @property
    def is_writing(self) -> bool:
        """Whether rows are on their way to the disk, which may take its time."""
        return self._writing_bytes > 0

    def forget(self, batch: int) -> None:
        """A batch is written."""
        self._flight.pop(batch, None)

    def take_spilled(self) -> list[SpilledBatch]:
        """The batches that only wait for steps that are not loaded, since the last time."""
        batches = [batch for batch in self._batches.values() if not batch.writing]
        waiting = [batch for batch in batches if 0 < batch.on_the_way == batch.held_rows]
        return [self._parked(batch) for batch in waiting]

    def _parked(self, batch: Batch) -> SpilledBatch:
        del self._batches[batch.number]
        held = {step: concat(tables) for step, tables in batch.held.items()}
        left = {name: families.leave(batch.number) for name, families in self._families.items()}
        batch.held.clear()
        batch.on_the_way = batch.held_rows = 0
        return SpilledBatch(batch, held, {name: families for name, families in left.items() if families is not None})

    def resume_spilled(self, spilled: SpilledBatch) -> int:
        """Go on with a batch; its number here."""
        self._last_batch = number = spilled.batch.number = self._last_batch + 1
        self._batches[number] = spilled.batch
        for name, families in spilled.families.items():
            self._families[name].take_in(families, number)
        for step, rows in spilled.held.items():
            self._wait(step, numbered(rows, number))
        return number

    def leave_held(self) -> None:
        """Rows for steps that are not loaded are left as they are."""
        for batch in self._batches.values():
            held, batch.held, batch.held_rows = dict(batch.held), defaultdict(list), 0
            for step, tables in held.items():
                self.leave(step, concat(tables))

    def take(self, window: InFlightWindow, answer: Answer) -> None:
        """Rows that a worker held have ended."""
        planned = self._steps[answer.step]
        inputs = window.ended(answer.ended.column("chunk").to_numpy(), answer.ended.column("index").to_numpy())
        status = answer.ended.column("status").to_numpy()
        made = self._made(window, planned, answer, inputs)
        self._book(planned, inputs, answer.ended, made)
        if answer.by_model and inputs.num_rows:
            counts = StepCounts(by_model={name: dict(did) for name, did in answer.by_model.items()})
            self._count(inputs.column(BATCH)[0].as_py(), planned.name, counts)
        for index in np.flatnonzero(status == FAILED).tolist():
            kind, message, sent, cached = (answer.ended.column(name)[index].as_py() for name in _FAILED_WITH)
            self._put_in_failures(planned, inputs.slice(index, 1), Failure(kind, message, sent + cached))
        self._passed(planned, Ended.by_status(inputs, status), made)
        window.release()

    def _made(self, window: InFlightWindow, planned: PlannedStep, answer: Answer, inputs: pa.Table) -> pa.Table:
        """The rows a step made: their input's columns, the outputs, and lineage; and each one's input."""
        chunk, index, child = (column.to_numpy() for column in answer.places.columns)
        one_each = answer.places.select(_ORIGIN).equals(answer.ended.select(_ORIGIN))
        consumed = (*planned.step.consumes(), MEMBERS)
        rows = inputs if one_each else window.inputs(chunk, index, consumed)
        names = planned.step.output_mappings
        if planned.step.is_given_batches:
            # It gives whole rows: what it reads under a name of its own goes back where it came from.
            written = planned.step.writes()
            names = {own: name for own, name in planned.step.input_mappings.items() if own not in written} | names
        for column in answer.made.column_names:
            rows = with_column(rows, str(names.get(column, column)), answer.made.column(column))
        gone = set(consumed) - {str(names.get(column, column)) for column in answer.made.column_names}
        rows = rows.drop_columns([name for name in rows.column_names if name in gone])
        if planned.step.copies > 1:
            return copied(rows, planned, child)
        return as_children(rows, planned.name, child) if planned.step.shape is Shape.SCATTER else rows

    def _book(self, planned: PlannedStep, inputs: pa.Table, ended: pa.Table, made: pa.Table) -> None:
        """Count by batch what ended and what it became."""
        numbers, which = np.unique(inputs.column(BATCH).to_numpy(), return_inverse=True)
        status = ended.column("status").to_numpy()
        here = np.bincount(which).tolist()
        stand_for = np.maximum(weights(inputs), status == FAILED)
        ends = np.bincount(which * len(_ENDS) + status, stand_for, len(numbers) * len(_ENDS)).reshape(-1, len(_ENDS))
        sums = {name: np.bincount(which, weights=ended.column(name).to_numpy()) for name in _SUMMED}
        out = dict(by_number(made))
        for at, number in enumerate(numbers.tolist()):
            counts = StepCounts(rows_in=int(ends[at].sum()), rows_out=out.get(number, 0))
            for end, name in _ENDS.items():
                setattr(counts, name, int(ends[at, end]))
            for name, total in sums.items():
                setattr(counts, name, int(total[at]))
            self._count(number, planned.name, counts)
            self._batches[number].on_the_way -= here[at]

    def _count(self, batch: int, step: str, counts: StepCounts) -> None:
        self._batches[batch].counts[step].add(counts)
        self.totals[step].add(counts)

    def _balance(self, name: str, inputs: Ended, made: pa.Table, routes: Routes) -> None:
        """Tell families what a step did: tokens go to where its rows go, then those of its inputs are taken back.

        A family has a token for each of its rows on each way that leads to its end, and one for each family inside it.
        """
        opened = [families for families in self._families.values() if families.gather.opener == name]
        around = self._around(name)
        parents = {f.name: inputs.done if f.gather.brings_back_inputs else made for f in opened}
        for families in opened:
            families.opened(parents[families.name])
        for families in [*opened, *around]:
            region = families.gather.region
            for target, rows in routes.items():
                if target in region:
                    families.moved(rows, 1)
            for inner in opened:
                if inner is not families and inner.name in region:
                    families.moved(parents[inner.name], 1)
        for families in around:
            families.spoil(inputs.unfinished)
            families.moved(inputs.all, -1)
        for families in opened:
            families.moved(parents[families.name], -1)

    def _around(self, step: str) -> list[Families]:
        """The families whose members may be in a step, its own left out."""
        return [f for f in self._families.values() if f.name != step and step in f.gather.region]

    def leave(self, step: str, rows: pa.Table) -> None:
        """Rows that wait for a step or are with its worker are left as they are; they can be resumed."""
        for number, part in by_batch(rows):
            left = weight(part)
            self._count(number, step, StepCounts(rows_in=left, rows_unfinished=left))
            self._batches[number].on_the_way -= part.num_rows
        for families in self._around(step):
            families.spoil(rows)
            families.moved(rows, -1)

    def fail(self, step: str, row: pa.Table, failure: Failure) -> None:
        """A row (a table of one) ended without its worker's word."""
        planned = self._steps[step]
        batch = row.column(BATCH)[0].as_py()
        failed = max(1, weight(row))
        self._count(batch, planned.name, StepCounts(rows_in=failed, rows_failed=failed))
        self._batches[batch].on_the_way -= 1
        for families in self._around(planned.name):
            families.moved(row, -1)
        self._put_in_failures(planned, row, failure)

    def _fail_done(self, planned: PlannedStep, row: pa.Table, failure: Failure) -> None:
        """A row (a table of one) that was counted as done becomes a failure after all."""
        self._count(row.column(BATCH)[0].as_py(), planned.name, StepCounts(rows_done=-1, rows_failed=1))
        self._put_in_failures(planned, row, failure)

    def _put_in_failures(self, planned: PlannedStep, row: pa.Table, failure: Failure) -> None:
        """A row (a table of one), or all that it stands for."""
        rows = unfolded(row, next(iter(planned.step.consumes()), ""))
        self._batches[row.column(BATCH)[0].as_py()].fail(planned.shown or planned.name, rows, failure)

    def _passed(self, planned: PlannedStep, inputs: Ended, made: pa.Table) -> None:
        """Rows have left a step: they go to every step behind it, or where they are routed to, and to its sinks."""
        routes: Routes = dict.fromkeys((*planned.successors, *planned.sinks), made)
        if planned.is_routed:
            routes = _routed(made, routes)
        self._balance(planned.name, inputs, made, routes)
        for target, rows in routes.items():
            if not rows.num_rows:
                continue
            if isinstance(target, str):
                self._arrive(self._steps[target], rows, planned.name)
            else:
                columns = self._grouped_by.get(target.step)
                kept = rows if columns is None else with_group(rows, target.step, columns)
                for number, part in by_batch(kept):
                    self._batches[number].collect(target, part)

    def _arrive(self, planned: PlannedStep, rows: pa.Table, upstream: str) -> None:
        if planned.pool is not None:
            self._wait(planned.name, rows)
        elif isinstance(planned.step, Until):
            self._families[planned.name].arrived(rows, upstream)
            self._count_passed(planned, rows, rows)
            self._passed(planned, Ended.of(rows), rows)
        elif planned.gather is not None:
            self._count_passed(planned, rows, made=None)
            self._families[planned.name].arrived(rows, upstream)
            for families in self._around(planned.name):
                families.moved(rows, -1)
        elif planned.step.runs is Runs.TABLE:
            pieces = list(split(rows, rows.num_rows, self._bounds.batch_bytes))
            made = concat([planned.step.process_table(part) for part in pieces or [rows]])
            if planned.step.copies > 1:
                made = copied(made, planned, np.zeros(made.num_rows, np.int64))
            self._count_passed(planned, rows, made)
            self._passed(planned, Ended.of(rows), made)

    def _wait(self, step: str, rows: pa.Table) -> None:
        """Rows wait for a step: in its queue, or in their batch while it is not loaded."""
        queue = self.queues.get(step)
        if queue is not None:
            queue.put(rows)
        else:
            for number, part in by_batch(rows):
                self._batches[number].hold(step, part)
        for number, count in by_number(rows):
            self._batches[number].on_the_way += count

    def _count_passed(self, planned: PlannedStep, rows: pa.Table, made: pa.Table | None) -> None:
        for number, count in by_number(rows):
            out = count * planned.step.copies if made is not None and made.num_rows else 0
            self._count(number, planned.name, StepCounts(rows_in=count, rows_done=count, rows_out=out))

    def _fire(self, name: str) -> bool:
        families, planned = self._families[name], self._steps[name]
        has_repeated = isinstance(families, Repeated) and self._repeat(families)
        complete, spoiled = families.take_complete(), families.take_spoiled()
        if spoiled is not None:
            for outer in self._around(name):
                outer.spoil(spoiled)
                outer.moved(spoiled, -1)
        if complete is None:
            return has_repeated or spoiled is not None
        parents, made = complete
        for row, problem in families.take_refused():
            self._fail_done(planned, row, Failure("size", problem))
        for number, count in by_number(made):
            self._count(number, name, StepCounts(rows_out=count))
        self._passed(planned, Ended.of(parents), made)
        return True

    def _repeat(self, families: Repeated) -> bool:
        """Make the candidates that are wanted; whether there were any. Rows that lack some for good are failures."""
        planned = self._steps[families.gather.opener]
        wanted = families.take_wanted()
        for row, problem in families.take_short():
            self._fail_done(planned, row, Failure("candidates", problem))
        if wanted is None:
            return False
        rows, numbers = wanted
        made = as_children(with_column(rows, CANDIDATE, pa.array(numbers)), planned.name, numbers)
        for number, count in by_number(made):
            self._count(number, planned.name, StepCounts(rows_out=count))
        self._passed(planned, Ended.of(made.slice(0, 0)), made)
        return True


def _routed(made: pa.Table, targets: Routes) -> Routes:
    """The rows for each target, by the column that says where each goes."""
    chosen, rows = made.column(ROUTE).to_pylist(), made.drop_columns([ROUTE])
    names = {target: target if isinstance(target, str) else target.step for target in targets}
    return {target: filter_rows(rows, [name in those for those in chosen]) for target, name in names.items()}


_ORIGIN = ["chunk", "index"]
_ENDS = {DONE: "rows_done", FAILED: "rows_failed", FILTERED: "rows_filtered", UNFINISHED: "rows_unfinished"}
_FAILED_WITH = ("kind", "message", "calls_sent", "calls_cached")
_SUMMED = ("calls_sent", "calls_cached", "calls_unanswered", "input_tokens", "output_tokens")

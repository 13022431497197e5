"""Decides what rows become and where they go: scatter, broadcast, fan-out, family aggregates, by row identity.

Knows nothing of workers or time: it is given what ended and puts rows into queues. Rows of many batches travel
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypipe.contracts.step import Runs, Shape
from raypipe.execution.conductor.batches import Batch, FinishedRows
from raypipe.execution.conductor.compound_rows import weights
from raypipe.execution.conductor.families import Repeated, with_batch
from raypipe.execution.conductor.family_tracker import EndedRows, FamilyTracker, Routes
from raypipe.execution.conductor.group_keys import with_group
from raypipe.execution.conductor.in_flight_window import InFlightWindow
from raypipe.execution.conductor.ledger import BatchLedger
from raypipe.execution.conductor.lineage import as_children, broadcast, with_column
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.conductor.spill import SpilledBatch
from raypipe.execution.counts import StepCounts
from raypipe.execution.wire import FAILED, Answer
from raypipe.graph.repeat import CANDIDATE, Until
from raypipe.plan.plan import PlannedStep, Stage
from raypipe.row import ATTEMPT, BATCH, MEMBERS, ROUTE, Failure
from raypipe.storage.tables import concat
from raypipe.values.byte_bounds import Bounds
from raypipe.values.selection import filter_rows, size_bytes, split

_ORIGIN = ["chunk", "index"]
_FAILED_WITH = ("kind", "message", "calls_sent", "calls_cached")


@dataclass(frozen=True)
class Ready:
    """What is to be written now: rows of batches that go on, and batches that are through or wait for other steps."""

    finished: Sequence[FinishedRows]
    batches: Sequence[Batch | SpilledBatch]


class Router:
    """The way of rows through one stage."""

    def __init__(
        self, stage: Stage, queues: Mapping[str, StepQueue], ledger: BatchLedger, bounds: Bounds | None = None
    ) -> None:
        """`queues`: of the steps whose workers are there; rows for others wait with their batches."""
        self._stage = stage
        self._queues = queues
        self._ledger = ledger
        self._bounds = bounds or Bounds()
        self._families = FamilyTracker(stage.steps)
        self.behind = {name: self._find_behind(name) for name in stage.steps}
        """The steps with a queue that a step's rows come to next."""

    def _find_behind(self, name: str) -> list[str]:
        found: list[str] = []
        for after in self._stage.steps[name].successors:
            found.extend([after] if after in self._queues else self._find_behind(after))
        return found

    def is_congested(self, name: str) -> bool:
        """Whether enough rows wait behind a step: for the next one, or for the disk."""
        return self._ledger.is_disk_behind or any(self._queues[after].is_long for after in self.behind[name])

    @property
    def is_full(self) -> bool:
        """Whether no batch should come in now."""
        return self.is_congested(self._stage.entry) or self._ledger.is_full

    def enter(self, rows: pa.Table) -> int:
        """Take in a batch of stage entry rows (with lineage); its number."""
        number, entry = self._ledger.open(size_bytes(rows)), self._stage.steps[self._stage.entry]
        rows = rows.append_column(BATCH, pa.array(np.full(rows.num_rows, number, np.int32)))
        rows = rows.append_column(ATTEMPT, pa.array(np.zeros(rows.num_rows, np.int8)))
        count = StepCounts(rows_in=rows.num_rows, rows_done=rows.num_rows, rows_out=rows.num_rows)
        self._ledger.count(number, entry.name, count)
        self._pass_on(entry, EndedRows.of(rows), rows)
        return number

    def resume(self, spilled: SpilledBatch) -> int:
        """Go on with a batch that was spilled; its number here."""
        number = self._ledger.open(batch=spilled.batch)
        for name, families in spilled.families.items():
            self._families.by_step[name].attach(families, number)
        for step, rows in spilled.held.items():
            self._wait(step, with_batch(rows, number))
        return number

    def take_ready(self) -> Ready:
        """What is to be written, since the last time, after every complete family has gone on."""
        finished = self._ledger.take_finished()
        while any([self._close_families(name) for name in self._families.by_step]):
            pass
        batches: list[Batch | SpilledBatch] = [*self._ledger.take_complete()]
        for batch in self._ledger.take_waiting():
            held = {step: concat(tables) for step, tables in batch.held.items()}
            batch.held.clear()
            batch.on_the_way = batch.held_rows = 0
            left = {name: families.detach(batch.number) for name, families in self._families.by_step.items()}
            batches.append(SpilledBatch(batch, held, {name: one for name, one in left.items() if one is not None}))
        return Ready(finished, batches)

    def leave(self, step: str, rows: pa.Table) -> None:
        """Rows that wait for a step or are with its worker stay unfinished; they can be resumed."""
        self._ledger.leave(step, rows)
        self._families.ended(step, rows, is_spoiled=True)

    def leave_waiting(self) -> None:
        """The same for all rows that no worker has."""
        for queue in self._queues.values():
            while (rows := queue.take(queue.rows)) is not None:
                self.leave(queue.name, rows)
        for step, rows in self._ledger.take_held():
            self.leave(step, rows)

    def fail(self, step: str, row: pa.Table, failure: Failure) -> None:
        """A row (a table of one) failed of which its worker reports nothing."""
        count = max(1, int(weights(row).sum()))
        self._ledger.wait(row, -1)
        self._families.ended(step, row)
        self._ledger.fail(self._stage.steps[step], row, failure, StepCounts(rows_in=count, rows_failed=count))

    def take_answer(self, window: InFlightWindow, answer: Answer) -> None:
        """Send on what came of rows of one step that a worker had in `window`."""
        planned, ended = self._stage.steps[answer.step], answer.ended
        inputs = window.end(ended.column("chunk").to_numpy(), ended.column("index").to_numpy())
        status = ended.column("status").to_numpy()
        made = self._made(window, planned, answer, inputs)
        self._ledger.count_ended(planned.name, inputs, ended, made)
        if answer.by_model and inputs.num_rows:
            counts = StepCounts(by_model={name: dict(did) for name, did in answer.by_model.items()})
            self._ledger.count(inputs.column(BATCH)[0].as_py(), planned.name, counts)
        for index in np.flatnonzero(status == FAILED).tolist():
            kind, message, sent, cached = (ended.column(name)[index].as_py() for name in _FAILED_WITH)
            self._ledger.fail(planned, inputs.slice(index, 1), Failure(kind, message, sent + cached))
        self._pass_on(planned, EndedRows.of(inputs, status), made)
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
            return broadcast(rows, planned, child)
        return as_children(rows, planned.name, child) if planned.step.shape is Shape.SCATTER else rows

    def _pass_on(self, planned: PlannedStep, inputs: EndedRows, made: pa.Table) -> None:
        """Rows have left a step: they go to every step behind it, or where they are routed to, and to its sinks."""
        routes: Routes = dict.fromkeys((*planned.successors, *planned.sinks), made)
        if planned.is_routed:
            chosen, rows = made.column(ROUTE).to_pylist(), made.drop_columns([ROUTE])
            for target in routes:
                name = target if isinstance(target, str) else target.step
                routes[target] = filter_rows(rows, [name in names for names in chosen])
        self._families.passed(planned.name, inputs, made, routes)
        for target, rows in routes.items():
            if not rows.num_rows:
                continue
            if isinstance(target, str):
                self._arrive(self._stage.steps[target], rows, planned.name)
            else:
                columns = self._stage.grouped_by.get(target.step)
                self._ledger.collect(target, rows if columns is None else with_group(rows, target.step, columns))

    def _arrive(self, planned: PlannedStep, rows: pa.Table, upstream: str) -> None:
        """Rows have come to a step: a worker does it, or it is done here."""
        name, copies = planned.name, planned.step.copies
        if planned.pool is not None:
            self._wait(name, rows)
        elif isinstance(planned.step, Until):
            self._families.by_step[name].arrive(rows, upstream)
            self._ledger.count_passed(name, rows, copies)
            self._pass_on(planned, EndedRows.of(rows), rows)
        elif planned.gather is not None:
            self._ledger.count_passed(name, rows, 0)
            self._families.by_step[name].arrive(rows, upstream)
            self._families.ended(name, rows)
        elif planned.step.runs is Runs.TABLE:
            pieces = list(split(rows, rows.num_rows, self._bounds.batch_bytes))
            made = concat([planned.step.process_table(piece) for piece in pieces or [rows]])
            if copies > 1:
                made = broadcast(made, planned, np.zeros(made.num_rows, np.int64))
            self._ledger.count_passed(name, rows, copies if made.num_rows else 0)
            self._pass_on(planned, EndedRows.of(rows), made)

    def _wait(self, step: str, rows: pa.Table) -> None:
        """Rows wait for a step: in its queue, or with their batch while it is not loaded."""
        queue = self._queues.get(step)
        if queue is None:
            self._ledger.hold(step, rows)
            return
        queue.put(rows)
        self._ledger.wait(rows)

    def _close_families(self, name: str) -> bool:
        """Send on what the families of an aggregate have become; whether there was any."""
        families, planned = self._families.by_step[name], self._stage.steps[name]
        has_repeated = isinstance(families, Repeated) and self._make_candidates(families)
        complete, spoiled = families.take_complete(), families.take_spoiled()
        if spoiled is not None:
            self._families.ended(name, spoiled, is_spoiled=True)
        if complete is None:
            return has_repeated or spoiled is not None
        parents, made = complete
        self._fail_done(planned, families.take_failed())
        self._ledger.count_made(name, made)
        self._pass_on(planned, EndedRows.of(parents), made)
        return True

    def _make_candidates(self, families: Repeated) -> bool:
        """Make the candidates that are wanted; whether there were any. Rows that lack some for good are failures."""
        planned = self._stage.steps[families.gather.opener]
        wanted = families.take_wanted()
        self._fail_done(planned, families.take_failed())
        if wanted is None:
            return False
        rows, numbers = wanted
        made = as_children(with_column(rows, CANDIDATE, pa.array(numbers)), planned.name, numbers)
        self._ledger.count_made(planned.name, made)
        self._pass_on(planned, EndedRows.of(made.slice(0, 0)), made)
        return True

    def _fail_done(self, planned: PlannedStep, failed: Sequence[tuple[pa.Table, Failure]]) -> None:
        """Rows (tables of one) that were counted as done become failures after all."""
        for row, failure in failed:
            self._ledger.fail(planned, row, failure, StepCounts(rows_done=-1, rows_failed=1))

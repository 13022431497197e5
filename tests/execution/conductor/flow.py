"""Carries the rows of a pipeline's first stage through a router, with a function in the place of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raypipe.contracts.step import Source
from raypipe.execution.conductor.batches import Batch
from raypipe.execution.conductor.in_flight_window import InFlightWindow
from raypipe.execution.conductor.ledger import BatchLedger
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.conductor.row_flow import Router
from raypipe.execution.conductor.spill import SpilledBatch
from raypipe.execution.counts import CallCounts
from raypipe.execution.source import read_source
from raypipe.execution.wire import FILTERED, UNFINISHED, Results
from raypipe.pipeline import Pipeline
from raypipe.row import LINEAGE, Failure
from raypipe.values.byte_bounds import Bounds

Work = Callable[[str, dict[str, Any]], Any]
"""What becomes of a row in a step: the new columns of each row made, a failure, `FILTERED` or `UNFINISHED`."""


class Flow:
    """A router, and one worker that takes every row at once."""

    def __init__(self, pipeline: Pipeline, loaded: frozenset[str] = frozenset(), bounds: Bounds | None = None) -> None:
        stage = pipeline.plan().stages[0]
        steps = stage.steps.items()
        queues = {
            name: StepQueue(step, 1, bounds)
            for name, step in steps
            if step.pool is not None and (name in loaded or not loaded)
        }
        self.ledger = BatchLedger(stage.steps, bounds)
        self.router = Router(stage, queues, self.ledger, bounds)
        self.window = InFlightWindow(queues, self.router.is_congested, 10_000, 1.0)
        source = stage.steps[stage.entry].step
        assert isinstance(source, Source)
        self.source = source
        self.ready: list[Batch | SpilledBatch] = []

    def enter(self) -> list[int]:
        """Take in all rows of the source; the numbers of their batches."""
        return [self.router.enter(batch) for batch in read_source(self.source)]

    def exchange(self, work: Work) -> list[str]:
        """The worker ends all rows that it is given, the last first; the steps that they were in."""
        chunks = self.window.fill()
        for chunk in chunks:
            results = Results({})
            for index, row in reversed(list(enumerate(chunk.table.to_pylist()))):
                self._end(results, (chunk.number, index), work(chunk.step, row))
            self.router.take_answer(self.window, results.take(chunk.step, 1 << 40))
            self.ready += self.router.take_ready().batches
        return [chunk.step for chunk in chunks]

    @staticmethod
    def _end(results: Results, place: tuple[int, int], outcome: Any) -> None:
        counts = CallCounts(calls_sent=1)
        if isinstance(outcome, Failure):
            results.fail(place, outcome, counts)
        elif outcome in (FILTERED, UNFINISHED):
            results.end(place, outcome, counts)
        else:
            results.complete(place, outcome, counts)

    def take(self) -> list[Batch | SpilledBatch]:
        """The batches that are through, or wait for steps that are not loaded, since the last time."""
        ready, self.ready = [*self.ready, *self.router.take_ready().batches], []
        return ready

    def finish(self, work: Work) -> list[Any]:
        """Exchange until all rows that can end have ended; the batches, as `take` gives them."""
        while self.exchange(work):
            pass
        return self.take()


def rows_at(batch: Batch, leaf: str) -> list[dict[str, Any]]:
    """What has come to a leaf, without lineage."""
    tables = [table for sink, found in batch.ended.items() if sink.step == leaf for table in found]
    rows = [row for table in tables for row in table.to_pylist()]
    return [{name: value for name, value in row.items() if name not in LINEAGE} for row in rows]

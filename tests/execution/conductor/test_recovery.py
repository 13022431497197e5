"""Rows of lost workers are tried again, and the one that takes its workers down is found without failing another."""

from __future__ import annotations

import asyncio
from typing import Any

from raypipe.errors import ReplicaLostError
from raypipe.execution.conductor.batches import Batch
from raypipe.execution.conductor.recovery import Recovery
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.counts import CallCounts
from raypipe.execution.wire import Chunk, Results
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, step
from tests.execution.conductor.flow import Flow

ROWS, DEADLY = 40, 7


@step(inputs=["n"], outputs=["seen"])
async def looked(row: Values) -> dict[str, Any]:
    raise NotImplementedError


def flow_of_one_step() -> tuple[Flow, Recovery, WorkerSlot]:
    with Pipeline("deadly") as pipeline:
        LoadDataFromDicts([{"n": number} for number in range(ROWS)], name="seed") >> looked("look")
    flow = Flow(pipeline)
    flow.enter()
    worker: Any = None
    recovery = Recovery({}, flow.router, flow.window.queues, asyncio.Event())
    return flow, recovery, WorkerSlot(worker, flow.window, "python")


def answer(flow: Flow, chunks: list[Chunk]) -> None:
    """All rows of the chunks are done."""
    for chunk in chunks:
        results = Results({})
        for index in range(chunk.table.num_rows):
            results.complete((chunk.number, index), [{"seen": "yes"}], CallCounts())
        flow.router.take_answer(flow.window, results.take(chunk.step, 1 << 40))
        flow.ready += flow.router.take_ready().batches


def test_a_row_that_takes_its_workers_down_fails_alone() -> None:
    flow, recovery, slot = flow_of_one_step()
    lost = 0
    while chunks := recovery.quarantined_for(slot) if recovery.tests(slot) else flow.window.fill(recovery.epoch):
        if any(DEADLY in chunk.table.column("n").to_pylist() for chunk in chunks):
            recovery.epoch = lost = lost + 1
            recovery.requeue(slot, ReplicaLostError("it is gone"))
            flow.ready += flow.router.take_ready().batches
        else:
            answer(flow, chunks)
    [batch] = flow.ready
    assert isinstance(batch, Batch)
    assert [(row["step"], row["kind"]) for row in batch.failed] == [("look", "worker_lost")]
    assert "it is gone (worker 4 that was lost with this row)" in batch.failed[0]["message"]
    counts = flow.ledger.totals["look"]
    assert (counts.rows_in, counts.rows_done, counts.rows_failed, lost) == (ROWS, ROWS - 1, 1, 4)
    assert not recovery.has_quarantined and not recovery.tests(slot)


def test_rows_that_one_worker_was_lost_with_are_tried_together_and_marked_as_sent_again() -> None:
    flow, recovery, slot = flow_of_one_step()
    assert {chunk.epoch for chunk in flow.window.fill(recovery.epoch)} == {0}
    recovery.epoch += 1
    recovery.requeue(slot, ReplicaLostError("it is gone"))
    assert not recovery.has_quarantined and not recovery.tests(slot)
    [again] = flow.window.fill(recovery.epoch)
    assert (again.table.num_rows, again.epoch) == (ROWS, 1)
    assert again.table.column("n").to_pylist() == list(range(ROWS))


def test_rows_in_quarantine_stay_unfinished_when_the_run_stops() -> None:
    flow, recovery, slot = flow_of_one_step()
    for _ in range(2):
        flow.window.fill(recovery.epoch)
        recovery.epoch += 1
        recovery.requeue(slot, ReplicaLostError("it is gone"))
    assert recovery.has_quarantined and recovery.tests(slot)
    recovery.leave_quarantined()
    counts = flow.ledger.totals["look"]
    assert (counts.rows_in, counts.rows_unfinished) == (ROWS, ROWS)
    [batch] = flow.router.take_ready().batches
    assert batch.number == 1

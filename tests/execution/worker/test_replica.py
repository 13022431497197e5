"""A worker with nothing to do tells at once what has ended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from raypipe.calls.index import load_index
from raypipe.calls.writer import CallLogWriter
from raypipe.execution.context import RunContext, RunOptions
from raypipe.execution.wire import DONE, FLUSH_S, Chunk, Reply, Sender
from raypipe.execution.worker.replica import Replica, ReplicaSetup
from raypipe.limits import Caps, RateCoordinator
from raypipe.plan.plan import Pool
from raypipe.row import ROW_ID
from raypipe.steps import StepInput, step

ROWS = 300


@step()
def nothing(inputs: StepInput) -> Any:
    yield inputs


def test_many_rows_that_have_ended_are_told_when_no_other_is_worked_on(tmp_path: Path) -> None:
    steps = {"nothing": nothing("nothing", input_batch_size=ROWS // 3)}
    run = RunContext(RunOptions(tmp_path), tmp_path / "parts", tmp_path, "run")
    setup = ReplicaSetup("threads:0", Pool("threads", None, 1, 8), steps, run)
    ids = pa.array([number.to_bytes(16, "big") for number in range(ROWS)], pa.binary(16))
    table = pa.table({ROW_ID: ids, "n": range(ROWS)})

    took_s: list[float] = []

    async def exchanged() -> Reply:
        worker = Replica(setup, load_index(tmp_path), CallLogWriter(tmp_path, "run"), RateCoordinator(Caps()))
        await worker.open()
        for number in range(20):
            began = time.monotonic()
            async with asyncio.timeout(30.0):
                reply = await worker.exchange(Sender(0, "local"), [Chunk(number, "nothing", table)], 60.0)
            took_s.append(time.monotonic() - began)
        await worker.close()
        return reply

    [answer] = asyncio.run(exchanged()).answers
    assert min(took_s) < FLUSH_S, "it waits for nothing"
    assert answer.ended.column("status").to_pylist() == [DONE] * ROWS
    assert answer.made.column("n").to_pylist() == list(range(ROWS))

"""A batch has an end, whatever its writing comes to: the run that waits for it ends with a named error."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe.errors import InputError, OutputError, RaypipeError
from raypipe.execution.conductor.batches import Batch
from raypipe.execution.conductor.conductor import Conductor, ConductorSetup
from raypipe.execution.conductor.row_flow import Ready
from raypipe.execution.source import read_source
from raypipe.pipeline import Pipeline
from raypipe.plan.plan import plan_graph
from raypipe.steps import KeepColumns, LoadDataFromDicts


class Unwritable(Batch):
    """A batch whose writing ends as it is told."""

    error: BaseException

    def write(self, folder: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            pa.ArrowNotImplementedError("no such type"),
            OutputError,
            "written to .* .ArrowNotImplementedError: no",
        ),
        (RecursionError("too deep"), OutputError, "RecursionError: too deep"),
        (MemoryError(), OutputError, "MemoryError"),
        (OSError(28, "No space left on device"), OutputError, "No space left on device"),
        (InputError("ours"), InputError, "^ours$"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_batch_ends_with_is_told(
    error: BaseException, kind: type[RaypipeError], said: str, tmp_path: Path
) -> None:
    with Pipeline("ends") as pipeline:
        seed = LoadDataFromDicts([{"x": 1}], name="seed")
        seed >> KeepColumns(columns=["x"])
    [stage] = plan_graph(pipeline.graph()).stages

    async def carried() -> None:
        conductor = Conductor(ConductorSetup("local", stage, tmp_path), {})
        batch = Unwritable(1)
        batch.error = error
        result = conductor._writer.pending[1] = asyncio.get_running_loop().create_future()
        conductor._writer.write(Ready([], [batch]))
        async with asyncio.timeout(20):
            with pytest.raises(kind, match=said):
                await result
            [rows] = read_source(seed)
            with pytest.raises(kind, match=said):
                await conductor.run_batch(rows)

    asyncio.run(carried())

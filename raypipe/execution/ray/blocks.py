"""Says what travels through Ray Data: blocks whose columns are always these, whatever rows are in them.

Rows stand packed in a value, so no column of a user's and no metadata of a file can pass for an error, or for the name
of a spilled batch; nor does Ray Data join or convert their columns. Knows nothing of what is done with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import InfrastructureError, RaypipeError, from_json, to_json
from raypipe.execution.conductor.batches import BatchResult, Part
from raypipe.execution.counts import StepCounts
from raypipe.plan.plan import Sink
from raypipe.row import POSITION
from raypipe.storage.tables import from_ipc, to_ipc

_ROWS, _ERROR, _SPILLED = 0, 1, 2

IN = pa.schema([("kind", pa.int8()), ("content", pa.large_binary()), (POSITION, pa.int64())])
"""What a conductor is given. `POSITION` is that of the first row, by which blocks can be sorted."""

OUT = pa.schema([("result", pa.large_binary()), ("error", pa.binary())])
"""What it gives back: one of the two."""


def pack_rows(rows: pa.Table) -> pa.Table:
    """A block with these rows, which have lineage."""
    first = rows.column(POSITION)[0].as_py() if rows.num_rows else 0
    # Not as Python bytes: rows may be large.
    packed = to_ipc(rows)
    buffers = [None, pa.array([0, packed.size], pa.int64()).buffers()[1], packed]
    content = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)
    return pa.Table.from_arrays([pa.array([_ROWS], pa.int8()), content, pa.array([first], pa.int64())], schema=IN)


def pack_error(error: RaypipeError) -> pa.Table:
    """A block that says why there are no more rows."""
    return pa.Table.from_pylist([{"kind": _ERROR, "content": to_json(error), POSITION: 0}], schema=IN)


def pack_spilled(paths: Sequence[str]) -> pa.Table:
    """A block with the files of spilled batches."""
    return pa.Table.from_pylist(
        [{"kind": _SPILLED, "content": path.encode(), POSITION: 0} for path in paths], schema=IN
    )


def find_error(block: pa.Table) -> bytes | None:
    """The error in a block, as it is given back."""
    found = block.filter(pc.field("kind") == _ERROR).column("content")
    return found[0].as_py() if len(found) else None


def unpack(block: pa.Table) -> Iterator[pa.Table | str]:
    """The rows and spilled batches in a block, the latter by their files."""
    for kind, content in zip(block.column("kind").to_pylist(), block.column("content"), strict=True):
        if kind == _ROWS:
            yield from_ipc(content.as_buffer())
        elif kind == _SPILLED:
            yield content.as_py().decode()


def pack_results(results: Sequence[BatchResult]) -> pa.Table:
    """What a conductor gives back for batches."""
    written = [orjson.dumps(asdict(result)) for result in results]
    return pa.table({"result": written, "error": [None] * len(written)}, schema=OUT)


def pack_failure(error: BaseException | bytes) -> pa.Table:
    """What a conductor gives back that cannot go on; an error of the input is JSON already."""
    if not isinstance(error, RaypipeError | bytes):
        error = InfrastructureError(f"the conductor broke: {type(error).__name__}: {error}")
    return pa.table({"result": [None], "error": [error if isinstance(error, bytes) else to_json(error)]}, schema=OUT)


def unpack_results(made: pa.Table) -> list[BatchResult]:
    """What a conductor's output stands for; raises the error it holds."""
    for error in made.column("error").to_pylist():
        if error is not None:
            raise from_json(error)
    results: list[BatchResult] = []
    for text in made.column("result").to_pylist():
        plain = orjson.loads(text)
        counts = {step: StepCounts(**values) for step, values in plain["counts"].items()}
        parts = tuple(Part(**part | {"sink": Sink(**part["sink"])}) for part in plain["parts"])
        results.append(BatchResult(parts, counts, plain["halted_for"]))
    return results

"""Gives rows their lineage as children and copies, and splits them by batch. Knows nothing of where rows go."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raypipe.identity import child_identity
from raypipe.plan.plan import PlannedStep
from raypipe.row import ANCESTORS, BATCH, PATH, ROW_ID
from raypipe.values.selection import filter_rows, take_rows


def with_column(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with a column added, or replaced in its place."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def broadcast(rows: pa.Table, planned: PlannedStep, child: np.ndarray) -> pa.Table:
    """Each row as often as its step is to be sampled, numbered by `sample`; `child` are their numbers before."""
    copies = planned.step.copies
    sample = np.tile(np.arange(copies), len(child))
    rows = take_rows(rows, np.repeat(np.arange(rows.num_rows), copies))
    rows = with_column(rows, "sample", pa.array(sample, pa.int64()))
    return as_children(rows, planned.name, np.repeat(child * copies, copies) + sample)


def as_children(rows: pa.Table, step: str, child: np.ndarray) -> pa.Table:
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
        rows = with_column(rows, name, column)
    return rows


def split_by_batch(rows: pa.Table) -> list[tuple[int, pa.Table]]:
    """The rows of each batch, by its number."""
    numbers = batch_sizes(rows)
    if len(numbers) == 1:
        return [(numbers[0][0], rows)]
    batch = rows.column(BATCH).to_numpy()
    return [(number, filter_rows(rows, batch == number)) for number, _ in numbers]


def batch_sizes(rows: pa.Table) -> list[tuple[int, int]]:
    """The numbers of the rows' batches, and how many rows are of each."""
    batch = rows.column(BATCH).to_numpy()
    if len(batch) and (batch == batch[0]).all():
        return [(int(batch[0]), len(batch))]
    numbers, counts = np.unique(batch, return_counts=True)
    return list(zip(numbers.tolist(), counts.tolist(), strict=True))

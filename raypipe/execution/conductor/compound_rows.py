"""Makes one row of several, and unfolds it again: the lists of an aggregate, and the rows a step is given all at once.

The second kind holds its members as a list of structs with their lineage beside it; where it fails, each member failed.
Knows nothing of when the members of a row are complete.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raypipe.contracts.step import Aggregate
from raypipe.execution.conductor.lineage import with_column
from raypipe.graph.callback import Collected
from raypipe.row import BATCH, LINEAGE, MEMBERS
from raypipe.storage.tables import LINEAGE_SCHEMA
from raypipe.values.byte_bounds import MOST_VALUE_BYTES
from raypipe.values.selection import size_bytes


def weights(rows: pa.Table) -> np.ndarray:
    """How many rows each row stands for: 1, except for a compound row, which stands for its members.

    One int64 for each row, in order; 0 for a compound row that was made of no rows.
    """
    if MEMBERS not in rows.column_names:
        return np.ones(rows.num_rows, np.int64)
    return rows.column(MEMBERS).combine_chunks().value_lengths().to_numpy().astype(np.int64)


def unfold(row: pa.Table, column: str) -> pa.Table:
    """The members of a row (a table of one) that holds them in `column`; the row itself where it has none."""
    if MEMBERS not in row.column_names:
        return row
    lineage = row.column(MEMBERS).combine_chunks().flatten()
    if not len(lineage):
        return row.drop_columns([name for name in (column, MEMBERS) if name in row.column_names])
    made = pa.Table.from_struct_array(row.column(column).combine_chunks().flatten())
    for index, field in enumerate(LINEAGE_SCHEMA):
        made = made.append_column(field, lineage.field(index))
    batch = np.full(len(lineage), row.column(BATCH)[0].as_py(), np.int32)
    return made.append_column(BATCH, pa.array(batch))


def with_lists(
    parents: pa.Table, members: pa.Table | None, sizes: Sequence[int], step: Aggregate, columns: Sequence[str] | None
) -> pa.Table:
    """The parents with the members' `columns` as lists, of `sizes`; with all the parents lack where none are named."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    if step.as_rows is not None:
        return _with_structs(parents, members, offsets, step, step.as_rows)
    if columns is None:
        kept = set(parents.column_names)
        columns = [name for name in members.column_names if name not in kept] if members is not None else []
    for name in columns:
        column = pa.nulls(sum(sizes))
        if members is not None and name in members.column_names:
            column = members.column(name).combine_chunks()
        parents = with_column(parents, name, pa.ListArray.from_arrays(offsets, column))
    return parents


def _with_structs(
    parents: pa.Table, members: pa.Table | None, offsets: pa.Array, step: Aggregate, name: str
) -> pa.Table:
    """The parents with their members as one list of structs, and for a `Collected` their lineage as another."""
    structs = pa.nulls(0)
    if members is not None:
        names = [name for name in members.column_names if name not in LINEAGE]
        columns = [members.column(name).combine_chunks() for name in names]
        structs = pa.StructArray.from_arrays(columns, names=names)
    if isinstance(step, Collected):
        own = parents.slice(0, 0) if members is None else members
        lineage = [own.column(name).combine_chunks() for name in LINEAGE_SCHEMA.names]
        of_members = pa.StructArray.from_arrays(lineage, names=LINEAGE_SCHEMA.names)
        parents = with_column(parents, MEMBERS, pa.ListArray.from_arrays(offsets, of_members))
    return with_column(parents, name, pa.ListArray.from_arrays(offsets, structs))


def describe_oversize(members: pa.Table) -> str:
    """Why members cannot become the lists of one row; empty where they can."""
    if size_bytes(members) <= MOST_VALUE_BYTES:
        return ""
    columns = {name: members.column(name).nbytes for name in members.column_names if name not in LINEAGE}
    name, size = max(columns.items(), key=lambda one: one[1])
    if size <= MOST_VALUE_BYTES:
        return ""
    total = f"{members.num_rows:,} rows have {size / 2**30:.1f} GiB in column {name!r}, and a list holds at most 2 GiB"
    return f"{total}; drop the column before (KeepColumns), or collect only what is needed (columns=[...])"

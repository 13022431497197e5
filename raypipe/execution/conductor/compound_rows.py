"""Counts and unfolds rows that stand for several: what a step is given that takes all rows, or a family, at once.

Such a row has its members as a list of structs, and their lineage beside it; where it fails, each of them has failed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raypipe.row import BATCH, MEMBERS
from raypipe.storage.tables import LINEAGE_SCHEMA


def weights(rows: pa.Table) -> np.ndarray:
    """How many rows each row stands for: 1, but for one that stands for its members."""
    if MEMBERS not in rows.column_names:
        return np.ones(rows.num_rows, np.int64)
    return rows.column(MEMBERS).combine_chunks().value_lengths().to_numpy().astype(np.int64)


def weight(rows: pa.Table) -> int:
    """How many rows all of them stand for."""
    return int(weights(rows).sum())


def lineages(members: pa.Table) -> pa.Array:
    """The lineage of rows, as structs."""
    columns = [members.column(name).combine_chunks() for name in LINEAGE_SCHEMA.names]
    return pa.StructArray.from_arrays(columns, names=LINEAGE_SCHEMA.names)


def unfolded(row: pa.Table, column: str) -> pa.Table:
    """The members of a row (a table of one) that holds them in `column`; without any the row itself."""
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

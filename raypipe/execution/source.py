"""Reads what a stage takes in: rows with identity, in batches. Knows nothing of who carries them.

A source row's identity is the digest of its content and its number among equal rows of its source, so it does not
depend on where the row stands. Rows between stages carry theirs already.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from raypipe.concurrency.background import Caught
from raypipe.contracts.step import Aggregate, Source, Unit
from raypipe.errors import InputError, RaypipeError, SpecError, nearest
from raypipe.execution.conductor.compound_rows import describe_oversize, with_lists
from raypipe.execution.occurrences import Occurrences
from raypipe.execution.row_identity import VERSION, Identifier, identifier_of
from raypipe.execution.worker.boundary import close_step, describe
from raypipe.identity import canonical_json, group_identity
from raypipe.row import GROUP, GROUP_ID, PATH, POSITION, RESERVED, ROW_ID
from raypipe.storage.paths import AnyPath, open_parquet_at
from raypipe.storage.tables import LINEAGE_SCHEMA, concat, conform, sort_by_source, unify_schemas
from raypipe.values.admission import admit_table
from raypipe.values.byte_bounds import READ_BYTES
from raypipe.values.selection import filter_rows, split, take_rows

BATCH_ROWS = 1024
_UNIT_POSITIONS = 2**40


def identify_rows(
    source: Source, unit: Unit, place: int, ids: Identifier, only: frozenset[bytes] | None = None
) -> Iterator[pa.Table]:
    """The rows of a unit, the `place`-th, with lineage columns, or only those with certain identities.

    Raises InputError.
    """
    position = place * _UNIT_POSITIONS
    where = f"file {unit.location!r}" if unit.location else f"step {source.name or type(source).__name__!r}"
    pieces = (
        piece
        for read in read_tables(source, unit)
        for piece in (split(read, read.num_rows, READ_BYTES) if read.num_rows else [read])
    )
    for piece in pieces:  # all values of one may be held as Python's at once
        table = admit_table(piece, where)
        found = ids.identify(table if source.identity is None else table.select(list(source.identity)))
        table = table.rename_columns([source.output_mappings.get(name, name) for name in table.column_names])
        made = _with_lineage(table, found, range(position, position + len(found)))
        yield made if only is None else filter_rows(made, [one in only for one in found])
        position += len(found)


def read_tables(source: Source, unit: Unit) -> Iterator[pa.Table]:
    """What a source reads. Raises InputError for whatever its code raises."""
    tables, name = iter(source.read(unit)), source.name or type(source).__name__
    try:
        while True:
            table: pa.Table | None = None
            with Caught() as caught:
                table = next(tables, None)
            if isinstance(caught.error, Exception) and not isinstance(caught.error, RaypipeError):
                frame = traceback.extract_tb(caught.error.__traceback__)[-1]
                problem = f"{' '.join(describe(caught.error).split())} ({Path(frame.filename).name}:{frame.lineno})"
                raise InputError(f"step {name!r} cannot read its rows: {problem}") from None
            if caught.error is not None:
                raise caught.error
            if table is None:
                return
            yield table
    finally:
        close_step(name, source)


def _with_lineage(table: pa.Table, ids: Sequence[bytes], positions: Sequence[int]) -> pa.Table:
    none = pa.array(np.zeros(len(ids) + 1, np.int32))
    columns = {
        ROW_ID: pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(b"".join(ids))]),
        POSITION: pa.array(np.asarray(positions, np.int64)),
    }
    for field in LINEAGE_SCHEMA:
        column = columns.get(field.name)
        if column is None:
            column = pa.ListArray.from_arrays(none, pa.array([], field.type.value_type), type=field.type)
        table = table.append_column(field, column)
    return table


def read_source(
    source: Source,
    limit: int | None = None,
    only: frozenset[bytes] | None = None,
    artifacts: AnyPath | None = None,
    most_bytes: int = READ_BYTES,
    version: int = VERSION,
) -> Iterator[pa.Table]:
    """All rows of a source in batches, or the first `limit` rows, or those with certain identities.

    `artifacts` is where it keeps files beside them, `most_bytes` what a batch of several rows may be, `version` that of
    the identities. Raises InputError.
    """
    left, occurrences = limit, Occurrences()
    for place, unit in enumerate(source.units()):
        source.keep_artifacts_in(artifacts)
        ids = identifier_of(unit, place, version, occurrences.number)
        for table in identify_rows(source, unit, place, ids, only):
            for batch in cut_batches(table if left is None else table.slice(0, left), most_bytes):
                yield batch
                if left is not None:
                    left -= batch.num_rows
            if left == 0:
                return


def cut_batches(table: pa.Table, most_bytes: int = READ_BYTES) -> Iterator[pa.Table]:
    """A table in batches of at most `BATCH_ROWS` rows and so many bytes; none for an empty one."""
    return split(table, BATCH_ROWS, most_bytes)


def unify_part_schemas(paths: Sequence[str], name: str, step: Aggregate) -> pa.Schema:
    """The schema that the rows in all `paths` fit. Raises SpecError when none has a column that they are grouped by."""
    schema = unify_schemas([open_parquet_at(path).schema_arrow for path in paths])
    missing = [column for column in step.by if column not in schema.names] if isinstance(step.by, list) else []
    if missing:
        there = [column for column in schema.names if column not in RESERVED]
        problem = f"groups by {missing[0]!r}, which no row before it has{nearest(missing[0], there)}"
        raise SpecError.of(f"step {name!r}", problem)
    return schema


def read_parts(paths: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of each file under one schema."""
    for path in paths:
        yield conform(open_parquet_at(path).read(), schema)


def fold_group(rows: pa.Table, name: str, step: Aggregate) -> pa.Table:
    """All rows of one group as one row of a new stage, a root of its own in the place of its first row.

    It has lineage, the columns that are grouped by, and the others as lists. Raises InputError.
    """
    rows = sort_by_source(rows)
    keys = list(step.by) if isinstance(step.by, list) else []
    first = rows.slice(0, 1)
    identity = first.column(GROUP_ID)[0].as_py() if keys else group_identity(name, canonical_json({}))
    parent = _with_lineage(first.select(keys), [identity], [first.column(POSITION)[0].as_py()])
    if keys:
        parent = parent.set_column(parent.column_names.index(PATH), LINEAGE_SCHEMA.field(PATH), first.column(PATH))
        rows = rows.drop_columns([GROUP, GROUP_ID])
    else:
        parent = parent.select(list(LINEAGE_SCHEMA.names))
    if problem := describe_oversize(rows):
        raise InputError(f"step {step.name!r}: {problem}")
    return with_lists(parent, rows, [rows.num_rows], step, step.columns)


def read_groups(paths: Sequence[str], name: str, step: Aggregate) -> Iterator[pa.Table]:
    """The groups of all rows in `paths`, in the order of their first rows. Raises SpecError."""
    if not paths:
        return
    rows = sort_by_source(pa.concat_tables(read_parts(paths, unify_part_schemas(paths, name, step))))
    places: dict[str, list[int]] = {}
    keys = rows.column(GROUP).to_pylist() if isinstance(step.by, list) else [""] * rows.num_rows
    for index, key in enumerate(keys):
        places.setdefault(key, []).append(index)
    groups = (fold_group(take_rows(rows, at), name, step) for at in places.values())
    while some := list(islice(groups, BATCH_ROWS)):
        yield from cut_batches(concat(some))

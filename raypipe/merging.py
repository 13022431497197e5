"""I put the rows of a retry among those of the run before it, in the order of their sources.

The rows of the run before are read a row group at a time; those of a retry, few as a rule, are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from raypipe.interruption import checkpoint
from raypipe.places import Place, parquet
from raypipe.row import PATH, POSITION, ROW_ID, SOURCE_ID
from raypipe.tables import conform, sorted_by_source, unified_schema, write_part


def merged_parts(before: Sequence[Place], new: Iterable[Place], retried: frozenset[str], folder: Place) -> list[Place]:
    """Parts with the rows in `before`, but for those of the retried source rows, and the rows in `new`."""
    old, added = list(before), list(new)
    schema = unified_schema([parquet(path).schema_arrow for path in [*old, *added]])
    fresh = [conform(parquet(path).read(), schema) for path in added]
    waiting = sorted_by_source(pa.concat_tables(fresh)) if fresh else schema.empty_table()
    parts: list[Place] = []
    for kept in _groups(old, schema, retried):
        last = kept.column(POSITION)[-1].as_py(), kept.column(PATH)[-1].as_py()
        due = _count_until(waiting, last)
        rows = sorted_by_source(pa.concat_tables([kept, waiting.slice(0, due)]))
        waiting = waiting.slice(due)
        parts.append(_written(folder, len(parts), rows))
    if waiting.num_rows:
        parts.append(_written(folder, len(parts), waiting))
    return parts


def _groups(paths: Sequence[Place], schema: pa.Schema, retried: frozenset[str]) -> Iterator[pa.Table]:
    for path in paths:
        with parquet(path) as file:
            for number in range(file.num_row_groups):
                checkpoint()
                table = conform(file.read_row_group(number), schema)
                sources = zip(table.column(SOURCE_ID).to_pylist(), table.column(ROW_ID).to_pylist(), strict=True)
                kept = table.filter(pa.array([(source or row) not in retried for source, row in sources], pa.bool_()))
                if kept.num_rows:
                    yield kept


def _count_until(rows: pa.Table, last: tuple[int, list[int]]) -> int:
    places = zip(rows.column(POSITION).to_pylist(), rows.column(PATH).to_pylist(), strict=True)
    return next((index for index, place in enumerate(places) if place > last), rows.num_rows)


def _written(folder: Place, number: int, rows: pa.Table) -> Place:
    path = folder / f"{number:08d}.parquet"
    write_part(path, rows)
    return path

"""Puts sorted rows of several files in the one order of their sources, a row group of each at a time.

Rows of one batch may be in several files, since many bytes are written before the batch is complete; rows of a retry
come among those of the run before it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import pyarrow as pa

from raypipe.execution.conductor.batches import Part
from raypipe.row import PATH, POSITION, ROW_ID, SOURCE_ID
from raypipe.storage.paths import AnyPath, parse_path, replacing
from raypipe.storage.tables import concat, open_part_writer, read_tables, sort_by_source, write_groups
from raypipe.values.selection import filter_rows

_MOST_AT_ONCE = 32
"""Files that are read at the same time; of more, some are made one first."""


def rows_of(parts: Sequence[Part], schema: pa.Schema, folder: AnyPath) -> Iterator[pa.Table]:
    """All rows under `schema`, in order; `folder` is for files that are needed on the way."""
    for number, mixed in enumerate(_mixed(parts)):
        yield from _merged([parse_path(part.path) for part in mixed], schema, folder / f"{number:08d}")


def rows_with(
    before: Iterable[AnyPath], new: Iterator[pa.Table], retried: frozenset[str], schema: pa.Schema
) -> Iterator[pa.Table]:
    """The rows in `before`, but for those of the retried source rows, and those in `new`, in order."""
    old = chain.from_iterable(read_tables(path, schema) for path in before)
    return merged([_kept(old, retried), new])


def merged(runs: Sequence[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """The rows of all runs, each of which is in order, in order."""
    heads = [head for head in map(_Head, runs) if head.keys]
    while len(heads) > 1:
        last = min(head.keys[-1] for head in heads)
        taken = [head.take_until(last) for head in heads]
        yield sort_by_source(concat([table for table in taken if table.num_rows]))
        heads = [head for head in heads if head.keys]
    for head in heads:
        yield from head.left()


_Key = tuple[int, list[int]]


class _Head:
    """The next rows of a run."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._next()

    def _next(self) -> None:
        self._table = next((table for table in self._tables if table.num_rows), None)
        self.keys: list[_Key] = [] if self._table is None else _keys(self._table)

    def take_until(self, last: _Key) -> pa.Table:
        """The rows at hand that come no later."""
        assert self._table is not None
        count = len(self.keys) if self.keys[-1] <= last else bisect_right(self.keys, last)
        taken, self._table, self.keys = self._table.slice(0, count), self._table.slice(count), self.keys[count:]
        if not self.keys:
            self._next()
        return taken

    def left(self) -> Iterator[pa.Table]:
        """All rows that are left."""
        if self._table is not None:
            yield self._table
        yield from self._tables


def _keys(table: pa.Table) -> list[_Key]:
    return list(zip(table.column(POSITION).to_pylist(), table.column(PATH).to_pylist(), strict=True))


def _mixed(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The parts in order, those together whose rows may come among each other's."""
    mixed: list[Part] = []
    last = -1
    for part in sorted(parts, key=lambda part: (part.position, part.last)):
        if mixed and part.position > last:
            yield mixed
            mixed = []
        mixed.append(part)
        last = max(last, part.last)
    if mixed:
        yield mixed


def _merged(paths: Sequence[AnyPath], schema: pa.Schema, folder: AnyPath) -> Iterator[pa.Table]:
    level = 0
    while len(paths) > _MOST_AT_ONCE:
        paths = [
            _written(
                folder / f"{level}-{start:08d}.parquet",
                merged([read_tables(path, schema) for path in paths[start : start + _MOST_AT_ONCE]]),
                schema,
            )
            for start in range(0, len(paths), _MOST_AT_ONCE)
        ]
        level += 1
    yield from merged([read_tables(path, schema) for path in paths])


def _written(place: AnyPath, tables: Iterator[pa.Table], schema: pa.Schema) -> AnyPath:
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as file, open_part_writer(file, schema) as writer:
        for table in tables:
            write_groups(writer, table)
    return place


def _kept(tables: Iterator[pa.Table], retried: frozenset[str]) -> Iterator[pa.Table]:
    for table in tables:
        sources = zip(table.column(SOURCE_ID).to_pylist(), table.column(ROW_ID).to_pylist(), strict=True)
        yield filter_rows(table, [(source or row) not in retried for source, row in sources])

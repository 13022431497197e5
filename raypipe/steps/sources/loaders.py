"""I read the rows that a pipeline starts from: from a list or from files.

I do not know what becomes of them. Where files are found stands in `locating`, how they are read in `reading`;
both load only when a file is touched.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, PlainValidator, field_validator

from raypipe.contracts.step import Columns, Source, Unit
from raypipe.errors import InputError
from raypipe.row import RESERVED, ROW_ID
from raypipe.security.permissions import check_file

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096
_SAMPLED_FILES = 16
"""Files that are opened to learn the columns."""
_COUNTED_FILES = 256
_COUNTED_BYTES = 16 * 2**20
"""Only so much is read for an estimate; rows of Parquet files are counted without reading them."""


def _rows(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        got = "one mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise ValueError(f"rows come as a list of mappings, not {got}; write [{{…}}, …]")
    for number, row in enumerate(cast(Sequence[Any], value), start=1):
        if not isinstance(row, Mapping):
            raise ValueError(f"row {number} is a {type(row).__name__}, not a mapping of columns to values")
        for name in cast(Mapping[Any, Any], row):
            if not isinstance(name, str):
                raise ValueError(f"row {number} has the column {name!r}; column names are text")
            if name in RESERVED and ROW_ID not in row:
                raise ValueError(f"row {number} has the column {name!r}, a name kept for lineage; rename it")
    return list(cast(Sequence[Mapping[str, Any]], value))


class LoadDataFromDicts(Source):
    """Rows from a list of mappings; a column that a row does not have is null in it."""

    data: Annotated[list[Mapping[str, Any]], PlainValidator(_rows)]
    batch_size: int = Field(default=50, ge=1)
    """Changes nothing: rows go on as they are read."""

    def __init__(self, data: Sequence[Mapping[str, Any]] | None = None, /, **fields: Any) -> None:
        given: dict[str, Any] = {} if data is None else {"data": data}
        super().__init__(**given, **fields)

    def units(self) -> list[Unit]:
        return [Unit("")]

    def columns(self) -> Columns:
        return tuple(name for name in dict.fromkeys(name for row in self.data for name in row) if name not in RESERVED)

    def row_count(self) -> int | None:
        return len(self.data)

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        from raypipe.values.tabulate import to_table

        if not self.data:
            return
        table = to_table(self.data, self.columns() or (), lambda index: f"row {index + 1}")
        for start in range(0, len(self.data), BATCH_ROWS):
            yield table.slice(start, min(BATCH_ROWS, len(self.data) - start))


class LoadDataFromFiles(Source):
    """Rows from Parquet, JSON, JSON lines, CSV and TSV files, and texts (`.txt`, `.md`); all but Parquet also gzipped.

    A text is one row, with the columns `text` and `file` (its name). `path` is a file, a folder, a glob (`**` for any
    depth) or a list of them. A folder stands for all files of known kinds in it whose names do not start with `_` or
    `.`, for its texts only where it has nothing else; a folder that a run wrote stands for its dataset, without the
    lineage columns.
    """

    path: list[str] = Field(min_length=1)
    num_examples: int | None = Field(default=None, ge=1)
    """Most rows, over all files."""

    def __init__(self, path: str | os.PathLike[str] | Sequence[str] | None = None, /, **fields: Any) -> None:
        given: dict[str, Any] = {} if path is None else {"path": path}
        super().__init__(**given, **fields)

    @field_validator("path", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        paths: Any = [value] if isinstance(value, str | os.PathLike) else value
        if not isinstance(paths, list | tuple):
            return paths
        return [os.fspath(path) if isinstance(path, os.PathLike) else path for path in cast(list[Any], paths)]

    @field_validator("path")
    @classmethod
    def _are_allowed(cls, paths: list[str]) -> list[str]:
        for path in paths:
            check_file(path, "path")
        return paths

    def units(self) -> list[Unit]:
        units = self._all_units()
        return units if self.num_examples is None else [unit for unit, _ in _shares(units, self.num_examples)]

    def _all_units(self) -> list[Unit]:
        from raypipe.steps.files.locate import locate

        return locate(self.path, self._reach.permissions)

    def columns(self) -> Columns:
        from raypipe.steps.files.formats import columns_of

        try:
            locations = [unit.location for unit in self._all_units()[:_SAMPLED_FILES]]
            return tuple(dict.fromkeys(name for location in locations for name in columns_of(location)))
        except InputError:
            return None

    def row_count(self) -> int | None:
        from raypipe.steps.files.formats import count_rows

        units = self._all_units()
        read = sum(os.path.getsize(unit.location) for unit in units if not unit.location.endswith(".parquet"))
        if read > _COUNTED_BYTES or len(units) > _COUNTED_FILES:
            return None
        most = self.num_examples or sys.maxsize
        return min(most, sum(count_rows(unit.location, most) for unit in units))

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        from raypipe.steps.files.formats import read_tables

        tables = read_tables(unit.location, BATCH_ROWS)
        if self.num_examples is None:
            yield from tables
            return
        shares = _shares(self._all_units(), self.num_examples)
        left = next((share for other, share in shares if other.name == unit.name), 0)
        while left > 0 and (table := next(tables, None)) is not None:
            yield table.slice(0, min(left, table.num_rows))
            left -= table.num_rows


def _shares(units: Sequence[Unit], most: int) -> Iterator[tuple[Unit, int]]:
    """Each unit with the number of rows that may be taken of it, until `most` are reached."""
    from raypipe.steps.files.formats import count_rows

    for unit in units:
        if most <= 0:
            break
        yield unit, most
        most -= count_rows(unit.location, most)

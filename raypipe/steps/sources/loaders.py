"""Reads the rows that a pipeline starts from: a list of mappings, or files.

Knows nothing of what becomes of them. `files.locate` finds files and `files.formats` reads them; both are imported only
when a file is touched.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from raypipe.contracts.step import Columns, Source, Unit
from raypipe.errors import InputError
from raypipe.row import RESERVED, ROW_ID
from raypipe.security.permissions import check_file
from raypipe.steps.columns.names import ONE_OR_MORE
from raypipe.steps.idle_options import warn_idle

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 4096
"""Rows that are passed on at a time."""
_SAMPLED_FILES = 16
"""Files that are opened to learn the columns."""
_COUNTED_FILES = 256
_COUNTED_BYTES = 16 * 2**20
"""Only so much is read for an estimate; rows of Parquet files are counted without reading them."""


def plain_paths(value: Any) -> Any:
    """Path objects as text, alone or in a list; anything else as it is."""
    if isinstance(value, list | tuple):
        return [plain_paths(item) for item in cast("list[Any]", value)]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _check_rows(value: Any) -> list[Mapping[str, Any]]:
    """The rows, if they are mappings with names that a column may have."""
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
    """Rows from a list of mappings; a column that a row does not have is null in it.

    Raises SpecError for what is no list of mappings, or has a column name that is kept for lineage.
    """

    data: Annotated[list[Mapping[str, Any]], PlainValidator(_check_rows)]
    """The rows."""
    batch_size: int = Field(default=50, ge=1)
    """Changes nothing, and a warning says so: rows are passed on as they are read."""

    def __init__(self, data: Sequence[Mapping[str, Any]] | None = None, /, **fields: Any) -> None:
        given: dict[str, Any] = {} if data is None else {"data": data}
        super().__init__(**given, **fields)

    @model_validator(mode="after")
    def _warn_of_batch_size(self) -> Self:
        if "batch_size" in self.model_fields_set:
            warn_idle(type(self).__name__, "batch_size", "rows are passed on as they are read")
        return self

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


class FileSource(Source):
    """Base of the sources that read data files."""

    path_option: ClassVar[str] = "path"
    """The option that names files, folders and globs: one, or several."""

    num_examples: int | None = Field(default=None, ge=1)
    """Most rows, over all files."""

    @model_validator(mode="after")
    def _check_permissions(self) -> Self:
        for path in self.paths():
            check_file(path, self.path_option)
        return self

    def paths(self) -> list[str]:
        """Files, folders and globs."""
        named: str | list[str] | None = getattr(self, self.path_option)
        return [named] if isinstance(named, str) else named or []

    def find_files(self) -> list[Unit]:
        """One unit for each file. Raises InputError when a path stands for nothing."""
        from raypipe.steps.files.locate import locate

        return locate(self.paths(), self._reach.permissions)

    def units(self) -> list[Unit]:
        units = self.find_files()
        return units if self.num_examples is None else [unit for unit, _ in _share_out(units, self.num_examples)]

    def columns(self) -> Columns:
        from raypipe.steps.files.formats import columns_of

        try:
            locations = [unit.location for unit in self.find_files()[:_SAMPLED_FILES]]
            return tuple(dict.fromkeys(name for location in locations for name in columns_of(location)))
        except InputError:
            return None

    def row_count(self) -> int | None:
        from raypipe.steps.files.formats import count_rows

        units = self.find_files()
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
        shares = _share_out(self.find_files(), self.num_examples)
        left = next((share for other, share in shares if other.name == unit.name), 0)
        while left > 0 and (table := next(tables, None)) is not None:
            yield table.slice(0, min(left, table.num_rows))
            left -= table.num_rows


class LoadDataFromFiles(FileSource):
    """Rows from Parquet, JSON, JSON lines, CSV and TSV files, and texts (`.txt`, `.md`); all but Parquet also gzipped.

    A text file is one row, with the columns `text` and `file` (its name). A file that cannot be read as rows stops the
    run with an InputError that names the place in it.
    """

    path: Annotated[list[str], Field(min_length=1), ONE_OR_MORE, BeforeValidator(plain_paths)]
    """A file, a folder, a glob (`**` for any depth) or a list of them. A folder stands for all files of known kinds in
    it whose names do not start with `_` or `.`, and for its text files only where it has nothing else; the folder of a
    run stands for its dataset, without the lineage columns."""

    def __init__(self, path: str | os.PathLike[str] | Sequence[str] | None = None, /, **fields: Any) -> None:
        given: dict[str, Any] = {} if path is None else {"path": path}
        super().__init__(**given, **fields)


def _share_out(units: Sequence[Unit], most: int) -> Iterator[tuple[Unit, int]]:
    """Each unit with the number of rows that may be read of it, until `most` are reached."""
    from raypipe.steps.files.formats import count_rows

    for unit in units:
        if most <= 0:
            break
        yield unit, most
        most -= count_rows(unit.location, most)

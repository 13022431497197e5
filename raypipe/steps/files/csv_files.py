"""Reads files of comma- or tab-separated values.

Knows nothing of what the columns mean. A column's type is the narrowest that all of its values have, found by a pass
over the whole file: a type guessed from the first block breaks on the last. Numbers with leading zeros stay text, as do
words such as NA; an empty field is null in a column of numbers and empty text in a column of text.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pa_csv

from raypipe.errors import InputError
from raypipe.steps.files.locate import kind_of, open_file
from raypipe.values.byte_bounds import MOST_COLUMNS

_compute: Any = pyarrow.compute
_BLOCK_BYTES = 8 * 2**20
_FORMS = (
    (pa.int64(), r"^-?(0|[1-9]\d{0,17})$"),
    (pa.float64(), r"^-?(0|[1-9]\d{0,14})(\.\d*)?([eE][+-]?\d{1,2})?$"),
    (pa.bool_(), r"^(true|True|TRUE|false|False|FALSE)$"),
)
"""Types and what their values look like, the narrowest first; longer numbers would lose digits and stay text."""


def names(path: str) -> list[str]:
    """Columns, from the header; none of an empty file."""
    with open_file(path) as file:
        if not any(line.strip() for line in file):
            return []
    with _open(path, {}) as reader:
        found = cast(list[str], reader.schema.names)
    if len(found) > MOST_COLUMNS:
        problem = f"has {len(found):,} columns, more than the {MOST_COLUMNS:,} that a table may have; leave some out"
        raise InputError(f"file {path!r} {problem}")
    duplicates = [name for name, times in Counter(found).items() if times > 1]
    if duplicates:
        raise InputError(f"file {path!r} has two columns {duplicates[0]!r}; rename one in the header")
    return found


def count(path: str, limit: int) -> int:
    """Number of rows, up to about `limit`."""
    rows = 0
    for batch in _read_batches(path, dict.fromkeys(names(path), pa.string())):
        rows += batch.num_rows
        if rows >= limit:
            break
    return rows


def tables(path: str, batch_rows: int) -> Iterator[pa.Table]:
    """Tables of at most `batch_rows` rows."""
    for batch in _read_batches(path, _find_types(path, names(path))):
        table = pa.Table.from_batches([batch])
        for start in range(0, table.num_rows, batch_rows):
            yield table.slice(start, batch_rows)


def _find_types(path: str, columns: list[str]) -> dict[str, pa.DataType]:
    """The narrowest type of each column; text where a column is empty or has several."""
    left: dict[str, tuple[tuple[Any, str], ...]] = dict.fromkeys(columns, _FORMS)
    empty = set(columns)
    for batch in _read_batches(path, dict.fromkeys(columns, pa.string())):
        for name in columns:
            column = batch.column(name)
            values = column.filter(_compute.not_equal(column, ""))
            if len(values):
                empty.discard(name)
                matches = {form: _compute.match_substring_regex(values, form[1]) for form in left[name]}
                left[name] = tuple(form for form, fits in matches.items() if _compute.all(fits).as_py())
    return {name: left[name][0][0] if left[name] and name not in empty else pa.string() for name in columns}


def _read_batches(path: str, types: dict[str, pa.DataType]) -> Iterator[Any]:
    """The rows in batches; none of a file without columns."""
    if not types:
        return
    with _open(path, types) as reader:
        yield from reader


@contextmanager
def _open(path: str, types: dict[str, pa.DataType]) -> Generator[Any]:
    """A reader of the file. Raises InputError, naming the line where it can, for what is no table."""
    delimiter = "\t" if kind_of(path) == "tsv" else ","
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    convert = pa_csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=False)
    with open_file(path) as file:
        try:
            yield pa_csv.open_csv(file, pa_csv.ReadOptions(block_size=_BLOCK_BYTES), parse, convert)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            place = _find_bad_row(path, delimiter)
            raise InputError(f"file {path!r}{place} is not a table ({error}); correct it there") from None


def _find_bad_row(path: str, delimiter: str) -> str:
    """The first row that is longer or shorter than the header; pyarrow does not say which."""
    with open_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
        rows = csv.reader(text, delimiter=delimiter)
        with suppress(csv.Error):
            width = len(next(rows, []))
            for row in rows:
                if row and len(row) != width:
                    return f", line {rows.line_num}"
    return ""

"""Input tables of every Arrow type and oddity, and the files that they are written to."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

_TEXT = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=12)
_NAMES = [
    "a",
    "b",
    "with space",
    "a.b",
    "~error",
    "~parked~",
    "é",
    "0",
    "None",
    "class",
    "row",
    "_x",
    "A",
    "topic ",
    "λ",
]
_MOMENTS = st.integers(-(2**61), 2**61)


def _scalars() -> list[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    bounded = [
        (kind, st.integers(*bounds))
        for kind, bounds in (
            (pa.int8(), (-128, 127)),
            (pa.int16(), (-(2**15), 2**15 - 1)),
            (pa.int32(), (-(2**31), 2**31 - 1)),
            (pa.int64(), (-(2**63), 2**63 - 1)),
            (pa.uint8(), (0, 255)),
            (pa.uint16(), (0, 2**16 - 1)),
            (pa.uint32(), (0, 2**32 - 1)),
            (pa.uint64(), (0, 2**64 - 1)),
        )
    ]
    moments = [(pa.timestamp(unit, zone), _MOMENTS) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC")]
    spans = [(pa.duration(unit), _MOMENTS) for unit in ("s", "ms", "us", "ns")]
    return [
        *bounded,
        *moments,
        *spans,
        (pa.null(), st.none()),
        (pa.bool_(), st.booleans()),
        (pa.float16(), st.floats(width=16)),
        (pa.float32(), st.floats(width=32)),
        (pa.float64(), st.floats()),
        (pa.string(), _TEXT),
        (pa.large_string(), _TEXT),
        (pa.string_view(), _TEXT),
        (pa.binary(), st.binary(max_size=8)),
        (pa.large_binary(), st.binary(max_size=8)),
        (pa.binary_view(), st.binary(max_size=8)),
        (pa.binary(3), st.binary(min_size=3, max_size=3)),
        (pa.date32(), st.dates()),
        (pa.date64(), st.dates()),
        (pa.time32("s"), st.integers(0, 86_399)),
        (pa.time64("ns"), st.integers(0, 86_399 * 10**9)),
        (pa.decimal128(10, 2), st.decimals(-(10**6), 10**6, places=2)),
        (pa.decimal256(60, 5), st.decimals(-(10**6), 10**6, places=5)),
        (pa.month_day_nano_interval(), st.just(pa.MonthDayNano([1, 2, 3]))),
        (pa.timestamp("us", "Europe/Berlin"), _MOMENTS),
    ]


def arrays(size: int) -> st.SearchStrategy[pa.Array]:
    """Arrays of one of all types, nested ones too; some values are null."""
    typed = st.deferred(lambda: st.one_of(_flat(), _nested(typed)))
    return typed.flatmap(lambda pair: st.lists(pair[1], min_size=size, max_size=size).map(_array_of(pair[0])))


_Typed = tuple[pa.DataType, st.SearchStrategy[Any]]


def _flat() -> st.SearchStrategy[_Typed]:
    return st.sampled_from(_scalars()).map(lambda pair: (pair[0], st.none() | pair[1]))


def _nested(inner: st.SearchStrategy[_Typed]) -> st.SearchStrategy[_Typed]:
    return st.one_of(
        inner.map(lambda pair: (pa.list_(pair[0]), st.none() | st.lists(pair[1], max_size=3))),
        inner.map(lambda pair: (pa.large_list(pair[0]), st.none() | st.lists(pair[1], max_size=3))),
        inner.map(lambda pair: (pa.list_(pair[0], 2), st.none() | st.lists(pair[1], min_size=2, max_size=2))),
        inner.map(
            lambda pair: (pa.map_(pa.string(), pair[0]), st.none() | st.lists(st.tuples(_TEXT, pair[1]), max_size=2))
        ),
        st.lists(inner, max_size=3).map(_struct),
    )


def _struct(fields: Sequence[_Typed]) -> _Typed:
    kind = pa.struct([(f"f{number}", kind) for number, (kind, _) in enumerate(fields)])
    values = st.fixed_dictionaries({f"f{number}": strategy for number, (_, strategy) in enumerate(fields)})
    return kind, st.none() | values


def _array_of(kind: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    def build(values: list[Any]) -> pa.Array:
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OverflowError, ValueError):
            return pa.nulls(len(values), kind)

    return build


@st.composite
def odd_tables(draw: st.DrawFn) -> pa.Table:
    """Up to six rows under up to four odd names, always with a text column `topic`."""
    size = draw(st.integers(1, 6))
    names = draw(st.lists(st.sampled_from(_NAMES), max_size=4, unique=True))
    columns: dict[str, Any] = {"topic": pa.array([f"topic {number}" for number in range(size)])}
    for name in names:
        array = draw(arrays(size))
        wrap = draw(st.sampled_from(["plain", "plain", "dictionary", "chunked", "extension"]))
        columns[name] = _wrapped(array, wrap)
    metadata = draw(st.sampled_from([None, {b"pandas": b"{"}, {b"raypipe": b"1"}, {b"huggingface": b"{}"}]))
    return pa.table(columns).replace_schema_metadata(metadata)


def _wrapped(array: pa.Array, wrap: str) -> Any:
    try:
        if wrap == "dictionary":
            return array.dictionary_encode()
        if wrap == "chunked":
            return pa.chunked_array([array.slice(0, 1), array.slice(1)])
        if wrap == "extension" and pa.types.is_string(array.type):
            return pa.ExtensionArray.from_storage(pa.json_(), array)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError):
        pass
    return array


def write_parquet(table: pa.Table, folder: Path) -> Path | None:
    """The table as a Parquet file, `None` where Parquet cannot hold it."""
    path = folder / "rows.parquet"
    try:
        pq.write_table(table, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OSError):
        return None
    return path


def write_feather(table: pa.Table, folder: Path) -> Path | None:
    """The table in Arrow's own format."""
    path = folder / "rows.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

JSON_ROWS = st.lists(st.dictionaries(st.sampled_from(_NAMES), _JSON_VALUES, max_size=4), min_size=1, max_size=6)


def write_lines(rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """The rows as JSON lines, each with a `topic`."""
    path = folder / "rows.jsonl"
    lines = [json.dumps({"topic": f"topic {number}", **row}, default=str) for number, row in enumerate(rows)]
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return path


CSV_ROWS = st.lists(st.lists(_TEXT | st.integers().map(str), min_size=2, max_size=2), min_size=1, max_size=6)


def write_csv(rows: Sequence[Sequence[str]], folder: Path) -> Path:
    """The rows as CSV, each with a `topic`."""
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["topic", "left", "right"])
        writer.writerows([f"topic {number}", *row] for number, row in enumerate(rows))
    return path


_ = dt, decimal

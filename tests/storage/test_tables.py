"""Rows go to Parquet and come back; nothing is dropped, and a reader sees a whole file or none."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.row import ANCESTORS, PATH, POSITION, ROW_ID
from raypipe.storage.tables import (
    LINEAGE_SCHEMA,
    concat,
    conform,
    read_tables,
    settle_types,
    sort_by_source,
    to_output_columns,
    unify_file_schemas,
    unify_schemas,
    write_dataset,
    write_part,
)
from raypipe.values.arrays import parse_arrow_type, to_array, to_lossless_array, to_text

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.text("abc", min_size=1, max_size=2)
PLAIN = st.recursive(
    SCALARS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
COLUMN = st.lists(PLAIN, max_size=5)
UNIFORM = st.one_of(
    *(
        st.lists(st.none() | values, max_size=6)
        for values in (
            st.booleans(),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(),
            st.text(max_size=8),
            st.binary(max_size=4),
            st.lists(st.integers(-5, 5) | st.none(), max_size=3),
            st.lists(st.lists(st.text(max_size=3), max_size=2), max_size=2),
            st.fixed_dictionaries({"a": st.integers(-5, 5), "b": st.lists(st.text(max_size=3), max_size=2)}),
        )
    )
)


def same(found: Any, given: Any) -> bool:
    """Whether a value came back; what Arrow cannot say apart (missing and null, 1 and 1.0) is one."""
    if isinstance(given, dict) and isinstance(found, dict):
        return all(same(found.get(name), given.get(name)) for name in {*found, *given})
    if isinstance(given, list) and isinstance(found, list):
        return len(found) == len(given) and all(map(same, found, given))
    if isinstance(given, float) and math.isnan(given):
        return isinstance(found, float) and math.isnan(found)
    if isinstance(given, bool) or isinstance(found, bool):
        return found is given
    return found == given


def is_there(found: Any, given: Any) -> bool:
    """Whether a value came back, as it was or as text."""
    if given is None or isinstance(given, str):
        return found == given
    return same(found, given) or (isinstance(found, str) and same(json.loads(found), given))


def all_there(found: Sequence[Any], given: Sequence[Any]) -> bool:
    return len(found) == len(given) and all(map(is_there, found, given))


@given(UNIFORM)
def test_values_of_one_type_keep_it(values: list[Any]) -> None:
    found = to_array(values).to_pylist()
    assert all(map(same, found, values))
    assert len(found) == len(values)


@given(COLUMN)
def test_values_of_any_types_are_all_there(values: list[Any]) -> None:
    assert all_there(to_array(values).to_pylist(), values)


@given(COLUMN, st.sampled_from(["", "string", "int64", "double", "bool", "list<string>", "list<int64>"]))
def test_a_declared_type_loses_nothing_either(values: list[Any], declared: str) -> None:
    assert all_there(to_array(values, declared).to_pylist(), values)


@given(st.lists(st.lists(PLAIN | st.binary(max_size=3), max_size=5), min_size=1, max_size=4))
def test_values_on_their_way_stay_what_they_are_whatever_travels_with_them(columns: list[list[Any]]) -> None:
    tables = [pa.table({"x": to_lossless_array(values), "n": pa.nulls(len(values), pa.int64())}) for values in columns]
    found = concat(tables).column("x").to_pylist()
    assert repr(found) == repr([value for values in columns for value in values])


@given(st.lists(COLUMN, min_size=1, max_size=3))
def test_tables_of_any_types_are_joined_whole(columns: list[list[Any]]) -> None:
    tables = [pa.table({"x": to_array(values), "n": pa.array([0] * len(values), pa.int64())}) for values in columns]
    assert all_there(concat(tables).column("x").to_pylist(), [value for values in columns for value in values])


@settings(max_examples=40)
@given(st.lists(COLUMN, min_size=1, max_size=3))
def test_a_dataset_has_one_schema_and_every_value(
    tmp_path_factory: pytest.TempPathFactory, columns: list[list[Any]]
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    parts = [folder / f"{number}.parquet" for number in range(len(columns))]
    for path, values in zip(parts, columns, strict=True):
        write_part(path, pa.table({"x": to_array(values)}))
    schema = unify_file_schemas(parts)
    count, _ = write_dataset([table for path in parts for table in read_tables(path, schema)], folder / "data", schema)
    given = [value for values in columns for value in values]
    found = [pq.read_table(path) for path in sorted((folder / "data").glob("part-*.parquet"))]
    assert count == len(given)
    assert len({str(table.schema) for table in found}) == 1
    assert all_there([value for table in found for value in table.column("x").to_pylist()], given)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("as it is", "as it is"),
        (1.0, "1.0"),
        ({"b": [1, None], "a": "é"}, '{"b":[1,null],"a":"é"}'),
        (2**70, "1180591620717411303424"),
        (float("nan"), '"nan"'),
        ([float("inf"), {"a": float("-inf")}], '["inf",{"a":"-inf"}]'),
        ({(1, 2): "x", 3: "y"}, '{"(1, 2)":"x","3":"y"}'),
        (datetime(2025, 1, 2, tzinfo=UTC), '"2025-01-02T00:00:00+00:00"'),
        (date(2025, 1, 2), '"2025-01-02"'),
        ("half \ud83d a character", "half \\ud83d a character"),
        (["half \ud83d"], '["half \\ud83d"]'),
    ],
)
def test_any_value_has_a_text(value: Any, text: str | None) -> None:
    assert to_text(value) == text
    assert pa.array([to_text(value)], pa.string()).to_pylist() == [text]


def test_a_value_that_holds_itself_has_a_text() -> None:
    value: list[Any] = []
    value.append(value)
    assert to_text(value) == "[[...]]"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["a", b"b"], ["a", "\"b'b'\""]),
        ([b"a", None], [b"a", None]),
        ([date(2025, 1, 2), datetime(2025, 1, 2, 3)], ['"2025-01-02"', '"2025-01-02T03:00:00"']),
        ([{"a": {}}, {"a": {}}], ['{"a":{}}', '{"a":{}}']),
        ([1, "1"], ["1", "1"]),
        (["half \ud83d", "whole"], ["half \\ud83d", "whole"]),
    ],
)
def test_values_that_pyarrow_would_bend_become_text(values: list[Any], found: list[Any]) -> None:
    assert to_array(values).to_pylist() == found


def test_columns_of_several_schemas_are_united_in_order() -> None:
    one = pa.schema([("a", pa.int64()), ("b", pa.null())])
    two = pa.schema([("b", pa.list_(pa.int64())), ("a", pa.float64()), ("c", pa.bool_())])
    three = pa.schema([("c", pa.string()), ("b", pa.list_(pa.null()))])
    assert unify_schemas([one, two, three]) == pa.schema(
        [("a", pa.float64()), ("b", pa.list_(pa.int64())), ("c", pa.string())]
    )


def test_integers_and_floats_of_several_parts_become_floats() -> None:
    tables = [pa.table({"x": [2**53 + 1]}), pa.table({"x": [0.5]})]
    schema = unify_schemas([table.schema for table in tables])
    assert [conform(table, schema).column("x").to_pylist() for table in tables] == [[float(2**53)], [0.5]]


@pytest.mark.parametrize("values", [(["a"], [b"b"]), ([b"b"], ["a"])])
def test_texts_stay_texts_beside_bytes(values: tuple[list[Any], list[Any]]) -> None:
    found = settle_types(concat([pa.table({"x": each}) for each in values])).column("x").to_pylist()
    assert sorted(found) == ["\"b'b'\"", "a"]


def test_types_have_names() -> None:
    assert parse_arrow_type("list<list<int64>>") == pa.list_(pa.list_(pa.int64()))
    assert parse_arrow_type("string") == pa.string()
    assert parse_arrow_type("") is None


def test_a_dataset_without_rows_has_its_columns(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.null())])
    assert write_dataset([], tmp_path / "data", schema)[0] == 0
    [path] = (tmp_path / "data").iterdir()
    assert pq.read_table(path).schema == pa.schema([("a", pa.int64()), ("b", pa.string())])


def test_a_part_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sink" / "part.parquet"
    write_part(path, pa.table({"a": [1]}))
    nothing_fits = pa.table({"a": pa.StructArray.from_arrays([], names=[])})
    with pytest.raises(pa.ArrowException):
        write_part(path, nothing_fits)
    assert pq.read_table(path).to_pylist() == [{"a": 1}]
    assert list(tmp_path.glob("**/part*.parquet")) == [path]


def lineage(ids: list[bytes], ancestors: list[list[bytes]], positions: list[int], paths: list[list[int]]) -> pa.Table:
    columns = {ROW_ID: ids, ANCESTORS: ancestors, POSITION: positions, PATH: paths}
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in LINEAGE_SCHEMA})


def test_lineage_is_written_for_readers() -> None:
    one, two, three = b"1" * 16, b"2" * 16, b"3" * 16
    table = lineage([one, two, three], [[], [one], [one, two]], [0, 0, 0], [[], [4], [4, 0]])
    written = to_output_columns(table.append_column("a", pa.array([1, 2, 3]))).to_pylist()
    assert written[0] == {
        "a": 1,
        "_row_id": one.hex(),
        "_parent_id": None,
        "_source_id": one.hex(),
        "_position": 0,
        "_path": [],
    }
    assert [row["_parent_id"] for row in written] == [None, one.hex(), two.hex()]
    assert [row["_source_id"] for row in written] == [one.hex()] * 3


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=3)), max_size=12))
def test_rows_are_sorted_by_position_then_path(places: list[tuple[int, list[int]]]) -> None:
    empty: list[list[bytes]] = [[] for _ in places]
    table = lineage([b"x" * 16] * len(places), empty, [p for p, _ in places], [path for _, path in places])
    found = sort_by_source(table).select([POSITION, PATH]).to_pylist()
    assert [(row[POSITION], row[PATH]) for row in found] == sorted(places)

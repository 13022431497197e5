"""A column of any Arrow type passes through a pipeline, or is refused with a sentence before anything is spent."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raypipe.errors import InputError
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, LoadDataFromFiles, make_generator_step, step
from raypipe.values.admission import admit_table
from raypipe.values.plain import to_plain
from tests.books import user_rows

INDEX = pa.array([0, 1], pa.int32())


def extension(kind: pa.DataType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


def raw(kind: pa.DataType, *numbers: int) -> pa.Array:
    """Values of a type of which Python may have none."""
    return pa.array(numbers, pa.int32() if pa.types.is_date32(kind) else pa.int64()).view(kind)


UUIDS = [UUID(int=1), UUID(int=2)]
NS = pa.array([1_000, 2_000], pa.timestamp("ns"))

# Each with what a step is given of it, and what a reader of the dataset finds; one where they are the same.
PASSING: dict[str, tuple[pa.Array, Any, Any]] = {
    name: (given[0], given[1], given[-1])
    for name, given in {
        "null": (pa.nulls(2), [None, None]),
        "bool": (pa.array([True, None]), [True, None]),
        "int8": (pa.array([-1, None], pa.int8()), [-1, None]),
        "uint64": (pa.array([2**64 - 1, 0], pa.uint64()), [2**64 - 1, 0]),
        "half_float": (pa.array([1.5, None], pa.float16()), [1.5, None]),
        "float": (pa.array([1.5, None], pa.float32()), [1.5, None]),
        "decimal32": (pa.array([Decimal("1.50"), None], pa.decimal32(5, 2)), [Decimal("1.50"), None]),
        "decimal64": (pa.array([Decimal("1.50"), None], pa.decimal64(5, 2)), [Decimal("1.50"), None]),
        "decimal128": (pa.array([Decimal("1.50"), None], pa.decimal128(38, 2)), [Decimal("1.50"), None]),
        "decimal256": (pa.array([Decimal("1.50"), None], pa.decimal256(76, 2)), [Decimal("1.50"), None]),
        "string": (pa.array(["é", None]), ["é", None]),
        "large_string": (pa.array(["é", None], pa.large_string()), ["é", None]),
        "string_view": (pa.array(["é", None], pa.string_view()), ["é", None]),
        "binary": (pa.array([b"\xff", None]), [b"\xff", None]),
        "large_binary": (pa.array([b"\xff", None], pa.large_binary()), [b"\xff", None]),
        "binary_view": (pa.array([b"\xff", None], pa.binary_view()), [b"\xff", None]),
        "fixed_size_binary": (pa.array([b"ab", None], pa.binary(2)), [b"ab", None]),
        "date32": (pa.array([date(2025, 1, 2), None]), [date(2025, 1, 2), None]),
        "date64": (pa.array([date(2025, 1, 2), None], pa.date64()), [date(2025, 1, 2), None]),
        "date32 beyond": (raw(pa.date32(), 2**22, 0), ["13453-08-13", date(1970, 1, 1)], None),
        "time32": (pa.array([1, None], pa.time32("ms")), "as it is"),
        "time64": (pa.array([1_000, None], pa.time64("ns")), "as it is"),
        "timestamp[s]": (pa.array([datetime(2025, 1, 2), None], pa.timestamp("s")), [datetime(2025, 1, 2), None]),
        "timestamp[ns]": (NS, "as it is"),
        "timestamp with zone": (
            pa.array([datetime(2025, 1, 2, tzinfo=UTC), None], pa.timestamp("us", "Europe/Berlin")),
            [datetime(2025, 1, 2, tzinfo=UTC), None],
        ),
        "timestamp beyond": (
            raw(pa.timestamp("us"), 2**60, 0),
            ["38504-08-17T21:30:06.846976", datetime(1970, 1, 1)],
            None,
        ),
        "timestamp beyond, with zone": (raw(pa.timestamp("ms", "UTC"), 2**60), None, None),
        "duration": (pa.array([timedelta(seconds=1), None]), [timedelta(seconds=1), None]),
        "duration[ns]": (pa.array([1_000, None], pa.duration("ns")), "as it is"),
        "duration beyond": (raw(pa.duration("s"), 2**60, 1), [f"{2**60} s", timedelta(seconds=1)], None),
        "interval": (
            pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
            [{"months": 1, "days": 2, "nanoseconds": 3}, None],
        ),
        "dictionary": (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        "run-end encoded": (pc.run_end_encode(pa.array(["a", "a"])), ["a", "a"]),
        "list": (pa.array([[1], None]), [[1], None]),
        "large_list": (pa.array([[1], None], pa.large_list(pa.int64())), [[1], None]),
        "list_view": (pa.array([[1], None], pa.list_view(pa.int64())), [[1], None]),
        "large_list_view": (pa.array([[1], None], pa.large_list_view(pa.int64())), [[1], None]),
        "fixed_size_list": (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), [[1, 2], None]),
        "list of dictionaries": (
            pa.array([["a"], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            [["a"], None],
        ),
        "list of null": (pa.array([[None], None]), [[None], None]),
        "map": (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), [[("a", 1)], None]),
        "map of views": (
            pa.array([[("a", "b")], None], pa.map_(pa.string_view(), pa.string_view())),
            [[("a", "b")], None],
        ),
        "struct": (pa.array([{"a": 1}, None]), [{"a": 1}, None]),
        "empty struct": (pa.array([{}, None], pa.struct([])), [{}, None], ["{}", None]),
        "list of empty structs": (pa.array([[{}], []], pa.list_(pa.struct([]))), [[{}], []], ["[{}]", "[]"]),
        "struct with an empty one": (
            pa.array([{"a": {}, "b": 1}, None], pa.struct([("a", pa.struct([])), ("b", pa.int64())])),
            [{"a": {}, "b": 1}, None],
            ['{"a":{},"b":1}', None],
        ),
        "map of empty structs": (
            pa.array([[("a", {})], None], pa.map_(pa.string(), pa.struct([]))),
            [[("a", {})], None],
            ['[["a",{}]]', None],
        ),
        "uuid": (
            extension(pa.uuid(), pa.array([one.bytes for one in UUIDS], pa.binary(16))),
            UUIDS,
            [str(one) for one in UUIDS],
        ),
        "bool8": (extension(pa.bool8(), pa.array([1, None], pa.int8())), [True, None]),
        "json": (extension(pa.json_(), pa.array(['{"a":1}', None])), ['{"a":1}', None]),
        "tensor": (
            extension(pa.fixed_shape_tensor(pa.int64(), [2]), pa.array([[1, 2], None], pa.list_(pa.int64(), 2))),
            [[1, 2], None],
        ),
        "opaque": (extension(pa.opaque(pa.binary(), "point", "geo"), pa.array([b"1", None])), [b"1", None]),
    }.items()
}

REFUSED: dict[str, tuple[pa.Array, str]] = {
    "dense union": (
        pa.UnionArray.from_dense(
            pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
        ),
        "write it as one type",
    ),
    "sparse union": (
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
        "write it as one type",
    ),
    "list of unions": (
        pa.ListArray.from_arrays(
            pa.array([0, 1, 2], pa.int32()),
            pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
        ),
        "write it as one type",
    ),
    "unknown zone": (pa.array([1, 2], pa.timestamp("us", "Nowhere/Never")), "write UTC"),
    "no text": (pa.array([b"\xff", b"a"]).view(pa.string()), "does not allow"),
}


@step(inputs=["x"], outputs=["seen", "kept"])
def look(row: Values) -> dict[str, Any]:
    return {"seen": repr(row["x"]), "kept": row["x"]}


@step(inputs=["x", "kept"], outputs=["again"])
async def again(row: Values) -> dict[str, Any]:
    return {"again": repr(row["kept"])}


def with_two_steps(source: Any) -> Pipeline:
    """All columns, in one pipeline, under names of their own."""
    with Pipeline("types") as pipeline:
        source() >> look("look") >> again("again")
    return pipeline


@pytest.mark.parametrize("name", PASSING)
def test_a_column_of_this_type_passes(name: str, tmp_path: Path) -> None:
    array, given, found = PASSING[name]
    given = array.to_pylist() if given == "as it is" else given
    table = pa.table({"x": array})
    result = with_two_steps(lambda: make_generator_step(table, name="seed")).run(tmp_path / "out", engine="local")
    table = result["again"].to_arrow()
    seen = table.column("seen").to_pylist()
    if given is None:
        assert table.column("again").to_pylist() == seen
    else:
        values = _as_given(array, given)
        assert seen == [repr(value) for value in values]
        assert table.column("again").to_pylist() == [repr(to_plain(value)) for value in values]
    assert_found(table.column("x"), array, found)


def assert_found(column: pa.ChunkedArray, array: pa.Array, found: Any) -> None:
    """What a reader of the dataset finds: the values, or where Python has none of the type, the same type."""
    if isinstance(found, list):
        assert column.to_pylist() == found
    else:
        assert pa.concat_arrays(column.cast(array.type).chunks).equals(array)


def _as_given(array: pa.Array, given: list[Any]) -> list[Any]:
    """Where a type has a zone, in that zone."""
    return array.to_pylist() if getattr(array.type, "tz", None) else given


def test_columns_of_all_types_pass_beside_one_another(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a test Ray raises where it otherwise sends a type that it does not know in Arrow's own format.
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    names = [name for name, (array, *_) in PASSING.items() if len(array) == 2]
    table = pa.table({name: PASSING[name][0] for name in names} | {"x": [1, 2]})
    result = with_two_steps(lambda: make_generator_step(table, name="seed")).run(tmp_path / "out", engine=engine)
    table = result["again"].to_arrow()
    for name in names:
        array, _, found = PASSING[name]
        assert_found(table.column(name), array, found)


@pytest.mark.parametrize("name", [name for name in PASSING if name != "null"])
def test_a_column_of_this_type_passes_from_a_parquet_file(name: str, tmp_path: Path) -> None:
    array, _, found = PASSING[name]
    try:
        pq.write_table(pa.table({"x": array}), tmp_path / "in.parquet")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pytest.skip("no file can hold it")
    seed = lambda: LoadDataFromFiles(str(tmp_path / "in.parquet"), name="seed")  # noqa: E731
    result = with_two_steps(seed).run(tmp_path / "out", engine="local")
    assert_found(result["again"].to_arrow().column("x"), array, found)


@pytest.mark.parametrize("name", REFUSED)
def test_a_column_of_this_type_is_refused_with_its_name_and_type(engine: Any, name: str, tmp_path: Path) -> None:
    array, advice = REFUSED[name]
    table = pa.table({"before": [1, 2], "x": array})
    with pytest.raises(InputError, match=f"^step 'seed': column 'x' has .*{advice}"):
        with_two_steps(lambda: make_generator_step(table, name="seed")).run(tmp_path / "out", engine=engine)


def test_a_file_whose_column_is_refused_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([1], pa.timestamp("us", "Nowhere/Never"))}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"^file '.*in\.parquet': column 'x' has the type timestamp\[us, tz=Nowhere"):
        with_two_steps(lambda: LoadDataFromFiles(str(tmp_path / "in.parquet"))).run(tmp_path / "out", engine="local")


@pytest.mark.parametrize("value", [{}, [{}], {"a": {}}, [[{}]], {"a": [{}], "b": 1}])
def test_an_empty_mapping_in_an_input_row_is_a_value_like_any_other(engine: Any, value: Any, tmp_path: Path) -> None:
    pipeline = with_two_steps(lambda: LoadDataFromDicts([{"x": value}, {"x": value}]))
    pipeline.dry_run()
    rows = user_rows(pipeline.run(tmp_path / "out", engine=engine)["again"])
    assert [row["seen"] for row in rows] == [repr(value)] * 2
    assert [row["again"] for row in rows] == [repr(value)] * 2
    assert [json.loads(row["x"]) for row in rows] == [json.loads(row["kept"]) for row in rows] == [value] * 2


def test_metadata_of_a_table_stay_outside(tmp_path: Path) -> None:
    inner = pa.struct([pa.field("b", pa.int64(), metadata={"a": "b"})])
    field = pa.field("x", inner, metadata={"kind": "error"})
    table = pa.table([pa.array([{"b": 1}], inner)], schema=pa.schema([field], metadata={"raypipe": "error"}))
    found = admit_table(table, "a file").schema
    assert found.metadata is found.field("x").metadata is found.field("x").type.field("b").metadata is None


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="has two columns 'x'; rename one"):
        with_two_steps(lambda: LoadDataFromFiles(str(tmp_path / "in.parquet"))).run(tmp_path / "out", engine="local")


def test_a_frame_of_pandas_with_periods_is_refused_and_with_intervals_passes(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    periods = pandas.DataFrame({"x": pandas.period_range("2024-01", periods=2, freq="M")})
    with pytest.raises(InputError, match=r"column 'x' has the type .*period.*convert it to text"):
        with_two_steps(lambda: make_generator_step(periods)).run(tmp_path / "periods", engine="local")
    intervals = pandas.DataFrame({"x": pandas.interval_range(0, 2)})
    result = with_two_steps(lambda: make_generator_step(intervals)).run(tmp_path / "intervals", engine="local")
    assert user_rows(result["again"])[0]["again"] == "{'left': 0, 'right': 1}"


@pytest.mark.parametrize("nest", [pa.list_, pa.large_list, pa.list_view, lambda kind: pa.struct([("a", kind)])])
def test_a_value_of_a_library_s_type_is_never_made_however_deep_it_stands(nest: Any, tmp_path: Path) -> None:
    class Acting(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.binary(), "acting.inside")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Acting:
            return cls()

        def __arrow_ext_scalar_class__(self) -> Any:
            class Scalar(pa.ExtensionScalar):
                def as_py(self, **_: Any) -> Any:
                    raise AssertionError("made")

            return Scalar

    values: Any = [{"a": b"1"}] if pa.types.is_struct(nest(pa.binary())) else [[b"1"]]
    column = pa.array(values, nest(pa.binary()))
    try:
        column = column.cast(nest(Acting()))
    except pa.ArrowNotImplementedError:
        pytest.skip("there is no such array")
    try:
        found = admit_table(pa.table({"x": column}), "a file").column("x").to_pylist()
    except InputError as error:
        found = str(error)
    assert found == values or "which cannot become" in found

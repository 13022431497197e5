"""A file from anywhere is data: whatever its schema, its columns and its metadata say, nothing of it is executed."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import InputError, OutputError
from raypipe.execution.conductor.spill import read_spilled
from raypipe.pipeline import Pipeline
from raypipe.plan.plan import SPILLED
from raypipe.results import Result
from raypipe.row import Values
from raypipe.security.untrusted_tables import names_extension_types, open_parquet
from raypipe.steps import LoadDataFromDicts, LoadDataFromFiles, step
from tests.books import user_rows


class Bomb:
    """An object that leaves a file behind where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def named(storage: pa.Array, name: str, said: bytes = b"") -> pa.Table:
    """A column `x` of an extension type, as its own maker would write it."""
    metadata = {"ARROW:extension:name": name, "ARROW:extension:metadata": said}
    return pa.table([storage], schema=pa.schema([pa.field("x", storage.type, metadata=metadata)]))


@contextmanager
def registered(name: str, trace: Path) -> Iterator[None]:
    """While a library has registered a type that acts when a file names it."""

    class Acting(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.binary(), name)

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Acting:
            trace.touch()
            return cls()

    pa.register_extension_type(Acting())
    trace.unlink(missing_ok=True)
    try:
        yield
    finally:
        pa.unregister_extension_type(name)


@step(inputs=["x"], outputs=["seen"])
def seen(row: Values) -> dict[str, Any]:
    return {"seen": repr(row["x"])}


def over(path: Path) -> Pipeline:
    with Pipeline("reads") as pipeline:
        LoadDataFromFiles(str(path), name="files") >> seen("look")
    return pipeline


@pytest.mark.parametrize("name", ["raypipe.as_is", "ray.data.arrow_pickled_object", "arrow.py_extension_type"])
def test_a_column_of_pickles_is_bytes_whatever_type_its_file_names(engine: Any, name: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "in.parquet"
    content = pickle.dumps(Bomb(trace))
    pq.write_table(named(pa.array([content, content]), name, content), path)
    over(path).dry_run()
    result = over(path).run(tmp_path / "out", engine=engine)
    assert [row["seen"] for row in user_rows(result["look"])] == [repr(content)] * 2
    assert not trace.exists()


def test_a_type_that_a_library_registered_is_not_made_for_a_file(tmp_path: Path) -> None:
    trace, path = tmp_path / "made", tmp_path / "in.parquet"
    inner = named(pa.array([b"1"]), "acting").cast(pa.schema([("x", pa.binary())]))
    nested = pa.struct([pa.field("x", pa.binary(), metadata={"ARROW:extension:name": "acting"})])
    table = named(pa.array([b"1"]), "acting").append_column(
        pa.field("nested", pa.list_(nested)), pa.array([inner.to_pylist()], pa.list_(nested))
    )
    with registered("acting", trace):
        pq.write_table(table, path)
        trace.unlink(missing_ok=True)
        assert pq.ParquetFile(path).schema_arrow.field("x").type.extension_name == "acting"
        assert trace.exists(), "the file is what it is to be"
        trace.unlink()
        with open_parquet(path) as file:
            assert file.schema_arrow.field("x").type == pa.binary()
            assert file.read().to_pylist() == [{"x": b"1", "nested": [{"x": b"1"}]}]
        over(path).run(tmp_path / "out", engine="local")
        assert not trace.exists()


@pytest.mark.parametrize("kind", [pa.duration("ms"), pa.timestamp("us", "Europe/Berlin"), pa.large_string()])
def test_a_file_keeps_the_types_that_only_its_schema_tells(kind: pa.DataType, tmp_path: Path) -> None:
    values = pa.array(["a"] if pa.types.is_large_string(kind) else [1], kind)
    pq.write_table(named(pa.array([b"1"]), "acting").append_column("y", values), tmp_path / "in.parquet")
    with open_parquet(tmp_path / "in.parquet") as file:
        assert file.read().column("y").type == kind


def test_a_schema_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(named(pa.array([b"1"]), "acting"), path)
    content = path.read_bytes()
    at = content.rindex(b"ARROW:schema") + 40
    path.write_bytes(content[:at] + b"!" + content[at + 1 :])
    with open_parquet(path) as file:
        assert file.read().to_pylist() == [{"x": b"1"}]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 4, b"PAR1\xff\xff\xff\xffPAR1", b"no parquet at all"])
def test_what_is_no_parquet_file_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(pa.ArrowInvalid):
        open_parquet(tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"is not a complete Parquet file"):
        over(tmp_path / "in.parquet").run(tmp_path / "out", engine="local")


@pytest.mark.parametrize("column", ["~error", "~parked~", "error", "kind", "content", "result", "~failures~", "~x"])
def test_a_column_may_have_any_name_that_is_not_reserved(engine: Any, column: str, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    bait = tmp_path / "bait.batch"
    bait.write_bytes(pickle.dumps(Bomb(trace)))
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"x": [1, 2], column: [bait.read_bytes(), str(bait).encode()]}), path)
    result = over(path).run(tmp_path / "out", engine=engine)
    assert [row[column] for row in user_rows(result["look"])] == [bait.read_bytes(), str(bait).encode()]
    assert not trace.exists()


@pytest.mark.parametrize("column", ["~route", "_batch", "_attempt", "_row_id", "_path"])
def test_a_column_with_a_reserved_name_is_refused_before_anything_is_run(column: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps({"x": 1, column: "y"}))
    if column == "_row_id":  # what a run wrote: its lineage is left out
        assert len(over(tmp_path / "in.jsonl").run(tmp_path / "out", engine="local")["look"]) == 1
        return
    with pytest.raises(InputError, match=f"has the column '{column}', a name kept"):
        over(tmp_path / "in.jsonl").run(tmp_path / "out", engine="local")


def test_a_step_that_returns_a_reserved_name_fails_its_row(tmp_path: Path) -> None:
    @step(outputs=[])
    def routing(row: Values) -> dict[str, Any]:
        return {"~route": ["elsewhere"]}

    with Pipeline("routes") as pipeline:
        LoadDataFromDicts([{"x": 1}], name="rows") >> routing("routing")
    failures = user_rows(pipeline.run(tmp_path / "out", engine="local", max_failed_rows=1).failures)
    assert [(row["kind"], "'~route'" in row["message"]) for row in failures] == [("output", True)]


def test_a_run_folder_whose_files_name_an_extension_type_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(orjson.dumps({"x": 1}))
    result = over(path).run(tmp_path / "out", engine="local")
    [part] = result["look"].files
    trace = tmp_path / "executed"
    pq.write_table(named(pa.array([pickle.dumps(Bomb(trace))]), "raypipe.as_is"), part)
    assert names_extension_types(Path(str(part)))
    for read in (Result(tmp_path / "out")["look"].to_arrow, Result(tmp_path / "out")["look"].to_datasets):
        with pytest.raises(InputError, match="names an extension type"):
            read()
    assert not trace.exists()


def test_an_arrow_stream_that_names_an_extension_type_is_recognised(tmp_path: Path) -> None:
    for name, table in {"plain": pa.table({"x": [1]}), "named": named(pa.array([b"1"]), "acting")}.items():
        stream = io.BytesIO()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        path = tmp_path / f"{name}.arrow"
        path.write_bytes(stream.getvalue())
        assert names_extension_types(path) is (name == "named")


def test_a_batch_that_was_put_away_is_read_from_the_folder_of_its_run_alone(tmp_path: Path) -> None:
    bait = tmp_path / "elsewhere" / "1.batch"
    for path in (str(bait), f"{tmp_path}/{SPILLED.folder}/../elsewhere/1.batch", "s3://bucket/elsewhere/1.batch"):
        with pytest.raises(OutputError, match="is not a spilled batch of this run"):
            read_spilled(path, tmp_path)


def test_a_batch_that_was_put_away_and_holds_anything_else_is_damaged(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    (tmp_path / SPILLED.folder).mkdir()
    path = tmp_path / SPILLED.folder / "1.batch"
    for content in (pickle.dumps(Bomb(trace)), b"", b"\x02" + bytes(7) + b"{}", b"\x02" + bytes(7) + b"[]"):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"1\.batch is damaged"):
            read_spilled(str(path), tmp_path)
    assert not trace.exists()

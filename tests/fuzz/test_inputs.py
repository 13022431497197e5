"""Whatever stands in an input is carried through, or refused with its place before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.contracts.llm import LLM
from raypipe.errors import InputError, RaypipeError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromFileSystem, TextGeneration, make_generator_step, step
from tests.fuzz.audit import temporary_places, watched
from tests.fuzz.effort import EFFORT, bounded, explore
from tests.fuzz.tables import CSV_ROWS, JSON_ROWS, odd_tables, write_csv, write_lines, write_parquet


@step(outputs=["columns"])
def counted(row: dict[str, Any]) -> dict[str, Any]:
    """A step that is given every column."""
    return {"columns": len(row)}


def pipeline_of(source: Callable[[], Any]) -> Pipeline:
    with Pipeline("inputs") as pipeline:
        ask = TextGeneration("said", llm=LLM("offline/stand-in"), template="about {{ topic }}", output="said")
        source() >> counted("counted") >> ask
    return pipeline


def ran(source: Callable[[], Any], out: Path, engine: Any = "local") -> Result | RaypipeError:
    """What a run gives, or the error that it ends with."""
    try:
        pipeline = pipeline_of(source)
        with watched(out, *temporary_places(), engine=engine):
            return bounded(lambda: pipeline.run(out, engine=engine, max_failed_rows=1000))
    except RaypipeError as error:
        return error


def assert_carried(result: Result | RaypipeError, rows: int) -> None:
    """All rows are there, or the input is refused in words that name a place in it."""
    if isinstance(result, RaypipeError):
        assert isinstance(result, InputError | SpecError), result
        assert any(word in str(result) for word in ("column", "file", "line", "dataset", "row")), result
        assert not any(word in str(result) for word in ("Traceback", "<pyarrow", "object at 0x")), result
        return
    assert len(result["said"]) + result.failed_rows == rows
    sent = result.manifest["steps"]["said"]["calls_sent"]
    assert sent == len(result["said"]) + sum(row["step"] == "said" for row in result.failures.to_arrow().to_pylist())


def assert_again(source: Callable[[], Any], out: Path) -> None:
    """The next run over the folder sends nothing and gives the same."""
    before = contents(Result(out))
    again = ran(source, out)
    assert isinstance(again, Result), again
    assert again.manifest["legs"][-1]["steps"]["said"]["calls_sent"] == 0
    assert contents(again) == before


def contents(result: Result) -> str:
    return repr([result["said"].to_arrow().to_pylist(), result.failures.to_arrow().to_pylist()])


@EFFORT
def test_tables_of_any_type(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @given(odd_tables(), st.sampled_from(["arrow", "parquet"]))
    def check(table: pa.Table, way: str) -> None:
        folder = tmp_path_factory.mktemp("inputs")
        path = write_parquet(table, folder) if way == "parquet" else None
        source: Callable[[], Any] = (
            (lambda: make_generator_step(table, name="seed"))
            if path is None
            else (lambda: LoadDataFromFileSystem(data_files=[str(path)], name="seed"))
        )
        result = ran(source, folder / "out")
        assert_carried(result, table.num_rows)
        if isinstance(result, Result):
            assert_again(source, folder / "out")

    explore(check, 40, effort)


@EFFORT
def test_lines_of_json(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @given(JSON_ROWS)
    def check(rows: list[dict[str, Any]]) -> None:
        folder = tmp_path_factory.mktemp("inputs")
        path = write_lines(rows, folder)

        def source() -> Any:
            return LoadDataFromFileSystem(data_files=[str(path)], name="seed")

        result = ran(source, folder / "out")
        assert_carried(result, len(rows))
        if isinstance(result, Result):
            assert_again(source, folder / "out")

    explore(check, 30, effort)


@EFFORT
def test_comma_separated_values(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @given(CSV_ROWS)
    def check(rows: list[list[str]]) -> None:
        folder = tmp_path_factory.mktemp("inputs")
        path = write_csv(rows, folder)
        result = ran(lambda: LoadDataFromFileSystem(data_files=[str(path)], name="seed"), folder / "out")
        assert_carried(result, len(rows))

    explore(check, 20, effort)


@EFFORT
def test_files_of_any_bytes(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file that was cut, overwritten or is something else altogether ends in words."""

    @given(odd_tables(), st.sampled_from(["parquet", "jsonl", "csv", "json"]), st.binary(max_size=40), st.integers(0))
    def check(table: pa.Table, end: str, content: bytes, place: int) -> None:
        folder = tmp_path_factory.mktemp("inputs")
        path = write_parquet(table, folder)
        whole = path.read_bytes() if path is not None and end == "parquet" else b'{"topic": "a"}\n{"topic": "b"}\n'
        at = place % len(whole)
        odd = folder / f"odd.{end}"
        odd.write_bytes(whole[:at] + content + whole[at + len(content) // 2 :])
        result = ran(lambda: LoadDataFromFileSystem(data_files=[str(odd)], name="seed"), folder / "out")
        assert isinstance(result, Result | InputError | SpecError), result
        if isinstance(result, InputError):
            assert "odd." in str(result), result

    explore(check, 40, effort)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@EFFORT
def test_ray_gives_what_local_gives(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @given(odd_tables())
    def check(table: pa.Table) -> None:
        folder = tmp_path_factory.mktemp("inputs")

        def source() -> Any:
            return make_generator_step(table, name="seed")

        local, on_ray = ran(source, folder / "local"), ran(source, folder / "ray", "ray")
        assert isinstance(local, Result) == isinstance(on_ray, Result), (local, on_ray)
        if isinstance(local, Result) and isinstance(on_ray, Result):
            assert contents(local) == contents(on_ray)

    explore(check, 4, min(effort, 10))

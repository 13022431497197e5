"""Rows are bounded by bytes wherever they wait, travel and are written, and bounds change no row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.execution.conductor.in_flight_window import InFlightWindow
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.context import RunOptions
from raypipe.execution.counts import CallCounts
from raypipe.execution.worker.mailbox import Mailbox
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import ATTEMPT, ROW_ID
from raypipe.steps import Filter, LoadDataFromDicts, LoadDataFromFiles, step
from raypipe.values.byte_bounds import Bounds
from tests.books import assert_balanced, assert_in_source_order, failed, user_rows
from tests.execution.scenarios import SCENARIOS

TINY = Bounds(batch_bytes=3000, row_group_bytes=5000, file_bytes=20_000)
KIB = 1 << 10


@pytest.mark.parametrize("name", SCENARIOS)
def test_tiny_bounds_change_nothing(name: str, tmp_path: Path) -> None:
    source, add = SCENARIOS[name]
    with Pipeline(name) as pipeline:
        expected = add(source())
    options = RunOptions(tmp_path / "out", engine="local", bounds=TINY, max_failed_rows=len(expected.failures))
    result = pipeline.run_with(options)
    for leaf, rows in expected.leaves.items():
        assert user_rows(result[leaf]) == rows
        assert_in_source_order(result[leaf])
    found = [(step, kind, row["id"]) for step, kind, _, row in failed(result)]
    assert sorted(found) == sorted((step, kind, number) for step, kind, _, number in expected.failures)
    assert_balanced(pipeline.graph(), result)


@step(inputs=["text", "count"], outputs={"piece": str}, scatter=True)
def pieces(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"piece": f"{number}"} for number in range(row["count"])]


@step(inputs=["piece"], outputs={"odd": bool})
def evens(row: Mapping[str, Any]) -> dict[str, Any]:
    if int(row["piece"]) % 2:
        raise ValueError("odd")
    return {"odd": False}


def of_pieces(documents: int, count: int, size: int) -> Pipeline:
    with Pipeline("pieces") as pipeline:
        rows = [{"id": number, "text": f"{number}" * size, "count": count} for number in range(documents)]
        LoadDataFromDicts(rows) >> pieces("pieces") >> evens("last")
    return pipeline


def run(pipeline: Pipeline, out: Path, engine: Any, bounds: Bounds) -> Result:
    options = RunOptions(out, engine=engine, bounds=bounds, max_failed_rows=100_000, max_failure_rate=None)
    return pipeline.run_with(options)


def test_rows_of_a_batch_in_many_parts_are_in_order(engine: str, tmp_path: Path) -> None:
    pipeline = of_pieces(3, 200, 2 * KIB)
    result = run(pipeline, tmp_path / "out", engine, Bounds(16 * KIB, 64 * KIB, 256 * KIB))
    table = result["last"].to_arrow()
    found = [(row["id"], row["piece"]) for row in table.select(["id", "piece"]).to_pylist()]
    assert found == [(document, str(piece)) for document in range(3) for piece in range(0, 200, 2)]
    assert_in_source_order(result["last"])
    failures = [json.loads(row)["piece"] for row in result.failures.to_arrow().column("row").to_pylist()]
    assert failures == [str(piece) for _ in range(3) for piece in range(1, 200, 2)]
    assert_in_source_order(result.failures)
    assert_balanced(pipeline.graph(), result)


def test_files_and_row_groups_are_cut_by_bytes(tmp_path: Path) -> None:
    result = run(of_pieces(3, 200, 2 * KIB), tmp_path / "out", "local", Bounds(16 * KIB, 64 * KIB, 256 * KIB))
    files = [pq.ParquetFile(path) for path in result["last"].files]
    assert 3 <= len(files) <= 6
    for file in files:
        groups = [file.read_row_group(number).nbytes for number in range(file.num_row_groups)]
        assert max(groups) <= 64 * KIB
        assert sum(groups) <= 320 * KIB


def test_little_data_is_one_file_and_one_row_group(tmp_path: Path) -> None:
    result = run(of_pieces(3, 200, 10), tmp_path / "out", "local", Bounds())
    [path] = result["last"].files
    assert pq.ParquetFile(path).num_row_groups == 1


def test_a_retry_puts_many_parts_among_the_rows_before(tmp_path: Path) -> None:
    marker = tmp_path / "mended"

    @step(inputs=["id", "piece"], outputs={"said": str})
    def fragile(row: Mapping[str, Any]) -> dict[str, Any]:
        if row["id"] == 1 and not marker.exists():
            raise ValueError("not yet")
        return {"said": f"{row['id']}.{row['piece']}"}

    with Pipeline("again") as pipeline:
        rows = [{"id": number, "text": f"{number}" * 2000, "count": 100} for number in range(3)]
        LoadDataFromDicts(rows) >> pieces("pieces") >> fragile("last")
    bounds = Bounds(16 * KIB, 64 * KIB, 256 * KIB)
    options = RunOptions(tmp_path / "out", engine="local", bounds=bounds, max_failed_rows=1000, max_failure_rate=None)
    assert pipeline.run_with(options).failed_rows == 100
    marker.touch()
    from raypipe.run.run import retry_plan

    result = retry_plan(pipeline.plan(), b"", options)
    assert result.failed_rows == 0
    found = result["last"].to_arrow().column("said").to_pylist()
    assert found == [f"{document}.{piece}" for document in range(3) for piece in range(100)]


def waiting(count: int, size: int, bounds: Bounds, wire: str = "text") -> tuple[StepQueue, pa.Table]:
    with Pipeline("p") as pipeline:
        LoadDataFromDicts([{"text": "a", "id": 1}]) >> Filter("kept", keep=f"{wire} == {wire}")
    queue = StepQueue(pipeline.plan().stages[0].steps["kept"], 1, bounds)
    ids = pa.array([f"{number:016d}".encode() for number in range(count)], pa.binary(16))
    texts = ["x" * size] * count
    columns = {ROW_ID: ids, ATTEMPT: pa.array([0] * count, pa.int8()), "text": texts, "id": list(range(count))}
    return queue, pa.table(columns)


def test_a_queue_is_long_by_bytes() -> None:
    queue, rows = waiting(100, 1000, Bounds(10_000))
    queue.put(rows.slice(0, 15))
    assert not queue.is_long
    queue.put(rows.slice(15, 15))
    assert queue.is_long
    while queue.rows:
        queue.take(7)
    assert not queue.is_long


def test_a_worker_is_sent_few_bytes_but_one_row_at_least() -> None:
    bounds = Bounds(10_000)
    queue, rows = waiting(100, 1000, bounds)
    queue.put(rows)
    window = InFlightWindow({"kept": queue}, lambda _: False, 512, 1.0, 0, bounds)
    chunks = window.fill()
    assert sum(chunk.table.nbytes for chunk in chunks) <= 1.3 * bounds.window_bytes
    assert max(chunk.table.nbytes for chunk in chunks) <= bounds.batch_bytes
    assert window.is_full
    assert window.is_fed
    assert not window.fill()
    back = [index for chunk in chunks for index in range(chunk.table.num_rows)]
    assert len(window.take_back()) == len(chunks)
    assert len(back) + queue.rows == 100

    huge, one = waiting(3, 100_000, bounds)
    huge.put(one)
    window = InFlightWindow({"kept": huge}, lambda _: False, 512, 1.0, 0, bounds)
    assert [chunk.table.num_rows for chunk in window.fill()] == [1]


def test_what_a_worker_is_not_sent_does_not_count_as_sent() -> None:
    bounds = Bounds(100_000)
    queue, rows = waiting(50, 1000, bounds, wire="id")
    queue.put(rows)
    window = InFlightWindow({"kept": queue}, lambda _: False, 512, 1.0, 0, bounds)
    assert [chunk.table.num_rows for chunk in window.fill()] == [50]


def test_a_worker_tells_few_bytes_at_once() -> None:
    told = evens("told")
    mailbox = Mailbox({"told": told}, 10_000)
    for number in range(50):
        mailbox.results["told"].complete((0, number), [{"odd": "y" * 1000}] * 2, CallCounts())
    mailbox.notify()
    numbers: list[int] = []
    while mailbox.has_news:
        for answer in mailbox.take():
            assert answer.made.num_rows == 2 * answer.ended.num_rows
            assert answer.made.nbytes <= 12_000
            numbers += answer.ended.column("index").to_pylist()
    assert numbers == list(range(50))
    assert mailbox.rows == 0


def test_files_of_large_rows_are_read_in_small_tables(tmp_path: Path) -> None:
    texts = [f"{number:03d}" * 200_000 for number in range(100)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "plain.parquet", use_dictionary=False)
    pq.write_table(pa.table({"text": texts[:1] * 1000}), tmp_path / "packed.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name, rows in (("plain.parquet", 100), ("packed.parquet", 1000), ("rows.jsonl", 100)):
        source = LoadDataFromFiles(path=str(tmp_path / name))
        counted = 0
        for table in source.read(source.units()[0]):
            assert table.nbytes <= 40 << 20
            counted += table.num_rows
        assert counted == rows


def test_a_row_of_a_step_beyond_two_gib_fails_alone() -> None:
    mailbox = Mailbox({"told": evens("told")}, 10_000)
    results = mailbox.results["told"]
    text = "z" * (1 << 20)
    results.complete((0, 0), [{"odd": [text] * 2048}], CallCounts())
    results.complete((0, 1), [{"odd": "short"}], CallCounts())
    [answer] = mailbox.take()
    assert answer.ended.column("status").to_pylist() == [1, 0]
    assert answer.ended.column("message")[0].as_py() == (
        "the step returned a row of 2.0 GiB; a row has at most 2 GiB: return less or more rows"
    )

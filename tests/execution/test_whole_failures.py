"""A step that is given many rows at once and fails has failed for each of them: counted, told, and raised in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import SpecError, StepFailedError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import GlobalStep, KeepColumns, LoadDataFromDicts, StepInput, step
from tests.books import Row, assert_balanced, failed, user_rows

ROWS = [{"number": number, "rows": f"row {number}"} for number in range(1000)]


def raising(rows: list[Row]) -> Iterator[list[Row]]:
    raise ValueError("cannot sort")
    yield rows


def raising_late(rows: list[Row]) -> Iterator[list[Row]]:
    yield rows[:10]
    raise ValueError("cannot sort")


def nothing(rows: list[Row]) -> Any:
    return None


def single_rows(rows: list[Row]) -> Iterator[Any]:
    yield from rows


def no_mappings(rows: list[Row]) -> Iterator[Any]:
    yield [1, 2]


def no_lists(rows: list[Row]) -> Iterator[Any]:
    yield None


BROKEN: dict[str, tuple[Callable[[list[Row]], Any], str]] = {
    "raises": (raising, "ValueError: cannot sort"),
    "raises half-way": (raising_late, "ValueError: cannot sort"),
    "gives None": (nothing, "process returned NoneType; it yields lists of rows"),
    "yields rows": (single_rows, "process yielded dict; each yield is a list of rows"),
    "yields None": (no_lists, "process yielded NoneType; each yield is a list of rows"),
    "yields numbers": (no_mappings, "a list of mappings"),
}


class Given(GlobalStep):
    function: Any

    def process(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def pipeline_of(*steps: Any) -> Pipeline:
    with Pipeline("whole") as pipeline:
        before = LoadDataFromDicts(ROWS, name="seed")
        for one in steps:
            before = before >> one()
    return pipeline


@pytest.mark.parametrize("case", BROKEN)
def test_a_global_step_that_fails_fails_every_row_and_is_raised(case: str, tmp_path: Path) -> None:
    function, said = BROKEN[case]
    pipeline = pipeline_of(lambda: Given("given", function=function))
    with pytest.raises(StepFailedError) as caught:
        pipeline.run(tmp_path / "out", engine="local", max_failed_rows=5)
    assert "step 'given' failed, and with it the 1,000 rows that it was given" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.exit_code == 3
    result = Result(tmp_path / "out")
    assert (result.failed_rows, result.exit_code) == (1000, 3)
    counts = result.manifest["steps"]["given"]
    assert (counts["rows_in"], counts["rows_failed"], counts["rows_out"]) == (1000, 1000, 0)
    assert_balanced(pipeline.graph(), result)


def test_each_failure_is_a_row_that_went_in(engine: Any, tmp_path: Path) -> None:
    pipeline = pipeline_of(lambda: Given("given", function=raising))
    result = pipeline.run(tmp_path / "out", engine=engine, max_failed_rows=1000)
    assert [row for _, _, _, row in failed(result, ["given"])] == ROWS
    whole = pipeline_of(lambda: KeepColumns("given", columns=["number"])).run(tmp_path / "whole", engine="local")
    ours = result.failures.to_arrow().column("_row_id").to_pylist()
    assert ours == whole["given"].to_arrow().column("_row_id").to_pylist()
    assert_balanced(pipeline.graph(), result)


def test_no_row_is_invented_for_a_global_step_that_failed() -> None:
    with pytest.raises(SpecError, match="step 'given': has on_error='null', but it is given all rows at once"):
        pipeline_of(lambda: Given("given", function=raising, on_error="null")).graph()


@pytest.mark.parametrize(
    ("function", "count"), [(lambda rows: [rows[:3]], 3), (lambda rows: [rows, rows], 2000), (lambda rows: [], 0)]
)
def test_a_global_step_may_give_any_number_of_rows(function: Any, count: int, tmp_path: Path) -> None:
    pipeline = pipeline_of(lambda: Given("given", function=function))
    result = pipeline.run(tmp_path / "out", engine="local")
    counts = result.manifest["steps"]["given"]
    assert (counts["rows_in"], counts["rows_done"], counts["rows_out"]) == (1000, 1000, count)
    assert_balanced(pipeline.graph(), result)


def test_a_function_of_a_family_that_fails_fails_its_rows(engine: Any, tmp_path: Path) -> None:
    @step(inputs=["number"], outputs=["part"], scatter=True)
    def parts(row: Values) -> list[Row]:
        return [{"part": part} for part in range(row["number"] % 4)]

    def chosen(rows: list[Row]) -> Any:
        if len(rows) == 3:
            raise ValueError("three")
        return [{"count": len(rows)}] if rows else None

    pipeline = pipeline_of(lambda: parts("parts"), lambda: KeepColumns("kept", columns=["part"]).custom(chosen))
    result = pipeline.run(tmp_path / "out", engine=engine, max_failed_rows=10**6)
    assert_balanced(pipeline.graph(), result)
    lost = failed(result, ["kept_custom"])
    assert sum(message.startswith("ValueError: three") for _, _, message, _ in lost) == 250 * 3
    assert sum("returned NoneType" in message for _, _, message, _ in lost) == 250
    rows = user_rows(result["kept_custom"])
    assert [row["count"] for row in rows] == [number % 4 for number in range(1000) if number % 4 in (1, 2)]
    assert all(row["rows"] == f"row {row['number']}" for row in rows), "a column of the same name stays"


def test_when_is_asked_of_each_row_of_a_global_step(engine: Any, tmp_path: Path) -> None:
    @step(outputs=["count"], step_type="global")
    def counted(rows: StepInput) -> Any:
        yield [{"number": row["number"], "count": len(rows)} for row in rows]

    pipeline = pipeline_of(lambda: counted("counted", when="number >= 990"))
    result = pipeline.run(tmp_path / "out", engine=engine)
    assert user_rows(result["counted"]) == [{"number": number, "count": 10} for number in range(990, 1000)]
    counts = result.manifest["steps"]["counted"]
    assert (counts["rows_in"], counts["rows_filtered"], counts["rows_done"]) == (1000, 990, 10)
    assert_balanced(pipeline.graph(), result)

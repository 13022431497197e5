"""Whatever a step hands over ends as what it means or as a failed row, and costs no other row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import RaypipeError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts, step
from tests.books import failed
from tests.fuzz.audit import temporary_places, watched
from tests.fuzz.effort import EFFORT, bounded, explore
from tests.fuzz.steps import PER_ROW, STEPS
from tests.fuzz.values import ERRORS, LEAVES, Recipe, is_plain, make, recipes

OUTCOMES = recipes() | st.tuples(st.just("error"), st.sampled_from(sorted(ERRORS)))


@step(outputs=["after"])
def after(row: dict[str, Any]) -> dict[str, Any]:
    """A step behind the odd one reads the value."""
    return {"after": type(row.get("made")).__name__}


def pipeline_of(kind: str, chosen: list[Recipe]) -> Pipeline:
    """Rows with recipes, and between each two a row whose value is plain."""
    with Pipeline("values") as pipeline:
        rows: list[dict[str, Any]] = []
        for number, recipe in enumerate(chosen):
            rows += [{"number": 2 * number, "recipe": recipe}, {"number": 2 * number + 1, "recipe": ("leaf", "text")}]
        for row in rows:
            row["recipe"] = json.dumps(row["recipe"])
        seed = LoadDataFromDicts(rows, name="seed")
        seed >> parsed("parse") >> STEPS[kind]("odd") >> after("after")
    return pipeline


@step(inputs=["recipe"], outputs=["recipe"])
def parsed(row: dict[str, Any]) -> dict[str, Any]:
    """The recipe, which JSON has carried until here."""
    return {"recipe": json.loads(row["recipe"])}


def run(pipeline: Pipeline, out: Path, engine: Any = "local") -> Result | RaypipeError:
    """What a run gives; only an error of ours may leave it, and it names its step."""
    try:
        with watched(out, *temporary_places(), engine=engine):
            return bounded(lambda: pipeline.run(out, engine=engine, max_failed_rows=1000))
    except RaypipeError as error:
        return error


def contents(result: Result) -> str:
    return repr([result["after"].to_arrow().to_pylist(), sorted(map(repr, failed(result)))])


def assert_sound(kind: str, chosen: list[Recipe], result: Result | RaypipeError) -> None:
    assert isinstance(result, Result), f"a value ended the run: {result}"
    rows = result["after"].to_arrow().to_pylist()
    lost = [row for step, _, _, row in failed(result) if step in ("odd", "after")]
    assert not any("object at 0x" in str(row.get("made")) for row in rows)
    if kind in PER_ROW:
        for number in range(len(chosen)):
            plain = [row for row in rows if row["number"] == 2 * number + 1 and row["made"] in ("text", '"text"')]
            assert plain, f"the plain row {2 * number + 1} is lost"
            there = [row for row in rows if row["number"] == 2 * number]
            gone = [row for row in lost if row["number"] == 2 * number]
            assert there or gone, f"row {2 * number} is lost without a word"
    if kind == "mapped":
        for number, recipe in enumerate(chosen):
            there = [row["made"] for row in rows if row["number"] == 2 * number]
            if recipe[0] != "error" and is_plain(recipe):
                assert there, f"a plain value {recipe} failed: {failed(result)}"
                assert as_written(there[0], make(recipe)), (there[0], make(recipe))


def as_written(found: Any, value: Any) -> bool:
    """Whether a value of a column came out as it went in, or as JSON where the column has no other type."""
    if repr(without_nulls(found)) == repr(without_nulls(value)) or found == value:
        return True
    try:
        return json.loads(found) == value
    except (TypeError, ValueError):
        return False


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in sorted(value.items()) if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


@EFFORT
def test_whatever_a_step_hands_over(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @given(st.sampled_from(sorted(STEPS)), st.lists(OUTCOMES, min_size=1, max_size=3))
    def check(kind: str, chosen: list[Recipe]) -> None:
        out = tmp_path_factory.mktemp("values") / "out"
        result = run(pipeline_of(kind, chosen), out)
        assert_sound(kind, chosen, result)
        again = run(pipeline_of(kind, chosen), out)
        assert isinstance(again, Result), f"the next run over the folder: {again}"
        assert isinstance(result, Result)
        assert contents(again) == contents(Result(out))

    explore(check, 40, effort)


@pytest.mark.parametrize("order", [1, -1])
def test_texts_and_bytes_in_one_list(order: int, tmp_path: Path) -> None:
    items: list[Recipe] = [("leaf", "emoji"), ("leaf", "bytes")]
    chosen: list[Recipe] = [("list", items[::order]), ("dict", [("a", ("list", items[::order]))])]
    result = run(pipeline_of("mapped", chosen), tmp_path / "out")
    assert_sound("mapped", chosen, result)


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_each_value_by_itself(leaf: str, tmp_path: Path) -> None:
    chosen: list[Recipe] = [("leaf", leaf)]
    assert_sound("mapped", chosen, run(pipeline_of("mapped", chosen), tmp_path / "out"))


@pytest.mark.parametrize("error", sorted(ERRORS))
@pytest.mark.parametrize("kind", ["mapped", "awaited"])
def test_each_error_by_itself(kind: str, error: str, tmp_path: Path) -> None:
    chosen: list[Recipe] = [("error", error)]
    assert_sound(kind, chosen, run(pipeline_of(kind, chosen), tmp_path / "out"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@EFFORT
def test_ray_gives_what_local_gives(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @given(st.sampled_from(sorted(STEPS)), st.lists(OUTCOMES, min_size=3, max_size=12))
    def check(kind: str, chosen: list[Recipe]) -> None:
        folder = tmp_path_factory.mktemp("values")
        local = run(pipeline_of(kind, chosen), folder / "local")
        on_ray = run(pipeline_of(kind, chosen), folder / "ray", "ray")
        assert isinstance(local, Result) == isinstance(on_ray, Result), (local, on_ray)
        if isinstance(local, Result) and isinstance(on_ray, Result):
            assert contents(on_ray) == contents(local)

    explore(check, 4, min(effort, 10))

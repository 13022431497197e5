"""What becomes of a step's outputs, said in Python or in a file: rows of lists, copies, one row, a function's rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.step import Aggregate, Step
from raypipe.errors import SpecError
from raypipe.graph.callback import Callback
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import ExpandColumns, KeepColumns, LoadDataFromDicts
from tests.books import Row, assert_balanced, user_rows

ROWS = [{"id": number, "n": list(range(number))} for number in range(4)]
SEED: dict[str, Any] = {"name": "seed", "type": "LoadDataFromDicts", "data": ROWS}
PARTS: dict[str, Any] = {"name": "parts", "type": "ExpandColumns", "columns": ["n"]}
KEPT: dict[str, Any] = {"name": "kept", "type": "KeepColumns", "columns": ["id", "n"]}


def sums_from_the_largest(rows: list[Row]) -> list[Row]:
    """Of a family of numbers as many rows as the largest says, none for none."""
    numbers = [row["n"] for row in rows]
    return [{"n": index, "sum": sum(numbers)} for index in range(max(numbers, default=0))]


SUMS = f"{__name__}:sums_from_the_largest"
SUMMING = {"name": "summed", "type": "Callback", "function": SUMS}
BOTH_AND_ALL = [
    {"name": "both", "type": "Aggregate", "columns": ["sample"]},
    {"name": "all", "type": "Aggregate", "columns": ["n", "sample"]},
]
SUMMED = [
    {"id": 2, "n": 0, "sum": 1},
    {"id": 3, "n": 0, "sum": 3},
    {"id": 3, "n": 1, "sum": 3},
]


def kept() -> KeepColumns:
    return KeepColumns("kept", columns=["id", "n"])


def parts() -> ExpandColumns:
    return ExpandColumns("parts", columns=["n"])


CASES: dict[str, tuple[list[dict[str, Any]], Callable[[Step], Step], str, list[Row]]] = {
    "scatter": (
        [{"name": "asked", "type": "TextGeneration", "llm": "w", "template": "{{ id }}"}
         | {"parse": "comma_list", "output": "word", "scatter": True}],
        lambda seed: seed >> asked().scatter(),
        "asked",
        [row | {"word": word} for row in ROWS for word in ("a", "b")],
    ),
    "broadcast": (
        [KEPT | {"broadcast": 2}],
        lambda seed: seed >> kept().broadcast(2),
        "kept",
        [row | {"sample": sample} for row in ROWS for sample in (0, 1)],
    ),
    "broadcast in a family": (
        [PARTS, KEPT | {"broadcast": 2}, *BOTH_AND_ALL],
        lambda seed: seed >> parts() >> kept().broadcast(2) >> Aggregate("both", columns=["sample"])
        >> Aggregate("all", columns=["n", "sample"]),
        "all",
        [row | {"sample": [[0, 1]] * row["id"]} for row in ROWS],
    ),
    "broadcast of one row": (
        [{"name": "all", "type": "Aggregate", "by": "all", "broadcast": 2}],
        lambda seed: seed >> Aggregate("all", by="all").broadcast(2),
        "all_broadcast",
        [{"id": [0, 1, 2, 3], "n": [row["n"] for row in ROWS], "sample": sample} for sample in (0, 1)],
    ),
    "aggregate": (
        [PARTS, KEPT | {"aggregate": "scatter"}],
        lambda seed: seed >> parts() >> kept().aggregate(),
        "kept_aggregate",
        ROWS,
    ),
    "aggregate all": (
        [PARTS, KEPT | {"aggregate": "all"}],
        lambda seed: seed >> parts() >> kept().aggregate("all"),
        "kept_aggregate",
        [{"id": [1, 2, 2, 3, 3, 3], "n": [0, 0, 1, 0, 1, 2]}],
    ),
    "aggregate by columns": (
        [PARTS, KEPT | {"aggregate": ["n"]}],
        lambda seed: seed >> parts() >> kept().aggregate(["n"]),
        "kept_aggregate",
        [{"n": 0, "id": [1, 2, 3]}, {"n": 1, "id": [2, 3]}, {"n": 2, "id": [3]}],
    ),
    "custom": (
        [PARTS, KEPT | {"custom": SUMS}],
        lambda seed: seed >> parts() >> kept().custom(sums_from_the_largest),
        "kept_custom",
        SUMMED,
    ),
    "steps of their own": (
        [PARTS, {"name": "all", "type": "Aggregate", "as_rows": "rows"}, SUMMING],
        lambda seed: seed >> parts() >> Aggregate("all", as_rows="rows") >> Callback("summed", function=SUMS),
        "summed",
        SUMMED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("folder", ["file", "python"])
def test_a_loader_may_repeat_its_rows(folder: str, tmp_path: Path) -> None:
    pipeline = Pipeline.from_dict({"name": "said", "steps": [SEED | {"broadcast": 2}, KEPT]})
    if folder == "python":
        with Pipeline("said") as pipeline:
            LoadDataFromDicts(ROWS, name="seed").broadcast(2) >> kept()
    assert pipeline.graph().flows["kept"].open_scatters == ("seed_broadcast",)
    rows = run(pipeline, tmp_path)["kept"].to_arrow().to_pylist()
    assert [row["id"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [row["_path"] for row in rows] == [[0], [1]] * 4
    assert len({row["_row_id"] for row in rows}) == 8 == 2 * len({row["_source_id"] for row in rows})


@pytest.mark.parametrize(
    "step",
    [KEPT, {"name": "kept", "type": "Filter", "keep": "id > 1"}, {"name": "kept", "type": "Aggregate", "by": "all"}],
)
def test_what_makes_no_lists_is_not_scattered(step: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"step 'kept': makes no lists to scatter; .* put ExpandColumns"):
        Pipeline.from_dict({"name": "said", "steps": [SEED, step | {"scatter": True}]}).graph()


def asked() -> Step:
    from raypipe.contracts.llm import LLM
    from raypipe.steps import TextGeneration

    llm = LLM("offline/x", options={"answers": ["a, b"]})
    return TextGeneration("asked", llm=llm, template="{{ id }}", parse="comma_list", output="word")


def run(pipeline: Pipeline, folder: Path) -> Result:
    result = pipeline.run(folder, engine="local")
    assert_balanced(pipeline.graph(), result)
    return result


@pytest.mark.parametrize("case", CASES)
def test_a_file_says_what_python_says(case: str, tmp_path: Path) -> None:
    steps, join, leaf, expected = CASES[case]
    plain = {"name": "said", "models": {"w": {"uri": "offline/x", "options": {"answers": ["a, b"]}}}}
    by_file = Pipeline.from_dict({**plain, "steps": [SEED, *steps]}, [__name__])
    with Pipeline("said") as by_python:
        join(LoadDataFromDicts(ROWS, name="seed"))
    results = [run(by_file, tmp_path / "file"), run(by_python, tmp_path / "python")]
    assert [user_rows(result[leaf]) for result in results] == [expected] * 2
    assert results[0][leaf].to_arrow().equals(results[1][leaf].to_arrow()), "lineage included"
    again = Pipeline.from_dict(by_python.dump(), [__name__])
    assert again.dump() == by_python.dump()


def test_a_functions_rows_are_children_of_the_row_that_was_scattered(tmp_path: Path) -> None:
    with Pipeline("lineage") as pipeline:
        seed = LoadDataFromDicts(ROWS, name="seed")
        seed >> [parts(), KeepColumns("whole", columns=["id"])]
        pipeline.steps[1] >> kept().custom(sums_from_the_largest)
    result = run(pipeline, tmp_path / "out")
    parents = {row["id"]: row["_row_id"] for row in result["whole"].to_arrow().to_pylist()}
    rows = result["kept_custom"].to_arrow().to_pylist()
    assert [row["_parent_id"] for row in rows] == [parents[row["id"]] for row in rows]
    assert [row["_source_id"] for row in rows] == [parents[row["id"]] for row in rows]
    assert [(row["_position"], row["_path"]) for row in rows] == [(2, [0]), (3, [0]), (3, [1])]
    assert len({row["_row_id"] for row in rows}) == 3


def test_without_a_scatter_a_row_is_a_family_of_its_own(tmp_path: Path) -> None:
    with Pipeline("alone") as pipeline:
        LoadDataFromDicts([{"n": 2}, {"n": 0}], name="seed") >> KeepColumns("kept", columns=["n"]).custom(
            sums_from_the_largest
        )
    assert user_rows(run(pipeline, tmp_path / "out")["kept_custom"]) == [{"n": 0, "sum": 2}, {"n": 1, "sum": 2}]

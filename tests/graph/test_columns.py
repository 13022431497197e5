"""Columns in a run: required or not, renamed by mappings, of every type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import SpecError
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import GlobalStep, KeepColumns, LoadDataFromDicts, Step, StepInput, step
from tests.books import Row, balanced_run, user_rows
from tests.pipelines import chain, seed


class Optional(Step):
    """Reads a column that may be missing."""

    @property
    def inputs(self) -> dict[str, bool]:
        return {"n": True, "hint": False}

    @property
    def outputs(self) -> dict[str, bool]:
        return {"seen": True}

    def process(self, inputs: StepInput) -> Any:
        yield [{**row, "seen": row.get("hint", "none")} for row in inputs]


class Ranked(GlobalStep):
    """Reads one column of all rows, and one that may be missing; gives the rows back, the largest first."""

    @property
    def inputs(self) -> dict[str, bool]:
        return {"n": True, "hint": False}

    @property
    def outputs(self) -> list[str]:
        return ["rank"]

    def process(self, inputs: StepInput) -> Any:
        ordered = sorted(inputs, key=lambda row: -row["n"])
        yield [{**row, "rank": rank} for rank, row in enumerate(ordered)]


@pytest.mark.parametrize(("extra", "seen"), [({"hint": "x"}, "x"), ({}, "none")], ids=["there", "missing"])
def test_a_column_that_is_not_required_may_be_missing(tmp_path: Path, extra: Row, seen: str) -> None:
    result = balanced_run(chain(lambda: seed([{"n": 1, **extra}]), lambda: Optional("optional")), tmp_path / "out")
    assert user_rows(result["optional"]) == [{"n": 1, **extra, "seen": seen}]


@pytest.mark.parametrize("kind", [Optional, Ranked])
def test_a_column_that_is_required_may_not_be_missing(kind: type[Any]) -> None:
    with pytest.raises(SpecError, match=r"requires inputs \['n'\]"):
        chain(lambda: seed([{"hint": "x"}]), kind).graph()


def test_a_global_step_is_given_the_columns_that_it_does_not_name_too(tmp_path: Path) -> None:
    rows = [{"n": 1, "hint": "x", "more": [1]}, {"n": 2, "hint": None, "more": []}]
    result = balanced_run(chain(lambda: seed(rows), lambda: Ranked("ranked")), tmp_path / "out")
    assert user_rows(result["ranked"]) == [{**rows[1], "rank": 0}, {**rows[0], "rank": 1}]


def test_values_keep_their_types_on_their_way_through_a_global_step(tmp_path: Path) -> None:
    seen: list[Any] = []

    @step(step_type="global")
    def looked(rows: StepInput) -> Any:
        seen.extend(rows)
        yield rows

    rows = [{"nothing": None, "list": [], "map": {"1": None}, "float": 1.0, "int": 1, "bytes": b"\xff"}]
    rows += [{"nothing": None, "list": [1], "map": {"1": 2}, "float": 2.0, "int": 2**53 + 1, "bytes": b""}]
    result = balanced_run(chain(lambda: seed(rows), lambda: looked("looked")), tmp_path / "out")
    assert seen == rows
    assert user_rows(result["looked"]) == rows
    assert [type(row["float"]) for row in seen] == [float, float]


def test_a_mapping_leaves_the_column_that_has_the_input_s_own_name(tmp_path: Path) -> None:
    @step(inputs=["instruction"], outputs=["generation"])
    def shouted(row: Values) -> Row:
        return {"generation": row["instruction"] + "!"}

    with Pipeline("mapped") as pipeline:
        seed([{"prompt": "hi", "instruction": "keep me"}]) >> shouted(
            "mapped", input_mappings={"instruction": "prompt"}, output_mappings={"generation": "response"}
        )
    [row] = user_rows(balanced_run(pipeline, tmp_path / "out")["mapped"])
    assert row == {"prompt": "hi", "instruction": "keep me", "response": "hi!"}


def test_a_generator_s_columns_can_be_renamed(tmp_path: Path) -> None:
    @step(outputs=["n"], step_type="generator")
    def counting(offset: int = 0) -> Any:
        yield [{"n": 1}], True

    pipeline = chain(lambda: counting(output_mappings={"n": "k"}), lambda: KeepColumns("kept", columns=["k"]))
    assert user_rows(balanced_run(pipeline, tmp_path / "out")["kept"]) == [{"k": 1}]


def test_a_mapped_column_of_a_batch_step_goes_back_where_it_came_from(tmp_path: Path) -> None:
    class Loud(Step):
        @property
        def inputs(self) -> list[str]:
            return ["instruction"]

        def process(self, inputs: StepInput) -> Any:
            for row in inputs:
                row["instruction"] = row["instruction"].upper()
            yield inputs

    with Pipeline("mapped") as pipeline:
        seed_of = LoadDataFromDicts([{"prompt": "hi", "instruction": "kept"}], name="seed")
        seed_of >> Loud("loud", input_mappings={"instruction": "prompt"})
    result = pipeline.run(tmp_path / "out", engine="local")
    assert user_rows(result["loud"]) == [{"prompt": "HI", "instruction": "kept"}]

"""Whatever a step raises ends its row or its run with a sentence, never in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InfrastructureError
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, Step, StepInput, step
from tests.books import failed, user_rows

ROWS = 5


@step(inputs=["number"], outputs=["value"])
async def cancelled(row: Values) -> dict[str, Any]:
    if row["number"] == 2:
        raise asyncio.CancelledError
    return {"value": row["number"]}


@step(inputs=["number"], outputs=["value"])
def cancelled_in_a_thread(row: Values) -> dict[str, Any]:
    if row["number"] == 2:
        raise asyncio.CancelledError
    return {"value": row["number"]}


@step(inputs=["number"], outputs=["value"])
async def exiting(row: Values) -> dict[str, Any]:
    if row["number"] == 2:
        raise SystemExit(1)
    return {"value": row["number"]}


@step(inputs=["number"], outputs=["value"])
def exiting_in_a_thread(row: Values) -> dict[str, Any]:
    if row["number"] == 2:
        raise SystemExit(1)
    return {"value": row["number"]}


@step(inputs=["number"], outputs=["value"])
async def closing(row: Values) -> dict[str, Any]:
    raise GeneratorExit


class Unloadable(Step):
    def load(self) -> None:
        raise ValueError("no such weights")

    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield inputs


class Forgetful(Step):
    """Declares two columns and writes one, the second only for rows that are even."""

    @property
    def outputs(self) -> dict[str, bool]:
        return {"value": True, "note": False}

    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield [row if row["number"] % 2 else row | {"value": 1} for row in inputs]


def pipeline(hostile: Callable[[str], Any]) -> Pipeline:
    with Pipeline("hostile") as made:
        seed = LoadDataFromDicts([{"number": number} for number in range(ROWS)], name="seed")
        seed >> hostile("hostile")
    return made


@pytest.mark.parametrize("hostile", [cancelled, cancelled_in_a_thread, exiting, exiting_in_a_thread])
def test_what_is_no_error_fails_its_row_alone(engine: Any, hostile: Any, tmp_path: Path) -> None:
    result = pipeline(hostile).run(tmp_path / "out", engine=engine)
    assert [row["value"] for row in user_rows(result["hostile"])] == [0, 1, 3, 4]
    assert [row["number"] for *_, row in failed(result)] == [2]


def test_a_worker_that_breaks_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="worker 'python:0' broke: GeneratorExit"):
        pipeline(closing).run(tmp_path / "out", engine="local")


def test_a_step_that_cannot_be_loaded_is_named(engine: Any, tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="step 'hostile' cannot be loaded: ValueError: no such weights"):
        pipeline(Unloadable).run(tmp_path / "out", engine=engine)


def test_a_column_that_was_promised_and_is_missing_fails_the_row(tmp_path: Path) -> None:
    result = pipeline(Forgetful).run(tmp_path / "out", engine="local")
    assert [row["number"] for row in user_rows(result["hostile"])] == [0, 2, 4]
    assert {kind for _, kind, *_ in failed(result)} == {"output"}

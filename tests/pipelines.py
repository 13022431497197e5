"""Small pipelines for tests: rows, steps of one line each, and steps put one after the other."""

from __future__ import annotations

from typing import Any

from raypipe.contracts.llm import LLM
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, RuntimeParameter, StepInput, TextGeneration, step
from tests.books import Row
from tests.loopback import Loopback

ROWS: list[Row] = [{"n": number} for number in range(10)]


@step(inputs=["n"], outputs=["a"])
def one(row: Values) -> Row:
    return {"a": row["n"]}


@step(inputs=["n"], outputs=["b"])
def other(row: Values) -> Row:
    return {"b": -row["n"]}


@step(inputs=["n"], outputs=["m"])
def scaled(rows: StepInput, factor: RuntimeParameter[int] = 1) -> Any:
    yield [{**row, "m": row["n"] * factor} for row in rows]


def asking(server: Loopback, name: str, template: str, **options: Any) -> TextGeneration:
    """A step that asks the loopback server."""
    return TextGeneration(name, llm=LLM("vllm-server/m", base_url=server.base_url), template=template, **options)


def seed(rows: list[Row] | None = None) -> LoadDataFromDicts:
    return LoadDataFromDicts(ROWS if rows is None else rows, name="seed")


def chain(*steps: Any) -> Pipeline:
    """Steps one after the other; each is called inside the block."""
    with Pipeline("chain") as pipeline:
        before = None
        for make in steps:
            made = make()
            before = made if before is None else before >> made
    return pipeline

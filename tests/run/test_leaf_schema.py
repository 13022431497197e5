"""A leaf without rows has the columns and types that it has with rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe.contracts.llm import LLM
from raypipe.contracts.step import Aggregate, By
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.run.leaf_schema import leaf_schema
from raypipe.steps import Filter, KeepColumns, LoadDataFromDicts, TextGeneration, step

ROWS = [{"id": 1, "kind": "a", "score": 0.5, "parts": [{"x": 1}]}]
ANSWERS = LLM("offline/stand-in", options={"answers": ["one\ntwo"]})
SCORE = {"type": "object", "properties": {"good": {"type": "boolean"}, "points": {"type": "integer"}}}


@step(inputs=["id"], outputs={"child": int}, scatter=True)
def children(row: Values) -> list[dict[str, Any]]:
    return [{"child": 1}, {"child": 2}]


def mapped() -> None:
    LoadDataFromDicts(ROWS) >> Filter("some", keep="id == 1") >> KeepColumns("leaf", columns=["parts", "score", "kind"])


def scattered() -> None:
    LoadDataFromDicts(ROWS) >> Filter("some", keep="id == 1") >> children("leaf")


def copied() -> None:
    LoadDataFromDicts(ROWS) >> Filter("some", keep="id == 1") >> children() >> Filter("leaf", keep="child").broadcast(2)


def asked() -> None:
    ask = TextGeneration("leaf", llm=ANSWERS, template="{{ id }}", parse="lines", output="list")
    LoadDataFromDicts(ROWS) >> Filter("some", keep="id == 1") >> ask


def structured() -> None:
    ask = TextGeneration("leaf", llm=LLM("offline/stand-in"), template="{{ id }}", structured_output=SCORE)
    LoadDataFromDicts(ROWS) >> Filter("some", keep="id == 1") >> ask


def gathered(by: By) -> None:
    LoadDataFromDicts(ROWS) >> Filter("some", keep="id == 1") >> children() >> Aggregate("leaf", by=by)


SHAPES = {
    "mapped": mapped,
    "scattered": scattered,
    "copied": copied,
    "asked": asked,
    "structured": structured,
    "by scatter": lambda: gathered("scatter"),
    "by root": lambda: gathered("root"),
    "by all": lambda: gathered("all"),
    "by columns": lambda: gathered(["kind", "id"]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_schema_is_known_without_a_row(tmp_path: Path, shape: str) -> None:
    with Pipeline("shape") as pipeline:
        SHAPES[shape]()
    found = pipeline.run(tmp_path / "out", engine="local")["leaf"].to_arrow().schema
    assert written(leaf_schema(pipeline.graph(), "leaf")) == written(found)


def written(schema: pa.Schema) -> dict[str, str]:
    """Types by column, in order; the name that Parquet gives to the items of a list does not matter."""
    return {field.name: str(field.type).replace("element: ", "item: ") for field in schema}

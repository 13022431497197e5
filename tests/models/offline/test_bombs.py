"""The offline model, which answers every call of a dry run in the loop, refuses what asks for too much."""

from __future__ import annotations

import time
from typing import Any

import pytest

from raypipe.errors import CallError
from raypipe.models.offline.pattern import text_for
from raypipe.models.offline.prompt import Prompt
from raypipe.models.offline.schema import value_for

MANY = 1_000_000_000


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "minItems": 60, "items": schema}
    return schema


def doubling(keyword: str) -> dict[str, Any]:
    found: dict[str, Any] = {"level30": {"type": "string"}}
    for level in range(30):
        found[f"level{level}"] = {keyword: [{"$ref": f"#/$defs/level{level + 1}"}] * 2}
    return {"$defs": found, "$ref": "#/$defs/level0"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": MANY},
        {"type": "string", "minLength": MANY, "pattern": "^a*$"},
        {"type": "array", "minItems": MANY},
        {"type": "array", "minItems": MANY, "items": {"const": 1}},
        {"type": "object", "minProperties": MANY},
        nested(6),
        doubling("allOf"),
        {"$ref": "#"},
    ],
    ids=["text", "pattern", "list", "equal items", "object", "nested lists", "doubling", "circle"],
)
def test_a_schema_that_asks_for_too_much_is_refused(schema: dict[str, Any]) -> None:
    begun = time.process_time()
    with pytest.raises(CallError, match="the schema cannot be followed"):
        value_for(schema, Prompt("Tell me of tea"), 1)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("pattern", ["a{999999999}", "((a{1000}){1000}){1000}", "(" * 5000 + "a" + ")" * 5000])
def test_a_pattern_that_asks_for_too_much_has_no_text(pattern: str) -> None:
    begun = time.process_time()
    assert text_for(pattern, 1) is None
    assert time.process_time() - begun < 5


def test_a_long_text_is_written_soon() -> None:
    begun = time.process_time()
    text = value_for({"type": "string", "minLength": 4_000_000}, Prompt("Tell me of tea"), 1)
    assert len(text) >= 4_000_000 and time.process_time() - begun < 10

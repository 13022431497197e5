"""JSON Schemas: closed, followed, typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps.answers.outputs import Wanted, from_structure
from raypipe.steps.answers.schemas import arrow_type, closed, items, properties


def test_objects_are_closed_unless_they_say_otherwise():
    inner = {"type": "object", "properties": {"x": {"type": "integer"}}}
    schema = {
        "type": "object",
        "properties": {
            "plain": inner,
            "many": {"type": "array", "items": inner},
            "open": {**inner, "additionalProperties": True},
            "anything": {"type": "object"},
            "composed": {**inner, "allOf": [{"properties": {"y": {}}}]},
            "either": {"anyOf": [inner, {"type": "null"}]},
            "properties": {"type": "string"},
        },
    }
    made = closed(schema)
    parts = made["properties"]
    assert made["additionalProperties"] is False
    assert parts["plain"]["additionalProperties"] is False
    assert parts["many"]["items"]["additionalProperties"] is False
    assert parts["either"]["anyOf"][0]["additionalProperties"] is False
    assert parts["open"]["additionalProperties"] is True
    assert "additionalProperties" not in parts["anything"]
    assert "additionalProperties" not in parts["composed"]
    assert parts["properties"] == {"type": "string"}
    assert "additionalProperties" not in schema, "the caller's schema is left as it is"


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer"}, "int64"),
        ({"type": "number"}, "double"),
        ({"type": "boolean"}, "bool"),
        ({"type": ["string", "null"]}, "string"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "int64"),
        ({"type": "array", "items": {"type": "string"}}, "list<string>"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, ""),
        ({"type": "array"}, ""),
        ({"enum": ["a", "b"]}, "string"),
        ({"enum": ["a", 1]}, ""),
        ({"const": "a"}, "string"),
        ({"$ref": "#/$defs/word"}, "string"),
        ({"type": "object", "properties": {}}, ""),
        ({"type": ["string", "integer"]}, ""),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, ""),
        ({}, ""),
    ],
)
def test_arrow_types(node, name):
    assert arrow_type(node, {"$defs": {"word": {"type": "string"}}}) == name


def test_references_are_followed_inside_the_schema_only():
    root = {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "object", "properties": {"x": {"type": "string"}}}}}
    assert list(properties(root, root)) == ["x"]
    assert items({"$ref": "#/$defs/l"}, {"$defs": {"l": {"type": "array", "items": {"type": "string"}}}}) == {
        "type": "string"
    }
    with pytest.raises(SpecError, match="only references inside the schema"):
        closed({"properties": {"a": {"$ref": "https://example.org/schema.json"}}})
    with pytest.raises(SpecError, match="which is not in it"):
        closed({"properties": {"a": {"$ref": "#/$defs/none"}}})


def test_a_reference_to_itself_ends():
    root = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert properties(closed(root), root) == {}


def test_what_is_no_plain_json_is_refused():
    with pytest.raises(SpecError, match="is not plain JSON"):
        closed({"properties": {"a": {1, 2}}})


@pytest.mark.parametrize("anything", [True, False])
def test_a_schema_may_be_a_truth_value(anything: bool, tmp_path: Path) -> None:
    """Wherever one may stand: it says nothing of a value's type."""
    schemas: list[dict[str, Any]] = [
        {"type": "object", "properties": {"a": anything}},
        {"type": "object", "properties": {"a": {"type": "array", "items": anything}}},
        {"type": "object", "properties": {"a": {"anyOf": [anything, {"type": "null"}]}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": anything}},
        {"type": "array", "items": anything},
        {"type": "array", "items": {"type": "object", "properties": {"a": anything}}},
    ]
    for schema in schemas:
        for scattered in (False, True):
            assert from_structure(Wanted("a", None, scattered), closed(schema)).types == {"a": ""}
        step = {"name": "asked", "type": "TextGeneration", "llm": "offline/x", "template": "{{ a }}"}
        seed = {"name": "seed", "type": "LoadDataFromDicts", "data": [{"a": 1}]}
        path = tmp_path / "pipeline.yaml"
        path.write_text(json.dumps({"name": "p", "steps": [seed, step | {"structured_output": schema}]}))
        Pipeline.from_file(path).validate()

"""Schemas that others wrote: nothing is fetched, nothing runs on, and what they mean is what they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from raypipe.errors import RowError, SpecError
from raypipe.steps.answers.schema_check import SchemaCheck
from raypipe.steps.answers.structured import structure_of

KEYWORDS = ("allOf", "anyOf", "oneOf", "prefixItems")
PLACES: list[Any] = [
    *(lambda ref, keyword=keyword: {keyword: [ref]} for keyword in KEYWORDS),
    *(lambda ref, keyword=keyword: {keyword: ref, "then": ref} for keyword in ("not", "if", "contains", "items")),
    *(lambda ref, keyword=keyword: {keyword: ref} for keyword in ("propertyNames", "unevaluatedItems", "else")),
    *(lambda ref, keyword=keyword: {keyword: {"a": ref}} for keyword in ("dependentSchemas", "patternProperties")),
    lambda ref: {"properties": {"const": ref}},
    lambda ref: {"const": ref, "$ref": "#/const"},
    lambda ref: {"$id": "http://127.0.0.1:9/", "$defs": {"a": {"$id": "inner", **ref}}, "$ref": "#/$defs/a"},
    lambda ref: ref,
]


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was fetched from it."""
    paths: list[str] = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/schema", paths
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["$ref", "$dynamicRef", "$recursiveRef"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: ",".join(place({})))
def test_no_reference_is_fetched(place: Any, name: str, asked: tuple[str, list[str]]) -> None:
    address, paths = asked
    for value in ([1], {"a": 1}):
        with pytest.raises((SpecError, RowError), match="schema"):
            structure_of(place({name: address})).validate(str(value).replace("'", '"'))
    assert paths == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_file_is_read_and_no_draft_is_fetched(tmp_path: Path, asked: tuple[str, list[str]]) -> None:
    (tmp_path / "secret.json").write_text('{"type": "string"}')
    with pytest.raises(SpecError, match="only references inside the schema"):
        structure_of({"allOf": [{"$ref": (tmp_path / "secret.json").as_uri()}]})
    for schema in ({"$schema": asked[0], "type": "integer"}, {"allOf": [{"$schema": asked[0], "type": "integer"}]}):
        with pytest.raises(RowError, match="is not of type 'integer'"):
            structure_of(schema).validate('"text"')
    assert asked[1] == []


SLOW = "a" * 35 + "b"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": "^(a+)+$"}, f'"{SLOW}"'),
        ({"allOf": [{"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a+)+$"}]}, f'"{SLOW}"'),
        ({"patternProperties": {"^(a+)+$": False}, "additionalProperties": False}, f'{{"{SLOW}": 1}}'),
        ({"propertyNames": {"pattern": "^(a+)+$"}}, f'{{"{SLOW}": 1}}'),
        ({"pattern": "^(?=a)(a|aa)+$"}, f'"{SLOW}{SLOW}"'),
    ],
    ids=["pattern", "another draft", "patternProperties", "propertyNames", "look-around"],
)
def test_patterns_end(schema: dict[str, Any], value: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(RowError, match=r"not match|was unexpected|took longer than 2 s"):
        structure_of(schema).validate(value)
    assert time.perf_counter() - begun < 10


def doubling(wrapped: bool) -> dict[str, Any]:
    """Each level is looked at twice as often as the one above."""
    found: dict[str, Any] = {"level40": {"type": "string"}}
    for level in range(40):
        both = {"anyOf": [{"$ref": f"#/$defs/level{level + 1}"}] * 2}
        found[f"level{level}"] = {"properties": {"a": both}} if wrapped else both
    return {"$defs": found, "$ref": "#/$defs/level0"}


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        ({"$ref": "#"}, "1", "lead in a circle"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "1",
         "lead in a circle"),
        (doubling(False), "1", "too many steps"),
        (doubling(True), '{"a": ' * 40 + "1" + "}" * 40, "too many steps"),
        ({"items": {"enum": list(range(20_000))}}, str([19_999] * 100_000), "too many steps"),
        ({"anyOf": [{"minLength": number, "type": "string"} for number in range(3000)]}, str(list(range(200_000))),
         "too many steps"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "{}", "write additionalProperties"),
        ({"pattern": "("}, '""', "is not a regular expression"),
        ({"description": "x" * (2 << 20)}, '""', "bytes of JSON"),
        ({"$ref": "#nowhere"}, '""', "is not in it"),
    ],
    ids=[
        "itself", "each other", "doubling", "doubling values", "enum", "long messages", "both", "pattern", "large",
        "anchor",
    ],
)  # fmt: skip
def test_checks_end_with_a_sentence(schema: dict[str, Any], value: str, problem: str) -> None:
    begun = time.perf_counter()
    with pytest.raises((SpecError, RowError), match=problem):
        structure_of(schema).validate(value)
    assert time.perf_counter() - begun < 30


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"allOf": [schema]}
    with pytest.raises(SpecError, match="schema"):
        structure_of(schema)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"c": 1, "b": 1}),
        ({"patternProperties": {"^x": {}, "^a": {}}, "additionalProperties": False}, {"c": 1, "b": 1, "x": 2}),
        ({"patternProperties": {"^x": {}}, "additionalProperties": False}, {"c": 1}),
        ({"additionalProperties": {"type": "integer"}}, {"c": "1"}),
        ({"patternProperties": {"^x": {"type": "integer"}}}, {"x": "1"}),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1}]),
        ({"items": {"enum": ["a", 1]}}, ["a", "b"]),
        ({"items": {"pattern": "^a+$"}}, ["a", "b"]),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, 1.5),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, 1),
        ({"contains": {"type": "string"}}, [1]),
        ({"unevaluatedProperties": False, "properties": {"a": {}}}, {"b": 1}),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_as_ever(schema: dict[str, Any], value: Any) -> None:
    """The words are part of the second call, which old runs have recorded."""
    said = next(Draft202012Validator(schema).iter_errors(value))
    found = SchemaCheck(schema).mismatch(value)
    assert found == (tuple(said.absolute_path), said.message)


def test_what_schemas_say_still_holds() -> None:
    assert structure_of({"uniqueItems": True}).validate('[1, true, "1", [1], null]') == [1, True, "1", [1], None]
    with pytest.raises(RowError, match="has non-unique elements"):
        structure_of({"uniqueItems": True}).validate('[{"a": 1, "b": 2}, {"b": 2, "a": 1.0}]')
    many = "[" + ",".join(f'{{"a": {number}}}' for number in range(30_000)) + "]"
    assert len(structure_of({"uniqueItems": True}).validate(many)) == 30_000
    anchored = structure_of({"$defs": {"n": {"$anchor": "n", "type": "integer"}}, "properties": {"a": {"$ref": "#n"}}})
    with pytest.raises(RowError, match="a: 'x' is not of type 'integer'"):
        anchored.validate('{"a": "x"}')
    with pytest.raises(RowError, match=r"\$schema: 1 is not of type 'string'"):
        structure_of({"properties": {"$schema": {"type": "string"}}}).validate('{"$schema": 1}')
    tree = structure_of({"type": "object", "properties": {"inner": {"$ref": "#"}}, "additionalProperties": False})
    with pytest.raises(RowError, match=r"inner\.inner: 1 is not of type 'object'"):
        tree.validate('{"inner": {"inner": 1}}')

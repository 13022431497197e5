"""A value made for a schema satisfies it, fits the prompt, and is the same every time."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import CallError, Retry
from raypipe.models.offline import value_for
from raypipe.models.offline.pattern import text_for
from raypipe.models.offline.prompt import Prompt

SUBTOPICS = "Given a topic, generate a list of 10 subtopics.\nThe topic is: Machine Learning"


def value_of(schema: dict[str, Any], prompt: str = "Write about bees.", turn: int = 5) -> Any:
    value = value_for(schema, Prompt(prompt), turn)
    jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    return value


def plain(kind: str, **words: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of one type; a word drawn as `None` is left out."""
    drawn = st.fixed_dictionaries(words)
    return drawn.map(lambda some: {"type": kind} | {word: value for word, value in some.items() if value is not None})


SMALL = st.none() | st.integers(0, 6)
NAMES = st.sampled_from(["question", "answer", "score", "title", "n", "tags"])
SCALARS = st.one_of(
    st.just({}),
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    plain("string", minLength=SMALL, maxLength=st.none() | st.integers(6, 40)),
    plain(
        "string", pattern=st.sampled_from([r"^[A-Z]{2}-\d{3}$", r"^(yes|no)$", r"^\w+@\w+\.org$", r"^[^\d\s]{2,4}x?$"])
    ),
    plain("string", format=st.sampled_from(["date", "date-time", "email", "ipv4", "uuid"])),
    plain("integer", minimum=st.none() | st.integers(-50, 10), maximum=st.none() | st.integers(10, 50)),
    plain("integer", exclusiveMinimum=st.floats(-9, 9), multipleOf=st.none() | st.sampled_from([2, 3, 0.5, 2.5])),
    plain("number", minimum=st.none() | st.floats(-1e6, 0), exclusiveMaximum=st.none() | st.floats(0.1, 1e6)),
    plain("number", maximum=st.floats(-99, 99), multipleOf=st.sampled_from([0.5, 0.25, 5])),
    st.lists(st.integers() | st.text(max_size=5), min_size=1, max_size=4).map(lambda values: {"enum": values}),
    st.text(max_size=5).map(lambda value: {"const": value}),
    st.just({"type": ["string", "null"]}),
)


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    properties = st.dictionaries(NAMES, inner, max_size=4)
    objects = properties.flatmap(
        lambda found: plain(
            "object",
            properties=st.just(found),
            required=st.lists(st.sampled_from(sorted(found)), unique=True) if found else st.just([]),
            additionalProperties=st.none() | st.just(False),
        )
    )
    return st.one_of(
        plain("array", items=inner, minItems=SMALL, maxItems=st.none() | st.integers(6, 60)),
        plain("array", prefixItems=st.lists(inner, min_size=1, max_size=3), items=st.just(False)),
        plain("object", additionalProperties=inner, minProperties=SMALL),
        objects,
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
        inner.map(lambda one: {"allOf": [one, {}]}),
        inner.map(lambda one: {"$defs": {"x/y": one}, "allOf": [one]}),
    )


@given(
    st.recursive(SCALARS, nested, max_leaves=6),
    st.integers(0, 10**6),
    st.sampled_from(["", "Write 4 facts.", SUBTOPICS]),
)
@settings(max_examples=300, deadline=None)
def test_any_schema_is_satisfied(schema: dict[str, Any], turn: int, prompt: str) -> None:
    value = value_for(schema, Prompt(prompt), turn)
    jsonschema.validate(value, schema, format_checker=jsonschema.FormatChecker())
    assert value == value_for(schema, Prompt(prompt), turn)


LIST_OF_TEXTS = {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("bounds", "count"),
    [
        ({}, 10),
        ({"minItems": 3, "maxItems": 12}, 10),
        ({"maxItems": 4}, 4),
        ({"minItems": 60}, 60),
        ({"maxItems": 0}, 0),
    ],
)
def test_list_is_as_long_as_the_prompt_says_where_it_may(bounds: dict[str, int], count: int) -> None:
    assert len(value_of(LIST_OF_TEXTS | bounds, SUBTOPICS)) == count


def test_items_differ() -> None:
    texts = value_of(LIST_OF_TEXTS, "Write 50 questions about bees.")
    assert len(set(texts)) == 50 and all(text.endswith("?") for text in texts)
    few = {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3}
    assert sorted(value_of(few)) == ["a", "b", "c"]


def test_inner_lists_stay_short() -> None:
    value = value_of({"type": "array", "items": LIST_OF_TEXTS}, "Write 20 groups.")
    assert len(value) == 20 and {len(inner) for inner in value} == {2}


def test_texts_fit_their_property() -> None:
    names = ("question", "answers", "title", "persona_name", "topic", "sample_code")
    value = value_of({"type": "object", "properties": {name: {"type": "string"} for name in names}}, "Topic: bees")
    assert value["question"].endswith("?") and value["answers"].endswith(".")
    assert value["title"].istitle() and value["topic"].startswith("bees ")
    assert re.fullmatch(r"[A-Z]\w+ [A-Z]\w+", value["persona_name"])
    assert value["sample_code"].startswith("def ")


def test_recursive_schema_ends() -> None:
    node = {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["v", "next"],
    }
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}
    value_of({"$ref": "#/$defs/node", "$defs": {"node": node}})
    value_of(tree, "Write 3 facts.")


def test_merged_parts_hold_together() -> None:
    parts = [
        {"properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
        {"properties": {"a": {"maximum": 4}, "b": {"type": "string"}}, "required": ["b"]},
    ]
    assert set(value_of({"type": "object", "allOf": parts})) == {"a", "b"}
    assert isinstance(value_of({"type": "string", "anyOf": [{"type": "integer"}, {"minLength": 3}]}), str)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.org/schema"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"allOf": [{"type": "string"}, {"type": "object"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    ],
)
def test_impossible_schema_is_rejected(schema: dict[str, Any]) -> None:
    with pytest.raises(CallError) as caught:
        value_for(schema, Prompt("hello"), 1)
    assert (caught.value.kind, caught.value.retry, caught.value.status) == ("rejected", Retry.NEVER, 400)


@pytest.mark.parametrize(
    "pattern", [r"^\d{4}-\d{2}$", r"(?:ab|cd)+", r"[a-c]{2,}z*?", r"\.[^.]\$", r"^(?P<x>\w)[\]x-]$", r"a.c|^$"]
)
def test_pattern_is_written(pattern: str) -> None:
    text = text_for(pattern, 3)
    assert text is not None and re.search(pattern, text)


@pytest.mark.parametrize("pattern", [r"(?=a)b", r"(a)\1", "[a", "(", r"^abc$"])
def test_pattern_beyond_me_has_no_text(pattern: str) -> None:
    assert text_for(pattern, 3, shortest=10) is None

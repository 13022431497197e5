"""Answers under a schema: checked, asked for once more, never when cut."""

from __future__ import annotations

import asyncio
import pickle
from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from raypipe.contracts.llm import Completion, Request, Usage
from raypipe.errors import RowError, SpecError
from raypipe.steps.answers.structured import ask_structured, structure_of
from tests.steps.scripted import ScriptedCaller


class Grade(BaseModel):
    label: Literal["good", "bad"]
    score: int = Field(ge=0, le=4)


class Review(BaseModel):
    grades: list[Grade]
    note: str | None = None


SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "maximum": 4}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["score"],
}
REQUEST = Request(({"role": "user", "content": "grade it"},))


def ask(caller, schema, sample=0):
    return asyncio.run(ask_structured(caller, REQUEST, schema, sample))


def test_a_class_stands_for_its_schema():
    schema = structure_of(Review).json_schema
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Grade"]["additionalProperties"] is False
    assert structure_of(f"{__name__}:Review").json_schema == schema


def test_values_are_checked_and_plain():
    assert structure_of(SCHEMA).validate('{"score": 3}') == {"score": 3}
    assert structure_of(SCHEMA).validate("```json\n{'score': 3,}\n```") == {"score": 3}
    text = '{"grades": [{"label": "good", "score": "2"}]}'
    assert structure_of(Review).validate(text) == {"grades": [{"label": "good", "score": 2}], "note": None}


@pytest.mark.parametrize(
    ("schema", "text", "said"),
    [
        (SCHEMA, '{"score": 7}', "score: 7 is greater than the maximum of 4"),
        (SCHEMA, '{"score": 1, "tags": ["a", 5]}', r"tags\.1: 5 is not of type 'string'"),
        (SCHEMA, '{"score": 1, "extra": 1}', "Additional properties are not allowed"),
        (SCHEMA, "{}", "'score' is a required property"),
        (SCHEMA, "no", "the completion is not JSON: 'no'"),
        (Review, '{"grades": [{"label": "good", "score": 9}]}', r"grades\.0\.score: Input should be less than"),
        (Review, "[]", "the completion does not match the schema"),
    ],
)
def test_the_first_mismatch_is_named(schema, text, said):
    with pytest.raises(RowError, match=said) as caught:
        structure_of(schema).validate(text)
    assert caught.value.kind == "schema"


def test_a_long_mismatch_is_shortened():
    with pytest.raises(RowError) as caught:
        structure_of(SCHEMA).validate('{"score": "' + "x" * 5000 + '"}')
    assert len(str(caught.value)) < 300


def test_a_fitting_answer_is_asked_for_once_with_the_schema():
    caller = ScriptedCaller('{"score": 2}')
    value, completion = ask(caller, SCHEMA)
    assert value == {"score": 2}
    assert completion.text == '{"score": 2}'
    assert caller.asked[0].schema == structure_of(SCHEMA).json_schema


def test_a_mismatch_is_asked_for_once_more_with_the_error_shown():
    caller = ScriptedCaller('{"score": 9}', '{"score": 4}')
    value, _ = ask(caller, SCHEMA, sample=3)
    assert value == {"score": 4}
    assert caller.samples == [3, 3]
    first, again = caller.asked
    assert again.messages[: len(first.messages)] == first.messages
    assert again.messages[-2] == {"role": "assistant", "content": '{"score": 9}'}
    assert "9 is greater than the maximum of 4" in again.messages[-1]["content"]
    assert again.schema == first.schema


def test_a_second_mismatch_fails_the_row():
    caller = ScriptedCaller('{"score": 9}', '{"score": 8}')
    with pytest.raises(RowError, match="score: 8") as caught:
        ask(caller, SCHEMA)
    assert caught.value.kind == "schema"
    assert len(caller.asked) == 2


def test_a_cut_answer_is_never_asked_for_again_nor_repaired():
    cut = Completion('{"score": 2, "tags": ["a", "b', "length", Usage(5, 12))
    caller = ScriptedCaller(cut)
    with pytest.raises(RowError, match="cut at max_tokens=12; raise max_tokens") as caught:
        ask(caller, SCHEMA)
    assert caught.value.kind == "length"
    assert len(caller.asked) == 1


def test_a_cut_second_answer_is_a_cut_answer():
    caller = ScriptedCaller('{"score": 9}', Completion('{"sco', "length"))
    with pytest.raises(RowError) as caught:
        ask(caller, SCHEMA)
    assert caught.value.kind == "length"


def test_an_answer_that_ends_at_the_limit_but_is_whole_passes():
    value, _ = ask(ScriptedCaller(Completion('{"score": 2}', "length")), SCHEMA)
    assert value == {"score": 2}


def test_a_failed_call_passes_through():
    with pytest.raises(RowError, match="gone"):
        ask(ScriptedCaller(RowError("gone", "call")), SCHEMA)


def test_the_caller_in_plain_words_takes_a_class():
    assert asyncio.run(ScriptedCaller('{"grades": []}')("grade", schema=Review)) == {"grades": [], "note": None}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objct"}, "type is not a JSON Schema"),
        ({"properties": {"a": {"type": "string", "maxLength": -1}}}, r"properties\.a\.maxLength is not a JSON Schema"),
        (5, "neither a pydantic class nor a JSON Schema"),
        (dict, "neither a pydantic class nor a JSON Schema"),
        ("no.such:Class", "nothing to import there"),
        ({"enum": [{1}]}, "is not plain JSON"),
    ],
)
def test_what_is_no_schema_is_refused(schema, said):
    with pytest.raises(SpecError, match=said):
        structure_of(schema)


def test_a_structure_is_made_once_and_travels_as_its_schema():
    assert structure_of(dict(SCHEMA)) is structure_of(SCHEMA)
    travelled = pickle.loads(pickle.dumps(structure_of(SCHEMA)))
    assert travelled == structure_of(SCHEMA)
    assert hash(travelled) == hash(structure_of(SCHEMA))
    assert travelled.validate('{"score": 1}') == {"score": 1}


@settings(deadline=None)
@example('{"score": 1e400}')
@example('{"score": 1, "tags": ["\\ud800"]}')
@given(st.text() | st.text(alphabet='{}[]":,score1 '))
def test_no_text_makes_a_check_raise_anything_else(text):
    for schema in (SCHEMA, Review):
        assert failure_of(structure_of(schema).validate, text) in (None, "schema")


def failure_of(function, *arguments):
    try:
        function(*arguments)
    except RowError as error:
        return error.kind
    return None

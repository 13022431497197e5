"""Answers of a form that the row says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import RowError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.llm.structured_generation import StructuredGeneration
from tests.books import balanced_run, failed, user_rows
from tests.steps.scripted import ScriptedCaller

STEP = StructuredGeneration(llm=LLM("offline/x"), add_model_name=False)
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
ANSWER = '{"name":"Ada"}'


def ask(form, *answers):
    caller = ScriptedCaller(*answers)
    made = asyncio.run(STEP.process_row({"instruction": "Who?", "structured_output": form}, caller))
    return made["generation"], caller


@pytest.mark.parametrize(
    "form",
    [
        PERSON,
        json.dumps(PERSON),
        {"format": "json", "schema": PERSON},
        {"format": "json", "schema": json.dumps(PERSON)},
        {"schema": PERSON},
        json.dumps({"format": "json", "schema": PERSON}),
        {**PERSON, "properties": {"name": {"type": "string", "enum": None}, "age": None}, "items": None},
    ],
)
def test_a_schema_may_be_written_in_many_ways(form):
    made, caller = ask(form, f"```json\n{ANSWER}\n```")
    assert made == ANSWER
    assert caller.asked[0].schema == {**PERSON, "additionalProperties": False}
    assert caller.asked[0].messages == ({"role": "user", "content": "Who?"},)


def test_an_answer_that_does_not_fit_is_asked_for_once_more():
    made, caller = ask(PERSON, '{"nam": "Ada"}', ANSWER)
    assert (made, len(caller.asked)) == (ANSWER, 2)
    with pytest.raises(RowError, match="does not match the schema"):
        ask(PERSON, "no", '{"name": 1}')


@pytest.mark.parametrize("form", [{"format": "regex", "schema": r"\d{2}-[a-z]+"}, {"regex": r"\d{2}-[a-z]+"}])
def test_a_regular_expression_is_checked(form):
    made, caller = ask(form, "12-ab")
    assert made == "12-ab"
    assert caller.asked[0].form == {"regex": r"\d{2}-[a-z]+"}
    assert ask(form, "x", " 12-ab\n")[0] == "12-ab"
    with pytest.raises(RowError, match="does not match") as caught:
        ask(form, "x", "12-ab!")
    assert caught.value.kind == "schema"


def test_a_pattern_with_flags_is_only_checked_afterwards():
    form = {"format": "regex", "schema": "(?i)yes|no"}
    made, caller = ask(form, "YES")
    assert (made, caller.asked[0].form) == ("YES", None)
    with pytest.raises(RowError, match="does not match"):
        ask(form, "perhaps", "perhaps")


def test_an_answer_may_be_one_of_a_choice():
    made, caller = ask({"choice": ["yes", "no"]}, "maybe", "no")
    assert (made, caller.asked[1].form) == ("no", {"choice": ["yes", "no"]})
    assert "none of the choices: 'maybe'" in caller.asked[1].messages[-1]["content"]


def test_without_a_form_the_answer_is_free():
    made, caller = ask(None, " Ada ")
    assert made == "Ada"
    assert caller.asked[0].schema is None


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"type": "objct"}, "cannot be used: .*is not a JSON Schema"),
        ({"$ref": "#/$defs/x"}, "cannot be used: .*which is not in it"),
        ("tests.steps.llm.test_structured_generation:PERSON", "is not JSON: "),
        ("[1]", "is not a mapping"),
        (3, "is not a mapping but 3"),
        ({"format": "json"}, "has no 'schema'"),
        (
            {"format": "xml", "schema": PERSON},
            r"has the format 'xml' \(allowed: 'json', 'regex', ",
        ),
        ({"format": "regex", "schema": "("}, "is not a regular expression"),
        ({"format": "regex", "schema": PERSON}, "which is not text"),
        ({"format": "json", "schema": 3}, "is not a JSON Schema"),
    ],
)
def test_an_unsound_form_fails_its_row_and_costs_no_call(form, said):
    caller = ScriptedCaller()
    with pytest.raises(RowError, match=f"column 'structured_output' .*{said}") as caught:
        asyncio.run(STEP.process_row({"instruction": "?", "structured_output": form}, caller))
    assert caught.value.kind == "schema"
    assert caller.asked == []


MODEL = LLM("offline/stand-in")


def test_a_row_with_an_unsound_schema_fails_alone_beside_rows_with_others(tmp_path: Path) -> None:
    forms = [PERSON, {"type": "objct"}, {"format": "regex", "schema": "[ab]{2}"}, None, {"type": "array"}]
    rows = [
        {"instruction": "Go.", "structured_output": None if form is None else json.dumps(form), "n": number}
        for number, form in enumerate(forms)
    ]
    with Pipeline("schemas") as pipeline:
        LoadDataFromDicts(rows) >> StructuredGeneration("task", llm=MODEL)
    result = balanced_run(pipeline, tmp_path / "out")
    made = {row["n"]: row["generation"] for row in user_rows(result["task"])}
    assert list(made) == [0, 2, 3, 4]
    assert list(json.loads(made[0])) == ["name"]
    assert len(made[2]) == 2 and set(made[2]) <= {"a", "b"}
    assert isinstance(json.loads(made[4]), list)
    assert [(kind, row["n"]) for _, kind, _, row in failed(result)] == [("schema", 1)]

"""Answers that are a text of a form: how the form is said, sent and checked."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM, Completion, Usage
from raypipe.errors import RowError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import TextGeneration
from tests.steps.scripted import ScriptedCaller

REGEX, CHOICE, GRAMMAR = {"regex": r"\d{2}"}, {"choice": ["yes", "no"]}, {"grammar": 'root ::= "a"'}
STAND_IN = LLM("offline/x")
ROW = {"instruction": "Is it so?"}


def generation(form: Any, **fields: Any) -> TextGeneration:
    return TextGeneration("asked", **({"llm": STAND_IN, "structured_output": form} | fields))


def ask(form: Any, *answers: Any, **fields: Any) -> tuple[Any, ScriptedCaller]:
    caller = ScriptedCaller(*answers)
    step = pickle.loads(pickle.dumps(generation(form, **fields)))
    step.open()
    return asyncio.run(step.process_row(ROW, caller)), caller


@pytest.mark.parametrize(
    ("form", "answer"), [(REGEX, "42"), (CHOICE, "no"), (GRAMMAR, "a"), ({"regex": "(?s)a.b"}, "a\nb")]
)
def test_an_answer_of_the_form_is_the_column(form: dict[str, Any], answer: str) -> None:
    made, caller = ask(form, answer)
    assert made == {"generation": answer}
    assert caller.asked[0].schema is None
    assert caller.asked[0].form == (form if form != {"regex": "(?s)a.b"} else None)


def test_the_column_may_have_a_name() -> None:
    step = generation(CHOICE, output="verdict")
    assert (step.writes(), step.problems()) == ({"verdict": "string"}, [])
    assert any("scatter needs a list" in problem for problem in generation(CHOICE, scatter=True).problems())


@pytest.mark.parametrize("form", [REGEX, CHOICE, GRAMMAR])
def test_a_format_and_its_schema_say_the_same(form: dict[str, Any]) -> None:
    [(kind, said)] = form.items()
    assert ask({"format": kind, "schema": said}, "42" if form is REGEX else "yes")[1].asked[0].form == form


@pytest.mark.parametrize(("form", "wrong", "right"), [(REGEX, "4", "42"), (CHOICE, "Yes.", "yes")])
def test_another_answer_is_asked_for_once_more(form: dict[str, Any], wrong: str, right: str) -> None:
    made, caller = ask(form, wrong, f" {right}\n")
    assert (made, len(caller.asked)) == ({"generation": right}, 2)
    assert "Answer again with the corrected text only." in caller.asked[1].messages[-1]["content"]
    with pytest.raises(RowError, match=r"does not match|none of the choices") as caught:
        ask(form, wrong, wrong)
    assert caught.value.kind == "schema"


def test_an_answer_that_was_cut_is_not_asked_for_again() -> None:
    caller = ScriptedCaller(Completion("4", "length", Usage(3, 1)))
    with pytest.raises(RowError, match="cut at max_tokens") as caught:
        asyncio.run(generation(REGEX).process_row(ROW, caller))
    assert (caught.value.kind, len(caller.asked)) == ("length", 1)


@pytest.mark.parametrize(
    "schema", [{"type": "object", "properties": {"choice": {"type": "string"}}}, {"type": "string", "choice": ["a"]}]
)
def test_a_schema_with_such_words_is_a_schema(schema: dict[str, Any]) -> None:
    step = generation(schema)
    [request] = step.requests()
    assert request.form is None and request.schema is not None


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"regex": "("}, "is not a regular expression"),
        ({"regex": 3}, "has the pattern 3, which is not text"),
        ({"choice": "yes"}, "has the choice 'yes'; write a list"),
        ({"choice": []}, "write a list of different texts"),
        ({"choice": [True, False]}, "in YAML in quotes"),
        ({"choice": ["a", "a"]}, "write a list of different texts"),
        ({"grammar": " "}, "has the grammar ' '"),
        ({"regex": "a", "choice": ["a"]}, "has 'regex' and 'choice'; an answer has one form"),
        ({"format": "xml", "schema": "x"}, "format 'xml' is unknown"),
    ],
)
def test_an_unsound_form_is_refused_at_once(form: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=f"TextGeneration 'asked': structured_output: .*{said}"):
        generation(form)


def test_a_function_asks_for_a_form_as_for_a_schema() -> None:
    caller = ScriptedCaller("perhaps", "yes")
    assert asyncio.run(caller("Is it so?", schema=CHOICE)) == "yes"
    assert caller.asked[0].form == CHOICE


def pipeline(form: Any, llm: LLM = STAND_IN) -> Pipeline:
    with Pipeline("formed") as made:
        _ = LoadDataFromDicts([ROW]) >> generation(form, llm=llm)
    return made


@pytest.mark.parametrize("form", [REGEX, CHOICE, GRAMMAR])
def test_the_stand_in_answers_in_the_form_and_a_file_says_it(form: dict[str, Any], tmp_path: Path) -> None:
    first = pipeline(form)
    first.save(tmp_path / "formed.yaml")
    again = Pipeline.from_file(tmp_path / "formed.yaml")
    assert [step for step in again.steps if step.name == "asked"] == [generation(form)]
    [row] = again.run(tmp_path / "out", engine="local")["asked"].to_arrow().to_pylist()
    assert row["generation"]


def test_a_file_may_hold_the_form(tmp_path: Path) -> None:
    (tmp_path / "form.json").write_bytes(orjson.dumps(CHOICE))
    step = generation("form.json", base_dir=str(tmp_path))
    assert step.requests()[0].form == CHOICE
    assert step.model_dump()["structured_output"] == CHOICE


def test_a_grammar_is_refused_where_none_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    refused = pipeline(GRAMMAR, [LLM("openai/gpt-4o"), STAND_IN])
    with pytest.raises(SpecError, match="model 'openai/gpt-4o': openai cannot be held to a grammar"):
        refused.validate()
    pipeline(CHOICE, LLM("openai/gpt-4o")).validate()

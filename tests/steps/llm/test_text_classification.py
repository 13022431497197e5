"""Labels for texts."""

from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM, Completion
from raypipe.errors import RowError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.llm.text_classification import TextClassification
from tests.books import balanced_run, failed, user_rows
from tests.loopback import serve
from tests.steps.scripted import ScriptedCaller

LABELS = ["positive", "negative"]


def step(**fields):
    return TextClassification(llm=LLM("offline/x"), add_model_name=False, **fields)


def ask(step, *answers):
    said = [answer if isinstance(answer, Completion) else json.dumps({"labels": answer}) for answer in answers]
    caller = ScriptedCaller(*said)
    made = asyncio.run(pickle.loads(pickle.dumps(step)).process_row({"text": "fine"}, caller))
    return made["labels"], caller


def label_schema(caller):
    return caller.asked[0].schema["properties"]["labels"]


@pytest.mark.parametrize(
    ("fields", "answer", "labels"),
    [
        ({}, " praise ", "praise"),
        ({}, "", "Unclassified"),
        ({"available_labels": LABELS}, "negative", "negative"),
        ({"available_labels": LABELS}, " Negative", "negative"),
        ({"available_labels": LABELS}, "mixed", "Unclassified"),
        ({"available_labels": LABELS}, "unclassified", "Unclassified"),
        ({"available_labels": LABELS, "default_label": None}, "mixed", None),
        ({"available_labels": dict.fromkeys(LABELS, "…"), "default_label": "none"}, "mixed", "none"),
        ({"n": 2}, ["a", " b", "a", "c"], ["a", "b"]),
        ({"n": 2}, [], ["Unclassified"]),
        ({"n": 2, "available_labels": LABELS}, ["negative", "mixed"], ["negative", "Unclassified"]),
        ({"n": 2, "available_labels": LABELS}, ["mixed", "odd"], ["Unclassified"]),
        ({"n": 2, "available_labels": LABELS, "default_label": ["x", "y"]}, ["mixed"], ["x", "y"]),
        ({"n": 2, "available_labels": LABELS, "default_label": None}, ["mixed"], []),
    ],
)
def test_an_answer_becomes_labels(fields, answer, labels):
    made, caller = ask(step(**fields), answer)
    assert made == labels
    assert len(caller.asked) == 1


def test_the_labels_allowed_are_sent():
    assert label_schema(ask(step(available_labels=LABELS), "positive")[1])["enum"] == [*LABELS, "Unclassified"]
    several = step(available_labels={"a": "the first", "b": ""}, n=2, default_label="a")
    schema = label_schema(ask(several, ["a"])[1])
    assert (schema["type"], schema["items"]) == ("array", {"type": "string", "enum": ["a", "b"]})
    assert "enum" not in label_schema(ask(step(), "x")[1])


def test_the_prompt_has_what_was_declared():
    made = step(
        context="Reviews of a shop.", available_labels={"a": "the first"}, query_title="Review", examples=["so → a"]
    )
    (message,) = ask(made, "a")[1].asked[0].messages
    for part in ("Reviews of a shop.", "- a: the first", "## Review\nfine", "so → a", "'Unclassified'"):
        assert part in message["content"]


def test_an_answer_of_another_form_is_asked_for_once_more():
    made, caller = ask(step(), ["a"], "b")
    assert (made, len(caller.asked)) == ("b", 2)
    with pytest.raises(RowError) as caught:
        ask(step(), Completion("no"), Completion("no"))
    assert caught.value.kind == "schema"
    with pytest.raises(RowError, match="cut at"):
        ask(step(), Completion('{"labels": "a', "length"))


def test_columns_and_problems():
    assert (step().reads(), step().writes()) == (("text",), {"labels": "string"})
    assert step(n=3).writes() == {"labels": "list<string>"}
    assert step(n=3).problems() == []
    assert "available_labels has 2; name more labels or lower n" in step(n=3, available_labels=LABELS).problems()[0]
    assert "available_labels has 0" in step(available_labels=[]).problems()[0]
    assert "not a list" in step(default_label=["a", "b"]).problems()[0]
    with pytest.raises(SpecError, match="did you mean 'available_labels'"):
        step(available_label=LABELS)


MODEL = LLM("offline/stand-in")


def test_rows_do_not_depend_on_the_size_of_a_batch(tmp_path: Path) -> None:
    made: list[Any] = []
    for size in (1, 7, 50, 1000):
        with Pipeline("batches") as pipeline:
            rows = LoadDataFromDicts([{"text": f"text number {number}"} for number in range(53)])
            rows >> TextClassification("task", llm=MODEL, n=2, input_batch_size=size)
        made.append(balanced_run(pipeline, tmp_path / str(size))["task"].to_arrow().to_pylist())
    assert [row["text"] for row in made[0]] == [f"text number {number}" for number in range(53)]
    assert all(rows == made[0] for rows in made)


def test_an_answer_that_cannot_be_read_fails_its_row_alone(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        content = body["messages"][0]["content"]
        return "no JSON" if "text 3" in content else '{"labels": "fine"}'

    with serve(answer=answer) as server, Pipeline("one answer") as pipeline:
        rows = LoadDataFromDicts([{"text": f"text {number}"} for number in range(8)])
        rows >> TextClassification("task", llm=LLM("vllm-server/m", base_url=server.base_url))
        result = balanced_run(pipeline, tmp_path / "out")
    assert [row["text"] for row in user_rows(result["task"])] == [f"text {n}" for n in range(8) if n != 3]
    assert {row["labels"] for row in user_rows(result["task"])} == {"fine"}
    assert failed(result) == [("task", "schema", "the completion is not JSON: 'no JSON'", {"text": "text 3"})]

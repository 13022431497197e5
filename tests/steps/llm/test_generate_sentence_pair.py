"""Sentences that belong to an anchor, and sentences that do not."""

from __future__ import annotations

import asyncio
import json

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import RowError, SpecError
from raypipe.steps.llm.generate_sentence_pair import GenerateSentencePair
from tests.steps.scripted import ScriptedCaller

ACTIONS = ["paraphrase", "semantically-similar", "query", "answer"]


def step(action="paraphrase", **fields):
    return GenerateSentencePair(llm=LLM("offline/x"), add_model_name=False, action=action, **fields)


def ask(step, answer):
    caller = ScriptedCaller(*[json.dumps(answer)] * 2)
    made = asyncio.run(step.process_row({"anchor": "Bees hum."}, caller))
    return made, caller.asked[0]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_positive(action):
    made, request = ask(step(action), {"positive": " Bees buzz. "})
    assert made == {"positive": "Bees buzz."}
    assert list(request.schema["properties"]) == ["positive"]
    assert "Bees hum." in request.messages[0]["content"]
    assert "negative" not in request.messages[0]["content"]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_triplet(action):
    made, request = ask(step(action, triplet=True), {"positive": "p", "negative": "n"})
    assert made == {"positive": "p", "negative": "n"}
    assert request.schema["required"] == ["positive", "negative"]


def test_columns():
    assert step().reads() == ("anchor",)
    assert step().writes() == {"positive": "string"}
    assert step(triplet=True).writes() == {"positive": "string", "negative": "string"}


def test_every_option_changes_the_prompt():
    options = [{}, {"triplet": True}, {"triplet": True, "hard_negative": True}, {"context": "For a hive."}]
    answer = {"positive": "p", "negative": "n"}
    said = set()
    for action in ACTIONS:
        for fields in options:
            wanted = answer if "triplet" in fields else {"positive": "p"}
            said.add(ask(step(action, **fields), wanted)[1].messages[0]["content"])
    assert len(said) == len(ACTIONS) * len(options)
    assert any("For a hive." in prompt for prompt in said)


@pytest.mark.parametrize(
    ("answer", "kind"), [({"positive": "p"}, "schema"), ({"positive": "p", "negative": " "}, "parse")]
)
def test_a_missing_sentence_fails_the_row(answer, kind):
    with pytest.raises(RowError, match="negative") as caught:
        ask(step(triplet=True), answer)
    assert caught.value.kind == kind


def test_what_is_unsound():
    assert "hard_negative needs a negative" in step(hard_negative=True).problems()[0]
    with pytest.raises(SpecError, match="option 'action' is required"):
        GenerateSentencePair(llm=LLM("offline/x"))
    with pytest.raises(SpecError, match="action"):
        step("rhyme")

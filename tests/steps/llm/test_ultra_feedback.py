"""Ratings for the answers to one instruction."""

from __future__ import annotations

import asyncio
import json
import pickle

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import RowError, SpecError
from raypipe.steps.llm.ultra_feedback import UltraFeedback
from tests.steps.scripted import ScriptedCaller


def step(**fields):
    return UltraFeedback(llm=LLM("offline/x"), add_model_name=False, **fields)


def ask(step, generations, *answers):
    caller = ScriptedCaller(*(answer if isinstance(answer, str) else json.dumps(answer) for answer in answers))
    row = {"instruction": "Say hi.", "generations": generations}
    return asyncio.run(pickle.loads(pickle.dumps(step)).process_row(row, caller)), caller


def verdict(rating, rationale="because"):
    return {"rationale": rationale, "rating": rating}


@pytest.mark.parametrize("aspect", ["overall-rating", "honesty", "instruction-following"])
def test_ratings_and_rationales_are_in_the_order_of_the_generations(aspect):
    made = step(aspect=aspect)
    found, caller = ask(made, ["hi", "no"], {"text_2": verdict(1, "rude"), "text_1": verdict("5", "kind")})
    assert found == {"ratings": [5, 1], "rationales": ["kind", "rude"]}
    assert made.writes() == {"ratings": "list<int64>", "rationales": "list<string>"}
    prompt = caller.asked[0].messages[-1]["content"]
    for part in ("Say hi.", "### text_1\nhi", "### text_2\nno", aspect):
        assert part in prompt


@pytest.mark.parametrize("aspect", ["helpfulness", "truthfulness"])
def test_typed_aspects_have_types_too(aspect):
    made = step(aspect=aspect)
    answer = {"text_1": {"types": [1, 3], "rationale": "why", "rationale_for_rating": "so", "rating": 2}}
    found, _ = ask(made, ["hi"], answer)
    assert found == {"types": [[1, 3]], "rationales": ["why"], "ratings": [2], "rationales-for-ratings": ["so"]}
    assert made.writes() == {
        "types": "list<list<int64>>",
        "rationales": "list<string>",
        "ratings": "list<int64>",
        "rationales-for-ratings": "list<string>",
    }


def test_nothing_moves_when_something_is_missing():
    generations = ["a", None, "b", "c", "d"]
    answer = {"text_1": verdict(1), "text_2": None, "text_4": {"rating": None, "rationale": "unsure"}}
    found, caller = ask(step(), generations, answer)
    assert found == {"ratings": [1, None, None, None, None], "rationales": ["because", None, None, None, "unsure"]}
    assert "text_5" not in caller.asked[0].messages[-1]["content"]
    assert list(caller.asked[0].schema["properties"]) == ["text_1", "text_2", "text_3", "text_4"]


@pytest.mark.parametrize("generations", [[], [None], [None, None]])
def test_without_texts_there_is_no_call(generations):
    found, caller = ask(step(aspect="truthfulness"), generations)
    assert all(values == [None] * len(generations) for values in found.values())
    assert caller.asked == []


def test_the_schema_that_is_sent_asks_for_every_key():
    _, caller = ask(step(), ["a"], {"text_1": verdict(1)})
    schema = caller.asked[0].schema
    assert schema["required"] == ["text_1"]
    assert schema["$defs"]["Verdict"]["required"] == ["rationale", "rating"]
    assert "default" not in json.dumps(schema)


@pytest.mark.parametrize("answer", ["no", {"text_1": verdict(6)}, {"text_1": verdict(2.5)}])
def test_an_answer_that_does_not_fit_is_asked_for_once_more(answer):
    found, caller = ask(step(), ["a"], answer, {"text_1": verdict(4)})
    assert (found["ratings"], len(caller.asked)) == ([4], 2)
    with pytest.raises(RowError) as caught:
        ask(step(), ["a"], answer, answer)
    assert caught.value.kind == "schema"


@pytest.mark.parametrize(
    ("generations", "said"),
    [(None, "is null, not a list"), ("hi", "is a str, not a list"), (["hi", 3], "holds a int, which is not text")],
)
def test_what_is_no_list_of_texts_costs_no_call(generations, said):
    with pytest.raises(RowError, match=f"column 'generations' {said}") as caught:
        ask(step(), generations)
    assert caught.value.kind == "input"


def test_an_unknown_aspect_is_refused():
    with pytest.raises(SpecError, match="overall-rating"):
        step(aspect="beauty")


@pytest.mark.parametrize("aspect", ["overall-rating", "helpfulness"])
def test_a_judge_that_writes_under_the_schema_comes_to_an_end(aspect):
    found, caller = ask(step(aspect=aspect), ["hi"], {"text_1": verdict(1, "x" * 900)})
    assert (len(found["rationales"][0]), len(caller.asked)) == (900, 1)
    [said] = caller.asked[0].schema["$defs"].values()
    bounds = {
        (part.get("maxLength"), part.get("maxItems"), part.get("maximum"))
        for one in said["properties"].values()
        for part in one["anyOf"]
        if part["type"] != "null"
    }
    assert (None, None, None) not in bounds

"""Instructions for an application."""

from __future__ import annotations

import asyncio
import json

import pytest

from raypipe.contracts.llm import LLM
from raypipe.contracts.step import Shape
from raypipe.errors import RowError
from raypipe.steps.llm.self_instruct import SelfInstruct
from tests.steps.scripted import ScriptedCaller


def step(**fields):
    return SelfInstruct(llm=LLM("offline/x"), add_model_name=False, **fields)


def ask(step, *answers):
    caller = ScriptedCaller(*(json.dumps({"instructions": answer}) for answer in answers))
    return asyncio.run(step.process_row({"input": "bees"}, caller)), caller


def test_instructions_are_a_list():
    made = step(num_instructions=3, criteria_for_query_generation="Be odd.", application_description="A bee expert.")
    found, caller = ask(made, [" Why? ", "How?", ""])
    assert found == {"instructions": ["Why?", "How?"]}
    assert (made.reads(), made.writes()) == (("input",), {"instructions": "list<string>"})
    for part in ("Write 3 instructions", "Be odd.", "A bee expert.", "bees"):
        assert part in caller.asked[0].messages[0]["content"]


def test_no_more_than_asked_for_and_none_twice():
    assert step().num_instructions == 5
    assert ask(step(num_instructions=2), ["a", "a", "b", "c"])[0] == {"instructions": ["a", "b"]}


def test_none_at_all_fails_the_row():
    with pytest.raises(RowError, match="no instructions") as caught:
        ask(step(), [" "])
    assert caught.value.kind == "parse"


def test_each_may_become_a_row():
    made = step().scatter()
    assert ask(made, ["a", "b"])[0] == [{"instructions": "a"}, {"instructions": "b"}]
    assert (made.shape, made.writes()) == (Shape.SCATTER, {"instructions": "string"})


def test_a_model_that_writes_under_the_schema_comes_to_an_end():
    _, caller = ask(step(num_instructions=3), ["a", "b", "c", "d", "e" * 900])
    listed = caller.asked[0].schema["properties"]["instructions"]
    assert (listed["maxItems"], listed["items"]["maxLength"]) == (3, 500)
    assert len(caller.asked) == 1, "what another model answers may be longer"

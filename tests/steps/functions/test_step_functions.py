"""Steps of plain functions."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from ray import cloudpickle

from raypipe.contracts.llm import LLM
from raypipe.contracts.step import Collector, Runs, Shape, Step, collecting
from raypipe.errors import RowError, SpecError
from raypipe.steps import step
from tests.steps.scripted import ScriptedCaller

WRITER = LLM("offline/writer")


@step(inputs=["text"], outputs={"size": int, "words": list[str], "note": "string", "any": object})
def measured(row):
    """Sizes."""
    return {"size": len(row["text"]), "words": row["text"].split(), "note": "", "any": None}


@step
def bare(row):
    return {"b": row["a"] + 1}


@step(outputs=["answer"])
async def debate(row, llm):
    draft = await llm(f"Answer: {row['question']}")
    while "no" in await llm(f"Is this right? {draft}"):
        draft = await llm(f"Improve: {draft}")
    return {"answer": draft}


@step(outputs=["n"])
async def waits(row):
    await asyncio.sleep(0)
    return {"n": row["n"] + 1}


@step(outputs=["item"], scatter=True)
def listed(row):
    return row["made"]


@step(outputs=["item"])
def yielded(row):
    for item in row["items"]:
        yield {"item": item}


@step(outputs=["item"])
async def asked(row, llm):
    for item in row["items"]:
        yield {"item": await llm(item)}


@step(filter=True, outputs=["kept"])
def chosen(row):
    return {"kept": True} if row["a"] else None


def test_the_decorated_name_is_a_step_class():
    assert issubclass(measured, Step)
    made = measured("sizes")
    assert (made.name, made.runs, made.shape) == ("sizes", Runs.THREAD, Shape.MAP)
    assert made.reads() == made.needs() == ("text",)
    assert made.writes() == {"size": "int64", "words": "list<string>", "note": "string", "any": ""}
    assert made.columns_after(("text",)) == ("text", "size", "words", "note", "any")
    assert made.process_row_in_thread({"text": "a b"})["words"] == ["a", "b"]
    assert (measured.__name__, measured.__doc__) == ("measured", "Sizes.")
    assert measured.function({"text": ""})["size"] == 0


def test_a_bare_step_says_nothing_of_its_columns():
    made = bare()
    assert made.process_row_in_thread({"a": 1}) == {"b": 2}
    assert (made.reads(), made.needs(), made.writes(), made.columns_after(("a",))) == ((), None, {}, None)


def test_a_row_may_ask_its_model_several_times():
    made = debate(llm=WRITER)
    assert made.runs is Runs.ROW
    caller = ScriptedCaller("draft", "no", "better", "yes")
    assert asyncio.run(made.process_row({"question": "q"}, caller)) == {"answer": "better"}
    assert len(caller.asked) == 4


def test_async_steps_without_a_model():
    made = waits()
    assert (made.runs, made.llm) == (Runs.ROW, None)
    assert asyncio.run(made.process_row({"n": 1}, ScriptedCaller())) == {"n": 2}


def test_a_step_that_asks_needs_a_model():
    with pytest.raises(SpecError, match=r"step 'debate': asks a model but has none; write debate\(llm=LLM"):
        debate()

    @step(outputs=["x"], llm=WRITER)
    async def given(row, llm):
        return {"x": await llm("?")}

    assert given().llm == WRITER
    assert given(llm=LLM("offline/other")).llm == LLM("offline/other")


def test_scatter():
    made = listed()
    assert made.shape is Shape.SCATTER
    assert made.process_row_in_thread({"made": [{"item": 1}, {"item": 2}]}) == [{"item": 1}, {"item": 2}]
    assert made.process_row_in_thread({"made": []}) == []
    for wrong in (None, {"item": 1}, "text"):
        with pytest.raises(RowError, match="a step that scatters returns a list of mappings") as caught:
            made.process_row_in_thread({"made": wrong})
        assert caught.value.kind == "output"
    with pytest.raises(RowError, match="not a mapping"):
        made.process_row_in_thread({"made": [1]})


def test_all_that_is_yielded_is_kept():
    assert yielded().shape is Shape.SCATTER
    assert yielded().process_row_in_thread({"items": [1, 2, 3]}) == [{"item": 1}, {"item": 2}, {"item": 3}]
    assert yielded().process_row_in_thread({"items": []}) == []
    made = asyncio.run(asked(llm=WRITER).process_row({"items": ["a", "b"]}, ScriptedCaller("x", "y")))
    assert made == [{"item": "x"}, {"item": "y"}]


def test_filter():
    made = chosen()
    assert made.shape is Shape.FILTER
    assert made.process_row_in_thread({"a": 0}) is None
    assert made.process_row_in_thread({"a": 1}) == {"kept": True}

    @step(filter=True)
    def positive(row):
        return row["a"] > 0

    assert positive().process_row_in_thread({"a": 1}) == {}
    assert positive().process_row_in_thread({"a": 0}) is None


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({}, r"returned no column 'x' \(declared: 'x'\)"),
        ({"x": 1, "y": 2}, "returned the column 'y', which is not declared"),
        (None, r"returned nothing.*declare @step\(filter=True\)"),
        ([{"x": 1}], r"returned a list.*declare @step\(scatter=True\)"),
        ("text", "returned a str"),
    ],
)
def test_outputs_are_held_against_the_declaration(returned, said):
    @step(outputs=["x"])
    def made(row):
        return returned

    with pytest.raises(RowError, match=said) as caught:
        made().process_row_in_thread({})
    assert caught.value.kind == "output"


def test_a_function_inside_a_function_travels():
    offset = 5

    @step(outputs={"y": int}, llm=WRITER)
    async def shifted(row, llm):
        return {"y": row["x"] + offset}

    made = cloudpickle.loads(cloudpickle.dumps(shifted("s")))
    assert (made.name, made.llm, made.writes(), made.runs) == ("s", WRITER, {"y": "int64"}, Runs.ROW)
    assert asyncio.run(made.process_row({"x": 1}, ScriptedCaller())) == {"y": 6}


def test_a_function_of_a_module_travels_by_name():
    made = pickle.loads(pickle.dumps(measured("sizes")))
    assert type(made) is measured
    assert made == measured("sizes")


def test_steps_are_collected_and_joined_like_others():
    token = collecting.set(collector := Collector())
    try:
        first, second = bare("one"), listed("two")
        first >> second
    finally:
        collecting.reset(token)
    assert collector.steps == [first, second]
    assert collector.edges == [(first, second)]


def sync_asking(row, llm):
    return {}


def without_row():
    return {}


def with_many(row, llm, more):
    return {}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (sync_asking, "must be async"),
        (without_row, r"takes \(\)"),
        (with_many, "row, llm, more"),
        (len, "is not a function"),
    ],
)
def test_functions_of_another_form_are_refused(function, said):
    with pytest.raises(SpecError, match=said):
        step(function)


def test_unsound_declarations_are_refused():
    with pytest.raises(SpecError, match="scatter and filter exclude each other"):
        step(scatter=True, filter=True)(_one)
    with pytest.raises(SpecError, match=r"write outputs=\['answer'\]"):
        step(outputs="answer")(_one)
    with pytest.raises(SpecError, match="unknown option 'lm'"):
        bare(lm=WRITER)


def _one(row):
    return {}

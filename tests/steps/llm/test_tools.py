"""Tools that a model calls, through the endpoint's own interface."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from pydantic import BaseModel, Field

from raypipe.contracts.llm import LLM, TOOL_CALLS, Completion, Request
from raypipe.errors import RowError, SpecError
from raypipe.models import open_model
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.workflows import CustomTool, Edge, Operator, Workflow, WorkflowBuilder, WorkflowStep, Write
from tests.loopback import serve
from tests.steps.scripted import ScriptedCaller


class Unit(BaseModel):
    factor: int = 1


class SumTool(CustomTool):
    """Sums two integers."""

    name: str = "sum"
    left: int = Field(description="Left hand side")
    right: int
    unit: Unit = Unit()

    def execute(self, **arguments):
        assert arguments["left"] == self.left
        return (self.left + self.right) * self.unit.factor


class Weather(CustomTool):
    description: str = "Tells the weather"
    city: Literal["Paris", "Rome"]

    def execute(self):
        if self.city == "Rome":
            raise ValueError("no weather in Rome")
        return {"sky": "blue"}


def calling(operator: Operator = Operator.FUNCTION_CALLING, fallback: str | None = None) -> Workflow:
    builder = WorkflowBuilder(task="add").add_custom_tool([SumTool(left=0, right=0)]).add_custom_tool(Weather)
    builder.generative_step("{{task}}", operator=operator, id="a", outputs=[Write.new("result")])
    builder.generative_step("instead", id="b", outputs=[Write.new("result")])
    return builder.flow([Edge("a", "_end" if fallback else "b", fallback=fallback), Edge("b", "_end")]).build()


def called(*calls: tuple[str, Any]) -> Completion:
    text = orjson.dumps([{"name": name, "arguments": arguments} for name, arguments in calls]).decode()
    return Completion(text, TOOL_CALLS)


def run(answer: Completion, operator: Operator = Operator.FUNCTION_CALLING) -> tuple[Any, ScriptedCaller]:
    caller = ScriptedCaller(answer, "instead")
    return asyncio.run(calling(operator, fallback="b").run(caller)), caller


def test_a_call_is_executed() -> None:
    value, caller = run(called(("sum", {"left": 2, "right": 3})))
    assert value == "5"
    first, second = caller.asked[0].tools
    assert (first["name"], first["description"]) == ("sum", "Sums two integers.")
    assert first["parameters"]["properties"].keys() == {"left", "right", "unit"}
    assert first["parameters"]["required"] == ["left", "right"]
    assert (second["name"], second["description"]) == ("Weather", "Tells the weather")
    assert run(called(("sum", {"left": 2, "right": 3, "unit": {"factor": 2}})))[0] == "10"
    assert run(called(("sum", '{"left": 2, "right": 3,}')))[0] == "5"
    assert (
        run(called(("sum", {"left": 2, "right": 3}), ("Weather", {"city": "Paris"})))[0]
        == '["5","{\\"sky\\":\\"blue\\"}"]'
    )


def test_a_raw_call_is_given_as_json() -> None:
    value, _ = run(called(("Weather", {"city": "Rome"})), Operator.FUNCTION_CALLING_RAW)
    assert orjson.loads(value) == [{"name": "Weather", "arguments": {"city": "Rome"}}]


@pytest.mark.parametrize(
    ("answer", "kind", "problem"),
    [
        (called(("summ", {})), "tool", r"called 'summ', which is no tool that it was offered \(did you mean 'sum'\?\)"),
        (called(("sum", {"left": 2})), "schema", "'right' is a required property"),
        (called(("sum", {"left": 2, "right": "x"})), "schema", "right: 'x' is not of type 'integer'"),
        (called(("Weather", {"city": "Rome"})), "tool", "tool 'Weather' failed: ValueError: no weather in Rome"),
    ],
)
def test_a_call_that_fails_is_told_to_the_model_once(answer: Completion, kind: str, problem: str) -> None:
    caller = ScriptedCaller(answer, called(("Weather", {"city": "Paris"})), "instead")
    assert asyncio.run(calling(fallback="b").run(caller)) == '{"sky":"blue"}'
    *_, calls, result = caller.asked[1].messages
    assert (calls["role"], result["role"], calls["tool_calls"][0]["id"]) == (
        "assistant",
        "tool",
        result["tool_call_id"],
    )
    assert re.search(problem, result["content"])
    for second in (answer, "I would rather talk."):
        with pytest.raises(RowError, match=problem) as caught:
            asyncio.run(calling().run(ScriptedCaller(answer, second)))
        assert caught.value.kind == kind
    assert asyncio.run(calling(fallback="b").run(ScriptedCaller(answer, answer, "instead"))) == "instead"


def test_results_of_calls_beside_one_that_failed_are_kept() -> None:
    first = called(("sum", {"left": 2, "right": 3}), ("Weather", {"city": "Rome"}))
    caller = ScriptedCaller(first, called(("Weather", {"city": "Paris"})))
    assert asyncio.run(calling(fallback="b").run(caller)) == '["5","{\\"sky\\":\\"blue\\"}"]'


@pytest.mark.parametrize(
    ("answer", "kind", "problem"),
    [
        (Completion("I would rather talk."), "tool", "called no tool, but answered 'I would rather talk.'"),
        (Completion("[]"), "tool", "called no tool"),
        (Completion('[{"name": "su', "length"), "length", "was cut"),
    ],
)
def test_what_is_no_call_fails_the_task(answer: Completion, kind: str, problem: str) -> None:
    with pytest.raises(RowError, match=problem) as caught:
        asyncio.run(calling().run(ScriptedCaller(answer)))
    assert caught.value.kind == kind
    assert run(answer)[0] == "instead"


def test_two_tools_of_one_name() -> None:
    builder = WorkflowBuilder().add_custom_tool([Weather, Weather]).generative_step("p", Operator.FUNCTION_CALLING)
    with pytest.raises(SpecError, match="tool 'Weather': is one of 2 with this name"):
        builder.build()


def test_it_is_saved_with_its_class() -> None:
    again = Workflow.from_dict(calling().to_dict())
    assert [type(tool) for tool in again.tools] == [SumTool, Weather]
    assert asyncio.run(again.run(ScriptedCaller(called(("sum", {"left": 1, "right": 1})), "x"))) == "x"
    plain = calling().to_dict()
    plain["custom_tools"][0]["class"] = "json:dumps"
    with pytest.raises(SpecError, match="'json:dumps' is not a CustomTool"):
        Workflow.from_dict(plain)


@pytest.mark.parametrize("uri", ["openai/loopback", "offline/stand-in"])
def test_an_endpoint_is_offered_tools(uri: str) -> None:
    tools = (Weather.model_construct().declaration(),)
    asked = ({"role": "user", "content": "weather in Paris?"},)

    async def answered(llm: LLM) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], Completion]:
        model = open_model(llm)
        await model.open()
        try:
            offering = model.payload(Request(asked, tools=tools))
            free = model.payload(Request(asked, tools=tools, must_call=False))
            plain = model.payload(Request(asked))
            return plain.body, offering.body, free.body, await model.complete(offering)
        finally:
            await model.close()

    with serve() as server:
        llm = LLM(uri, base_url=server.base_url) if uri.startswith("openai") else LLM(uri)
        plain, offering, free, completion = asyncio.run(answered(llm))
    assert plain.keys() == {"model", "messages"}
    assert offering == plain | {"tools": [{"type": "function", "function": tools[0]}], "tool_choice": "required"}
    assert free == offering | {"tool_choice": "auto"}
    assert completion.finish_reason == TOOL_CALLS
    ((name, arguments),) = [call.values() for call in orjson.loads(completion.text)]
    assert name == "Weather"
    assert arguments["city"] in ("Paris", "Rome")


class CountedTool(CustomTool):
    """Counts how often it is executed, in a file."""

    path: str

    def execute(self, path: str) -> str:
        with Path(path).open("a") as file:
            file.write(".")
        return "counted"


def test_a_row_that_is_done_again_calls_neither_model_nor_tool_again(tmp_path: Path) -> None:
    counted = tmp_path / "counted"

    def answer(body: dict[str, Any]) -> str:
        return orjson.dumps([{"name": "CountedTool", "arguments": {"path": str(counted)}}]).decode()

    builder = WorkflowBuilder(task=None).add_custom_tool(CountedTool)
    builder.generative_step("{{task}}", Operator.FUNCTION_CALLING, outputs=[Write.new("result")])
    workflow = builder.set_return_value("result").build()
    with serve(answer=answer) as server:
        with Pipeline("calling") as pipeline:
            step = WorkflowStep("work", llm=LLM("openai/loopback", base_url=server.base_url), workflow=workflow)
            LoadDataFromDicts([{"task": "a"}, {"task": "b"}]) >> step
        for begun in (False, True):
            result = pipeline.run(tmp_path / "out", engine="local")
            assert [row["result"] for row in result["work"].to_arrow().to_pylist()] == ["counted"] * 2
            figures, sent = result.manifest["steps"]["work"], result.manifest["legs"][-1]["calls_sent"]
            assert (sent, figures["calls_cached"]) == ((0, 2) if begun else (2, 0))
            assert figures["calls_sent"] == 2
            assert (len(server.requests), counted.read_text()) == (2, "..")

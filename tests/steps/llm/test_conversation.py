"""Asking in plain words, with tools that the model calls before it answers."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from raypipe.contracts.llm import LLM, TOOL_CALLS, Completion
from raypipe.errors import RowError, StoppedError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, step
from raypipe.steps.llm.tools import CustomTool
from tests.loopback import serve
from tests.steps.scripted import ScriptedCaller


class Add(CustomTool):
    """Adds two integers."""

    left: int
    right: int

    def execute(self) -> int:
        return self.left + self.right


class Lookup(CustomTool):
    description: str = "Looks a word up"
    word: str

    async def execute(self) -> dict[str, str]:
        await asyncio.sleep(0)
        if self.word == "?":
            raise LookupError("no such word")
        return {"word": self.word}


class Stuck(CustomTool):
    time_limit_s: float = 0.02

    def execute(self) -> None:
        threading.Event().wait()


class StuckAsync(Stuck):
    async def execute(self) -> None:
        await asyncio.Event().wait()


class Unusual(CustomTool):
    how: str

    def execute(self) -> None:
        raise {"stop": StopIteration("s"), "exit": SystemExit(3), "row": RowError("r")}[self.how]


class Sum(BaseModel):
    total: int


def called(*calls: tuple[str, Any]) -> Completion:
    text = orjson.dumps([{"name": name, "arguments": arguments} for name, arguments in calls]).decode()
    return Completion(text, TOOL_CALLS)


def asked(caller: ScriptedCaller, **options: Any) -> Any:
    return asyncio.run(caller("2 + 3?", **({"tools": [Add, Lookup]} | options)))


def test_the_model_calls_tools_until_it_answers() -> None:
    both = called(("Add", {"left": 2, "right": 3}), ("Lookup", '{"word": "x"}'))
    caller = ScriptedCaller(both, called(("Lookup", {"word": "y"})), "It is 5.")
    assert asked(caller, system="Be brief.") == "It is 5."
    first, second, third = caller.asked
    assert [tool["name"] for tool in first.tools] == ["Add", "Lookup"] and not first.must_call
    assert [message["role"] for message in first.messages] == ["system", "user"]
    calls, *results = second.messages[2:]
    assert calls["content"] is None
    assert [call["function"] for call in calls["tool_calls"]] == [
        {"name": "Add", "arguments": '{"left":2,"right":3}'},
        {"name": "Lookup", "arguments": '{"word":"x"}'},
    ]
    assert [message["content"] for message in results] == ["5", '{"word":"x"}']
    ids = [message["tool_call_id"] for message in third.messages if message["role"] == "tool"]
    assert len(set(ids)) == 3 and all(one.isalnum() and len(one) == 9 for one in ids)
    assert ids[:2] == [call["id"] for call in calls["tool_calls"]]
    assert caller.recorded_payloads[0] == ("Add", {"tool": {"name": "Add"}, "arguments": {"left": 2, "right": 3}})


@pytest.mark.parametrize(
    ("tool", "call", "said"),
    [
        (Add, ("Ad", {}), "failed: the model called 'Ad', which is no tool that it was offered (did you mean 'Add'?)"),
        (Add, ("Add", {"left": "x", "right": 1}), "does not match the schema: left: 'x' is not of type 'integer'"),
        (Add, ("Add", "{left"), "does not match the schema"),
        (Lookup, ("Lookup", {"word": "?"}), "failed: tool 'Lookup' failed: LookupError: no such word"),
        (Stuck, ("Stuck", {}), "tool 'Stuck' did not return within 0.02 s (time_limit_s)"),
        (StuckAsync, ("StuckAsync", {}), "tool 'StuckAsync' did not return within 0.02 s (time_limit_s)"),
        (CustomTool(name="empty"), ("empty", {}), "tool 'empty' has no execute(self, **arguments)"),
        (Unusual, ("Unusual", {"how": "stop"}), "it raised StopIteration s"),
        (Unusual, ("Unusual", {"how": "exit"}), "it raised SystemExit 3"),
        (Unusual, ("Unusual", {"how": "row"}), "tool 'Unusual' failed: r"),
    ],
)
def test_a_failure_is_told_to_the_model(tool: Any, call: tuple[str, Any], said: str) -> None:
    caller = ScriptedCaller(called(call), "Sorry.")
    assert asked(caller, tools=[tool]) == "Sorry."
    assert said in caller.asked[1].messages[-1]["content"]
    assert isinstance(orjson.loads(caller.asked[1].messages[-2]["tool_calls"][0]["function"]["arguments"]), dict)


def test_a_tool_whose_limit_is_raised_may_take_longer() -> None:
    caller = ScriptedCaller(called(("Stuck", {})), "x")
    asked(caller, tools=[Stuck.model_construct(time_limit_s=0.03)])
    assert "within 0.03 s" in caller.asked[1].messages[-1]["content"]


def test_rounds_are_bounded() -> None:
    again = called(("Add", {"left": 1, "right": 1}))
    assert asked(ScriptedCaller(again, again, "2"), max_rounds=2) == "2"
    with pytest.raises(RowError, match=r"still called tools after 2 rounds of calls \(max_rounds=2\)") as caught:
        asked(ScriptedCaller(again, again, again), max_rounds=2)
    assert caught.value.kind == "tool"
    with pytest.raises(RowError, match="after 8 rounds"):
        asked(ScriptedCaller(*[again] * 9))


def test_a_final_answer_satisfies_the_schema() -> None:
    call = called(("Add", {"left": 2, "right": 3}))
    caller = ScriptedCaller(call, "five", call, '{"total": 5}')
    assert asked(caller, schema=Sum) == {"total": 5}
    roles = [message["role"] for message in caller.asked[-1].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant", "tool"]
    assert all(request.schema is not None for request in caller.asked)


def test_calls_are_given_and_not_executed() -> None:
    caller = ScriptedCaller(called(("Add", '{"left": 1, "right": 2}')))
    assert asked(caller, execute=False) == [{"name": "Add", "arguments": {"left": 1, "right": 2}}]
    assert caller.asked[0].must_call and caller.recorded_payloads == []
    with pytest.raises(RowError, match="called no tool"):
        asked(ScriptedCaller("I would rather talk."), execute=False)
    with pytest.raises(RowError, match="leave schema out"):
        asked(ScriptedCaller(), execute=False, schema=Sum)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tools": [Sum]}, "tools are a list of CustomTool classes"),
        ({"tools": [Add, Add]}, "several tools are called 'Add'"),
        ({"max_token": 3}, "no option 'max_token' (did you mean 'max_tokens'?)"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError) as caught:
        asked(ScriptedCaller(), **options)
    assert said in str(caught.value)


def test_a_cut_call_fails_the_row() -> None:
    with pytest.raises(RowError, match="was cut at max_tokens=7"):
        asked(ScriptedCaller(called(("Add", {}))._replace(finish_reason="length")), max_tokens=7)
    assert asked(ScriptedCaller(Completion("It is", "length")), max_tokens=7) == "It is"


class Noted(CustomTool):
    """Notes that it is executed."""

    folder: str

    def execute(self, folder: str) -> str:
        with Path(folder, "noted").open("a") as file:
            file.write(".")
        return "noted"


@step(inputs=["n", "folder"], outputs=["said"], llm=LLM("offline/replaced"))
async def noting(row: dict[str, Any], llm: Any) -> dict[str, Any]:
    return {"said": await llm(f"{row['n']} {row['folder']}", tools=[Noted])}


def pipeline_of(llm: LLM, folder: Path) -> Pipeline:
    with Pipeline("noting") as pipeline:
        LoadDataFromDicts([{"n": n, "folder": str(folder)} for n in range(3)]) >> noting("said", llm=llm)
    return pipeline


def test_a_run_that_goes_on_executes_nothing_again(tmp_path: Path) -> None:
    """The budget ends the first run behind tools; their results are in the log, and are no calls of the budget."""

    def answer(body: dict[str, Any]) -> str:
        last = body["messages"][-1]
        if last["role"] == "tool":
            return f"It was {last['content']}."
        return orjson.dumps([{"name": "Noted", "arguments": {"folder": str(tmp_path)}}]).decode()

    with serve(answer=answer) as server:
        pipeline = pipeline_of(LLM("openai/loopback", base_url=server.base_url), tmp_path)
        with pytest.raises(StoppedError, match="max_calls=4 is reached"):
            pipeline.run(tmp_path / "out", engine="local", max_calls=4)
        assert len(server.requests) == 4
        noted = (tmp_path / "noted").read_text()
        pipeline.forecast(tmp_path / "out")
        assert (len(server.requests), (tmp_path / "noted").read_text()) == (4, noted)
        second = pipeline.run(tmp_path / "out", engine="local", max_calls=6)
        assert (len(server.requests), (tmp_path / "noted").read_text()) == (6, "...")
    assert [row["said"] for row in second["said"].to_arrow().to_pylist()] == ["It was noted."] * 3
    logs = (tmp_path / "out").rglob("calls-*.parquet")
    models = [model for log in logs for model in pq.read_table(log)["model"].to_pylist()]
    assert (models.count("tool/Noted"), models.count("loopback")) == (3, 6)


def test_the_stand_in_calls_a_tool_and_then_answers(tmp_path: Path) -> None:
    result = pipeline_of(LLM("offline/stand-in"), tmp_path).run(tmp_path / "out", engine="local")
    assert result.failed_rows == 0
    assert result.manifest["steps"]["said"]["calls_sent"] == 6

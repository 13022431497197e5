"""Workflows as a step: on both engines, with exact counts of what is sent; killed and resumed inside a row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel

from raypipe.contracts.llm import LLM
from raypipe.errors import SpecError, StoppedError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, resolve
from raypipe.workflows import (
    ConditionBuilder,
    Edge,
    Expression,
    Push,
    Read,
    Workflow,
    WorkflowBuilder,
    WorkflowStep,
    Write,
)
from tests.loopback import Loopback, serve


class Verdict(BaseModel):
    score: int
    reason: str


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def answer(body: dict[str, Any]) -> str:
    """Each judgement needs a third attempt; an attempt is told apart by the one before it."""
    prompt = prompt_of(body)
    if prompt.startswith("good?"):
        return "yes" if prompt.endswith("+++") else "no"
    return prompt.partition(": ")[2] + "+"


def judged() -> Workflow:
    """Three attempts, each judged."""
    builder = WorkflowBuilder(topic=None, text="")
    builder.generative_step(id="write", prompt="write {{topic}}: {{text}}", outputs=[Write.new("text")])
    builder.generative_step(id="judge", prompt="good? {{text}}", outputs=[Write.new("verdict")])
    condition = ConditionBuilder.build(Read.new("verdict"), Expression.EQUAL, "yes", "write")
    builder.flow([Edge("write", "judge"), Edge("judge", "_end", condition)])
    return builder.set_return_value("text").build()


def chained(topic: str, n: int) -> Workflow:
    """As many calls in a row as the row says; made of the row's own values."""
    assert isinstance(n, int)
    builder = WorkflowBuilder(text=f"{topic} of {n}")
    for number in range(n):
        builder.generative_step(f"part {number}: {{{{text}}}}", id=str(number), outputs=[Write.new("text")])
    builder.flow([Edge(str(number), str(number + 1)) for number in range(n - 1)])
    return builder.set_return_value("text").build()


def pipeline_of(url: str, rows: list[dict[str, Any]], **options: Any) -> Pipeline:
    llm = LLM("openai/loopback", base_url=url, concurrency=4, max_tries=1)
    with Pipeline("workflows") as pipeline:
        LoadDataFromDicts(rows, name="seed") >> WorkflowStep("work", llm=llm, **options)
    return pipeline


def rows_of(result: Any, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[column] for column in columns) for row in result["work"].to_arrow().to_pylist())


def prompts(server: Loopback) -> Counter[str]:
    return Counter(prompt_of(request.body) for request in server.requests)


TOPICS = [{"topic": f"t{number}"} for number in range(5)]


def test_a_loop_for_each_row(engine: Any, tmp_path: Any) -> None:
    with serve(answer=answer) as server:
        result = pipeline_of(server.base_url, TOPICS, workflow=judged(), output="poem").run(tmp_path, engine=engine)
        assert len(server.requests) == 5 * 6
    assert rows_of(result, "topic", "poem") == [(f"t{number}", "+++") for number in range(5)]


def test_a_limit_fails_its_row(tmp_path: Any) -> None:
    with serve(answer=answer) as server:
        plain = judged().to_dict()
        plain["config"]["max_steps"] = 4
        result = pipeline_of(server.base_url, TOPICS[:2], workflow=plain).run(
            tmp_path, engine="local", max_failed_rows=5
        )
        assert len(server.requests) == 2 * 4
    failures = result.failures.to_arrow().to_pylist()
    assert [row["kind"] for row in failures] == ["limit"] * 2
    assert "without coming to its end (max_steps=4)" in failures[0]["message"]


def test_time_is_up_for_a_row_whose_call_takes_too_long(tmp_path: Any) -> None:
    plain = judged().to_dict()
    plain["config"]["max_time"] = 1.0
    with serve(answer=answer, latency_s=30) as server:
        result = pipeline_of(server.base_url, TOPICS, workflow=plain).run(tmp_path, engine="local", max_failed_rows=5)
        assert len(server.requests) == 5
    said = "the workflow was not finished after 1 s, in task 'write' (max_time=1); raise it with set_max_time"
    assert {row["message"] for row in result.failures.to_arrow().to_pylist()} == {said}


def test_rows_that_wait_for_each_other_have_time(tmp_path: Any) -> None:
    """Under a rate limit the last call is sent long after its row's time would be up."""
    builder = WorkflowBuilder(topic=None).generative_step("say: {{topic}}", outputs=[Write.new("text")])
    workflow = builder.set_max_time(1.5).set_return_value("text").build()
    with serve(answer=answer) as server:
        llm = LLM("openai/loopback", base_url=server.base_url, concurrency=8, requests_per_minute=240)
        with Pipeline("waiting") as pipeline:
            LoadDataFromDicts([{"topic": f"t{n}"} for n in range(12)]) >> WorkflowStep(
                "work", llm=llm, workflow=workflow
            )
        result = pipeline.run(tmp_path, engine="local")
    assert len(rows_of(result, "text")) == 12


@pytest.mark.parametrize("options", [{"inputs": ["topic", "n"]}, {}], ids=["named", "by signature"])
def test_a_workflow_made_for_each_row(options: Any, tmp_path: Any) -> None:
    rows = [{"topic": "x", "n": 1}, {"topic": "y", "n": 3}]
    with serve(answer=answer) as server:
        pipeline = pipeline_of(server.base_url, rows, workflow=chained, output="text", **options)
        result = pipeline.run(tmp_path, engine="local")
        assert len(server.requests) == 4
    assert rows_of(result, "topic", "n", "text") == [("x", 1, "x of 1+"), ("y", 3, "y of 3+++")]


def test_a_function_of_the_whole_row_and_one_that_makes_nonsense(tmp_path: Any) -> None:
    rows = [{"topic": "x", "n": 1}, {"topic": "y", "n": 0}, {"topic": "z", "n": -1}]

    def made(row: Any) -> Any:
        return chained(**row) if row["n"] >= 0 else None

    with serve(answer=answer) as server:
        pipeline = pipeline_of(server.base_url, rows, workflow=made, output="text")
        result = pipeline.run(tmp_path, engine="local", max_failed_rows=5)
    assert rows_of(result, "topic", "text") == [("x", "x of 1+")]
    said = sorted(row["message"] for row in result.failures.to_arrow().to_pylist())
    assert said[0] == "the function made a NoneType, not a Workflow; return builder.build()"
    assert said[1].startswith("the row's workflow is unsound: workflow: has no tasks")


def test_stopped_and_resumed_inside_a_row(engine: Any, tmp_path: Any) -> None:
    rows = [{"topic": "x", "n": 3}]
    with serve(answer=answer) as server:
        pipeline = pipeline_of(server.base_url, rows, workflow=chained, output="text")
        with pytest.raises(StoppedError):
            pipeline.run(tmp_path, engine=engine, max_calls=2)
        assert len(server.requests) == 2
        result = pipeline.run(tmp_path, engine=engine)
        assert prompts(server) == {"part 0: x of 3": 1, "part 1: x of 3+": 1, "part 2: x of 3++": 1}
        pipeline.run(tmp_path, engine=engine)
        assert len(server.requests) == 3
    assert rows_of(result, "text") == [("x of 3+++",)]


def test_a_loop_is_resumed_where_it_was(tmp_path: Any) -> None:
    """Equal prompts of one row stay different calls."""

    def writing(body: dict[str, Any]) -> str:
        return f"text {len(server.requests)}" if prompt_of(body) == "write" else "no"

    builder = WorkflowBuilder().generative_step("write", id="write", outputs=[Write.new("text"), Push.new("all")])
    builder.set_max_steps(3).generative_step("good? {{text}}", id="judge", outputs=[Write.new("ok")])
    condition = ConditionBuilder.build(Read.new("ok"), Expression.EQUAL, "yes", "write")
    workflow = builder.flow([Edge("write", "judge"), Edge("judge", "_end", condition, "_end")]).build()
    with serve(answer=writing) as server:
        pipeline = pipeline_of(server.base_url, TOPICS[:1], workflow=workflow, output="ok")
        with pytest.raises(StoppedError):
            pipeline.run(tmp_path, engine="local", max_calls=2)
        pipeline.run(tmp_path, engine="local", max_failed_rows=1)
        assert prompts(server) == {"write": 2, "good? text 1": 1}


def listing(**options: Any) -> Workflow:
    builder = WorkflowBuilder(topic=None).generative_step(
        "list {{topic}}", id="a", outputs=[Write.new("item")], **options
    )
    return builder.set_return_value("item").build()


def test_scatter(tmp_path: Any) -> None:
    with serve(answer=lambda body: '```json\n["a", "b",]\n```') as server:
        llm = LLM("openai/loopback", base_url=server.base_url)
        with Pipeline("scattered") as pipeline:
            LoadDataFromDicts(TOPICS[:2]) >> WorkflowStep("work", llm=llm, workflow=listing()).scatter()
        result = pipeline.run(tmp_path, engine="local")
    assert rows_of(result, "topic", "item") == [("t0", "a"), ("t0", "b"), ("t1", "a"), ("t1", "b")]


def test_a_schema_and_several_columns(tmp_path: Any) -> None:
    builder = WorkflowBuilder(topic=None).generative_step(
        "judge {{topic}}", schema=Verdict, outputs=[Write.new("verdict")]
    )
    builder.generative_step("why {{verdict}}", outputs=[Write.new("why"), Push.new("all")]).flow([Edge("0", "1")])
    workflow = builder.set_return_value(["verdict", "why", "all"]).build()
    with serve() as server:
        result = pipeline_of(server.base_url, TOPICS[:1], workflow=workflow).run(tmp_path, engine="local")
    ((verdict, why, many),) = rows_of(result, "verdict", "why", "all")
    assert verdict.keys() == {"score", "reason"}
    assert many == [why]


def step_of(**options: Any) -> WorkflowStep:
    return WorkflowStep("work", **{"llm": LLM("offline/writer"), "workflow": judged()} | options)


def test_what_it_declares() -> None:
    step = step_of()
    assert (step.reads(), step.needs(), step.writes(), step.problems()) == (("topic",), None, {"text": "string"}, [])
    assert step_of(output="poem", inputs=["topic"]).writes() == {"poem": "string"}
    assert step_of(output="poem", workflow=chained).reads() == ("topic", "n")
    assert resolve("WorkflowStep") is WorkflowStep


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"llm": None}, "asks a model but has none"),
        ({"workflow": chained}, 'has no column for the return value; give it output="…"'),
        ({"inputs": ["topc"]}, "inputs: the workflow has no memory key 'topc'"),
    ],
)
def test_what_is_unsound(options: Any, problem: str) -> None:
    assert problem in step_of(**options).problems()[0]


def test_what_is_no_workflow() -> None:
    for workflow in (5, None, {"tasks": 3}, "no.such:function"):
        with pytest.raises(SpecError):
            step_of(workflow=workflow)
    with pytest.raises(SpecError, match="WorkflowStep 'work': option 'workflow' is required"):
        WorkflowStep("work", llm=LLM("offline/writer"))


def test_a_file_says_the_same(tmp_path: Any) -> None:
    with serve(answer=answer) as server:
        pipeline = pipeline_of(server.base_url, TOPICS, workflow=judged(), output="poem")
        (tmp_path / "p.yaml").write_text(pipeline.to_yaml())
        again = Pipeline.from_file(tmp_path / "p.yaml", allow_import=[__name__])
        assert again.to_yaml() == pipeline.to_yaml()
        assert rows_of(again.run(tmp_path / "out", engine="local"), "poem") == [("+++",)] * 5
    judged().save(tmp_path / "judged.json")
    assert step_of(workflow="judged.json", base_dir=str(tmp_path)) == step_of(base_dir=str(tmp_path))

"""What becomes of a step's answers, what fails and how it is told, and what a second run asks."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from raypipe.dria import Dria, Model, Step, StepTemplate, TaskInput
from raypipe.errors import RowError, SpecError, StoppedError
from raypipe.models import LLM
from raypipe.workflows import Workflow, WorkflowBuilder, Write
from tests.books import assert_balanced
from tests.dria.asking import Ask, AskResult, AskTwo, asking, built, client, echo, prompts
from tests.loopback import serve


def outcome(folder: Path, rows: list[dict[str, Any]], *steps: StepTemplate) -> tuple[Any, dict[str, int]]:
    """The output, and how often each prompt was sent."""
    with serve(answer=echo) as server:
        pipeline = built(client(server, folder), rows, *steps)
        output = pipeline.execute_sync()
        assert_balanced(pipeline.graph.graph(), pipeline.result)
        return output, dict(prompts(server))


def test_scatter_reads_json_in_every_form(tmp_path: Path) -> None:
    rows = [{"q": '["a", 1]'}, {"q": "```json\n[]\n```"}, {"q": "<JSON>['b',]</JSON>"}]
    output, sent = outcome(tmp_path, rows, Ask().scatter(), AskResult())
    assert output == {"result": ["<about a>", "<about 1>", "<about b>"]}
    assert len(sent) == 3 + 3


def test_broadcast_makes_n(tmp_path: Path) -> None:
    output, sent = outcome(tmp_path, [{"q": "x"}, {"q": "y"}], Ask().broadcast(3), AskResult())
    assert output == {"result": ["<about x>"] * 3 + ["<about y>"] * 3}
    assert sent == {"x": 1, "y": 1, "about x": 3, "about y": 3}


def test_aggregate_brings_all_answers_into_one_task(tmp_path: Path) -> None:
    rows = [{"q": '{"n": 1}'}, {"q": "plain"}, {"q": '{"n": 1}'}]
    output, sent = outcome(tmp_path, rows, Ask().aggregate(), AskResult())
    assert output == {"result": ['<about [{"n":1},"plain",{"n":1}]>']}
    assert len(sent) == 3


def test_aggregate_by_root_for_each_input(tmp_path: Path) -> None:
    rows = [{"q": "[1, 2]"}, {"q": "[3]"}]
    output, _ = outcome(tmp_path, rows, Ask().scatter(), AskResult().aggregate(by="root"), AskResult())
    assert output == {"result": ['<about ["<about 1>","<about 2>"]>', '<about ["<about 3>"]>']}


def test_without_a_callback_all_answers_are_the_result(tmp_path: Path) -> None:
    output, _ = outcome(tmp_path, [{"q": "x"}, {"q": "y"}], Ask(), AskResult())
    assert output == {"result": ['<about ["x","y"]>']}


@pytest.mark.parametrize(
    ("last", "output"),
    [
        (Ask(), {"result": ["[1]", "[2, 3]"]}),
        (Ask().scatter(), [{"result": 1}, {"result": 2}, {"result": 3}]),
        (Ask().broadcast(2), [{"result": [1]}] * 2 + [{"result": [2, 3]}] * 2),
        (Ask().aggregate(), {"result": [[1], [2, 3]]}),
        (Ask().aggregate(by="root"), [{"result": [[1]]}, {"result": [[2, 3]]}]),
    ],
    ids=["default", "scatter", "broadcast", "aggregate", "aggregate-by-root"],
)
def test_the_last_callback_shapes_the_output(last: StepTemplate, output: Any, tmp_path: Path) -> None:
    assert outcome(tmp_path, [{"q": "[1]"}, {"q": "[2, 3]"}], last)[0] == output


class Counted(Ask):
    """Tells how many answers its callback sees."""

    def callback(self, step: Step) -> list[TaskInput] | TaskInput:
        assert (step.name, step.step_name) == ("Counted.0", step.output[0].step_name)
        tasks = [TaskInput(a=one.task_input.q, b=one.task_input["q"], n=len(step.output)) for one in step.output]
        return tasks if self.params.as_list else tasks[0]


@pytest.mark.parametrize(
    ("by", "as_list", "output"),
    [
        ("all", True, [("x", 2), ("y", 2)]),
        ("all", False, ("x", 2)),
        ("root", True, [("x", 1), ("y", 1)]),
        ("root", False, [("x", 1), ("y", 1)]),
        ("task", False, [("x", 1), ("y", 1)]),
    ],
)
def test_a_callback_sees_all_answers_or_those_of_an_input(by: Any, as_list: bool, output: Any, tmp_path: Path) -> None:
    step = Counted(as_list=as_list).custom(by=by)
    made, _ = outcome(tmp_path, [{"q": "x"}, {"q": "y"}], step)
    assert ([(row["a"], row["n"]) for row in made] if isinstance(made, list) else (made["a"], made["n"])) == output


class Named(Ask):
    """Tells who gave each answer."""

    def callback(self, step: Step) -> list[TaskInput]:
        return [TaskInput(q=one.task_input.q, by=one.model) for one in step.output]


def test_any_model_of_a_step_may_answer(tmp_path: Path) -> None:
    with serve(answer=echo) as one, serve(answer=echo) as other:
        llms = {
            Model.GPT4O: LLM("openai/one", base_url=one.base_url),
            Model.GPT4O_MINI: LLM("openai/other", base_url=other.base_url),
        }
        dria = Dria(models=llms, engine="local", out=tmp_path)
        step = Named().set_models([Model.GPT4O, Model.GPT4O_MINI]).custom()
        pipeline = built(dria, [{"q": str(number)} for number in range(30)], step)
        output = pipeline.execute_sync()
        seen = {(prompt, f"openai/{name}") for name, at in (("one", one), ("other", other)) for prompt in prompts(at)}
    assert {(row["q"], row["by"]) for row in output} == seen
    assert {by for _, by in seen} == {"openai/one", "openai/other"}
    [model] = pipeline.result.manifest["models"].values()
    assert sum(member["share"] for member in model["members"].values()) == pytest.approx(1.0)


def test_a_callback_is_used_without_being_chosen(tmp_path: Path) -> None:
    output, sent = outcome(tmp_path, [{"q": "x"}], Counted(as_list=True), AskTwo())
    assert output == {"result": ["x and x"]}
    assert sent["x and x"] == 1


class Odd(Ask):
    """Values of every kind under one name."""

    def callback(self, step: Step) -> list[TaskInput]:
        values = [1, "1", None, [1, "a"], {"b": {"c": 1}}, {"d": 2}]
        return [TaskInput(value=value) for value in values] + [TaskInput(other=True, self=1)]


def test_the_output_is_what_the_callback_returned_to_the_letter(tmp_path: Path) -> None:
    """Though the dataset has one type a column."""
    output, _ = outcome(tmp_path, [{"q": "x"}], Odd())
    assert [row.get("value") for row in output] == [1, "1", None, [1, "a"], {"b": {"c": 1}}, {"d": 2}, None]
    assert output[-1] == {"other": True, "self": 1}
    assert [type(row.get("value")) for row in output[:2]] == [int, str]


class Branching(StepTemplate):
    """Asks what its inputs' own values say."""

    made: list[Any] = []  # noqa: RUF012

    def create_workflow(self, n: int, tags: list[str]) -> Workflow:
        self.made.append((n, tags))
        builder = WorkflowBuilder(tags=tags)
        for number in range(n):
            builder.generative_step(f"say {number} of {n} {{{{tags}}}}", id=str(number), outputs=[Write.new("text")])
        return builder.set_return_value("text").flow(_chain(n)).build()


def _chain(n: int) -> Any:
    from raypipe.workflows import Edge

    return [Edge(str(number), str(number + 1)) for number in range(n - 1)]


def test_a_workflow_is_made_of_each_rows_own_values(tmp_path: Path) -> None:
    Branching.made.clear()
    rows = [{"n": 1, "tags": ["a"]}, {"n": 2, "tags": []}]
    output, sent = outcome(tmp_path, rows, Branching())
    assert output == {"result": ['<say 0 of 1 ["a"]>', "<say 1 of 2 []>"]}
    assert set(sent) == {'say 0 of 1 ["a"]', "say 0 of 2 []", "say 1 of 2 []"}
    assert {(n, *tags) for n, tags in Branching.made} == {(1, "a"), (2,)}, "and of no others"


class AnyInputs(StepTemplate):
    def create_workflow(self, **inputs: Any) -> Workflow:
        return asking(" ".join(f"{{{{{name}}}}}" for name in sorted(inputs)), **inputs)


def test_a_step_that_takes_what_comes_gets_the_task_and_nothing_older(tmp_path: Path) -> None:
    output, _ = outcome(tmp_path, [{"a": "1", "b": "2"}], AnyInputs(), AskResult())
    assert output == {"result": ['<about ["1 2"]>']}
    output, _ = outcome(tmp_path / "second", [{"q": "[7]"}], Ask().scatter(), AnyInputs())
    assert output == {"result": ["7"]}


# What fails.


class Refused(Ask):
    """Its answers are taken apart one by one."""

    def callback(self, step: Step) -> list[TaskInput]:
        return [TaskInput(**{self.params.key: int(one.result)}) for one in step.output]


def test_a_task_that_fails_is_told_of_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"q": "1"}, {"q": "two"}, {"q": "3"}]
    with serve(answer=echo) as server, caplog.at_level(logging.WARNING, "raypipe.dria"):
        pipeline = built(client(server, tmp_path), rows, Refused(key="number").custom(by="task"))
        assert pipeline.execute_sync() == [{"number": 1}, {"number": 3}]
        assert_balanced(pipeline.graph.graph(), pipeline.result)
    [failure] = pipeline.failures
    assert (failure["step"], failure["kind"]) == ("dataset", "exception")
    assert "invalid literal for int() with base 10: 'two'" in failure["message"]
    [said] = caplog.messages
    assert said.startswith("1 tasks failed, most at 'dataset' (exception), for example: ValueError: invalid literal")


def test_a_call_that_fails_is_missing_from_what_the_callback_sees(tmp_path: Path) -> None:
    with serve(answer=echo, script=[400]) as server:
        pipeline = built(client(server, tmp_path), [{"q": "1"}, {"q": "2"}], Refused(key="number").custom())
        output = pipeline.execute_sync()
    assert len(output) == 1
    assert [failure["kind"] for failure in pipeline.failures] == ["rejected"]


def test_a_slow_task_is_never_left_behind(tmp_path: Path) -> None:
    """The slowest of these takes tens of times as long as most."""
    rows = [{"q": f"q{number}"} for number in range(60)]
    with serve(answer=echo, latency_s=0.02, latency_sigma=1.5) as server:
        pipeline = built(client(server, tmp_path), rows, Ask().aggregate(), AskResult())
        [text] = pipeline.execute_sync()["result"]
    assert all(f'"q{number}"' in text for number in range(60))


def test_clients_and_signals_are_left_alone(tmp_path: Path) -> None:
    before = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    with serve(answer=echo) as server:
        first = built(client(server, tmp_path / "first"), [{"q": "x"}], Ask())
        second = built(client(server, tmp_path / "second"), [{"q": "y"}], Ask())
        assert asyncio.run(first.execute(return_output=True)) == {"result": ["x"]}
        assert second.execute_sync() == {"result": ["y"]}
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == before


def test_where_nothing_comes_out_the_pipeline_has_failed(tmp_path: Path) -> None:
    with serve(answer=echo, shares={400: 1.0}) as server:
        pipeline = built(client(server, tmp_path), [{"q": "1"}, {"q": "2"}], Ask().scatter(), AskResult())
        with pytest.raises(
            RowError, match=r"there is no output: 2 tasks failed, most at 'Ask\.0' \(rejected\)"
        ) as caught:
            asyncio.run(pipeline.execute(return_output=True))
        assert caught.value.kind == "rejected"
        with pytest.raises(RowError, match="there is no output"):
            pipeline.poll()
    assert len(pipeline.failures) == 2


def test_no_answers_are_no_failure(tmp_path: Path) -> None:
    assert outcome(tmp_path, [{"q": "[]"}], Ask().scatter(), AskResult())[0] == {"result": []}


@pytest.mark.parametrize("text", ["no list", '{"a": 1}'])
def test_scatter_needs_a_list(text: str, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"'Ask\.0\.callback' \(parse\), for example: scatter needs a JSON list"):
        outcome(tmp_path, [{"q": text}], Ask().scatter(), AskResult())


@pytest.mark.parametrize("by", ["all", "task"])
def test_tasks_have_the_inputs_of_the_next_step(by: Any, tmp_path: Path) -> None:
    said = r"step 'AskTwo\.1' takes a, but the callback of 'Refused\.0' gave a task with x; give it a too"
    with pytest.raises(RowError, match=said):
        outcome(tmp_path, [{"q": "1"}], Refused(key="x").custom(by=by), AskTwo())


class Nonsense(Ask):
    def callback(self, step: Step) -> Any:
        return self.params.made


@pytest.mark.parametrize("made", [3, ["a"], None])
def test_a_callback_returns_tasks(made: Any, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"callback of 'Nonsense\.0' returned a \w+; return a TaskInput or a list"):
        outcome(tmp_path, [{"q": "x"}], Nonsense(made=made))


# Limits.


def test_limits_of_a_step_stand_before_those_of_its_workflows(tmp_path: Path) -> None:
    step = Branching().set_workflow_params(max_steps=1, max_time=0, max_tokens=None, min_compute=0.5)
    with serve(answer=echo) as server:
        pipeline = built(client(server, tmp_path), [{"n": 1, "tags": []}, {"n": 2, "tags": []}], step)
        assert pipeline.execute_sync() == {"result": ["<say 0 of 1 []>"]}
    assert [failure["kind"] for failure in pipeline.failures] == ["limit"]
    assert "(max_steps=1)" in pipeline.failures[0]["message"]


def test_tokens_of_a_step_are_limited(tmp_path: Path) -> None:
    with serve(answer=echo) as server:
        rows = [{"q": "short"}, {"q": "long " * 100}]
        pipeline = built(client(server, tmp_path), rows, Ask().set_workflow_params(max_tokens=20))
        assert pipeline.execute_sync() == {"result": ["short"]}
        assert {request.body["max_completion_tokens"] for request in server.requests} == {20}
    assert "max_tokens=20" in pipeline.failures[0]["message"]


# A second run.


def test_what_was_answered_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs over the same steps have one call log; what came out stays apart by the inputs."""
    monkeypatch.chdir(tmp_path)
    with serve(answer=echo) as server:
        dria = client(server, None)
        first = built(dria, [{"q": "x"}, {"q": "y"}], Ask())
        more = built(dria, [{"q": "x"}, {"q": "y"}, {"q": "z"}], Ask())
        assert first.execute_sync() == first.execute_sync() == {"result": ["x", "y"]}
        assert more.execute_sync() == {"result": ["x", "y", "z"]}
        assert prompts(server) == {"x": 1, "y": 1, "z": 1}
        assert first.execute_sync(fresh=True) == {"result": ["x", "y"]}
        assert prompts(server) == {"x": 2, "y": 2, "z": 1}
    assert first.folder() != more.folder()
    assert first.folder().parent == more.folder().parent


def test_two_pipelines_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def both() -> list[Any]:
        with serve(answer=echo) as server:
            dria = client(server, None)
            pipelines = [built(dria, [{"q": q}], Ask()) for q in "xy"]
            return await asyncio.gather(*(pipeline.execute(return_output=True) for pipeline in pipelines))

    assert asyncio.run(both()) == [{"result": ["x"]}, {"result": ["y"]}]


def test_a_pipeline_that_was_begun_is_asked_about(tmp_path: Path) -> None:
    released = threading.Event()

    def late(body: dict[str, Any]) -> str:
        released.wait(20)
        return echo(body)

    with serve(answer=late) as server:
        pipeline = built(client(server, tmp_path), [{"q": "x"}], Ask())
        assert pipeline.poll() == ("Ask.0", "pending", None)
        assert asyncio.run(pipeline.execute()) == pipeline.pipeline_id
        assert pipeline.poll() == ("Ask.0", "running", None)
        released.set()
        deadline = threading.Event()
        while pipeline.poll()[1] == "running" and not deadline.wait(0.01):
            pass
    assert pipeline.poll() == ("Ask.0", "completed", {"result": ["x"]})


def test_cancelled_it_stops(tmp_path: Path) -> None:
    """Once for the calls in flight, which never end here; a second time at once."""
    arrived, released = threading.Event(), threading.Event()

    def held(body: dict[str, Any]) -> str:
        arrived.set()
        released.wait(20)
        return echo(body)

    async def cancelled(pipeline: Any) -> None:
        task = asyncio.create_task(pipeline.execute(return_output=True))
        await asyncio.to_thread(arrived.wait, 20)
        task.cancel()
        await asyncio.wait({task}, timeout=0.01)
        task.cancel()
        await task

    with serve(answer=held) as server:
        pipeline = built(client(server, tmp_path), [{"q": "x"}], Ask())
        try:
            with pytest.raises(StoppedError, match="stopped on request"):
                asyncio.run(cancelled(pipeline))
        finally:
            released.set()


def test_a_budget_is_kept(tmp_path: Path) -> None:
    with serve(answer=echo) as server:
        pipeline = built(client(server, tmp_path), [{"q": q} for q in "abc"], Ask())
        with pytest.raises(StoppedError):
            pipeline.execute_sync(max_calls=2)
        assert len(server.requests) == 2
        with pytest.raises(SpecError, match=r"execute: has no option 'max_call' \(did you mean 'max_calls'\?\)"):
            pipeline.execute_sync(max_call=2)

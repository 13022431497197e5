"""What a client, a builder and a template accept, and what they refuse before anything is asked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.model_pool import members_of
from raypipe.dria import Dria, Model, PipelineBuilder, PipelineConfig, StepConfig, StepTemplate, TaskInput, parse_json
from raypipe.errors import SpecError
from raypipe.models import LLM, REGISTRY
from raypipe.workflows import Workflow
from tests.dria.asking import Ask, AskResult, AskTwo, asking, built

LOCAL = Dria(default="offline/stand-in", engine="local")


def problems(caught: pytest.ExceptionInfo[SpecError]) -> list[str]:
    return [violation.problem for violation in caught.value.violations]


def test_raypipe_does_not_load_it() -> None:
    code = "import sys, raypipe, raypipe.pipeline, raypipe.steps; print('raypipe.dria' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


# The client.


def test_every_model_has_an_llm() -> None:
    dria = Dria()
    for model in Model:
        assert dria.llm_of(model) == LLM(model.value)
        assert LLM(model.value).provider in REGISTRY


def test_models_stand_for_others() -> None:
    mine, rest = LLM("openai/gpt-4o", temperature=0.0), LLM("offline/stand-in")
    dria = Dria(models={Model.GPT4O: mine, "MIXTRAL_8_7B": "groq/mixtral"}, default=rest)
    assert dria.llm_of(Model.GPT4O) == mine
    assert dria.llm_of(Model.MIXTRAL_8_7B) == LLM("groq/mixtral")
    assert dria.llm_of(Model.GEMINI_15_FLASH) == rest
    assert dria.llm_of("openai/o9") == LLM("openai/o9")
    assert dria.llm_of(mine) is mine


def test_a_pool_has_each_model_once() -> None:
    dria = Dria(models={Model.GPT4O: "openai/a"}, default="openai/b")
    assert dria.pool_of(None) == LLM("openai/b")
    assert dria.pool_of([Model.O1_MINI, Model.GPT4_TURBO]) == LLM("openai/b")
    assert members_of(dria.pool_of([Model.GPT4O, Model.O1_MINI])) == (LLM("openai/a"), LLM("openai/b"))
    assert Dria().pool_of(None) == LLM("openai/gpt-4o-mini")


def test_a_client_takes_what_dria_took() -> None:
    async def joined() -> None:
        dria = Dria(rpc_token="…", api_mode=True)
        await dria.initialize()
        async with dria as same:
            assert same is dria

    asyncio.run(joined())
    with pytest.raises(SpecError, match=r"Dria: has no option 'defualt' \(did you mean 'default'\?\)"):
        Dria(defualt="offline/stand-in")  # type: ignore[call-arg]
    with pytest.raises(SpecError, match=r"there is no model 'GPT4P' \(did you mean 'GPT4O'\?\)"):
        Dria(models={"GPT4P": "offline/stand-in"})
    with pytest.raises(SpecError, match="a model is written provider/model"):
        Dria(default="gpt-4o")


def test_a_task_is_read_by_name() -> None:
    task = TaskInput(**{"question": "why?", "items": [1]})
    assert (task["question"], task.question, task["items"], "question" in task) == ("why?", "why?", [1], True)
    assert task.dict() == task.model_dump() == dict(task) == {"question": "why?", "items": [1]}
    assert task == {"question": "why?", "items": [1]}
    with pytest.raises(AttributeError, match=r"no input 'answer' \(it has: question, items\)"):
        _ = task.answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ('Here:\n```json\n["a"]\n```', ["a"]),
        ("<JSON>\n{'a': 'b',}\n</JSON> and more", {"a": "b"}),
        ("['a', 'b'", ["a", "b"]),
        (["[1]", '{"b": 2}'], [[1], {"b": 2}]),
    ],
)
def test_json_in_a_text(text: Any, value: Any) -> None:
    assert parse_json(text) == value


def test_a_text_without_json() -> None:
    with pytest.raises(ValueError, match="no JSON value in 'nothing of the kind'"):
        parse_json("nothing of the kind")


# The builder.


def test_both_ways_to_make_a_builder(tmp_path: Path) -> None:
    for builder in (PipelineBuilder(LOCAL), PipelineBuilder(PipelineConfig(), LOCAL), PipelineBuilder(None, LOCAL)):
        pipeline = (builder.input(q="x") << Ask()).build()
        assert set(pipeline.execute_sync(out=tmp_path)) == {"result"}
    with pytest.raises(SpecError, match=r"PipelineBuilder: is made of a client, or of a configuration and a client"):
        PipelineBuilder(PipelineConfig())
    with pytest.raises(SpecError, match=r"unknown option 'retry_intervall' \(did you mean 'retry_interval'\?\)"):
        PipelineConfig(retry_intervall=3)


@pytest.mark.parametrize("rows", ["x", {"q": "x"}, 3])
def test_inputs_are_a_list_of_mappings(rows: Any) -> None:
    with pytest.raises(SpecError, match=r"input: is a list of mappings, or the inputs of one task by name"):
        PipelineBuilder(LOCAL).input(rows)


def test_each_input_is_a_mapping() -> None:
    with pytest.raises(SpecError, match="input: row 2 is a str, not a mapping of inputs"):
        PipelineBuilder(LOCAL).input([{"q": "x"}, "y"])  # type: ignore[list-item]


@pytest.mark.parametrize("rows", [None, []])
def test_inputs_come_before_the_first_step(rows: Any) -> None:
    with pytest.raises(SpecError, match=r"input of Ask: is not set, or empty; call \.input"):
        PipelineBuilder(LOCAL).input(rows) << Ask()


def test_inputs_are_those_of_the_first_step() -> None:
    class Typed(StepTemplate):
        def create_workflow(self, n: int, tags: list[str], level: str = "easy") -> Workflow:
            return asking("{{tags}}", tags=tags)

    rows = [{"n": 1, "tags": [], "more": 1}, {"n": "one", "tags": ["a", 2]}, {"tags": []}]
    with pytest.raises(SpecError) as caught:
        PipelineBuilder(LOCAL).input(rows) << Typed()
    assert problems(caught) == [
        "'n': Input should be a valid integer, unable to parse string as an integer, got 'one' (row 2)",
        "'tags.1': Input should be a valid string, got 2 (row 2)",
        "has no 'n' (row 3)",
    ]


def test_a_pipeline_has_steps_and_they_are_templates() -> None:
    with pytest.raises(SpecError, match="pipeline: has no steps"):
        PipelineBuilder(LOCAL).input(q="x").build()
    with pytest.raises(SpecError, match="<<: takes an instance of a StepTemplate"):
        PipelineBuilder(LOCAL).input(q="x") << Ask  # type: ignore[operator]


class Two(AskTwo):
    def create_workflow(self, a: str, b: str) -> Workflow:  # type: ignore[override]
        return asking("{{a}} {{b}}", a=a, b=b)


@pytest.mark.parametrize("step", [Ask().scatter(), Ask().broadcast(2), Ask().aggregate()], ids=lambda s: s.ending.kind)
def test_one_value_does_not_fill_several_inputs(step: StepTemplate) -> None:
    with pytest.raises(SpecError, match=r"Ask << Two: \w+ has one value for each task, and Two takes several \(a, b\)"):
        built(LOCAL, [{"q": "x"}], step, Two())
    assert built(LOCAL, [{"q": "x"}], step, AskTwo()), "an input with a default may be left out"
    assert built(LOCAL, [{"a": "x", "b": "y"}], Two().scatter(), Ask()), "how many the step itself has does not matter"


def test_answers_without_a_callback_go_on_as_the_result() -> None:
    with pytest.raises(SpecError, match="Ask << AskTwo: the answers go on as 'result', but AskTwo takes a; choose"):
        built(LOCAL, [{"q": "x"}], Ask(), AskTwo())
    assert built(LOCAL, [{"q": "x"}], Ask(), AskResult())


def test_the_first_workflow_is_made_before_anything_is_asked() -> None:
    class Unsound(StepTemplate):
        def create_workflow(self, q: str) -> Workflow:
            return asking("{{other}}", q=q)

    with pytest.raises(SpecError, match="missing required input 'other'"):
        built(LOCAL, [{"q": "x"}], Unsound())


# Templates.


def test_what_a_template_refuses() -> None:
    with pytest.raises(TypeError, match="abstract"):
        StepTemplate()  # type: ignore[abstract]
    with pytest.raises(SpecError, match=r"Ask\.custom: has no callback of its own"):
        Ask().custom()
    with pytest.raises(SpecError, match=r"Ask\.broadcast: n is 1 or more, got 0"):
        Ask().broadcast(0)
    with pytest.raises(SpecError, match=r"Ask\.aggregate: by is one of \['all', 'root'\], got 'task'"):
        Ask().aggregate(by="task")
    with pytest.raises(SpecError, match="max_steps"):
        Ask().set_workflow_params(max_steps=-1)


def test_a_template_keeps_what_it_is_told() -> None:
    config = StepConfig(models=[Model.GPT4O], max_time=9)
    step = Ask(config, n=3).set_workflow_params(max_steps=2, max_time=0).set_models([Model.O1_MINI]).set_models(None)
    assert (step.params.n, repr(step)) == (3, "Ask(n=3)")
    assert (step.config.max_time, step.config.max_steps, step.config.models) == (9, 2, [Model.O1_MINI])
    assert config.models == [Model.GPT4O], "a configuration may be shared"


def test_steps_are_called_as_their_classes() -> None:
    class _Hidden(Ask):
        pass

    pipeline = built(LOCAL, [{"q": "x"}], _Hidden().scatter(), Ask().broadcast(2), AskResult().aggregate())
    assert [step.name for step in pipeline.graph.steps if step.llm is not None] == ["Hidden.0", "Ask.1", "AskResult.2"]


def test_a_model_answers_for_each_step(tmp_path: Path) -> None:
    steps = [Ask().set_models([Model.GPT4O]).scatter(), Ask().set_models([LLM("offline/third")])]
    dria = Dria(models={Model.GPT4O: LLM("offline/one", options={"answers": ['["a"]']})}, engine="local")
    pipeline = built(dria, [{"q": "x"}], *steps)
    assert pipeline.execute_sync(out=tmp_path)
    assert pipeline.result["default"].to_arrow().column("model_name").to_pylist() == ["offline/third"]
    assert set(pipeline.result.manifest["models"]) >= {"offline/one", "offline/third"}

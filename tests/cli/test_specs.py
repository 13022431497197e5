"""What the command line changes in a pipeline, be it a file or Python code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe.cli.specs import Wanted, pipeline_of
from raypipe.contracts.step import Step
from raypipe.errors import SpecError
from raypipe.pipeline import Pipeline
from tests.cli.conftest import Command, tiny, written

_PYTHON = """
from __future__ import annotations
from dataclasses import dataclass
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration, step
import beside_flow

@dataclass
class Marked:
    text: str

@step(inputs=["topic"], outputs=["marked"])
def mark(row):
    return {"marked": Marked(row["topic"]).text + beside_flow.MARK}

@step(inputs=["marked"], outputs=["said"])
async def say(row, llm):
    return {"said": await llm(row["marked"])}

writer = LLM("offline/stand-in", max_tokens=9, options={"answers": ["fine"]})
with Pipeline("flow") as pipeline:
    seed = LoadDataFromDicts([{"topic": "sea"}], name="seed")
    seed >> mark("mark") >> say("say", llm=writer) >> TextGeneration("texts", llm=writer, template="Write {{ said }}")

with Pipeline("other") as other:
    LoadDataFromDicts([{"topic": "sky"}], name="seed")
"""


def step_of(pipeline: Pipeline, name: str) -> Step:
    return next(step for step in pipeline.steps if step.name == name)


def problems(wanted: Wanted) -> str:
    with pytest.raises(SpecError) as error:
        pipeline_of(wanted)
    return str(error.value)


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(json.dumps({"topic": topic}) + "\n" for topic in ("ice", "fog")))
    return path


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "beside_flow", raising=False)
    (tmp_path / "beside_flow.py").write_text('MARK = "!"\n')
    path = tmp_path / "my flow.py"
    path.write_text(_PYTHON)
    return path


def in_either_form(spec: Path, flow: Path) -> list[str]:
    return [str(spec), f"{flow}:pipeline"]


# --set


def test_an_option_is_set(spec: Path, flow: Path):
    for text in in_either_form(spec, flow):
        pipeline = pipeline_of(Wanted(text, settings=["texts.template='On {{ topic }}'", "texts.num_generations=2"]))
        texts = step_of(pipeline, "texts")
        assert (texts.reads(), texts.model_dump()["num_generations"]) == (("topic",), 2)


def test_an_option_of_an_option_is_set(tmp_path: Path, flow: Path):
    plain = tiny()
    plain["steps"][2]["llm"] = {"uri": "offline/stand-in"}
    for text in in_either_form(written(tmp_path / "a.yaml", plain), flow):
        llm = step_of(pipeline_of(Wanted(text, settings=["texts.llm.temperature=0.25"])), "texts").llm
        assert llm is not None
        assert (llm.uri, llm.temperature) == ("offline/stand-in", 0.25)


def test_a_model_is_set_by_its_uri(spec: Path, flow: Path):
    for text in in_either_form(spec, flow):
        llm = step_of(pipeline_of(Wanted(text, settings=["texts.llm=offline/b"])), "texts").llm
        assert llm is not None
        assert llm.uri == "offline/b"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("texts", "is not written step.option=value"),
        ("texts.=1", "is not written step.option=value"),
        ("texst.template=x", "there is no step 'texst' (did you mean 'texts'?)"),
        ("texts.templat=x", "unknown option 'templat' (did you mean 'template'?)"),
        ("texts.num_generations=many", "'num_generations'"),
        ("texts.template=[", "'['"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(spec: Path, flow: Path, setting: str, said: str):
    for text in in_either_form(spec, flow):
        if said == "'['":
            assert pipeline_of(Wanted(text, settings=[setting])).steps
        else:
            assert said in problems(Wanted(text, settings=[setting]))


# --model and --base-url


def test_all_models_are_replaced_without_what_belonged_to_the_old_one(spec: Path, flow: Path):
    for text in in_either_form(spec, flow):
        pipeline = pipeline_of(Wanted(text, models=["openai/gpt-4o-mini"], base_urls=["http://localhost:1/v1"]))
        models = [step.llm for step in pipeline.steps if step.llm is not None]
        expected = ("openai/gpt-4o-mini", "http://localhost:1/v1", {})
        assert [(llm.uri, llm.base_url, llm.options) for llm in models] == [expected] * 2


def test_what_does_not_belong_to_one_model_stays(flow: Path):
    llm = step_of(pipeline_of(Wanted(str(flow) + ":pipeline", models=["openai/a"])), "texts").llm
    assert llm is not None
    assert llm.max_tokens == 9


def test_models_written_in_a_step_are_replaced_too(tmp_path: Path):
    plain = tiny()
    plain["steps"][1]["llm"] = "openai/gpt-4o"
    path = written(tmp_path / "a.yaml", plain)
    uris = {step.llm.uri for step in pipeline_of(Wanted(str(path), models=["offline/b"])).steps if step.llm}
    assert uris == {"offline/b"}


def test_one_model_is_replaced_by_its_name(tmp_path: Path):
    plain = tiny()
    plain["models"]["other"] = "offline/other"
    plain["steps"][2]["llm"] = "other"
    path = written(tmp_path / "a.yaml", plain)
    pipeline = pipeline_of(Wanted(str(path), models=["other=offline/new"]))
    assert [step.llm.uri for step in pipeline.steps if step.llm] == ["offline/stand-in", "offline/new"]


def test_in_python_one_model_is_replaced_by_the_name_of_its_step(flow: Path):
    pipeline = pipeline_of(Wanted(f"{flow}:pipeline", models=["say=offline/new"]))
    assert [step.llm.uri for step in pipeline.steps if step.llm] == ["offline/new", "offline/stand-in"]


@pytest.mark.parametrize("option", ["models", "base_urls"])
def test_a_model_that_is_not_there_is_refused(spec: Path, flow: Path, option: str):
    assert "no model 'writter' (did you mean 'writer'?)" in problems(Wanted(str(spec), **{option: ["writter=a/b"]}))
    assert "no step 'saay' (did you mean 'say'?)" in problems(Wanted(f"{flow}:pipeline", **{option: ["saay=a/b"]}))
    assert "step 'mark' asks no model" in problems(Wanted(f"{flow}:pipeline", **{option: ["mark=a/b"]}))


def test_a_file_may_leave_its_model_to_the_command_line(tmp_path: Path):
    path = written(tmp_path / "a.yaml", tiny(models={"writer": {"temperature": 0.1}}))
    pipeline = pipeline_of(Wanted(str(path), models=["writer=offline/b"]))
    assert {(step.llm.uri, step.llm.temperature) for step in pipeline.steps if step.llm} == {("offline/b", 0.1)}


# --input


def test_the_input_takes_the_place_of_the_loader(command: Command, spec: Path, flow: Path, topics: Path):
    for number, text in enumerate(in_either_form(spec, flow)):
        result = command("run", text, "--engine", "local", "--out", number, "--input", topics.name)
        assert result.exit_code == 0, result.output
        rows = pq.read_table(Path(f"{number}/data/texts")).to_pylist()
        assert {row["topic"] for row in rows} == {"ice", "fog"}
        saved = Path(f"{number}/pipeline.yaml").read_text()
        assert f"name: seed\n  type: LoadDataFromFiles\n  path:\n  - {topics}" in saved


def test_a_loader_may_leave_its_path_to_the_command_line(tmp_path: Path, topics: Path):
    plain = tiny()
    plain["steps"][0] = {"name": "seed", "type": "LoadDataFromFiles"}
    path = written(tmp_path / "a.yaml", plain)
    assert "'path' is required" in problems(Wanted(str(path)))
    assert pipeline_of(Wanted(str(path), input=str(topics))).graph().order[0] == "seed"


def test_an_input_needs_one_loader(tmp_path: Path, topics: Path):
    plain = tiny()
    plain["steps"].append({"name": "more", "type": "LoadDataFromDicts", "data": []})
    path = written(tmp_path / "a.yaml", plain)
    assert "has 2 ('seed', 'more'); name the file with --set seed.path=x" in problems(Wanted(str(path), input="x"))


# Python files


def test_a_python_file_runs_with_its_own_classes_and_neighbours(command: Command, flow: Path):
    result = command("run", f"{flow}:pipeline", "--engine", "local", "--out", "here")
    assert result.exit_code == 0, result.output
    assert pq.read_table(Path("here/data/texts")).column("marked").to_pylist() == ["sea!"]


def test_the_only_pipeline_needs_no_name(tmp_path: Path):
    path = tmp_path / "one.py"
    one = _PYTHON.partition('with Pipeline("other")')[0]
    path.write_text(one.replace("import beside_flow", "class beside_flow: MARK = 1"))
    assert pipeline_of(Wanted(str(path))).name == "flow"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no Pipeline; make one"),
        ("1 / 0", "line 1: ZeroDivisionError: division by zero"),
        ("x = 1\nx.no", "line 2: AttributeError"),
        ("def", "line 1: SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "the file ends the process"),
        ("from raypipe.models import LLM\nLLM('nonsense')", "a model is written provider/model"),
    ],
)
def test_a_python_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str):
    path = tmp_path / "bad.py"
    path.write_text(text)
    assert said in problems(Wanted(f"{path}:pipeline"))


def test_a_pipeline_that_is_not_there_is_refused(flow: Path):
    assert "holds no Pipeline 'pipelin' (did you mean 'pipeline'?)" in problems(Wanted(f"{flow}:pipelin"))
    assert f"holds several pipelines; name one of {flow}:pipeline, {flow}:other" in problems(Wanted(str(flow)))
    assert "is not there" in problems(Wanted("nowhere.py:pipeline"))


def test_a_python_file_hides_no_module(tmp_path: Path):
    path = tmp_path / "json.py"
    path.write_text("from raypipe.pipeline import Pipeline\npipeline = Pipeline('x')\n")
    pipeline_of(Wanted(str(path)))
    assert sys.modules["json"] is json


@pytest.mark.ray
def test_code_of_a_python_file_travels_to_rays_workers(command: Command, flow: Path, ray_session: None):
    result = command("run", f"{flow}:pipeline", "--engine", "ray", "--out", "here")
    assert result.exit_code == 0, result.output
    assert pq.read_table(Path("here/data/texts")).column("said").to_pylist() == ["fine"]

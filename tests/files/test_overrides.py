"""Options that are given when a pipeline is run, datasets that are, and pipelines as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from typer.testing import CliRunner

from raypipe.cli.commands import app
from raypipe.cli.specs import Wanted, pipeline_of
from raypipe.contracts.model_pool import members_of
from raypipe.errors import SpecError
from raypipe.models import LLM, AzureOpenAILLM, OpenAILLM
from raypipe.pipeline import Pipeline, sample_n_steps
from raypipe.steps import (
    GroupColumns,
    KeepColumns,
    LoadDataFromDicts,
    LoadDataFromHub,
    RuntimeParameter,
    Step,
    StepInput,
    TextGeneration,
    make_generator_step,
    step,
)
from tests.books import user_rows
from tests.loopback import serve

ROWS = [{"instruction": f"prompt {number}"} for number in range(3)]


def asking(url: str = "http://127.0.0.1:1/v1") -> Pipeline:
    with Pipeline("asking") as pipeline:
        LoadDataFromDicts(ROWS, name="seed") >> TextGeneration("answers", llm=OpenAILLM("gpt-4o", base_url=url))
    return pipeline


def test_options_are_changed_deep_inside_and_the_pipeline_stays_as_it_is(tmp_path: Path) -> None:
    with serve() as server:
        pipeline = asking(server.base_url)
        parameters = {"answers": {"llm": {"generation_kwargs": {"temperature": 0.5, "max_new_tokens": 7}}}}
        pipeline.run(tmp_path / "out", engine="local", parameters=parameters)
        body = server.requests[0].body
    assert (body["temperature"], body["max_completion_tokens"]) == (0.5, 7)
    assert pipeline.steps[1].llm == OpenAILLM("gpt-4o", base_url=server.base_url)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"answer": {}}, "parameters of step 'answer': there is no step 'answer' (did you mean 'answers'?)"),
        ({"answers": {"templat": "x"}}, "step 'answers': unknown option 'templat' (did you mean 'template'?)"),
        ({"answers": {"zzz": "x"}}, "unknown option 'zzz' (allowed: add_model_name"),
        ({"answers": 3}, "parameters of 'answers': must be a mapping of options to their values"),
        ({"models": {"judge": {"seed": 1}}}, "there is no model 'judge'; the pipeline names none: set step.llm.option"),
        ({"answers": {"num_generations": "many"}}, "option 'num_generations': "),
        ({"answers": {"llm": {"temperatur": 1}}}, "unknown option 'temperatur' (did you mean 'temperature'?)"),
        (
            {"answers": {"llm": {"generation_kwargs": {"temprature": 1}}}},
            "generation_kwargs: unknown parameter 'temprature' (did you mean 'temperature'?); other fields",
        ),
    ],
    ids=[
        "step",
        "parameter",
        "none like it",
        "no mapping",
        "no named model",
        "type",
        "model's parameter",
        "generation parameter",
    ],
)
def test_unknown_parameters_are_refused_with_the_nearest(tmp_path: Path, parameters: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        asking().run(tmp_path / "out", engine="local", parameters=parameters)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


_FILE = """
name: asking
models:
  writer: {uri: offline/writer, temperature: 0.5}
  judge: {uri: offline/judge, temperature: 0.4}
steps:
  - {name: seed, type: LoadDataFromDicts, data: [{instruction: a}]}
  - {name: answers, type: TextGeneration, llm: writer}
  - {name: marks, type: TextGeneration, llm: judge, output_mappings: {generation: mark}}
  - {name: more, type: TextGeneration, llm: [writer, offline/other], output_mappings: {generation: more}}
"""
_COOL = "{uri: offline/writer, temperature: 0.2}"


@pytest.mark.parametrize(
    ("setting", "parameters", "written"),
    [
        ("answers.llm.temperature=0.2", {"answers": {"llm": {"temperature": 0.2}}}, ("llm: writer", f"llm: {_COOL}")),
        (
            "models.judge.temperature=0.2",
            {"models": {"judge": {"temperature": 0.2}}},
            ("0.4}", "0.2}"),
        ),
        (
            "more.llm.temperature=0.2",
            {"more": {"llm": {"temperature": 0.2}}},
            ("[writer, offline/other]", f"[{_COOL}, {{uri: offline/other, temperature: 0.2}}]"),
        ),
        ("answers.llm=judge", {"answers": {"llm": "judge"}}, ("llm: writer", "llm: judge")),
        ("answers.llm=offline/a", {"answers": {"llm": "offline/a"}}, ("llm: writer", "llm: offline/a")),
        ("models.judge=offline/a", {"models": {"judge": "offline/a"}}, ("judge: {", "judge: offline/a #")),
        (
            "marks.resources.cpus=2",
            {"marks": {"resources": {"cpus": 2}}},
            ("llm: judge", "llm: judge, resources: {cpus: 2}"),
        ),
    ],
)
def test_the_command_line_and_python_change_what_the_file_could_say(
    tmp_path: Path, setting: str, parameters: Any, written: tuple[str, str]
) -> None:
    path, other = tmp_path / "asking.yaml", tmp_path / "written.yaml"
    path.write_text(_FILE)
    other.write_text(_FILE.replace(*written))
    expected = Pipeline.from_file(other)
    for changed in (
        pipeline_of(Wanted(str(path), settings=[setting])),
        Pipeline.from_file(path).with_parameters(parameters),
    ):
        assert changed.named_steps() == expected.named_steps()
        assert changed.dump() == expected.dump()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "answers.num_generations.x=1",
            "option 'num_generations' has no options of its own here; give the whole value",
        ),
        ("models.juge.seed=1", "there is no model 'juge' (did you mean 'judge'?)"),
        ("model.judge.seed=1", "there is no step 'model' (did you mean 'models'?)"),
        ("models.judge.sed=1", "unknown option 'sed' (did you mean 'seed'?)"),
        ("models.judge=nonsense", "a model is written provider/model"),
    ],
)
def test_an_option_that_is_not_there_is_refused(tmp_path: Path, setting: str, said: str) -> None:
    path = tmp_path / "asking.yaml"
    path.write_text(_FILE.replace("llm: writer}", "llm: writer, num_generations: 2}"))
    with pytest.raises(SpecError) as caught:
        pipeline_of(Wanted(str(path), settings=[setting]))
    assert said in str(caught.value)


def test_a_named_model_is_told_from_one_that_is_equal(tmp_path: Path) -> None:
    path = tmp_path / "asking.yaml"
    path.write_text(_FILE.replace("judge, temperature: 0.4", "writer, temperature: 0.5"))
    changed = Pipeline.from_file(path).with_parameters({"models": {"judge": {"seed": 1}}})
    seeds = [[one.seed for one in members_of(step.llm)] for step in changed.steps]
    assert seeds == [[], [None], [1], [None, None]]


def test_a_required_parameter_that_is_missing_comes_with_the_lines_to_write() -> None:
    with Pipeline("loading") as pipeline:
        LoadDataFromHub(name="load") >> KeepColumns(columns=["n"])
    with pytest.raises(SpecError, match=r'pipeline.run\(parameters=\{"load": \{"repo_id": '):
        pipeline.graph()


def test_what_parameters_there_are_can_be_asked() -> None:
    info = {one["name"]: one for one in asking().get_runtime_parameters_info()["answers"]}
    assert info["num_generations"] == {"name": "num_generations", "optional": True, "value": 1}
    inner = {one["name"]: one for one in info["llm"]["runtime_parameters_info"]}
    assert inner["temperature"] == {"name": "temperature", "optional": True, "value": None}


@pytest.mark.parametrize(
    "dataset",
    [ROWS, pd.DataFrame(ROWS), pa.Table.from_pylist(ROWS), Dataset.from_list(ROWS)],
    ids=["list", "pandas", "arrow", "datasets"],
)
def test_a_dataset_is_the_source_of_the_first_steps(tmp_path: Path, dataset: Any) -> None:
    with Pipeline("given") as pipeline:
        KeepColumns("kept", columns=["instruction"]) >> KeepColumns("end", columns=["instruction"])
    result = pipeline.run(tmp_path / "out", engine="local", dataset=dataset)
    assert user_rows(result["end"]) == ROWS
    assert len(pipeline.steps) == 2


def test_other_rows_of_a_dataset_are_other_rows(tmp_path: Path) -> None:
    with Pipeline("given") as pipeline:
        KeepColumns("kept", columns=["instruction"])
    for rows in (ROWS, [{"instruction": "new"}]):
        assert user_rows(pipeline.run(tmp_path / "out", engine="local", dataset=rows)["kept"]) == rows


def test_a_path_is_a_dataset_too(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    step = make_generator_step(str(tmp_path / "rows.csv"), output_mappings={"instruction": "prompt"})
    assert step.columns_after(None) == ("prompt",)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [(7, "is a int; give a list"), (DatasetDict({"train": Dataset.from_list(ROWS)}), r"choose one, .*\['train'\]")],
    ids=["number", "splits"],
)
def test_what_is_no_dataset_is_refused(dataset: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make_generator_step(dataset)


def test_a_dataset_beside_a_loader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the pipeline has 'seed'; leave one of them out"):
        asking().run(tmp_path / "out", dataset=ROWS)


def test_a_dry_run_keeps_the_users_parameters() -> None:
    dry = asking().dry_run(batch_size=2, parameters={"answers": {"num_generations": 3}})
    assert dry.manifest["steps"]["seed"]["rows_in"] == 2
    assert dry.manifest["steps"]["answers"]["rows_out"] == 6


def test_two_models_answer_differently_in_a_dry_run() -> None:
    with Pipeline("two") as pipeline:
        models = [LLM("openai/gpt-4o"), LLM("offline/other"), LLM("openai/gpt-4o", temperature=0.5)]
        answers = [TextGeneration(f"answer_{number}", llm=llm) for number, llm in enumerate(models)]
        seed = LoadDataFromDicts([{"instruction": "Describe tides."}])
        seed >> answers >> GroupColumns("both", columns=["generation", "model_name"], output_columns=["texts", "by"])
    [row] = user_rows(pipeline.dry_run()["both"])
    assert len(set(row["texts"])) == 3
    assert row["by"] == ["offline/openai/gpt-4o", "offline/other", "offline/openai/gpt-4o"]


def test_a_dry_run_gives_rows_by_leaf_like_a_run() -> None:
    pipeline = asking()
    dry = pipeline.dry_run({"answers": {"output_mappings": {"generation": "answer"}}}, 2)
    assert list(dry) == ["answers"]
    assert [list(row) for row in user_rows(dry["default"])] == [["instruction", "answer"]] * 2
    assert dry["answers"]["train"]["instruction"] == ["prompt 0", "prompt 1"]
    assert list(dry["answers"].to_pandas()["instruction"]) == ["prompt 0", "prompt 1"]
    assert len(dry["default"]) == 2
    assert [row["instruction"] for row in dry.samples["answers"]] == ["prompt 0", "prompt 1"]
    with pytest.raises(KeyError):
        dry["seed"]
    assert [step.output_mappings for step in pipeline.steps] == [{}, {}]


def test_a_step_may_forget_its_calls(tmp_path: Path) -> None:
    with serve() as server:
        for use_cache, seen in ((True, 3), (True, 3), (False, 6), (False, 9)):
            asking(server.base_url).run(
                tmp_path / "out", engine="local", parameters={"answers": {"use_cache": use_cache}}
            )
            assert len(server.requests) == seen
        asking(server.base_url).run(tmp_path / "out", engine="local", use_cache=False)
        assert len(server.requests) == 12


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_saved_pipeline_comes_back_with_routes_mappings_and_conditions(tmp_path: Path, suffix: str) -> None:
    with Pipeline("saved", description="all of it") as pipeline:
        one = KeepColumns("one", columns=["instruction"])
        two = KeepColumns("two", columns=["instruction"], when="instruction != 'x'")
        end = TextGeneration("end", llm=LLM("offline/m", temperature=0.5), output_mappings={"generation": "answer"})
        LoadDataFromDicts(ROWS, name="seed") >> sample_n_steps(1, seed=4) >> [one, two] >> end
    path = tmp_path / f"pipeline.{suffix}"
    pipeline.save(path)
    loaded = Pipeline.from_file(path)
    assert loaded.dump() == pipeline.dump()
    assert loaded.graph().steps == pipeline.graph().steps
    assert loaded.graph().edges == pipeline.graph().edges
    [seed] = [step for step in loaded.dump()["steps"] if step["name"] == "seed"]
    assert seed["routes"] == [{"to": ["one", "two"], "sample": 1, "seed": 4}]


def test_saving_into_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a folder; name a file in it"):
        asking().save(tmp_path)


def test_a_key_is_never_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = OpenAILLM("gpt-4o", api_key="canary-secret", base_url="http://127.0.0.1:1/v1")
    assert llm.api_key_env is not None
    monkeypatch.delenv(llm.api_key_env)
    with Pipeline("secret") as pipeline:
        LoadDataFromDicts(ROWS) >> TextGeneration(llm=llm)
    assert "canary" not in pipeline.to_yaml() + repr(pipeline) + repr(llm)


def test_azure_is_reached_at_its_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://here.openai.azure.com/")
    llm = AzureOpenAILLM("my-deployment")
    assert (llm.base_url, llm.api_key_env) == ("https://here.openai.azure.com/openai/v1", "AZURE_OPENAI_API_KEY")


def test_a_pipeline_is_drawn(tmp_path: Path) -> None:
    assert "answers" in Path(asking().draw(tmp_path / "graph.svg")).read_text()
    assert (asking()._repr_svg_() or "").startswith("<svg")


class Scaled(Step):
    """Has an option that must be given, and one that may."""

    factor: RuntimeParameter[int]
    offset: RuntimeParameter[int | None]
    sign: RuntimeParameter[int] = 1

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return [f"times_{self.factor + 0}"]

    def process(self, inputs: StepInput) -> Any:
        yield [{**row, self.outputs[0]: self.sign * self.factor * row["n"] + (self.offset or 0)} for row in inputs]


class ScaledMore(Scaled):
    """Has it from its base."""


class ScaledTwice(Scaled):
    """Gives it a default."""

    factor: RuntimeParameter[int] = 2


@step(inputs=["n"], outputs=["m"])
def scaled(rows: StepInput, factor: RuntimeParameter[int]) -> Any:
    yield [{**row, "m": factor * row["n"]} for row in rows]


def scaling(kind: Any, **options: Any) -> Pipeline:
    with Pipeline("scaling") as pipeline:
        LoadDataFromDicts([{"n": 1}, {"n": 2}], name="seed") >> kind(**options)
    return pipeline


NEEDED = """step 'scaled_0': needs the option 'factor'; \
give it here or write pipeline.run(parameters={"scaled_0": {"factor": …}})"""


@pytest.mark.parametrize(("kind", "column"), [(Scaled, "times_3"), (ScaledMore, "times_3"), (scaled, "m")])
def test_a_parameter_without_default_is_given_when_the_pipeline_is_run(
    engine: Any, tmp_path: Path, kind: Any, column: str
) -> None:
    pipeline = scaling(kind, name="late")
    result = pipeline.run(tmp_path / "out", engine=engine, parameters={"late": {"factor": "3"}})
    assert [row[column] for row in user_rows(result["late"])] == [3, 6]


@pytest.mark.parametrize("kind", [Scaled, scaled])
def test_a_parameter_that_nobody_gives_comes_with_the_lines_to_write(tmp_path: Path, kind: Any) -> None:
    pipeline = scaling(kind)
    for tried in (pipeline.graph, pipeline.validate, pipeline.dry_run, lambda: pipeline.run(tmp_path / "out")):
        with pytest.raises(SpecError) as caught:
            tried()
        assert str(caught.value) == NEEDED
    assert not (tmp_path / "out").exists()


def test_whether_a_parameter_must_be_given_can_be_asked() -> None:
    for kind, is_required in ((Scaled, True), (scaled, True), (ScaledMore, True), (ScaledTwice, False)):
        pipeline = scaling(kind)
        [info] = [info for name, info in pipeline.get_runtime_parameters_info().items() if name != "seed"]
        optional = {one["name"]: one["optional"] for one in info}
        assert optional["factor"] is not is_required
        assert all(optional.get(name, True) for name in ("offset", "sign"))


@pytest.mark.parametrize("kind", [Scaled, scaled])
def test_a_pipeline_that_lacks_a_parameter_can_be_saved_and_is_given_it_after_loading(
    tmp_path: Path, kind: Any
) -> None:
    scaling(kind, name="late").save(tmp_path / "late.yaml")
    loaded = Pipeline.from_file(tmp_path / "late.yaml", allow_import=[__name__])
    with pytest.raises(SpecError, match="needs the option 'factor'"):
        loaded.graph()
    result = loaded.run(tmp_path / "out", engine="local", parameters={"late": {"factor": 2}})
    assert [list(row.values())[-1] for row in user_rows(result["late"])] == [2, 4]
    loaded.with_parameters({"late": {"factor": 5}}).save(tmp_path / "given.yaml")
    Pipeline.from_file(tmp_path / "given.yaml", allow_import=[__name__]).graph()


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_the_command_line_says_which_parameter_is_missing(tmp_path: Path, command: str) -> None:
    scaling(Scaled).save(tmp_path / "late.yaml")
    called = [command, str(tmp_path / "late.yaml"), "--allow-import", __name__]
    found = CliRunner().invoke(app, called)
    assert found.exit_code == 1
    assert NEEDED in found.stderr
    assert CliRunner().invoke(app, ["validate", *called[1:], "--set", "scaled_0.factor=3"]).exit_code == 0

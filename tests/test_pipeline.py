"""Writing a pipeline down, changing its parameters, trying it dry; options that there are not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.step import collecting
from raypipe.errors import InfrastructureError, InputError, SpecError
from raypipe.models import LLM, AzureOpenAILLM, OpenAILLM, vLLM
from raypipe.pipeline import Pipeline, RetryArguments, RunArguments, routing_batch_function, sample_n_steps
from raypipe.steps import GroupColumns, KeepColumns, LoadDataFromDicts, TextGeneration, step
from tests.books import balanced_run, user_rows
from tests.loopback import Loopback
from tests.pipelines import ROWS, asking, chain, one, other, scaled, seed


def test_a_block_that_an_error_leaves_is_closed() -> None:
    pipeline = Pipeline("broken")
    with suppress(ZeroDivisionError), pipeline:
        seed()
        raise ZeroDivisionError
    assert collecting.get() is None
    one("outside")
    assert len(pipeline.steps) == 1


def test_connect_can_be_chained_and_takes_several_steps() -> None:
    with Pipeline("chained") as pipeline:
        seed().connect(one("first")).connect(one("left"), one("right")).connect(one("last"))
    assert pipeline.graph().edges == (("seed", "first"), ("first", "left"), ("first", "right"), ("right", "last"))


def test_connect_may_route(tmp_path: Path) -> None:
    with Pipeline("routed") as pipeline:
        start, left, right = seed(), one("left"), one("right")
        met = GroupColumns("met", columns=["a"], output_columns=["found"])
        start.connect(left, right, routing_batch_function=sample_n_steps(1))
        left.connect(met)
        right.connect(met)
    result = balanced_run(pipeline, tmp_path / "out")
    assert user_rows(result["met"]) == [{"n": n, "found": [n]} for n in range(10)]
    steps = result.manifest["steps"]
    assert 0 < steps["left"]["rows_in"] < 10
    assert steps["left"]["rows_in"] + steps["right"]["rows_in"] == 10


def test_a_list_cannot_be_joined_to_a_list() -> None:
    with Pipeline("lists"):
        lists: Any = [one("a"), one("b")]
        with pytest.raises(TypeError, match="unsupported operand"):
            seed() >> lists >> [one("c"), one("d")]


def test_a_step_may_have_the_name_of_a_model_with_a_dot(tmp_path: Path) -> None:
    result = balanced_run(chain(seed, lambda: one("gemini-1.5-pro")), tmp_path / "out")
    assert list(result) == ["gemini-1.5-pro"]
    assert len(result["default"]) == 10


def test_two_routings_of_a_step_choose_for_every_row(tmp_path: Path) -> None:
    with Pipeline("routed") as pipeline:
        start = seed()
        start >> sample_n_steps(1) >> [one("a"), one("b")]
        start >> sample_n_steps(1, seed=1) >> [one("c"), one("d")]
    result = balanced_run(pipeline, tmp_path / "out")
    for leaves in ("ab", "cd"):
        assert sorted(row["n"] for leaf in leaves for row in user_rows(result[leaf])) == list(range(10))


def test_two_routings_that_share_a_step_are_refused() -> None:
    with Pipeline("routed") as pipeline:
        start, shared = seed(), one("shared")
        start >> sample_n_steps(1) >> [shared, one("b")]
        start >> sample_n_steps(1, seed=1) >> [shared, one("c")]
    with pytest.raises(SpecError, match="chooses 'shared', and so does another routing of the step"):
        pipeline.graph()


def test_a_routed_step_that_comes_after_another_step_too_gets_each_row_once(tmp_path: Path) -> None:
    with Pipeline("routed") as pipeline:
        start, both = seed(), one("both")
        start >> sample_n_steps(1) >> [both, one("single")]
        start >> other("always") >> both
    result = balanced_run(pipeline, tmp_path / "out")
    assert user_rows(result["both"]) == [{"n": n, "b": -n, "a": n} for n in range(10)]
    assert 0 < len(result["single"]) < 10


@routing_batch_function
def firsts(steps: list[str]) -> list[str]:
    return steps[:1]


def test_a_saved_routing_by_a_function_routes_again(tmp_path: Path) -> None:
    with Pipeline("routed") as pipeline:
        seed() >> firsts >> [KeepColumns("left", columns=["n"]), KeepColumns("right", columns=["n"])]
    pipeline.save(tmp_path / "routed.yaml")
    loaded = Pipeline.from_file(tmp_path / "routed.yaml", allow_import=[__name__])
    result = balanced_run(loaded, tmp_path / "out")
    assert {leaf: len(result[leaf]) for leaf in result} == {"left": 10, "right": 0}


def test_a_saved_routing_by_a_function_that_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    @routing_batch_function
    def inner(steps: list[str]) -> list[str]:
        return steps[:1]

    with Pipeline("routed") as pipeline:
        seed() >> inner >> [KeepColumns("left", columns=["n"]), KeepColumns("right", columns=["n"])]
    with pytest.raises(SpecError, match=r"routing after 'seed': .*<locals>\.inner cannot be imported"):
        pipeline.save(tmp_path / "routed.yaml")


def test_parameters_of_a_function_are_options_with_a_type(tmp_path: Path) -> None:
    pipeline = chain(seed, lambda: scaled("scaled", factor=2))
    [factor] = [own for own in pipeline.get_runtime_parameters_info()["scaled"] if own["name"] == "factor"]
    assert factor == {"name": "factor", "optional": True, "value": 2}
    with pytest.raises(SpecError, match=r"parameters of step 'scaled': option 'factor': .*got 'many'"):
        pipeline.run(tmp_path / "out", engine="local", parameters={"scaled": {"factor": "many"}})
    changed = balanced_run(pipeline, tmp_path / "out", parameters={"scaled": {"factor": "3", "input_batch_size": 4}})
    assert [row["m"] for row in user_rows(changed["scaled"])] == [3 * n for n in range(10)]
    assert [row["m"] for row in user_rows(balanced_run(pipeline, tmp_path / "out")["scaled"])] == [
        2 * n for n in range(10)
    ]


def test_resources_are_parameters_too(tmp_path: Path) -> None:
    pipeline = chain(seed, lambda: scaled("scaled"))
    balanced_run(pipeline, tmp_path / "out", parameters={"scaled": {"resources": {"replicas": 2}}})
    changed = pipeline.with_parameters({"scaled": {"resources": {"replicas": 2}}}).plan()
    assert [pool.replicas for pool in pipeline.plan().pools.values()] == [1]
    assert [pool.replicas for pool in changed.pools.values()] == [2]
    with pytest.raises(SpecError, match="option 'replicas'"):
        pipeline.with_parameters({"scaled": {"resources": {"replicas": 0}}})


def test_a_dataset_comes_to_every_first_step(tmp_path: Path) -> None:
    with Pipeline("given") as pipeline:
        one("one")
        other("first") >> KeepColumns("kept", columns=["b"])
    result = pipeline.run(tmp_path / "out", engine="local", dataset=ROWS)
    assert user_rows(result["one"]) == [{"n": n, "a": n} for n in range(10)]
    assert user_rows(result["kept"]) == [{"b": -n} for n in range(10)]


def test_a_dry_run_takes_a_part_of_a_dataset() -> None:
    dry = chain(lambda: one("one")).dry_run(dataset=ROWS, batch_size=4)
    assert dry.manifest["steps"]["one"]["rows_out"] == 4


def test_a_dry_run_keeps_the_parameters_of_a_generator() -> None:
    @step(outputs=["n"], step_type="generator")
    def counting(offset: int = 0, start: int = 0) -> Any:
        yield [{"n": start + number} for number in range(5)], True

    dry = chain(lambda: counting("counting"), lambda: one("one")).dry_run(
        batch_size=2, parameters={"counting": {"start": 100}}
    )
    assert [row["a"] for row in dry.samples["one"]] == [100, 101]


def test_a_dry_run_sends_nothing_and_changes_no_run_behind_it(tmp_path: Path, server: Loopback) -> None:
    state = ["broken"]

    @step(outputs=["n"], step_type="generator")
    def counting(offset: int = 0) -> Any:
        if state:
            raise ValueError(state.pop())
        yield ROWS, True

    pipeline = chain(counting, lambda: asking(server, "asked", "{{ n }}"))
    with pytest.raises(InputError, match="broken"):
        pipeline.dry_run()
    assert pipeline.dry_run().manifest["steps"]["asked"]["rows_out"] == 1
    assert server.requests == []
    result = balanced_run(pipeline, tmp_path / "out")
    assert sorted(row["generation"] for row in user_rows(result["asked"])) == [f"answer {n}" for n in range(10)]
    assert len(server.requests) == 10


def test_an_option_of_a_run_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with Pipeline("run") as pipeline:
        LoadDataFromDicts([{"n": 1}], name="seed")
    with pytest.raises(SpecError, match=r"has no option 'max_cost' .did you mean 'max_cost_usd'"):
        pipeline.run(tmp_path / "out", max_cost=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            lambda: OpenAILLM("gpt-4o", use_offline_batch_generation=True),
            r"asked for one by one.*leave it out and bound",
        ),
        (lambda: AzureOpenAILLM("d", offline_batch_generation_block_until_done=5), "not as offline batches; leave it"),
        (lambda: LLM("openai/m", jobs_ids=("a",)), "option 'jobs_ids': answers are asked for one by one"),
        (lambda: OpenAILLM("m", structured_output={"schema": {}}), r"write TextGeneration\(structured_output="),
        (lambda: vLLM("m", cuda_devices=[0]), r"write resources=StepResources\(gpus="),
        (lambda: Pipeline("p", cache_dir="here"), r"Pipeline: option 'cache_dir': .* write run\(out="),
        (lambda: Pipeline("p", enable_metadata=True), "write add_raw_output=True there"),
        (lambda: Pipeline("p", requirements=["numpy>=1"]), "installed before it is made; leave it out"),
        (lambda: Pipeline("p", descripton="x"), "did you mean 'description'"),
        (lambda: Pipeline("p").run(storage_parameters={"path": "x"}), "run: option 'storage_parameters': batches"),
        (lambda: Pipeline("p").run(logging_handlers=[]), r"logging.getLogger\(\) yourself"),
    ],
)
def test_options_of_distilabel_that_there_are_not_say_what_to_do_instead(made: Callable[[], Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        made()
    assert len(refused.value.violations) == 1
    assert "\n" not in str(refused.value)


def test_parameters_of_a_run_ask_for_no_offline_batches_either(tmp_path: Path) -> None:
    pipeline = chain(seed, lambda: TextGeneration("ask", llm=LLM("offline/m"), template="{{ n }}"))
    with pytest.raises(SpecError, match="parameters of step 'ask': option 'use_offline_batch_generation': answers"):
        pipeline.run(tmp_path / "out", parameters={"ask": {"llm": {"use_offline_batch_generation": True}}})


def test_several_steps_are_not_routed_together() -> None:
    with Pipeline("several"), pytest.raises(SpecError, match="one step's rows are routed"):
        [LoadDataFromDicts([{"n": 1}]), LoadDataFromDicts([{"n": 2}])] >> sample_n_steps(1)  # type: ignore[operator]


def test_a_pipeline_comes_back_from_what_it_dumps_and_runs_where_it_is_told(tmp_path: Path) -> None:
    with Pipeline("kept") as pipeline:
        LoadDataFromDicts([{"n": 1}, {"n": 2}], name="seed") >> KeepColumns("kept", columns=["n"])
    again = Pipeline.from_dict(pipeline.dump())
    assert again.dump() == pipeline.dump()
    assert len(again.ray("127.0.0.1:1").run(tmp_path / "out", engine="local")["default"]["train"]) == 2
    with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:1"):
        again.run(tmp_path / "other")


def test_help_names_every_option_of_a_run() -> None:
    for method, arguments in ((Pipeline.run, RunArguments), (Pipeline.retry, RetryArguments)):
        said = f"{Pipeline.run.__doc__} {method.__doc__}"
        assert [name for name in arguments.__annotations__ if f"`{name}" not in said] == []

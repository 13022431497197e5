"""Steps are loaded in groups: by themselves, in order, and with the rows of a run that loads all of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InfrastructureError, SpecError, StoppedError
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.step import Step
from raypipe.steps import LoadDataFromDicts, StepResources, TextGeneration, step
from tests.books import assert_balanced, user_rows
from tests.loopback import serve

ROWS = 60


def timed(name: str, column: str, **options: Any) -> Step:
    """A step that writes down when it worked on each row."""

    def work(row: Values) -> dict[str, Any]:
        return {column: time.monotonic()}

    work.__name__ = name
    return step(inputs=["number"], outputs=[column])(work)(name, **options)


def timed_pipeline(**options: Any) -> Pipeline:
    with Pipeline("timed") as pipeline:
        seed = LoadDataFromDicts([{"number": number} for number in range(3000)], name="seed")
        seed >> timed("first", "t1", **options) >> timed("second", "t2", **options)
    return pipeline


def is_one_after_the_other(result: Any) -> bool:
    rows = result["second"].to_arrow()
    return max(rows["t1"].to_pylist()) < min(rows["t2"].to_pylist())


def test_a_group_begins_when_the_one_before_has_had_every_row(engine: Any, tmp_path: Path) -> None:
    groups = [["first"], ["second"]]
    assert is_one_after_the_other(timed_pipeline().run(tmp_path / "out", engine=engine, load_groups=groups))


def test_without_groups_rows_do_not_wait_for_others(tmp_path: Path) -> None:
    assert not is_one_after_the_other(timed_pipeline().run(tmp_path / "out", engine="local"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("is_running", [False, True], ids=["own", "running cluster"])
def test_steps_that_have_no_room_together_are_loaded_one_after_the_other(is_running: bool, tmp_path: Path) -> None:
    import ray

    pipeline = timed_pipeline(resources=StepResources(cpus=0.6 * (ray.cluster_resources()["CPU"] - 1)))
    address = ray.get_runtime_context().gcs_address if is_running else None
    assert is_one_after_the_other(pipeline.run(tmp_path / "out", address=address))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_group_that_is_named_is_not_taken_apart_for_lack_of_room(tmp_path: Path) -> None:
    pipeline = timed_pipeline(resources=StepResources(cpus=1000))
    with pytest.raises(InfrastructureError, match="the workers want 2000 CPUs"):
        pipeline.run(tmp_path / "out", load_groups=[["first", "second"]])


def chain(url: str) -> Pipeline:
    with Pipeline("chain") as pipeline:
        llm = LLM("openai/loopback", base_url=url, concurrency=8)
        seed = LoadDataFromDicts([{"number": number} for number in range(ROWS)], name="seed")
        many = TextGeneration("many", llm=llm, template="many {{ number }}", output="many", num_generations=2)
        last = TextGeneration("last", llm=llm, template="last {{ many }}", output="last")
        seed >> many >> last
        seed >> TextGeneration("beside", llm=llm, template="beside {{ number }}", output="beside")
    return pipeline


@pytest.mark.parametrize("most", [pytest.param(30, marks=pytest.mark.full), 150])
def test_a_run_that_stops_in_a_group_goes_on_where_it_was(engine: Any, most: int, tmp_path: Path) -> None:
    groups = [["many"], ["last", "beside"]]
    with serve() as server:
        whole = chain(server.base_url).run(tmp_path / "whole", engine="local")
        seen = len(server.requests)
        with pytest.raises(StoppedError):
            chain(server.base_url).run(tmp_path / "out", engine=engine, max_calls=most, load_groups=groups)
        assert len(server.requests) - seen <= most
        pipeline = chain(server.base_url)
        result = pipeline.run(tmp_path / "out", engine=engine, load_groups=groups)
        assert len(server.requests) - seen == 5 * ROWS
    assert {leaf: user_rows(rows) for leaf, rows in result.items()} == {
        leaf: user_rows(rows) for leaf, rows in whole.items()
    }
    assert_balanced(pipeline.graph(), result)


def test_what_had_ended_when_a_run_was_stopped_is_kept(tmp_path: Path) -> None:
    with serve() as server:
        pipeline = chain(server.base_url)
        with pytest.raises(StoppedError):
            pipeline.run(tmp_path / "out", engine="local", max_calls=100, load_groups=[["beside"], ["many", "last"]])
    result = Result(tmp_path / "out")
    assert len(result["beside"]) == ROWS
    for name in ("many", "last"):
        counts = result.manifest["steps"][name]
        assert counts["rows_in"] == counts["rows_done"] + counts["rows_unfinished"]
    assert result.manifest["steps"]["many"]["rows_unfinished"] > 0


def test_steps_may_be_named_by_themselves_and_stages_are_told() -> None:
    with Pipeline("two") as pipeline:
        seed = LoadDataFromDicts([{"number": 1}], name="seed")
        first, second = timed("first", "t1"), timed("second", "t2")
        seed >> first >> second
    assert pipeline.get_load_stages() == ([["seed", "first", "second"]], [["second"]])
    stages = pipeline.get_load_stages([[first], [second]])
    assert stages == ([["seed", "first"], ["second"]], [["first"], ["second"]])
    assert pipeline.get_load_stages("sequential_step_execution") == stages


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([["second"], ["first"]], r"load_groups\[0\]: step 'second' reads from 'first', which is loaded later"),
        ([["frist"]], r"there is no step 'frist'.*'first'"),
        ([["first"], ["first"]], r"load_groups\[1\]: step 'first' is in two groups"),
        ("sequential", "got 'sequential'"),
    ],
)
def test_groups_that_cannot_be_loaded_are_refused(groups: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=said):
        timed_pipeline().run(tmp_path / "out", engine="local", load_groups=groups)
    assert not (tmp_path / "out").exists()

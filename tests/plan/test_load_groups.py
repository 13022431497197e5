"""Steps are loaded in groups: by themselves, in order, and with the rows of a run that loads all of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.step import Step
from raypipe.errors import InfrastructureError, SpecError, StoppedError
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
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


def grown() -> Pipeline:
    """Every way in which a step is put in for another: `when`, routing, branches that meet, all rows, a family's."""
    from raypipe.graph.branching import routing_function
    from raypipe.steps import Aggregate, GlobalStep

    class Counted(GlobalStep):
        def process(self, *inputs: Any) -> Any:
            yield [row | {"count": len(inputs[0])} for row in inputs[0]]

    @routing_function
    def by_parity(row: Values, steps: list[str]) -> str:
        return steps[row["number"] % 2]

    def joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"joined": len(rows)}

    def single(name: str, column: str, **options: Any) -> Step:
        def work(row: Values) -> dict[str, Any]:
            return {column: row["number"]}

        work.__name__ = name
        return step(inputs=["number"], outputs=[column])(work)(name, **options)

    @step(inputs=["number"], outputs=["part"], scatter=True)
    def parts(row: Values) -> list[dict[str, Any]]:
        return [{"part": part} for part in range(row["number"] % 3)]

    with Pipeline("grown") as pipeline:
        seed = LoadDataFromDicts([{"number": number} for number in range(40)], name="seed")
        met = single("met", "m", when="number > 4")
        seed >> by_parity >> [single("even", "e"), single("odd", "o", when="number != 5")] >> met
        met >> Counted("all", when="number > 9") >> parts("parts") >> single("inner", "i").custom(joined)
        met >> parts("others") >> single("last", "l", when="part == 1") >> Aggregate("back")
    return pipeline


USERS = ["seed", "even", "odd", "met", "all", "parts", "inner", "others", "last", "back"]
GROUPS: dict[str, Any] = {
    "all": [USERS],
    "one by one": "sequential_step_execution",
    "some": [["odd", "even"], ["met"], ["all", "parts"], ["inner"]],
    "one": [["last"]],
}


@pytest.mark.parametrize("case", GROUPS)
def test_what_is_put_in_for_a_step_is_loaded_with_it(case: str, tmp_path: Path) -> None:
    pipeline = grown()
    whole = pipeline.run(tmp_path / "whole", engine="local")
    result = grown().run(tmp_path / "out", engine="local", load_groups=GROUPS[case])
    assert {leaf: user_rows(rows) for leaf, rows in result.items()} == {
        leaf: user_rows(rows) for leaf, rows in whole.items()
    }
    assert result.manifest["steps"] == whole.manifest["steps"]
    assert_balanced(pipeline.graph(), result)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_what_is_put_in_for_a_step_is_loaded_with_it_on_ray(tmp_path: Path) -> None:
    whole = grown().run(tmp_path / "whole", engine="local")
    result = grown().run(tmp_path / "out", load_groups=GROUPS["some"])
    assert {leaf: user_rows(rows) for leaf, rows in result.items()} == {
        leaf: user_rows(rows) for leaf, rows in whole.items()
    }
    assert result.manifest["steps"] == whole.manifest["steps"]


def test_only_names_that_the_user_wrote_are_shown(tmp_path: Path) -> None:
    pipeline = grown()
    put_in = [name for name in pipeline.graph().fronts if not name.startswith("inner")]
    assert set(put_in) == {"odd_when", "met_meet", "met_when", "all_when", "all_rows", "last_when"}
    groups, ends = pipeline.get_load_stages("sequential_step_execution")
    assert sorted(name for group in groups for name in group) == sorted({*USERS} - {"back"})
    assert len(ends) == len(groups)
    from raypipe.plan.load_groups import in_groups

    described = in_groups(pipeline.plan(), GROUPS["some"]).describe()
    pipeline.draw(tmp_path / "drawn.mmd")
    result = pipeline.run(tmp_path / "out", engine="local")
    for shown in (described, (tmp_path / "drawn.mmd").read_text(), str(result.manifest["steps"])):
        assert not [name for name in put_in if name in shown]


def test_a_reader_of_a_later_group_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    said = r"load_groups\[0\]: step 'met' reads from 'even', which is loaded later"
    with pytest.raises(SpecError, match=said):
        grown().run(tmp_path / "out", engine="local", load_groups=[["met"], ["even", "odd"]])

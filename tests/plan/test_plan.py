"""A plan is a value: stages, pools and families are settled before anything starts, and can be read."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.contracts.step import Aggregate, By, Step
from raypipe.errors import InfrastructureError
from raypipe.pipeline import Pipeline
from raypipe.plan.plan import THREADS, Plan, Sink
from raypipe.plan.resources import check_room
from raypipe.row import Values
from raypipe.steps import KeepColumns, LoadDataFromDicts, StepResources, TextGeneration, step

WRITER = LLM("offline/stand-in", temperature=0.5)


@step(inputs=["a"], outputs=["child"], scatter=True)
def children(row: Values) -> list[dict[str, Any]]:
    return [{"child": row["a"]}]


@step(inputs=["child"], outputs=["grandchild"], scatter=True)
def grandchildren(row: Values) -> list[dict[str, Any]]:
    return [{"grandchild": row["child"]}]


def seed(name: str = "seed") -> Step:
    return LoadDataFromDicts([{"a": 1, "kind": "x"}], name=name)


def ask(name: str, llm: LLM = WRITER, **options: Any) -> Step:
    return TextGeneration(name, llm=llm, template="{{ a }}", output=name, **options)


def nested(by: By) -> Plan:
    with Pipeline("nested") as pipeline:
        inner = KeepColumns("keep", columns=["a", "kind", "child", "grandchild"])
        seed() >> children("outer") >> grandchildren("inner") >> inner >> Aggregate("gather", by=by)
    return pipeline.plan()


def test_equal_models_share_a_pool_and_others_do_not() -> None:
    with Pipeline("pools") as pipeline:
        other = LLM("offline/stand-in", temperature=0.9, concurrency=10, replicas=3)
        seed() >> ask("one") >> ask("two", LLM("offline/stand-in", temperature=0.5)) >> ask("three", other)
    plan = pipeline.plan()
    assert list(plan.pools) == ["offline/stand-in", "offline/stand-in #2"]
    steps = plan.stages[0].steps
    assert [steps[name].pool for name in ("one", "two", "three")] == [*["offline/stand-in"] * 2, "offline/stand-in #2"]
    assert (plan.pools["offline/stand-in #2"].replicas, plan.pools["offline/stand-in #2"].concurrency) == (3, 4)


def test_steps_without_a_model_share_the_pool_of_functions_or_need_none() -> None:
    plan = nested("scatter")
    assert {name: planned.pool for name, planned in plan.stages[0].steps.items()} == {
        "seed": None,
        "outer": THREADS,
        "inner": THREADS,
        "keep": None,
        "gather": None,
    }


def test_an_aggregate_closes_the_nearest_scatter() -> None:
    gather = nested("scatter").stages[0].steps["gather"].gather
    assert gather is not None
    assert (gather.opener, gather.level, gather.region) == ("inner", 1, frozenset({"keep", "gather"}))
    assert gather.collects == ("grandchild",)


def test_an_aggregate_by_root_goes_back_to_the_source() -> None:
    gather = nested("root").stages[0].steps["gather"].gather
    assert gather is not None
    assert (gather.opener, gather.level) == ("seed", 0)
    assert gather.region == frozenset({"outer", "inner", "keep", "gather"})
    assert gather.collects == ("child", "grandchild")


@pytest.mark.parametrize("by", ["all", ["kind"]])
def test_a_barrier_begins_a_stage(by: By) -> None:
    plan = nested(by)
    assert [(stage.entry, stage.reads_stage) for stage in plan.stages] == [("seed", None), ("gather", 0)]
    assert plan.stages[0].steps["keep"].sinks == (Sink("barrier", "gather"),)
    assert plan.stages[1].steps["gather"].sinks == (Sink("leaf", "gather"),)


def test_by_root_behind_a_barrier_goes_back_to_the_group() -> None:
    with Pipeline("groups") as pipeline:
        groups = Aggregate("groups", by=["a"])
        seed() >> groups >> children("children") >> Aggregate("gather", by="root")
    plan = pipeline.plan()
    gather = plan.stages[1].steps["gather"].gather
    assert gather is not None
    assert (gather.opener, gather.level, gather.collects) == ("groups", 0, ("child",))


def test_rows_of_a_fork_go_to_steps_and_to_barriers() -> None:
    with Pipeline("fork") as pipeline:
        seed() >> children("children") >> [Aggregate("all", by="all"), KeepColumns("keep", columns=["a"])]
    steps = pipeline.plan().stages[0].steps
    assert (steps["children"].successors, steps["children"].sinks) == (("keep",), (Sink("barrier", "all"),))
    assert steps["keep"].sinks == (Sink("leaf", "keep"),)


def test_several_sources_are_several_stages() -> None:
    with Pipeline("sources") as pipeline:
        seed("one") >> children("left")
        seed("two") >> children("right")
    assert [(stage.entry, list(stage.steps)) for stage in pipeline.plan().stages] == [
        ("one", ["one", "left"]),
        ("two", ["two", "right"]),
    ]


def test_what_a_step_wants_for_itself_is_its_own_pool() -> None:
    with Pipeline("wishes") as pipeline:
        wanting = ask("answer", resources=StepResources(replicas=2, cpus=0.5))
        seed() >> children("children", resources=StepResources(cpus=2, memory=2**30)) >> children("others") >> wanting
    pools = pipeline.plan().pools
    assert (pools["children"].cpus, pools["children"].memory, pools["python"].cpus) == (2, 2**30, 0)
    assert (pools["offline/stand-in"].replicas, pools["offline/stand-in"].cpus) == (2, 0.5)
    assert "pool children: Python functions, 1 × 8 in flight, 2 CPUs, 1 GiB" in pipeline.plan().describe()


def test_workers_that_have_no_room_are_refused() -> None:
    with Pipeline("wishes") as pipeline:
        seed() >> ask("answer", resources=StepResources(replicas=2, gpus=0.5))
    pools = pipeline.plan().pools.values()
    check_room(pools, {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(InfrastructureError, match=r"want 1 GPUs and there are 0 \(offline/stand-in 1\)"):
        check_room(pools, {"CPU": 2.0})


def test_the_last_processor_is_left_to_those_who_read() -> None:
    with Pipeline("wishes") as pipeline:
        seed() >> children("children", resources=StepResources(cpus=2))
    check_room(pipeline.plan().pools.values(), {"CPU": 3.0})
    with pytest.raises(InfrastructureError, match="want 2 CPUs and there are 1 beside the 1 that reads"):
        check_room(pipeline.plan().pools.values(), {"CPU": 2.0})


def test_a_plan_can_be_printed() -> None:
    with Pipeline("printed") as pipeline:
        seed() >> children("children") >> ask("answer").broadcast(2) >> Aggregate("groups", by=["kind"])
    assert pipeline.plan().describe().splitlines() == [
        "pipeline printed: 4 steps, 2 stages",
        "pool python: Python functions, 1 × 8 in flight",
        "pool offline/stand-in: offline/stand-in, 1 × 64 in flight",
        "stage 0: reads 'seed'",
        "  children: children, in pool 'python', scatter, → answer",
        "  answer: TextGeneration, in pool 'offline/stand-in', map, broadcast 2",
        "stage 1: groups rows of stage 0 by 'groups'",
        "writes data/groups/",
    ]


def test_a_plan_travels() -> None:
    plan = nested("root")
    assert pickle.loads(pickle.dumps(plan)).describe() == plan.describe()

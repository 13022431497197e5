"""Steps collect themselves into the open pipeline block, and blocks do not mix."""

from __future__ import annotations

import threading

import pytest

from raypipe.contracts.imports import imported, snake_case
from raypipe.contracts.step import Aggregate
from raypipe.errors import SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import KeepColumns, LoadDataFromDicts


def build_one(name: str) -> Pipeline:
    with Pipeline(name) as pipeline:
        LoadDataFromDicts([{"a": 1}], name=f"{name}.seed") >> KeepColumns(f"{name}.keep", columns=["a"])
    return pipeline


def test_nested_blocks_do_not_mix() -> None:
    with Pipeline("outer") as outer:
        seed = LoadDataFromDicts([{"a": 1}], name="seed")
        inner = build_one("inner")
        seed >> KeepColumns("keep", columns=["a"])
    assert list(outer.graph().steps) == ["seed", "keep"]
    assert list(inner.graph().steps) == ["inner.seed", "inner.keep"]


def test_a_block_can_be_opened_again() -> None:
    with Pipeline("again") as pipeline:
        seed = LoadDataFromDicts([{"a": 1}], name="seed")
    with pipeline:
        seed >> KeepColumns("keep", columns=["a"])
    assert pipeline.graph().edges == (("seed", "keep"),)


def test_blocks_in_threads_do_not_mix() -> None:
    names = [f"thread{number}" for number in range(8)]
    meeting = threading.Barrier(len(names), timeout=30)
    made: dict[str, Pipeline] = {}

    def work(name: str) -> None:
        with Pipeline(name) as pipeline:
            seed = LoadDataFromDicts([{"a": 1}], name=f"{name}.seed")
            meeting.wait()
            seed >> KeepColumns(f"{name}.keep", columns=["a"])
            meeting.wait()
        made[name] = pipeline

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {name: list(made[name].graph().steps) for name in names} == {
        name: [f"{name}.seed", f"{name}.keep"] for name in names
    }


def test_steps_outside_a_block_belong_to_none_and_cannot_be_joined() -> None:
    seed, keep = LoadDataFromDicts([{"a": 1}], name="seed"), KeepColumns("keep", columns=["a"])
    with pytest.raises(SpecError, match=r"'?seed'? >> '?keep'?: steps are joined inside a `with Pipeline"):
        seed >> keep


def test_a_list_joins_every_step_in_it() -> None:
    with Pipeline("lists") as pipeline:
        seed = LoadDataFromDicts([{"a": 1}], name="seed")
        seed >> [KeepColumns("left", columns=["a"]), KeepColumns("right", columns=["a"])]
        seed.connect(KeepColumns("below", columns=["a"]))
    assert pipeline.graph().edges == (("seed", "left"), ("seed", "right"), ("seed", "below"))


@pytest.mark.parametrize("name", ["", "a b", "-a", "~a", "a/b", "../a", "é"])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="a step name has letters, digits"):
        KeepColumns(name, columns=["a"])


def test_a_misspelt_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"KeepColumns 'k': unknown option 'colums' \(did you mean 'columns'\?\)"):
        KeepColumns("k", colums=["a"])


@pytest.mark.parametrize(
    "fields",
    [{"scatter": True, "broadcast": 2}, {"scatter": True, "aggregate": "all"}, {"broadcast": 2, "custom": "a:b"}],
)
def test_a_step_has_one_ending(fields: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="exclude each other"):
        KeepColumns("k", columns=["a"], **fields)
    with pytest.raises(SpecError, match="cannot be added to this step's ending"):
        KeepColumns("k", columns=["a"]).scatter().broadcast(2)


def test_broadcast_needs_a_copy() -> None:
    with pytest.raises(SpecError):
        KeepColumns("k", columns=["a"]).broadcast(0)


def test_an_aggregate_over_columns_is_a_barrier() -> None:
    assert [Aggregate(by=by).is_barrier for by in ("scatter", "root", "all", ["a"])] == [False, False, True, True]
    assert Aggregate(by=["a", "b"], columns=["b", "c"]).reads() == ("a", "b", "c")


def test_dotted_paths() -> None:
    assert imported("raypipe.contracts.step:Aggregate") is imported("raypipe.contracts.step.Aggregate") is Aggregate
    for path in ("raypipe.contracts.step:Nothing", "no_such_module:x", "x", ""):
        with pytest.raises(SpecError, match=r"nothing to import there .*write package.module:name"):
            imported(path)


def test_snake_case() -> None:
    assert snake_case("TextGeneration") == "text_generation"
    assert snake_case("LLMStep") == "llm_step"

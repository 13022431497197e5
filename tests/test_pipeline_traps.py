"""Graphs, steps, runs and repeated runs at the places where a row, a value or a whole run is easily lost."""

from __future__ import annotations

import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.step import collecting
from raypipe.errors import InfrastructureError, InputError, SpecError, StepFailedError, StoppedError
from raypipe.models import LLM, AzureOpenAILLM, OpenAILLM, vLLM
from raypipe.pipeline import Pipeline, routing_batch_function, sample_n_steps
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import (
    Filter,
    GeneratorStep,
    GlobalStep,
    GroupColumns,
    KeepColumns,
    LoadDataFromDicts,
    RuntimeParameter,
    Step,
    StepInput,
    StepResources,
    TextGeneration,
    step,
)
from tests.acceptance.chain import logged
from tests.books import Row, assert_balanced, failed, user_rows
from tests.loopback import Loopback, serve

ROWS: list[Row] = [{"n": number} for number in range(10)]


@step(inputs=["n"], outputs=["a"])
def one(row: Values) -> Row:
    return {"a": row["n"]}


@step(inputs=["n"], outputs=["b"])
def other(row: Values) -> Row:
    return {"b": -row["n"]}


@step(inputs=["n"], outputs=["m"])
def scaled(rows: StepInput, factor: RuntimeParameter[int] = 1) -> Any:
    yield [{**row, "m": row["n"] * factor} for row in rows]


class Optional(Step):
    """Reads a column that may be missing."""

    @property
    def inputs(self) -> dict[str, bool]:
        return {"n": True, "hint": False}

    @property
    def outputs(self) -> dict[str, bool]:
        return {"seen": True}

    def process(self, inputs: StepInput) -> Any:
        yield [{**row, "seen": row.get("hint", "none")} for row in inputs]


class Ranked(GlobalStep):
    """Reads one column of all rows, and one that may be missing; gives the rows back, the largest first."""

    @property
    def inputs(self) -> dict[str, bool]:
        return {"n": True, "hint": False}

    @property
    def outputs(self) -> list[str]:
        return ["rank"]

    def process(self, inputs: StepInput) -> Any:
        ordered = sorted(inputs, key=lambda row: -row["n"])
        yield [{**row, "rank": rank} for rank, row in enumerate(ordered)]


@pytest.fixture
def server() -> Iterator[Loopback]:
    """Every answer is another one."""
    numbers = itertools.count()
    with serve(answer=lambda _: f"answer {next(numbers)}") as server:
        yield server


def asking(server: Loopback, name: str, template: str, **options: Any) -> TextGeneration:
    return TextGeneration(name, llm=LLM("vllm-server/m", base_url=server.base_url), template=template, **options)


def seed(rows: list[Row] | None = None) -> LoadDataFromDicts:
    return LoadDataFromDicts(ROWS if rows is None else rows, name="seed")


def run(pipeline: Pipeline, out: Path, **options: Any) -> Result:
    result = pipeline.run(out, engine="local", max_failed_rows=100, **options)
    assert_balanced(pipeline.graph(), result)
    return result


def chain(*steps: Any) -> Pipeline:
    """Steps one after the other; each is called inside the block."""
    with Pipeline("chain") as pipeline:
        before = None
        for make in steps:
            made = make()
            before = made if before is None else before >> made
    return pipeline


# Writing a pipeline down.


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
    result = run(pipeline, tmp_path / "out")
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
    result = run(chain(seed, lambda: one("gemini-1.5-pro")), tmp_path / "out")
    assert list(result) == ["gemini-1.5-pro"]
    assert len(result["default"]) == 10


def test_two_routings_of_a_step_choose_for_every_row(tmp_path: Path) -> None:
    with Pipeline("routed") as pipeline:
        start = seed()
        start >> sample_n_steps(1) >> [one("a"), one("b")]
        start >> sample_n_steps(1, seed=1) >> [one("c"), one("d")]
    result = run(pipeline, tmp_path / "out")
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
    result = run(pipeline, tmp_path / "out")
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
    result = run(loaded, tmp_path / "out")
    assert {leaf: len(result[leaf]) for leaf in result} == {"left": 10, "right": 0}


def test_a_saved_routing_by_a_function_that_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    @routing_batch_function
    def inner(steps: list[str]) -> list[str]:
        return steps[:1]

    with Pipeline("routed") as pipeline:
        seed() >> inner >> [KeepColumns("left", columns=["n"]), KeepColumns("right", columns=["n"])]
    with pytest.raises(SpecError, match=r"routing after 'seed': .*<locals>\.inner cannot be imported"):
        pipeline.save(tmp_path / "routed.yaml")


# Columns.


@pytest.mark.parametrize(("extra", "seen"), [({"hint": "x"}, "x"), ({}, "none")], ids=["there", "missing"])
def test_a_column_that_is_not_required_may_be_missing(tmp_path: Path, extra: Row, seen: str) -> None:
    result = run(chain(lambda: seed([{"n": 1, **extra}]), lambda: Optional("optional")), tmp_path / "out")
    assert user_rows(result["optional"]) == [{"n": 1, **extra, "seen": seen}]


@pytest.mark.parametrize("kind", [Optional, Ranked])
def test_a_column_that_is_required_may_not_be_missing(kind: type[Any]) -> None:
    with pytest.raises(SpecError, match=r"requires inputs \['n'\]"):
        chain(lambda: seed([{"hint": "x"}]), kind).graph()


def test_a_global_step_is_given_the_columns_that_it_does_not_name_too(tmp_path: Path) -> None:
    rows = [{"n": 1, "hint": "x", "more": [1]}, {"n": 2, "hint": None, "more": []}]
    result = run(chain(lambda: seed(rows), lambda: Ranked("ranked")), tmp_path / "out")
    assert user_rows(result["ranked"]) == [{**rows[1], "rank": 0}, {**rows[0], "rank": 1}]


def test_values_keep_their_types_on_their_way_through_a_global_step(tmp_path: Path) -> None:
    seen: list[Any] = []

    @step(step_type="global")
    def looked(rows: StepInput) -> Any:
        seen.extend(rows)
        yield rows

    rows = [{"nothing": None, "list": [], "map": {"1": None}, "float": 1.0, "int": 1, "bytes": b"\xff"}]
    rows += [{"nothing": None, "list": [1], "map": {"1": 2}, "float": 2.0, "int": 2**53 + 1, "bytes": b""}]
    result = run(chain(lambda: seed(rows), lambda: looked("looked")), tmp_path / "out")
    assert seen == rows
    assert user_rows(result["looked"]) == rows
    assert [type(row["float"]) for row in seen] == [float, float]


def test_a_mapping_leaves_the_column_that_has_the_input_s_own_name(tmp_path: Path) -> None:
    @step(inputs=["instruction"], outputs=["generation"])
    def shouted(row: Values) -> Row:
        return {"generation": row["instruction"] + "!"}

    with Pipeline("mapped") as pipeline:
        seed([{"prompt": "hi", "instruction": "keep me"}]) >> shouted(
            "mapped", input_mappings={"instruction": "prompt"}, output_mappings={"generation": "response"}
        )
    [row] = user_rows(run(pipeline, tmp_path / "out")["mapped"])
    assert row == {"prompt": "hi", "instruction": "keep me", "response": "hi!"}


def test_a_generator_s_columns_can_be_renamed(tmp_path: Path) -> None:
    @step(outputs=["n"], step_type="generator")
    def counting(offset: int = 0) -> Any:
        yield [{"n": 1}], True

    pipeline = chain(lambda: counting(output_mappings={"n": "k"}), lambda: KeepColumns("kept", columns=["k"]))
    assert user_rows(run(pipeline, tmp_path / "out")["kept"]) == [{"k": 1}]


# Steps that are given many rows.


def test_a_step_behind_two_branches_may_take_any_number_of_inputs(tmp_path: Path) -> None:
    class Joined(Step):
        @property
        def inputs(self) -> list[str]:
            return ["a", "b"]

        @property
        def outputs(self) -> list[str]:
            return ["sum"]

        def process(self, *inputs: StepInput) -> Any:
            for rows in inputs:
                yield [{**row, "sum": row["a"] + row["b"]} for row in rows]

    with Pipeline("joined") as pipeline:
        seed() >> [one("one"), other("other")] >> Joined("joined", input_batch_size=3)
    rows = user_rows(run(pipeline, tmp_path / "out")["joined"])
    assert rows == [{"n": n, "a": n, "b": -n, "sum": 0} for n in range(10)]


def test_a_global_step_behind_two_branches_sees_each_row_once(tmp_path: Path) -> None:
    @step(outputs=["total"], step_type="global")
    def total(*rows: StepInput) -> Any:
        yield [{"total": [(row["a"], row["b"]) for part in rows for row in part]}]

    with Pipeline("total") as pipeline:
        seed() >> [one("one"), other("other")] >> total("total")
    [row] = user_rows(run(pipeline, tmp_path / "out")["total"])
    assert row["total"] == [[n, -n] for n in range(10)]


def test_batches_are_filled_from_parts_of_any_size(tmp_path: Path) -> None:
    sizes: list[int] = []

    @step(outputs=["n"], step_type="generator")
    def parts(offset: int = 0) -> Any:
        numbers = iter(range(31))
        for size in (3, 0, 1, 17, 10):
            yield [{"n": next(numbers)} for _ in range(size)], False
        yield [], True

    @step
    def noted(rows: StepInput) -> Any:
        sizes.append(len(rows))
        yield rows

    result = run(chain(parts, lambda: noted("noted", input_batch_size=5)), tmp_path / "out")
    assert user_rows(result["noted"]) == [{"n": n} for n in range(31)]
    assert (sum(sizes), max(sizes)) == (31, 5)


def test_routed_steps_with_batches_of_any_size_meet_in_order(tmp_path: Path) -> None:
    @step(inputs=["n"], outputs=["a"])
    def negated(rows: StepInput) -> Any:
        yield [{**row, "a": -row["n"]} for row in rows]

    with Pipeline("routed") as pipeline:
        branches = [negated("seven", input_batch_size=7), negated("hundred", input_batch_size=100)]
        start = seed([{"n": number} for number in range(53)])
        start >> sample_n_steps(1) >> branches >> KeepColumns("met", columns=["n", "a"])
    rows = user_rows(run(pipeline, tmp_path / "out")["met"])
    assert rows == [{"n": n, "a": -n} for n in range(53)]


def test_a_step_is_loaded_once_before_its_first_rows(tmp_path: Path) -> None:
    seen: list[str] = []

    class Loaded(Step):
        _model: Any = None

        def load(self) -> None:
            super().load()
            self._model = 3
            seen.append("load")

        def process(self, inputs: StepInput) -> Any:
            seen.append("process")
            yield [{**row, "n": row["n"] + self._model} for row in inputs]

    result = run(chain(seed, lambda: Loaded("loaded", input_batch_size=4)), tmp_path / "out")
    assert [row["n"] for row in user_rows(result["loaded"])] == [n + 3 for n in range(10)]
    assert seen[0] == "load"
    assert seen.count("load") == 1
    assert seen.count("process") >= 3


def test_a_step_that_cannot_be_loaded_ends_the_run_with_its_reason(engine: Any, tmp_path: Path) -> None:
    class Unloadable(Step):
        def load(self) -> None:
            raise ValueError("no weights here")

        def process(self, inputs: StepInput) -> Any:
            yield inputs

    pipeline = chain(seed, Unloadable)
    with pytest.raises((ValueError, InfrastructureError), match="no weights here"):
        pipeline.run(tmp_path / "out", engine=engine)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_replicas_of_what_is_there_only_once_give_no_row_twice(tmp_path: Path) -> None:
    calls: list[int] = []

    @step(outputs=["n"], step_type="generator")
    def counting(offset: int = 0) -> Any:
        yield ROWS, True

    @step(outputs=["total"], step_type="global")
    def total(rows: StepInput) -> Any:
        calls.append(len(rows))
        yield [{"total": len(rows)}]

    three = StepResources(replicas=3)
    pipeline = chain(lambda: counting(resources=three), lambda: total("total", resources=three))
    assert user_rows(run(pipeline, tmp_path / "out")["total"]) == [{"total": 10}]
    assert calls == [10]


def test_rows_come_to_a_global_step_in_the_order_of_their_source(tmp_path: Path) -> None:
    @step(step_type="global")
    def numbered(rows: StepInput) -> Any:
        yield [{"place": place, "n": row["n"]} for place, row in enumerate(rows)]

    rows = [{"n": n} for n in range(211)]
    pipeline = chain(
        lambda: seed(rows),
        lambda: scaled("scaled", input_batch_size=3, resources=StepResources(replicas=3)),
        lambda: numbered("numbered"),
    )
    assert user_rows(run(pipeline, tmp_path / "out")["numbered"]) == [{"place": n, "n": n} for n in range(211)]


def test_a_global_step_may_give_no_rows_and_be_given_none(tmp_path: Path) -> None:
    @step(outputs=["total"], step_type="global")
    def silent(rows: StepInput) -> Any:
        yield []

    @step(outputs=["total"], step_type="global")
    def counted(rows: StepInput) -> Any:
        yield [{"total": len(rows)}]

    with Pipeline("nothing") as pipeline:
        kept = seed() >> Filter("none", keep="n > 100")
        kept >> [counted("counted"), silent("silent")]
    result = run(pipeline, tmp_path / "out")
    assert len(result["silent"]) == 0
    assert user_rows(result["counted"]) in ([], [{"total": 0}])


# What goes wrong.


def test_a_global_step_that_raises_on_one_branch_is_a_failure_and_the_other_branch_is_whole(tmp_path: Path) -> None:
    @step(outputs=["total"], step_type="global")
    def broken(rows: StepInput) -> Any:
        raise ValueError("cannot add")
        yield rows

    with Pipeline("fork") as pipeline:
        start = seed()
        start >> broken("broken")
        start >> one("one") >> other("other") >> KeepColumns("kept", columns=["a", "b"])
    with pytest.raises(StepFailedError, match="step 'broken' failed, and with it the 10 rows"):
        pipeline.run(tmp_path / "out", engine="local")
    result = Result(tmp_path / "out")
    assert result.exit_code == 3
    assert user_rows(result["kept"]) == [{"a": n, "b": -n} for n in range(10)]
    assert [row for *_, row in failed(result)] == ROWS
    for where, kind, message, _ in failed(result):
        assert (where, kind) == ("broken", "exception")
        assert "cannot add" in message


class _None(Step):
    def process(self, inputs: StepInput) -> Any:
        yield None


class _Texts(Step):
    def process(self, inputs: StepInput) -> Any:
        yield ["text" for _ in inputs]


class _Returns(Step):
    def process(self, inputs: StepInput) -> Any:
        return inputs


class _More(Step):
    def process(self, inputs: StepInput) -> Any:
        yield inputs
        yield inputs


@pytest.mark.parametrize("kind", [_None, _Texts, _Returns, _More])
def test_a_step_that_yields_no_rows_for_its_rows_fails_them(tmp_path: Path, kind: type[Any]) -> None:
    result = run(chain(seed, lambda: kind("odd")), tmp_path / "out")
    assert len(result["odd"]) == 0
    assert [row for _, _, _, row in failed(result)] == ROWS
    assert {where for where, _, _, _ in failed(result)} == {"odd"}


class _NotLoaded(GeneratorStep):
    def load(self) -> None:
        raise OSError("no disk")

    def process(self, offset: int = 0) -> Any:
        yield [{"n": 1}], True


def test_a_generator_that_cannot_begin_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"step 'numbers' cannot read its rows: .*no disk"):
        chain(lambda: _NotLoaded("numbers"), lambda: KeepColumns(columns=["n"])).run(tmp_path / "out", engine="local")


def test_a_function_that_generates_takes_no_rows() -> None:
    with pytest.raises(SpecError, match="no parameter annotated StepInput when it is a generator step"):

        @step(outputs=["n"], step_type="generator")
        def wrong(rows: StepInput) -> Any:
            yield rows, True


def test_a_generator_without_rows_ends(tmp_path: Path) -> None:
    @step(outputs=["n"], step_type="generator")
    def nothing(offset: int = 0) -> Any:
        yield [], False
        yield [], True

    result = run(chain(nothing, lambda: KeepColumns("kept", columns=["n"])), tmp_path / "out")
    assert user_rows(result["kept"]) == []


def test_a_generator_without_end_is_read_no_further_than_it_is_needed(tmp_path: Path, server: Loopback) -> None:
    @step(outputs=["n"], step_type="generator")
    def endless(offset: int = 0) -> Any:
        for number in itertools.count():
            yield [{"n": number}], False

    pipeline = chain(lambda: endless("endless"), lambda: asking(server, "asked", "{{ n }}"))
    assert [row["n"] for row in pipeline.dry_run(batch_size=2).samples["asked"]] == [0, 1]
    with pytest.raises(StoppedError, match="max_calls=20 is reached"):
        pipeline.run(tmp_path / "out", engine="local", max_calls=20)
    assert len(server.requests) == 20


# Running.


def test_a_run_leaves_signals_and_logging_as_they_were(tmp_path: Path) -> None:
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        before = _signals_and_logging()
        run(chain(seed, one), tmp_path / "out")
        assert _signals_and_logging() == before
    finally:
        logging.getLogger().removeHandler(handler)


def _signals_and_logging() -> tuple[Any, ...]:
    root = logging.getLogger()
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), list(root.handlers), root.level


def test_parameters_of_a_function_are_options_with_a_type(tmp_path: Path) -> None:
    pipeline = chain(seed, lambda: scaled("scaled", factor=2))
    [factor] = [own for own in pipeline.get_runtime_parameters_info()["scaled"] if own["name"] == "factor"]
    assert factor == {"name": "factor", "optional": True, "value": 2}
    with pytest.raises(SpecError, match=r"parameters of step 'scaled': option 'factor': .*got 'many'"):
        pipeline.run(tmp_path / "out", engine="local", parameters={"scaled": {"factor": "many"}})
    changed = run(pipeline, tmp_path / "out", parameters={"scaled": {"factor": "3", "input_batch_size": 4}})
    assert [row["m"] for row in user_rows(changed["scaled"])] == [3 * n for n in range(10)]
    assert [row["m"] for row in user_rows(run(pipeline, tmp_path / "out")["scaled"])] == [2 * n for n in range(10)]


def test_resources_are_parameters_too(tmp_path: Path) -> None:
    pipeline = chain(seed, lambda: scaled("scaled"))
    run(pipeline, tmp_path / "out", parameters={"scaled": {"resources": {"replicas": 2}}})
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
    result = run(pipeline, tmp_path / "out")
    assert sorted(row["generation"] for row in user_rows(result["asked"])) == [f"answer {n}" for n in range(10)]
    assert len(server.requests) == 10


# Running again.


def test_an_edited_function_makes_new_values(tmp_path: Path) -> None:
    found: list[list[int]] = []
    for factor in (1, 2):

        @step(inputs=["n"], outputs=["m"])
        def edited(row: Values, factor: int = factor) -> Row:
            return {"m": factor * row["n"]}

        result = run(chain(seed, lambda: edited("edited")), tmp_path / "out")
        found.append([row["m"] for row in user_rows(result["edited"])])
    assert found == [list(range(10)), list(range(0, 20, 2))]


def test_a_parameter_of_a_step_changes_what_comes_behind_it(tmp_path: Path, server: Loopback) -> None:
    for factor, sent in ((1, 10), (10, 19), (1, 19)):
        pipeline = chain(seed, lambda: scaled("scaled"), lambda: asking(server, "asked", "{{ m }}"))
        result = run(pipeline, tmp_path / "out", parameters={"scaled": {"factor": factor}})
        assert [row["m"] for row in user_rows(result["asked"])] == [factor * n for n in range(10)]
        assert len(server.requests) == sent, "only the row with 0 asks the same"
        asked = {request.body["messages"][0]["content"] for request in server.requests}
        assert {str(factor * n) for n in range(10)} <= asked


def test_another_leaf_beside_one_that_is_done_asks_only_for_itself(tmp_path: Path, server: Loopback) -> None:
    answers: list[list[Row]] = []
    for is_second in (False, True):
        with Pipeline("fork") as pipeline:
            start = seed()
            start >> asking(server, "left", "left {{ n }}")
            if is_second:
                start >> asking(server, "right", "right {{ n }}")
        result = run(pipeline, tmp_path / "out")
        answers.append(user_rows(result["left"]))
    assert answers[0] == answers[1]
    assert len(result["right"]) == 10
    assert len(server.requests) == 20


def test_a_step_added_to_a_run_that_was_cut_is_given_all_rows(tmp_path: Path, server: Loopback) -> None:
    def first() -> TextGeneration:
        return asking(server, "first", "{{ n }}", output="said")

    with pytest.raises(StoppedError):
        chain(seed, first).run(tmp_path / "out", engine="local", max_calls=6)
    assert len(Result(tmp_path / "out")["first"]) == 6
    longer = chain(seed, first, lambda: asking(server, "second", "{{ said }}"))
    rows = user_rows(run(longer, tmp_path / "out", max_calls=100)["second"])
    assert [row["n"] for row in rows] == list(range(10))
    assert len(server.requests) == 20


def test_a_run_that_is_cut_again_and_again_gets_done(tmp_path: Path, server: Loopback) -> None:
    pipeline = chain(seed, lambda: asking(server, "first", "{{ n }}", output="said"), lambda: scaled("scaled"))
    for most in (3, 6, 9):
        with pytest.raises(StoppedError):
            pipeline.run(tmp_path / "out", engine="local", max_calls=most)
        assert len(server.requests) == most
    rows = user_rows(run(pipeline, tmp_path / "out", max_calls=10)["scaled"])
    assert [row["m"] for row in rows] == list(range(10))
    assert len(server.requests) == 10


def test_a_step_that_forgets_its_answers_is_followed_by_those_behind_it(tmp_path: Path, server: Loopback) -> None:
    found: list[list[Row]] = []
    for use_cache, sent in ((True, 20), (True, 20), (False, 40)):
        with Pipeline("forgetful") as pipeline:
            first = asking(server, "first", "{{ n }}", output="said", use_cache=use_cache)
            seed() >> first >> asking(server, "second", "{{ said }}")
        result = run(pipeline, tmp_path / "out")
        found.append(user_rows(result["second"]))
        assert len(server.requests) == sent
    assert found[0] == found[1]
    assert not {row["said"] for row in found[0]} & {row["said"] for row in found[2]}
    assert not {row["generation"] for row in found[0]} & {row["generation"] for row in found[2]}


@pytest.mark.parametrize(
    "again",
    [lambda: KeepColumns("end", columns=["a", "n"]), lambda: KeepColumns("end", columns=["a"])],
    ids=["more", "others"],
)
def test_a_run_with_other_columns_takes_the_place_of_the_one_before(
    tmp_path: Path, again: Callable[[], KeepColumns]
) -> None:
    run(chain(seed, one, lambda: KeepColumns("end", columns=["n"])), tmp_path / "out")
    rows = user_rows(run(chain(seed, one, again), tmp_path / "out")["end"])
    assert [row["a"] for row in rows] == list(range(10))
    assert rows == user_rows(run(chain(seed, one, again), tmp_path / "new")["end"])


def test_a_column_may_have_another_type_when_it_is_run_again(tmp_path: Path) -> None:
    for value in (1, "one", [1.5]):
        with Pipeline("typed") as pipeline:
            seed([{"n": value}]) >> one("end")
        result = run(pipeline, tmp_path / "out")
        assert user_rows(result["end"]) == [{"n": value, "a": value}]


def test_a_generator_that_broke_is_read_again_and_what_was_logged_is_not_asked_again(
    tmp_path: Path, server: Loopback
) -> None:
    state = ["broken"]

    @step(outputs=["n"], step_type="generator")
    def counting(offset: int = 0) -> Any:
        for number in range(10):
            if number == 5 and state:
                while sum(request.is_answered for request in server.requests) < 5:
                    time.sleep(0.01)
                time.sleep(0.3)  # they are logged meanwhile
                raise ValueError(state.pop())
            yield [{"n": number}], False

    pipeline = chain(lambda: counting("counting"), lambda: asking(server, "asked", "{{ n }}"))
    with pytest.raises(InputError, match="step 'counting' cannot read its rows: ValueError: broken"):
        pipeline.run(tmp_path / "out", engine="local")
    known = len(logged(tmp_path / "out" / "calls"))
    result = run(pipeline, tmp_path / "out")
    assert [row["n"] for row in user_rows(result["asked"])] == list(range(10))
    assert 0 < known <= 5
    assert result.manifest["steps"]["asked"]["calls_sent"] == 10 - known


def test_a_mapped_column_of_a_batch_step_goes_back_where_it_came_from(tmp_path: Path) -> None:
    class Loud(Step):
        @property
        def inputs(self) -> list[str]:
            return ["instruction"]

        def process(self, inputs: StepInput) -> Any:
            for row in inputs:
                row["instruction"] = row["instruction"].upper()
            yield inputs

    with Pipeline("mapped") as pipeline:
        seed_of = LoadDataFromDicts([{"prompt": "hi", "instruction": "kept"}], name="seed")
        seed_of >> Loud("loud", input_mappings={"instruction": "prompt"})
    result = pipeline.run(tmp_path / "out", engine="local")
    assert user_rows(result["loud"]) == [{"prompt": "HI", "instruction": "kept"}]


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

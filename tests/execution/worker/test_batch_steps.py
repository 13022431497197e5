"""Steps that are given many rows at once, one batch after the other or all in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InfrastructureError, StepFailedError
from raypipe.pipeline import Pipeline, sample_n_steps
from raypipe.results import Result
from raypipe.steps import Filter, KeepColumns, Step, StepInput, StepResources, step
from tests.books import balanced_run, failed, user_rows
from tests.pipelines import ROWS, chain, one, other, scaled, seed


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
    rows = user_rows(balanced_run(pipeline, tmp_path / "out")["joined"])
    assert rows == [{"n": n, "a": n, "b": -n, "sum": 0} for n in range(10)]


def test_a_global_step_behind_two_branches_sees_each_row_once(tmp_path: Path) -> None:
    @step(outputs=["total"], step_type="global")
    def total(*rows: StepInput) -> Any:
        yield [{"total": [(row["a"], row["b"]) for part in rows for row in part]}]

    with Pipeline("total") as pipeline:
        seed() >> [one("one"), other("other")] >> total("total")
    [row] = user_rows(balanced_run(pipeline, tmp_path / "out")["total"])
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

    result = balanced_run(chain(parts, lambda: noted("noted", input_batch_size=5)), tmp_path / "out")
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
    rows = user_rows(balanced_run(pipeline, tmp_path / "out")["met"])
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

    result = balanced_run(chain(seed, lambda: Loaded("loaded", input_batch_size=4)), tmp_path / "out")
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
    assert user_rows(balanced_run(pipeline, tmp_path / "out")["total"]) == [{"total": 10}]
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
    assert user_rows(balanced_run(pipeline, tmp_path / "out")["numbered"]) == [{"place": n, "n": n} for n in range(211)]


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
    result = balanced_run(pipeline, tmp_path / "out")
    assert len(result["silent"]) == 0
    assert user_rows(result["counted"]) in ([], [{"total": 0}])


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
    result = balanced_run(chain(seed, lambda: kind("odd")), tmp_path / "out")
    assert len(result["odd"]) == 0
    assert [row for _, _, _, row in failed(result)] == ROWS
    assert {where for where, _, _, _ in failed(result)} == {"odd"}

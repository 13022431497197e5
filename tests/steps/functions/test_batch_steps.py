"""Steps that are given many rows: batches, all rows, none yet; as classes and as functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InputError, SpecError, StepFailedError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import (
    GeneratorStep,
    GlobalStep,
    KeepColumns,
    LoadDataFromDicts,
    Step,
    StepInput,
    StepResources,
    step,
)
from tests.books import assert_balanced, failed, user_rows


class Doubled(Step):
    """Gives its rows in two parts."""

    factor: int = 2

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return ["m"]

    def process(self, inputs: StepInput) -> Any:
        made = [{**row, "m": row["n"] * self.factor} for row in inputs]
        yield made[:2]
        yield made[2:]


class Picky(Step):
    """Refuses a batch that holds a 3."""

    def process(self, inputs: StepInput) -> Any:
        if any(row["n"] == 3 for row in inputs):
            raise ValueError("three")
        yield inputs


class Fewer(Step):
    def process(self, inputs: StepInput) -> Any:
        yield inputs[1:]


class Counted(GlobalStep):
    """Sees all rows and gives two."""

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return ["total"]

    def process(self, inputs: StepInput) -> Any:
        yield [{"total": sum(row["n"] for row in inputs)}]
        yield [{"total": len(inputs)}]


class Numbers(GeneratorStep):
    count: int = 5
    says_last: bool = True

    @property
    def outputs(self) -> list[str]:
        return ["n"]

    def process(self, offset: int = 0) -> Any:
        for number in range(offset, self.count):
            yield [{"n": number}], self.says_last and number == self.count - 1


@step(inputs=["n"], outputs=["m"])
def added(rows: StepInput, amount: int = 1) -> Any:
    yield [{**row, "m": row["n"] + amount} for row in rows]


@step(outputs=["total"], step_type="global")
def summed(rows: StepInput) -> Any:
    yield [{"total": sum(row["n"] for row in rows)}]


@step(outputs=["n"], step_type="generator")
def counting(offset: int = 0, count: int = 4) -> Any:
    for number in range(count):
        yield [{"n": number}], number == count - 1


def run(tmp_path: Path, *steps: Any, rows: int = 5, **options: Any) -> tuple[Pipeline, Result]:
    with Pipeline("batches") as pipeline:
        before = LoadDataFromDicts([{"n": number} for number in range(rows)], name="seed")
        for one in steps:
            before = before >> one()
    return pipeline, pipeline.run(tmp_path / "out", engine="local", **options)


def test_every_row_of_every_yield_is_kept(tmp_path: Path) -> None:
    pipeline, result = run(tmp_path, Doubled)
    assert user_rows(result["doubled_0"]) == [{"n": n, "m": 2 * n} for n in range(5)]
    assert_balanced(pipeline.graph(), result)


def test_one_bad_row_fails_alone(tmp_path: Path) -> None:
    _, result = run(tmp_path, Picky, max_failed_rows=1)
    assert [row["n"] for row in user_rows(result["picky_0"])] == [0, 1, 2, 4]
    [(_, kind, message, row)] = failed(result)
    assert (kind, row) == ("exception", {"n": 3})
    assert "ValueError: three" in message


def test_a_step_that_gives_fewer_rows_says_what_to_write(tmp_path: Path) -> None:
    _, result = run(tmp_path, Fewer, rows=2, max_failed_rows=2)
    assert {message.partition(":")[0] for _, _, message, _ in failed(result)} == {
        "process returned 0 rows for 1; a step returns as many as it is given"
    }


def test_batches_have_the_size_asked_for(tmp_path: Path) -> None:
    sizes: list[int] = []

    @step
    def noted(rows: StepInput) -> Any:
        sizes.append(len(rows))
        yield rows

    run(tmp_path, lambda: noted(input_batch_size=20, resources=StepResources(replicas=2)), rows=100)
    assert sum(sizes) == 100
    assert max(sizes) <= 20


def test_a_global_step_sees_all_rows(tmp_path: Path) -> None:
    pipeline, result = run(tmp_path, Counted)
    assert user_rows(result["counted_0"]) == [{"total": 10}, {"total": 5}]
    assert_balanced(pipeline.graph(), result)


def test_what_a_global_step_reads_is_checked() -> None:
    with Pipeline("unsound") as pipeline:
        LoadDataFromDicts([{"x": 1}]) >> Counted()
    with pytest.raises(SpecError, match=r"requires inputs \['n'\]"):
        pipeline.graph()


@pytest.mark.parametrize("says_last", [True, False], ids=["last batch said", "it just ends"])
def test_a_generator_ends(tmp_path: Path, says_last: bool) -> None:
    with Pipeline("generated") as pipeline:
        Numbers(says_last=says_last) >> KeepColumns(columns=["n"])
    result = pipeline.run(tmp_path / "out", engine="local", parameters={"numbers_0": {"count": 3}})
    assert user_rows(result["keep_columns_0"]) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_generator_that_yields_something_else_is_refused(tmp_path: Path) -> None:
    class Wrong(GeneratorStep):
        def process(self, offset: int = 0) -> Any:
            yield [{"n": 1}]

    with Pipeline("wrong") as pipeline:
        Wrong() >> Doubled()
    with pytest.raises(InputError, match=r"yields \(rows, is_last\)"):
        pipeline.run(tmp_path / "out", engine="local")


def test_a_generator_that_raises_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    class Broken(GeneratorStep):
        def process(self, offset: int = 0) -> Any:
            yield [{"n": 1}], False
            raise ValueError("no more")

    for name, called in (("numbers", "numbers"), (None, "broken_0")):
        with Pipeline("broken") as pipeline:
            Broken(name) >> KeepColumns(columns=["n"])
        said = rf"step '{called}' cannot read its rows: ValueError: no more \(test_batch_steps"
        with pytest.raises(InputError, match=said):
            pipeline.run(tmp_path / "out", engine="local")


def test_a_global_step_that_raises_is_a_failure(tmp_path: Path) -> None:
    @step(outputs=["total"], step_type="global")
    def broken(rows: StepInput) -> Any:
        raise ValueError("cannot add")
        yield rows

    said = r"step 'broken_0' failed, and with it the 5 rows .* ValueError: cannot add"
    with pytest.raises(StepFailedError, match=said):
        run(tmp_path, broken)
    result = Result(tmp_path / "out")
    assert {(where, kind, message.partition(" (")[0]) for where, kind, message, _ in failed(result)} == {
        ("broken_0", "exception", "ValueError: cannot add")
    }
    assert result.failed_rows == 5
    assert result.exit_code == 3


def test_functions_are_steps_of_each_kind(tmp_path: Path) -> None:
    with Pipeline("functions") as pipeline:
        counting(count=3) >> added(amount=10, input_batch_size=2) >> [summed(), KeepColumns("kept", columns=["n", "m"])]
    result = pipeline.run(tmp_path / "out", engine="local", parameters={"added_0": {"amount": 5}})
    assert user_rows(result["kept"]) == [{"n": n, "m": n + 5} for n in range(3)]
    assert user_rows(result["summed_0"]) == [{"total": 3}]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: step(step_type="odd")(added.function), "step_type is 'odd'; it is one of 'normal'"),
        (lambda: step(lambda a, b: a), "must be async"),
        (lambda: step(_two_inputs), "exactly one parameter annotated StepInput"),
        (lambda: step(_taken_name), "has a parameter 'resources'"),
    ],
    ids=["step type", "no input", "two inputs", "taken name"],
)
def test_an_unsound_function_is_refused(make: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make()


def _two_inputs(one: StepInput, other: StepInput) -> Any:
    yield one


def _taken_name(rows: StepInput, resources: int) -> Any:
    yield rows


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_classes_and_functions_of_a_function_reach_workers(tmp_path: Path) -> None:
    class Local(Step):
        @property
        def outputs(self) -> list[str]:
            return ["m"]

        def process(self, inputs: StepInput) -> Any:
            yield [{**row, "m": row["n"] * 3} for row in inputs]

    @step(outputs=["k"])
    def inner(rows: StepInput, amount: int = 1) -> Any:
        yield [{**row, "k": row["n"] + amount} for row in rows]

    with Pipeline("local") as pipeline:
        Numbers(count=3) >> Local() >> inner(amount=4) >> KeepColumns("end", columns=["n", "m", "k"])
    result = pipeline.run(tmp_path / "out")
    assert user_rows(result["end"]) == [{"n": n, "m": 3 * n, "k": n + 4} for n in range(3)]


def test_what_a_batch_leaves_and_what_it_changes_in_place_is_kept(tmp_path: Path) -> None:
    class Stripped(Step):
        @property
        def outputs(self) -> list[str]:
            return ["text"]

        def process(self, inputs: StepInput) -> Any:
            for row in inputs:
                row["text"] = row["text"].strip()
                row["tags"].append("seen")
            yield inputs

    with Pipeline("kept") as pipeline:
        rows = [{"text": text, "tags": ["a"]} for text in (" a ", "b", "c ")]
        LoadDataFromDicts(rows) >> Stripped()
    result = pipeline.run(tmp_path / "out", engine="local")
    assert user_rows(result["stripped_0"]) == [{"text": text, "tags": ["a", "seen"]} for text in "abc"]


def test_the_rows_may_stand_anywhere_among_the_parameters(tmp_path: Path) -> None:
    @step(outputs=["m"])
    def scaled(factor: int, rows: StepInput) -> Any:
        yield [{**row, "m": row["n"] * factor} for row in rows]

    _, result = run(tmp_path, lambda: scaled(factor=3), rows=2)
    assert user_rows(result["scaled_0"]) == [{"n": 0, "m": 0}, {"n": 1, "m": 3}]


class Sorted(GlobalStep):
    """Reads `key`; gives the rows back in its order, numbered."""

    @property
    def inputs(self) -> list[str]:
        return ["key"]

    @property
    def outputs(self) -> list[str]:
        return ["rank"]

    def process(self, inputs: StepInput) -> Any:
        ordered = sorted(inputs, key=lambda row: row["key"])
        yield [{**row, "rank": rank} for rank, row in enumerate(ordered)]


class Shouting(GlobalStep):
    """Writes the column that it reads."""

    @property
    def inputs(self) -> list[str]:
        return ["text"]

    @property
    def outputs(self) -> list[str]:
        return ["text"]

    def process(self, inputs: StepInput) -> Any:
        yield [{**row, "text": row["text"].upper()} for row in inputs]


def sent_through(made: Any, rows: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    with Pipeline("mapped") as pipeline:
        LoadDataFromDicts(rows, name="seed") >> made()
    result = pipeline.run(out, engine="local")
    assert_balanced(pipeline.graph(), result)
    return user_rows(result["default"])


def test_a_global_step_takes_mappings_like_any_other(tmp_path: Path) -> None:
    rows = [{"n": 2, "key": "kept"}, {"n": 1, "key": "too"}]
    made = sent_through(
        lambda: Sorted("sorted", input_mappings={"key": "n"}, output_mappings={"rank": "place"}), rows, tmp_path / "out"
    )
    assert made == [{"n": 1, "key": "too", "place": 0}, {"n": 2, "key": "kept", "place": 1}]


def test_a_global_step_that_writes_what_it_reads_leaves_the_column_behind_it(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "text": "old"}]
    mapped = {"input_mappings": {"text": "prompt"}}
    assert sent_through(lambda: Shouting("s", **mapped), rows, tmp_path / "1") == [{"prompt": "a", "text": "A"}]
    renamed = mapped | {"output_mappings": {"text": "loud"}}
    made = sent_through(lambda: Shouting("s", **renamed), [{"prompt": "a"}], tmp_path / "2")
    assert made == [{"prompt": "a", "loud": "A"}]


@pytest.mark.parametrize("kind", [Sorted, Doubled])
def test_a_mapping_of_a_column_that_a_step_does_not_read_is_refused(kind: Any) -> None:
    with Pipeline("unsound") as pipeline:
        LoadDataFromDicts([{"n": 1, "key": 2}]) >> kind(input_mappings={"kee": "n"})
    with pytest.raises(SpecError, match=r"has input_mappings for 'kee', but its inputs are: '(key|n)'"):
        pipeline.graph()


def test_the_column_that_a_mapping_names_is_required(tmp_path: Path) -> None:
    with Pipeline("unsound") as pipeline:
        LoadDataFromDicts([{"n": 1, "key": 2}]) >> Sorted(input_mappings={"key": "m"})
    with pytest.raises(SpecError, match=r"requires inputs \['m'\]"):
        pipeline.graph()


class NoRows(Step):
    def process(self) -> Any:
        yield []


class NoSelf(Step):
    def process(inputs: StepInput) -> Any:  # noqa: N805
        yield inputs


class TwoInputs(Step):
    def process(self, one: StepInput, other: StepInput) -> Any:
        yield one


class NeedsMore(GlobalStep):
    def process(self, inputs: StepInput, *, factor: int) -> Any:
        yield inputs


class Awaited(Step):
    async def process(self, inputs: StepInput) -> Any:
        yield inputs


class Unwritten(GlobalStep):
    """Says what it does nowhere."""


class NoOffset(GeneratorStep):
    def process(self) -> Any:
        yield [{"n": 1}], True


class TakesRows(GeneratorStep):
    def process(self, inputs: StepInput, offset: int = 0) -> Any:
        yield inputs, True


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NoRows, r"process\(self\) cannot be called .*write process\(self, inputs\)"),
        (NoSelf, r"process\(inputs\) cannot be called .*write process\(self, inputs\)"),
        (TwoInputs, r"process\(self, one, other\) cannot be called .*'other'.*write process\(self, inputs\)"),
        (NeedsMore, r"process\(self, inputs, factor\) cannot be called .*'factor'.*options of the step"),
        (Awaited, r"process\(self, inputs\) is async"),
        (Unwritten, r"has no method process; write process\(self, inputs\)"),
        (NoOffset, r"process\(self\) cannot be called .*'offset'.*write process\(self, offset=0\)"),
        (TakesRows, r"process\(self, inputs, offset\) cannot be called .*'inputs'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_process_that_cannot_be_called_is_refused_beforehand(kind: Any, said: str) -> None:
    with Pipeline("wrong") as pipeline:
        wrong = kind("wrong")
        if issubclass(kind, GeneratorStep):
            wrong >> KeepColumns(columns=["n"])
        else:
            LoadDataFromDicts([{"n": 1}]) >> wrong
    with pytest.raises(SpecError, match=f"step 'wrong': {said}"):
        pipeline.validate()


def test_a_process_may_be_written_in_other_ways(tmp_path: Path) -> None:
    class Static(Step):
        @staticmethod
        def process(inputs: StepInput) -> Any:
            yield inputs

    class WithDefaults(GlobalStep):
        def process(self, rows: StepInput, factor: int = 2, **others: Any) -> Any:
            yield [{**row, "n": factor * row["n"]} for row in rows]

    class AnyOptions(GeneratorStep):
        def process(self, **options: Any) -> Any:
            yield [{"n": options["offset"] + 1}], True

    with Pipeline("ways") as pipeline:
        AnyOptions() >> Static() >> WithDefaults()
    assert user_rows(pipeline.run(tmp_path / "out", engine="local")["default"]) == [{"n": 2}]

"""One value that a step hands over costs its row at most, wherever it is handed over, and never the run."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import GlobalStep, LoadDataFromDicts, Step, StepInput, step
from raypipe.steps.tasks import TextGeneration
from tests.books import user_rows


class Colour(enum.Enum):
    RED = "red"


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Unreadable:
    """Raises whatever it is asked."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("no pickle")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("no class")

    def __repr__(self) -> str:
        raise RuntimeError("no words")


class Fused(dict[str, Any]):
    def __iter__(self) -> Any:
        raise RuntimeError("no keys")

    items = keys = __len__ = __iter__  # pyright: ignore[reportAssignmentType]


def holding_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(10_000):
        value = [value]
    return value


MEANT: list[tuple[Callable[[], Any], str]] = [
    (lambda: np.arange(3), "[0, 1, 2]"),
    (lambda: Colour.RED, "'red'"),
    (lambda: {"a": 1}.keys(), "['a']"),
    (lambda: {1: (1, {2})}, "{1: (1, {2})}"),
    (lambda: Fused(a=1), "{'a': 1}"),
    (lambda: "half \ud83d", r"'half \ud83d'"),
    (lambda: [2**70, float("nan")], "[1180591620717411303424, nan]"),
    (lambda: Path("a"), "'a'"),
]
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: (n for n in ()), "a (generator|object)"),
    (object, "a object"),
    (Unreadable, "a (Unreadable|object)"),
    (lambda: [len], r"a builtin_function_or_method \(in a list\)"),
    (holding_itself, "a list that holds itself"),
    (deep, "a value nested more than 100 deep"),
    (lambda: 10**6000, "an integer of 19,932 bits"),
    (lambda: {1, Colour}, r"a EnumType \(in a set\)"),
]
ROWS = len(MEANT) + len(REFUSED)


def value_of(row: Values) -> Any:
    return [*MEANT, *REFUSED][row["n"]][0]()


@step(inputs=["n"], outputs=["y"])
async def mapping(row: Values) -> dict[str, Any]:
    return {"y": value_of(row)}


@step(inputs=["n"], outputs=["y"])
def mapping_in_a_thread(row: Values) -> dict[str, Any]:
    return {"y": value_of(row)}


class Batched(Step):
    @property
    def outputs(self) -> list[str]:
        return ["y"]

    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield [{"n": row["n"], "y": value_of(row)} for row in inputs]


@step(inputs=["y"], outputs=["seen"])
def look(row: Values) -> dict[str, Any]:
    return {"seen": repr(row["y"])}


def parsed(text: str) -> Any:
    value = value_of({"n": int(text)})
    # Of a parser's generator the items are taken, and of a value it asks what it is.
    return object() if type(value).__name__ in ("generator", "Unreadable") else value


def parsing(name: str) -> Any:
    """A parser of a user's own, given the number of the row."""
    model = LLM("offline/mirror", options={"answers": {f"Row {number}.": str(number) for number in range(ROWS)}})
    return TextGeneration(name, llm=model, template="Row {{ n }}.", parse=parsed, output="y")


@step(inputs=["y"], outputs=["z"])
def passing(row: Values) -> dict[str, Any]:
    return {"z": 1}


def seeds() -> LoadDataFromDicts:
    return LoadDataFromDicts([{"n": number} for number in range(ROWS)], name="seed")


def check(result: Any, made_by: str) -> None:
    seen = {row["n"]: row["seen"] for row in user_rows(result["look"])}
    assert seen == {number: said for number, (_, said) in enumerate(MEANT)}
    failures = result.failures.to_arrow().to_pylist()
    assert len(failures) == len(REFUSED)
    for (_, said), failure in zip(REFUSED, failures, strict=True):
        assert (failure["step"], failure["kind"]) == (made_by, "output")
        assert re.search(f"step '{made_by}' returned in column 'y' {said}", failure["message"])


@pytest.mark.parametrize("made", [mapping, mapping_in_a_thread, Batched, parsing])
def test_each_value_is_what_it_means_or_fails_its_row(engine: Any, made: Callable[[str], Any], tmp_path: Path) -> None:
    with Pipeline("values") as pipeline:
        seeds() >> made("hands") >> look("look")
    check(pipeline.run(tmp_path / "out", engine=engine, max_failed_rows=ROWS), "hands")


@step(inputs=["n"], outputs=["y"])
def scattering(row: Values) -> list[dict[str, Any]]:
    return [{"y": "first"}, {"y": value_of(row)}]


def test_a_scattered_value_fails_its_row(engine: Any, tmp_path: Path) -> None:
    with Pipeline("values") as pipeline:
        seeds() >> scattering("hands").scatter() >> look("look")
    result = pipeline.run(tmp_path / "out", engine=engine, max_failed_rows=ROWS)
    seen = [row["seen"] for row in user_rows(result["look"])]
    assert seen == [said for _, meant in MEANT for said in ("'first'", meant)]
    assert result.failures.to_arrow().num_rows == len(REFUSED)


class Global(GlobalStep):
    bad: bool = False

    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        values = [made() for made, _ in MEANT] + ([object()] if self.bad else [])
        yield [{"n": number, "y": value} for number, value in enumerate(values)]


@pytest.mark.parametrize("bad", [False, True])
def test_rows_of_a_global_step_hold_what_their_values_mean(engine: Any, bad: bool, tmp_path: Path) -> None:
    with Pipeline("values") as pipeline:
        seeds() >> Global("hands", bad=bad) >> look("look")
    result = pipeline.run(tmp_path / "out", engine=engine, max_failed_rows=ROWS)
    if bad:
        failures = result.failures.to_arrow().to_pylist()
        assert len(failures) == ROWS
        assert all("step 'hands' returned in column 'y' a object" in failure["message"] for failure in failures)
    else:
        assert [row["seen"] for row in user_rows(result["look"])] == [meant for _, meant in MEANT]


def gathered(rows: list[dict[str, Any]]) -> Any:
    return [{"y": [np.float64(0.5), Colour.RED]}]


def test_values_of_a_callback_over_a_family_become_what_they_mean(engine: Any, tmp_path: Path) -> None:
    with Pipeline("values") as pipeline:
        (
            LoadDataFromDicts([{"n": 0}])
            >> scattering("hands").scatter()
            >> passing("pass").custom(gathered)
            >> look("look")
        )
    assert [row["seen"] for row in user_rows(pipeline.run(tmp_path / "out", engine=engine)["look"])] == ["[0.5, 'red']"]


@step(outputs=["y"])
async def unsayable(row: Values) -> dict[str, Any]:
    raise Unsayable


@step(outputs=["y"])
def unsayable_in_a_thread(row: Values) -> dict[str, Any]:
    raise Unsayable


@step(outputs=["y"])
def exiting_without_words(row: Values) -> dict[str, Any]:
    raise SystemExit(Unreadable())


@step(outputs=["y"])
def speaking_for_ever(row: Values) -> dict[str, Any]:
    raise ValueError("x" * 10**7)


@pytest.mark.parametrize("on_error", ["fail_row", "null"])
@pytest.mark.parametrize("made", [unsayable, unsayable_in_a_thread, exiting_without_words, speaking_for_ever])
def test_an_exception_whose_text_cannot_be_made_or_kept_fails_its_row(
    made: Callable[..., Any], on_error: Any, tmp_path: Path
) -> None:
    with Pipeline("values") as pipeline:
        seeds() >> made("hands", on_error=on_error)
    result = pipeline.run(tmp_path / "out", engine="local", max_failed_rows=ROWS)
    failures = result.failures.to_arrow().to_pylist()
    assert len(failures) == (0 if on_error == "null" else ROWS)
    assert all(0 < len(failure["message"]) < 50_000 for failure in failures)


class Renamed(GlobalStep):
    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield [{**row, "text": row["text"].upper()} for row in inputs]


def test_a_column_that_begins_with_a_tilde_keeps_its_name_in_a_global_step(tmp_path: Path) -> None:
    with Pipeline("names") as pipeline:
        rows = LoadDataFromDicts([{"body": "a", "text": "b", "~other": "c"}])
        rows >> Renamed("renamed", input_mappings={"text": "body"})
    rows = user_rows(pipeline.run(tmp_path / "out", engine="local")["renamed"])
    assert rows == [{"text": "b", "body": "A", "~other": "c"}]


class Misnaming(Step):
    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        names = ["y", "half \ud83d", 5, Colour.RED, (1,), "_batch", "", "a\nb"]
        yield [{**row, names[row["n"]]: 1} for row in inputs]


def test_a_column_whose_name_is_no_text_fails_its_row(engine: Any, tmp_path: Path) -> None:
    with Pipeline("values") as pipeline:
        LoadDataFromDicts([{"n": number} for number in range(8)]) >> Misnaming("hands")
    result = pipeline.run(tmp_path / "out", engine=engine, max_failed_rows=ROWS)
    assert [row["n"] for row in user_rows(result["hands"])] == [0, 6, 7]
    assert {failure["kind"] for failure in result.failures.to_arrow().to_pylist()} == {"output"}

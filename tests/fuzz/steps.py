"""Steps that hand over what a recipe makes, in every way that a step can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raypipe.row import Values
from raypipe.steps import GlobalStep, Step, StepInput, step
from tests.fuzz.values import ERRORS, make


@step(outputs=["made"])
def mapped(row: Values) -> dict[str, Any]:
    """One value a row."""
    return {"made": made_for(row)}


@step(outputs=["made"])
async def awaited(row: Values) -> dict[str, Any]:
    """The same in the event loop."""
    return {"made": made_for(row)}


@step(outputs=["made"], scatter=True)
def scattered(row: Values) -> Any:
    """Two children a row."""
    return [{"made": made_for(row)}, {"made": "second"}]


@step()
def bare(row: Values) -> Any:
    """The value in place of a row's columns."""
    value = made_for(row)
    return {"made": value} if row["number"] % 2 else value


@step(scatter=True)
def bare_list(row: Values) -> Any:
    """The value in place of a list of rows."""
    value = made_for(row)
    return [{"made": value}] if row["number"] % 2 else value


@step(filter=True)
def filtered(row: Values) -> Any:
    """The value in place of a decision."""
    value = made_for(row)
    return {"made": 1} if row["number"] % 2 else value


class Batched(Step):
    """Rows in batches."""

    input_batch_size: int = 3

    @property
    def outputs(self) -> list[str]:
        return ["made"]

    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield [row | {"made": made_for(row)} for row in inputs]


class Whole(GlobalStep):
    """All rows at once."""

    @property
    def outputs(self) -> list[str]:
        return ["made"]

    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield [row | {"made": made_for(row)} for row in inputs]


def made_for(row: Values) -> Any:
    """What a row's recipe makes: a value, or an exception that is raised."""
    kind, what = row["recipe"]
    if kind == "error":
        raise ERRORS[what]()
    return make(_tuples((kind, what)))


def _tuples(recipe: Any) -> Any:
    """A recipe as it was before it went through a table."""
    kind, what = recipe
    if kind in ("leaf", "error"):
        return kind, what
    if kind == "dict":
        return kind, [(key, _tuples(inner)) for key, inner in what]
    return kind, [_tuples(inner) for inner in what]


STEPS: dict[str, Callable[..., Any]] = {
    one.__name__: one for one in (mapped, awaited, scattered, bare, bare_list, filtered, Batched, Whole)
}
PER_ROW = ("mapped", "awaited", "scattered")
"""Steps whose rows are told apart: one odd value costs its own row alone."""

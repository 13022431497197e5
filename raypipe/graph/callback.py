"""The step that hands the collected rows of a family to a function. Knows nothing of how they were collected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from raypipe.contracts.imports import imported, is_there
from raypipe.contracts.step import Aggregate, Output, Runs, Shape, Step
from raypipe.errors import RowError
from raypipe.row import Values


class Collected(Aggregate):
    """The rows that a step is given at once, and their lineage; put in by itself before such a step."""


class Callback(Step):
    """Calls a function with the collected rows of a family; each mapping it returns is a row."""

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.SCATTER
    writes_unknown: ClassVar[bool] = True

    function: Annotated[str | Callable[[list[dict[str, Any]]], Any], AfterValidator(is_there)] = Field(default="")
    rows: str = "rows"

    _call: Callable[[list[dict[str, Any]]], Any] | None = None

    def reads(self) -> tuple[str, ...]:
        return (self.rows,)

    def consumes(self) -> tuple[str, ...]:
        return (self.rows,)

    def open(self) -> None:
        self._call = imported(self.function) if isinstance(self.function, str) else self.function

    def process_row_in_thread(self, row: Values) -> Output:
        assert self._call is not None
        made: Any = self._call([dict(item) for item in row[self.rows]])
        if isinstance(made, Mapping):
            return [made]
        if isinstance(made, str | bytes) or not isinstance(made, Iterable):
            said = f"the function returned {type(made).__name__}, not a mapping or a list of mappings"
            raise RowError(said, kind="output")
        return list(made)

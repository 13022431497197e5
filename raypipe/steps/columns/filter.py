"""Lets through the rows for which something holds.

Knows nothing of what becomes of the others; they are counted as filtered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Self

from pydantic import model_validator

from raypipe.contracts.imports import imported_function
from raypipe.contracts.step import Columns, Output, Runs, Shape, Step
from raypipe.errors import SpecError
from raypipe.row import Values
from raypipe.steps.prompts.templates import Expression

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Predicate = Callable[[Values], Any]


class Filter(Step):
    """Keeps the rows for which `keep` holds: `Filter("good", keep="score > 3")`.

    A row for which `keep` raises an error fails. Raises SpecError for a `keep` that is neither an expression nor a
    function that can be imported.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.FILTER

    keep: str | Callable[[Values], Any]
    """A Jinja expression over the columns, a function of the row by its path (`module:name`), or the function."""

    @model_validator(mode="after")
    def _check_keep(self) -> Self:
        try:
            predicate(self.keep)
        except SpecError as error:
            raise ValueError(f"keep: {error}") from None
        return self

    def reads(self) -> tuple[str, ...]:
        holds = predicate(self.keep)
        return tuple(sorted(holds.variables)) if isinstance(holds, Expression) else ()

    def needs(self) -> Columns:
        return self.reads() if isinstance(predicate(self.keep), Expression) else None

    def process_row_in_thread(self, row: Values) -> Output:
        return {} if predicate(self.keep)(row) else None


def predicate(keep: str | Predicate) -> Predicate:
    """The function that a filter calls; text that is no path of a function is compiled as an expression.

    Raises SpecError when it is neither.
    """
    return _compile(keep.strip()) if isinstance(keep, str) else keep


@lru_cache(maxsize=256)
def _compile(text: str) -> Predicate:
    return imported_function(text) if _PATH.fullmatch(text) else Expression(text)

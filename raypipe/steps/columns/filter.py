"""I let through the rows for which something holds.

I do not know what becomes of the others; they are counted as filtered.
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
from raypipe.steps.prompts.templates import Expression, compile_expression

_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Predicate = Callable[[Values], Any]


class Filter(Step):
    """Keeps the rows for which `keep` holds: `Filter("good", keep="score > 3")`."""

    runs: ClassVar[Runs] = Runs.THREAD

    keep: str | Callable[[Values], Any]
    """A Jinja expression over the columns, a function of the row by its path (`module:name`), or the function."""

    @model_validator(mode="after")
    def _is_predicate(self) -> Self:
        try:
            predicate(self.keep)
        except SpecError as error:
            raise ValueError(f"keep: {error}") from None
        return self

    @property
    def shape(self) -> Shape:
        return Shape.FILTER

    def reads(self) -> tuple[str, ...]:
        holds = predicate(self.keep)
        return tuple(sorted(holds.variables)) if isinstance(holds, Expression) else ()

    def needs(self) -> Columns:
        return self.reads() if isinstance(predicate(self.keep), Expression) else None

    def process_row_in_thread(self, row: Values) -> Output:
        return {} if predicate(self.keep)(row) else None


def predicate(keep: str | Predicate) -> Predicate:
    """The function that a filter asks; an expression where the text names no function.

    Raises SpecError when it can be neither.
    """
    return _named(keep.strip()) if isinstance(keep, str) else keep


@lru_cache(maxsize=256)
def _named(text: str) -> Predicate:
    if _PATH.fullmatch(text):
        return imported_function(text)
    return compile_expression(text)

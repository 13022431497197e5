"""Asks a model for more items of a list, round after round, until there are enough.

Knows nothing of what the items are. Later rounds show what earlier ones brought, so that a list may grow longer than
one answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from pydantic import Field

from raypipe.contracts.llm import Caller
from raypipe.contracts.step import Output
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.answers.distinct import Distinct
from raypipe.steps.llm.iterative_step import IterativeStep
from raypipe.steps.prompts.to_text import quoted

_LIST = "items"
_MISSING = "missing"
_IS_NEW = "is_new"


class ListExtension(IterativeStep):
    """Asks for more items of the list in the column `items`; each item becomes a row, those that were given first.

    The answer is a list of texts that goes into one column, as with `TextGeneration(…).scatter()`; beside it stands
    `is_new`. The template has the list so far as `items` and the number of items still wanted as `missing`. An item
    that is in the list already is left out; case and white space do not tell items apart.
    """

    start_option: ClassVar[str] = "items"
    brings: ClassVar[tuple[str, ...]] = (_LIST, _MISSING)
    marks: ClassVar[Mapping[str, str]] = {_IS_NEW: "bool"}

    items: str = _LIST
    """Column with the list."""
    num_items: int = Field(default=20, ge=1)
    """Most new items."""
    max_rounds: int = Field(default=5, ge=1)
    """Most answers asked for while they bring too few new items."""
    new_only: bool = False
    """The items that were given become no rows."""

    async def process_row(self, row: Values, llm: Caller) -> Output:
        met = Distinct()
        given = [self.row_of(text, {_IS_NEW: False}) for text in _texts(self.items, row) if met.is_new(text)]
        new: list[dict[str, Any]] = []
        for _ in range(self.max_rounds):
            so_far = [one[self.column] for one in (*given, *new)]
            answer = await self.ask_for_texts({**row, _LIST: so_far, _MISSING: self.num_items - len(new)}, llm)
            fresh = [item for item in answer if met.is_new(item[self.column])][: self.num_items - len(new)]
            new += [self.row_of(item[self.column], {_IS_NEW: True}, item) for item in fresh]
            if len(new) == self.num_items:
                break
        if not new:
            raise RowError(f"{self.max_rounds} answers brought no item that the list does not have", kind="parse")
        return new if self.new_only else [*given, *new]


def _texts(column: str, row: Values) -> Sequence[str]:
    """Raises RowError for what is no list of texts."""
    items = row[column]
    if not isinstance(items, list | tuple):
        problem = f"column {column!r} is not a list but {quoted(items)}; bring rows together with Aggregate"
        raise RowError(problem, kind="input")
    wrong = next((item for item in cast("Sequence[Any]", items) if not isinstance(item, str)), "")
    if wrong != "":
        raise RowError(f"column {column!r} has an item that is not text: {quoted(wrong)}", kind="input")
    return cast("Sequence[str]", items)

"""I am the ground of steps that ask with one template again and again, and make a row of each text they are answered.

I do not know when they have asked enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from raypipe.contracts.llm import Caller
from raypipe.contracts.step import Columns, Shape
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.llm.text_generation import TextGeneration
from raypipe.steps.prompts.to_text import quoted


class IterativeStep(TextGeneration):
    """Base of them. A subclass says what a row starts from, what the template has beside it, and when to stop."""

    scattered: bool = Field(default=True, alias="scatter")
    """Each text is a row; there is no other way."""

    def starts_from(self) -> str:
        """The column that the first question is about."""
        raise NotImplementedError

    def brings(self) -> tuple[str, ...]:
        """What the template has that is no column of the row."""
        raise NotImplementedError

    def marks(self) -> dict[str, str]:
        """Columns beside that of the texts, and their Arrow types."""
        raise NotImplementedError

    @property
    def column(self) -> str:
        """The column of the texts."""
        return next(iter(self._wanted_outputs().types))

    @property
    def shape(self) -> Shape:
        return Shape.SCATTER

    def _of_the_row(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.starts_from(), *(name for name in columns if name not in self.brings()))))

    def reads(self) -> tuple[str, ...]:
        return self._of_the_row(super().reads())

    def needs(self) -> Columns:
        return self._of_the_row(super().needs() or ())

    def writes(self) -> dict[str, str]:
        return super().writes() | self.marks()

    def problems(self) -> list[str]:
        found = super().problems()
        columns = list(self._wanted_outputs().types)
        if not self.scattered:
            found.append("makes a row of each text; leave scatter=False out")
        if len(columns) > 1 or self.marks().keys() & set(columns):
            marks = " and ".join(map(repr, self.marks()))
            found.append(f"needs one column for its texts, beside {marks}; name it with output=…")
        return found

    def row_of(self, text: str, marks: Mapping[str, Any], answered: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The columns of a text; of one that no answer brought, what comes with an answer is null."""
        return {**(answered or dict.fromkeys(self.writes())), self.column: text.strip(), **marks}

    async def asked(self, row: Values, llm: Caller) -> list[Mapping[str, Any]]:
        """The columns of each text in an answer. Raises RowError for what is no text."""
        made: Any = await self.program.run(row, llm)
        for one in made:
            if not isinstance(one[self.column], str):
                raise RowError(f"an item of the answer is no text: {quoted(one[self.column])}", kind="parse")
        return made

"""The base of steps that ask with one template again and again, and make a row of each text in the answers.

Knows nothing of when they have asked enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from raypipe.contracts.llm import Caller
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.llm.text_generation import TextGeneration
from raypipe.steps.prompts.to_text import quoted


class IterativeStep(TextGeneration):
    """Base of them. A subclass says what a row starts from, what the template has beside it, and when to stop."""

    start_option: ClassVar[str]
    """The option that names the column which the first question is about."""
    brings: ClassVar[tuple[str, ...]] = ()
    """What the template has that is no column of the row."""
    marks: ClassVar[Mapping[str, str]]
    """Columns beside that of the texts, and their Arrow types."""

    scattered: bool = Field(default=True, alias="scatter")
    """Each text is a row; there is no other way."""

    @property
    def column(self) -> str:
        """The column of the texts."""
        return next(iter(self._wanted_outputs().types))

    def reads(self) -> tuple[str, ...]:
        needed = (name for name in super().reads() if name not in self.brings)
        return tuple(dict.fromkeys((getattr(self, self.start_option), *needed)))

    def writes(self) -> dict[str, str]:
        return super().writes() | dict(self.marks)

    def problems(self) -> list[str]:
        found = super().problems()
        columns = list(self._wanted_outputs().types)
        if not self.scattered:
            found.append("makes a row of each text; leave scatter=False out")
        if len(columns) > 1 or self.marks.keys() & set(columns):
            marks = " and ".join(map(repr, self.marks))
            found.append(f"needs one column for its texts, beside {marks}; name it with output=…")
        return found

    def row_of(self, text: str, marks: Mapping[str, Any], answered: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The columns of a text; of one that no answer brought, what comes with an answer is null."""
        return {**(answered or dict.fromkeys(self.writes())), self.column: text.strip(), **marks}

    async def ask_for_texts(self, row: Values, llm: Caller) -> list[Mapping[str, Any]]:
        """The columns of each text in an answer. Raises RowError for an item that is no text."""
        made: Any = await TextGeneration.process_row(self, row, llm)
        for one in made:
            if not isinstance(one[self.column], str):
                raise RowError(f"an item of the answer is not text: {quoted(one[self.column])}", kind="parse")
        return made

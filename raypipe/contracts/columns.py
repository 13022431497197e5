"""Says which columns a step reads and writes, by its own names and by the pipeline's.

Knows nothing of how the values are made, nor of the steps before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from raypipe.row import ROUTE

Columns = tuple[str, ...] | None
"""Column names, or `None` where they cannot be known before the run."""


class ColumnContract:
    """What a step declares of its columns.

    A step whose columns do not depend on its options declares them as class variables; others override the methods.
    """

    read_columns: ClassVar[tuple[str, ...]] = ()
    """Columns that must be there."""
    reading_options: ClassVar[tuple[str, ...]] = ()
    """Options that name more of them: one column, or several; a value that is no name, such as a number, names none."""
    written_columns: ClassVar[Mapping[str, str]] = {}
    """New columns and their Arrow type by name; `""` where it is found from the values."""
    writing_options: ClassVar[tuple[str, ...]] = ()
    """Options that name a new column each, whose type is found from the values."""
    consumed_columns: ClassVar[tuple[str, ...]] = ()
    """Columns that rows no longer have behind the step."""
    writes_unknown: ClassVar[bool] = False
    """Whether its columns are found only when it runs: behind it none is known, and any may have changed."""
    needs_whole_row: ClassVar[bool] = False
    """Whether the step's method is given all columns, and not only those that it reads."""

    if TYPE_CHECKING:
        input_mappings: dict[str, str]
        output_mappings: dict[str, str]

    def reads(self) -> tuple[str, ...]:
        """Columns that must be there, by the step's own names: `read_columns`, then those that `reading_options` name.

        `input_mappings` says what they are in the pipeline, which is refused before anything is spent where no step
        before this one writes them.
        """
        named = [*self.read_columns]
        for option in self.reading_options:
            value: object = getattr(self, option)
            named += [value] if isinstance(value, str) else value if isinstance(value, Iterable) else ()
        return tuple(dict.fromkeys(named))

    def needs(self) -> Columns:
        """Columns that the step's method is given, by its own names, as far as rows have them; `None`: the whole row.

        By default those that it reads. Others are not sent to a worker, and come back to the row behind the step.
        """
        return None if self.needs_whole_row else self.reads()

    def begins_with(self) -> tuple[str, ...]:
        """Columns that stand first in what its model is asked: rows that have them in common share a prefix."""
        return ()

    def writes(self) -> dict[str, str]:
        """New columns and their Arrow type by the step's own names; `""` where it is found from the values.

        One that has the name of a column that is there takes its place. Empty: the step only filters rows.
        """
        return {**self.written_columns, **{getattr(self, option): "" for option in self.writing_options}}

    def takes(self) -> tuple[str, ...]:
        """Columns that must be there, by the names that they have in the pipeline."""
        return tuple(self.input_mappings.get(name, name) for name in self.reads())

    def gives(self) -> dict[str, str]:
        """New columns by the names that they have in the pipeline; not where a row goes, which the conductor reads."""
        written = self.writes().items()
        return {self.output_mappings.get(name, name): kind for name, kind in written if name != ROUTE}

    def consumes(self) -> tuple[str, ...]:
        """Columns that rows no longer have behind the step."""
        return self.consumed_columns

    def required(self) -> tuple[str, ...]:
        """Of a step that is given all rows, the columns that they must have."""
        return ()

    def columns_after(self, columns: Columns) -> Columns:
        """Columns behind the step, given those before it."""
        if columns is None or self.writes_unknown:
            return None
        kept = [name for name in columns if name not in self.consumes()]
        return tuple(dict.fromkeys((*kept, *self.gives())))

    def changes(self) -> Columns:
        """Columns whose values may differ behind the step; `None` where that cannot be known."""
        return None if self.writes_unknown else tuple(self.gives())

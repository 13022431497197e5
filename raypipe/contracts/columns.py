"""Says which columns a step reads and writes, by its own names and by the pipeline's.

Knows nothing of how the values are made, nor of the steps before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

Columns = tuple[str, ...] | None
"""Column names, or `None` where they cannot be known before the run."""


class ColumnContract:
    """What a step declares of its columns.

    A step whose columns do not depend on its options declares them as class variables; others override the methods.
    """

    read_columns: ClassVar[tuple[str, ...]] = ()
    """What `reads` gives."""
    written_columns: ClassVar[Mapping[str, str]] = {}
    """What `writes` gives."""
    writes_unknown: ClassVar[bool] = False
    """Whether its columns are found only when it runs: behind it none is known, and any may have changed."""
    needs_whole_row: ClassVar[bool] = False
    """Whether the step's method is given all columns, and not only those that it reads."""

    if TYPE_CHECKING:
        input_mappings: dict[str, str]
        output_mappings: dict[str, str]

    def reads(self) -> tuple[str, ...]:
        """Columns that must be there."""
        return self.read_columns

    def needs(self) -> Columns:
        """Columns that the step's method is given; `None` means the whole row."""
        return None if self.needs_whole_row else self.reads()

    def begins_with(self) -> tuple[str, ...]:
        """Columns that stand first in what its model is asked: rows that have them in common share a prefix."""
        return ()

    def writes(self) -> dict[str, str]:
        """New columns and their Arrow type by name; `""` where it is found from the values."""
        return dict(self.written_columns)

    def takes(self) -> tuple[str, ...]:
        """Columns that must be there, by the names that they have in the pipeline."""
        return tuple(self.input_mappings.get(name, name) for name in self.reads())

    def gives(self) -> dict[str, str]:
        """New columns by the names that they have in the pipeline."""
        return {self.output_mappings.get(name, name): kind for name, kind in self.writes().items()}

    def consumes(self) -> tuple[str, ...]:
        """Columns that rows no longer have behind the step."""
        return ()

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

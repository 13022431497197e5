"""Says which columns a step reads and writes, by its own names and by the pipeline's.

Knows nothing of how the values are made, nor of the steps before and after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

Columns = tuple[str, ...] | None
"""Column names, or `None` where they cannot be known before the run."""


class ColumnContract:
    """What a step declares of its columns. A subclass overrides what differs: most only `reads` and `writes`."""

    if TYPE_CHECKING:
        input_mappings: dict[str, str]
        output_mappings: dict[str, str]

    def reads(self) -> tuple[str, ...]:
        """Columns that must be there."""
        return ()

    def needs(self) -> Columns:
        """Columns that the step's method is given; `None` means the whole row."""
        return self.reads()

    def begins_with(self) -> tuple[str, ...]:
        """Columns that stand first in what its model is asked: rows that have them in common share a prefix."""
        return ()

    def writes(self) -> dict[str, str]:
        """New columns and their Arrow type by name; `""` where it is found from the values."""
        return {}

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
        if columns is None:
            return None
        kept = [name for name in columns if name not in self.consumes()]
        return tuple(dict.fromkeys((*kept, *self.gives())))

    def changes(self) -> Columns:
        """Columns whose values may differ behind the step; `None` where that cannot be known."""
        return tuple(self.gives())

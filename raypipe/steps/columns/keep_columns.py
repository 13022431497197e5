"""I choose columns.

I do not know what is in them; lineage columns always stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from raypipe.contracts.step import Columns, Runs, Step
from raypipe.row import RESERVED

if TYPE_CHECKING:
    import pyarrow as pa


class KeepColumns(Step):
    """Keeps `columns`, in this order, and drops the others."""

    runs: ClassVar[Runs] = Runs.TABLE

    columns: list[str] = Field(min_length=1)

    @field_validator("columns", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.columns))

    def columns_after(self, columns: Columns) -> Columns:
        return self.reads()

    def process_table(self, table: pa.Table) -> pa.Table:
        lineage = [name for name in table.column_names if name in RESERVED]
        return table.select([*lineage, *self.reads()])

"""Chooses columns. Knows nothing of what is in them; lineage columns always stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from raypipe.contracts.step import Columns, Runs, Step
from raypipe.row import RESERVED
from raypipe.steps.columns.names import ColumnNames

if TYPE_CHECKING:
    import pyarrow as pa


class KeepColumns(Step):
    """Keeps `columns`, in this order, and drops the others."""

    runs: ClassVar[Runs] = Runs.TABLE
    reading_options: ClassVar[tuple[str, ...]] = ("columns",)

    columns: ColumnNames
    """Names of the columns that stay: a list, or one name."""

    def columns_after(self, columns: Columns) -> Columns:
        return self.reads()

    def process_table(self, table: pa.Table) -> pa.Table:
        lineage = [name for name in table.column_names if name in RESERVED]
        return table.select([*lineage, *self.reads()])

"""Puts the columns of several branches side by side.

Knows nothing of how branches meet; a row that one of them lost has one item less here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import model_validator

from raypipe.contracts.step import Columns
from raypipe.graph.branching import Branch, Meet
from raypipe.steps.columns.names import ONE_OR_MORE, ColumnNames

if TYPE_CHECKING:
    import pyarrow as pa


class GroupColumns(Meet):
    """Makes a list of each column in `columns`, with one item for each branch that has the row, in their order.

    It stands where branches meet: `[a, b] >> GroupColumns(columns=["generation"])`. Other columns are merged as by
    any step that comes after several.
    """

    reading_options: ClassVar[tuple[str, ...]] = ("columns",)

    columns: ColumnNames
    """Columns to collect: a list, or one name."""
    output_columns: Annotated[list[str] | None, ONE_OR_MORE] = None
    """Names of the lists, one for each of `columns`; by default `grouped_<column>`."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.output_columns is not None and len(self.output_columns) != len(self.columns):
            raise ValueError(
                f"output_columns names {len(self.output_columns)} columns for {len(self.columns)}; name one for each"
            )
        return self

    @property
    def _names(self) -> dict[str, str]:
        names = self.output_columns or [f"grouped_{name}" for name in self.columns]
        return dict(zip(self.columns, names, strict=True))

    def writes(self) -> dict[str, str]:
        return dict.fromkeys(self._names.values(), "")

    def columns_of(self, branches: Sequence[Columns]) -> Columns:
        found = super().columns_of(branches)
        if found is None:
            return None
        return (*(name for name in found if name not in self._names), *self._names.values())

    def meet(self, parents: pa.Table, branches: Sequence[Branch]) -> pa.Table:
        from raypipe.values.arrays import to_lossless_array

        made = super().meet(parents, branches)
        replaced = {*self._names, *self._names.values()}
        made = made.drop_columns([name for name in made.column_names if name in replaced])
        for column, name in self._names.items():
            lists: list[list[Any]] = [[] for _ in range(parents.num_rows)]
            for branch in branches:
                if column in branch.rows.column_names:
                    values, there = branch.rows.column(column).to_pylist(), branch.is_there.to_pylist()
                    for row, (value, is_there) in enumerate(zip(values, there, strict=True)):
                        if is_there:
                            lists[row].append(value)
            made = made.append_column(name, to_lossless_array(lists, ""))
        return made


class CombineColumns(GroupColumns):
    """`GroupColumns` by its former name."""


class CombineOutputs(Meet):
    """Merges the columns of all branches into one row: `[a, b] >> CombineOutputs()`."""

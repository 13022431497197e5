"""I bring several columns together in one list, and take lists apart into rows.

I do not know what the values are: each is carried exactly as it is. Bringing together drops columns, which only work on
whole tables can; taking apart makes rows, which only a scatter can.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from pydantic import Field, field_validator, model_validator

from raypipe.contracts.step import Columns, Output, Runs, Shape, Step
from raypipe.errors import RowError, nearest
from raypipe.row import RESERVED, Values

if TYPE_CHECKING:
    import pyarrow as pa


class MergeColumns(Step):
    """Puts the values of `columns` into one list, in this order, and drops `columns`.

    The items of a list are added one by one; any other value, null too, is one item.
    """

    runs: ClassVar[Runs] = Runs.TABLE

    columns: list[str] = Field(min_length=1)
    output_column: str = "merged_column"
    """Last column of the row; it may be called as one of `columns`."""

    @field_validator("columns", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("output_column", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return "merged_column" if value is None else value

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.columns))

    def writes(self) -> dict[str, str]:
        return {self.output_column: ""}

    def columns_after(self, columns: Columns) -> Columns:
        if columns is None:
            return None
        dropped = {*self.columns, self.output_column}
        return (*(name for name in columns if name not in dropped), self.output_column)

    def problems(self) -> list[str]:
        taken = [name for name in self.reads() if name in RESERVED]
        return [f"merges column {name!r}, which belongs to the lineage; leave it out" for name in taken]

    def process_table(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        from raypipe.values.arrays import to_lossless_array

        rows = zip(*(table.column(name).to_pylist() for name in self.reads()), strict=True)
        merged = to_lossless_array([_concatenated(values) for values in rows])
        kept = [name for name in table.column_names if name not in (*self.columns, self.output_column)]
        # Not appended to a selection: a table that loses its last column forgets how many rows it has.
        return pa.Table.from_arrays([*map(table.column, kept), merged], names=[*kept, self.output_column])


def _concatenated(values: Sequence[Any]) -> list[Any]:
    return [item for value in values for item in (cast("list[Any]", value) if isinstance(value, list) else [value])]


class ExpandColumns(Step):
    """Makes a row of each item of the lists in `columns`.

    Several columns are taken apart together, the first items into the first row; the shorter lists end in nulls. A row
    without any item, its lists empty or null, is gone. With a mapping the items go to the new names and the lists stay.
    """

    runs: ClassVar[Runs] = Runs.THREAD

    columns: list[str] | dict[str, str] = Field(min_length=1)
    encoded: bool | list[str] = False
    """The columns, all or those named, whose lists are JSON text."""

    @field_validator("columns", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
        targets = list(self._targets().values())
        for name in targets:
            if targets.count(name) > 1:
                raise ValueError(f"columns: the items of two columns go to {name!r}; rename one")
        for name in [] if isinstance(self.encoded, bool) else self.encoded:
            if name not in self.columns:
                raise ValueError(f"encoded: {name!r} is none of the columns{nearest(name, list(self.columns))}")
        return self

    @property
    def shape(self) -> Shape:
        return Shape.SCATTER

    def reads(self) -> tuple[str, ...]:
        return tuple(self._targets())

    def writes(self) -> dict[str, str]:
        return dict.fromkeys(self._targets().values(), "")

    def process_row_in_thread(self, row: Values) -> Output:
        targets = self._targets()
        items = zip_longest(*(self._items(name, row[name]) for name in targets))
        return [dict(zip(targets.values(), each, strict=True)) for each in items]

    def _targets(self) -> dict[str, str]:
        """Where the items of each column go."""
        if isinstance(self.columns, dict):
            return {name: target or name for name, target in self.columns.items()}
        return {name: name for name in self.columns}

    def _items(self, column: str, value: Any) -> list[Any]:
        is_encoded = self.encoded if isinstance(self.encoded, bool) else column in self.encoded
        found = _parsed(column, value) if is_encoded and isinstance(value, str) else value
        if found is None:
            return []
        if isinstance(found, list):
            return cast("list[Any]", found)
        hint = "; write encoded=True if the text is a list in JSON" if isinstance(found, str) and not is_encoded else ""
        raise RowError(f"column {column!r} is no list but a {type(found).__name__}{hint}", kind="list")


def _parsed(column: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(
            f"column {column!r} is no JSON ({error}); write a list, for example [1, 2]", kind="parse"
        ) from None

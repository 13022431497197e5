"""Merges several columns into one list, and expands lists into rows.

Knows nothing of the values: each is carried exactly as it is. Merging drops columns, which only a step on whole tables
can; expanding makes rows, which only a scatter can.
"""

from __future__ import annotations

import json
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from raypipe.contracts.step import Columns, Output, Runs, Shape, Step
from raypipe.errors import RowError, nearest
from raypipe.row import RESERVED, Values
from raypipe.steps.columns.names import ONE_OR_MORE, ColumnNames

if TYPE_CHECKING:
    import pyarrow as pa


_MERGED = "merged_column"


class MergeColumns(Step):
    """Puts the values of `columns` into one list, in this order, and drops `columns`.

    The items of a list are added one by one; any other value, null too, is one item.
    """

    runs: ClassVar[Runs] = Runs.TABLE
    reading_options: ClassVar[tuple[str, ...]] = ("columns",)
    writing_options: ClassVar[tuple[str, ...]] = ("output_column",)

    columns: ColumnNames
    """Columns to merge: a list, or one name."""
    output_column: Annotated[str, BeforeValidator(lambda name: _MERGED if name is None else name)] = _MERGED
    """Name of the list, the last column of the row; it may be one of `columns`."""

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
        lists = ((value if isinstance(value, list) else [value] for value in values) for values in rows)
        merged = to_lossless_array([list(chain.from_iterable(values)) for values in lists])
        kept = [name for name in table.column_names if name not in (*self.columns, self.output_column)]
        # Not appended to a selection: a table that loses its last column forgets how many rows it has.
        return pa.Table.from_arrays([*map(table.column, kept), merged], names=[*kept, self.output_column])


class ExpandColumns(Step):
    """Makes a row of each item of the lists in `columns`.

    Several columns are expanded together, the first items into the first row; shorter lists are filled up with nulls.
    A row whose lists are all empty or null is dropped; a row with a value that is no list fails.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.SCATTER
    reading_options: ClassVar[tuple[str, ...]] = ("columns",)

    columns: Annotated[list[str] | dict[str, str], Field(min_length=1), ONE_OR_MORE]
    """Columns with lists; with a mapping the items go to its values, as new columns, and the lists stay."""
    encoded: bool | list[str] = False
    """Columns, all or those named, whose lists are JSON text."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        targets = list(self._targets().values())
        for name in targets:
            if targets.count(name) > 1:
                raise ValueError(f"columns: the items of two columns go to {name!r}; rename one")
        for name in [] if isinstance(self.encoded, bool) else self.encoded:
            if name not in self.columns:
                raise ValueError(f"encoded: {name!r} is none of the columns{nearest(name, list(self.columns))}")
        return self

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
        """The items of one list. Raises RowError for what is no list."""
        is_encoded = self.encoded if isinstance(self.encoded, bool) else column in self.encoded
        found = value
        if is_encoded and isinstance(value, str):
            try:
                found = json.loads(value)
            except (ValueError, RecursionError) as error:
                problem = f"column {column!r} is not JSON ({error}); write a list, for example [1, 2]"
                raise RowError(problem, kind="parse") from None
        if found is None:
            return []
        if isinstance(found, list):
            return cast("list[Any]", found)
        hint = "; write encoded=True if the text is a list in JSON" if isinstance(found, str) and not is_encoded else ""
        raise RowError(f"column {column!r} is not a list but a {type(found).__name__}{hint}", kind="list")

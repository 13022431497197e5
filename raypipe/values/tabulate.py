"""Turns rows of plain values into Arrow tables.

Knows nothing of where the rows come from; the caller names the place of one whose value does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from raypipe.errors import InputError

ARROW_ERRORS = (pa.ArrowException, OverflowError, TypeError, ValueError)
"""What pyarrow raises for values that it cannot store."""
_SHOWN = 60


def to_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str], place: Callable[[int], str]) -> pa.Table:
    """A table with the columns `names`; what a row does not have is null in it.

    Raises InputError, naming column and row, for values without a common type.
    """
    if not names:
        # Only a struct array can say how many rows a table without columns has.
        return pa.Table.from_struct_array(pa.array([{} for _ in rows], pa.struct([])))
    arrays = [_array([row.get(name) for row in rows], name, place) for name in names]
    return pa.Table.from_arrays(arrays, names=list(names))


def merge_schemas(before: pa.Schema | None, after: pa.Schema, place: str) -> pa.Schema:
    """The schema that rows of both fit. Raises InputError when a column has no common type."""
    if before is None or before.equals(after):
        return after
    try:
        return pa.unify_schemas([before, after], promote_options="permissive")
    except ARROW_ERRORS as error:
        reason = str(error).removeprefix("Unable to merge: ")
        raise InputError(f"{place} do not fit the rows before them ({reason}); {_ADVICE}") from None


_ADVICE = "write all values of a column as one type, for example as text"


def _array(values: list[Any], name: str, place: Callable[[int], str]) -> pa.Array:
    try:
        return pa.array(values)
    except ARROW_ERRORS as error:
        index = _first_misfit(values)
        before, value = pa.array(values[:index]).type, values[index]
        value = value[: 2 * _SHOWN] if isinstance(value, str | bytes) else value
        shown = repr(value) if len(repr(value)) <= _SHOWN else repr(value)[: _SHOWN - 1] + "…"
        if pa.types.is_null(before):
            problem = f"cannot be stored ({str(error).rstrip('.')})"
        else:
            problem = f"does not fit the values before it ({before})"
        what = f"{place(index)}, column {name!r}: {shown} ({type(value).__name__}) {problem}"
        raise InputError(f"{what}; {_ADVICE}") from None


def _first_misfit(values: list[Any]) -> int:
    """Index of the value that ends the longest prefix with a common type."""
    fits, fails = 0, len(values)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        try:
            pa.array(values[:middle])
            fits = middle
        except ARROW_ERRORS:
            fails = middle
    return fails - 1

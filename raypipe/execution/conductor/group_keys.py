"""Says which rows have the same group: by what their values are, not by how a table happens to store them.

Knows nothing of engines. The key is written beside each row before it waits for its group, so that everything that
groups afterwards compares texts, and a group is the same whichever rows travelled together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pyarrow as pa

from raypipe.identity import canonical_json, digest, group_identity
from raypipe.row import GROUP, GROUP_ID
from raypipe.values.arrays import to_text, to_values


def with_group(rows: pa.Table, barrier: str, columns: Sequence[str]) -> pa.Table:
    """The rows with the key of their group and the identity that the aggregate `barrier` gives to it."""
    keys: list[str] = []
    ids: list[bytes] = []
    found: dict[bytes, tuple[str, bytes]] = {}
    read: list[list[Any]] = [
        [_plain_time(value) for value in to_values(rows.column(name))]
        if name in rows.column_names
        else [None] * rows.num_rows
        for name in columns
    ]
    for values in zip(*read, strict=True):
        content = canonical_key(dict(zip(columns, values, strict=True)))
        key = found.get(content)
        if key is None:
            same = content
            with suppress(RecursionError):  # nested too deeply to be looked through
                same = canonical_key({name: _leveled(value) for name, value in zip(columns, values, strict=True)})
            key = found[content] = digest(same).hex(), group_identity(barrier, content)
        keys.append(key[0])
        ids.append(key[1])
    rows = rows.append_column(GROUP, pa.array(keys, pa.string()))
    return rows.append_column(GROUP_ID, pa.array(ids, pa.binary(16)))


def canonical_key(values: Mapping[str, Any]) -> bytes:
    """Canonical bytes of a row's group columns, whatever is in them."""
    try:
        return canonical_json(values)
    except (TypeError, ValueError, RecursionError):
        return canonical_json({name: _sayable(value) for name, value in values.items()})


def _sayable(value: Any) -> Any:
    """The value, or in words what has no canonical form: an object, half a character, what is nested too deeply."""
    try:
        canonical_json(value)
    except (TypeError, ValueError, RecursionError):
        return {"$text": [type(value).__name__, to_text(value)]}
    return value


def _leveled(value: Any) -> Any:
    """A value as all that equal it are: 1.50 as 1.5, a moment in one zone, a mapping without nulls of its neighbours'.

    Canonical JSON does the same for 1.0 and 1, -0.0 and 0.0.
    """
    if isinstance(value, Decimal):
        return _shortest(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        with suppress(OverflowError):  # in the first or the last hours that there are
            return value.astimezone(UTC)
    if isinstance(value, Mapping):
        there = cast("Mapping[Any, Any]", value)
        return {name: _leveled(item) for name, item in there.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_leveled(item) for item in cast("Sequence[Any]", value)]
    return value


def _shortest(value: Decimal) -> Decimal:
    """Without zeros at its end; unlike `normalize`, which rounds to 28 digits."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return value
    kept = "".join(map(str, digits)).rstrip("0")
    return Decimal((sign, tuple(map(int, kept)), exponent + len(digits) - len(kept))) if kept else Decimal(0)


def _plain_time(value: Any) -> Any:
    """A time as Python's own: with pandas loaded, Arrow gives that library's where it counts nanoseconds."""
    if isinstance(value, datetime | timedelta) and type(value) not in (datetime, timedelta):
        plain: Any = value
        if not getattr(plain, "nanosecond", 0) and not getattr(plain, "nanoseconds", 0):
            return plain.to_pydatetime() if isinstance(value, datetime) else plain.to_pytimedelta()
    return value

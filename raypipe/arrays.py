"""I turn Python values into Arrow arrays and back without bending one.

Where the values of one column have no common type (a number here, a text there), a written column becomes text: texts
as they are, everything else as JSON. On their way between steps such values are carried exactly as they are.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from functools import partial
from typing import Any, cast

import pyarrow as pa

ARROW_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError, ValueError)


def type_named(name: str) -> pa.DataType | None:
    """The Arrow type called `name` (`string`, `int64`, `double`, `bool`, `list<…>`); `None` for `""`."""
    if not name:
        return None
    if name.startswith("list<") and name.endswith(">"):
        inner = type_named(name[5:-1])
        return None if inner is None else pa.list_(inner)
    return pa.type_for_alias(name)


def array_of(values: Sequence[Any], type_name: str = "") -> pa.Array:
    """Python values as an Arrow array, of the named type where they fit it."""
    wanted = type_named(type_name)
    made = _fitting(values, wanted)
    if made is None and wanted is not None and not pa.types.is_string(wanted):
        made = _fitting(values, None)
    return pa.array([text_of(value) for value in values], pa.string()) if made is None else made


def _fitting(values: Sequence[Any], wanted: pa.DataType | None) -> pa.Array | None:
    """The values under a type, by default the one that pyarrow finds; `None` where they do not fit one."""
    try:
        made = pa.array(values, wanted)
    except ARROW_ERRORS:
        return None
    return made if _is_writable(made.type) and not _is_bent(made.type, values) else None


def _is_bent(kind: pa.DataType, values: Sequence[Any]) -> bool:
    """Whether pyarrow bent values to fit a type: 0.5 becomes 0, False 0.0, a text bytes or a list, times are cut."""
    if pa.types.is_integer(kind):
        return any(isinstance(value, float) and not value.is_integer() for value in values)
    if pa.types.is_floating(kind):
        return any(value is True or value is False for value in values)
    if pa.types.is_binary(kind):
        return any(isinstance(value, str) for value in values)
    if pa.types.is_date(kind):
        return any(isinstance(value, datetime) for value in values)
    if pa.types.is_list(kind):
        inner, there = kind.value_type, [value for value in values if value is not None]
        if any(isinstance(value, str | bytes | Mapping) for value in there):
            return True
        return not _is_safe(inner) and any(_is_bent(inner, value) for value in there)
    if pa.types.is_struct(kind):
        there = [value for value in values if value is not None]
        return any(_is_bent(field.type, [value.get(field.name) for value in there]) for field in kind)
    return False


def _is_safe(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_boolean(kind)


def text_of(value: Any) -> str | None:
    """A value as text: `None` and texts as they are, everything else as JSON.

    What JSON cannot say is said in words: NaN, other objects, the halves of a character (as their escapes).
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else _json(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    # Not orjson: it has no integers beyond 64 bits and turns NaN into null.
    write = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_in_words)
    try:
        return write(value)
    except (TypeError, ValueError):
        pass
    try:
        return write(_sayable(value))
    except RecursionError:
        return repr(value)


def _sayable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _sayable(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    return [_sayable(item) for item in value] if isinstance(value, list | tuple) else value  # pyright: ignore[reportUnknownVariableType]


def _in_words(value: Any) -> str:
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _is_writable(kind: pa.DataType) -> bool:
    """Parquet has no struct without fields."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_writable(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_writable(kind.value_type)
    return True


class _AsIsScalar(pa.ExtensionScalar):  # pyright: ignore[reportUntypedBaseClass]
    def as_py(self, **_: Any) -> Any:
        return None if self.value is None else pickle.loads(self.value.as_py())


class AsIs(pa.ExtensionType):  # pyright: ignore[reportUntypedBaseClass]
    """Python values that have no Arrow type in common; between steps each is carried exactly as it is."""

    def __init__(self) -> None:
        super().__init__(pa.binary(), "raypipe.as_is")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> AsIs:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type[pa.ExtensionScalar]:
        return _AsIsScalar


AS_IS = AsIs()
with suppress(pa.ArrowKeyError):  # a module that is shipped by value may be executed twice
    pa.register_extension_type(AS_IS)


def carried(values: Sequence[Any], type_name: str = "") -> pa.Array:
    """Values on their way between steps: what the next step reads does not depend on which ones travel together.

    They have the named type where they fit it; without a name, the type of their one kind (texts, integers, …).
    """
    wanted = type_named(type_name)
    if wanted is not None and pa.types.is_string(wanted):
        return array_of(values, type_name)
    if wanted is not None or _is_of_one_kind(values):
        made = _fitting(values, wanted)
        if made is not None:
            return made
    return as_is(values)


def _is_of_one_kind(values: Sequence[Any]) -> bool:
    types = set(map(type, values)) - {type(None)}
    if list not in types:
        return len(types) < 2 and types <= _PLAIN
    kinds = {_kind(value) for value in values if value is not None}
    return len(kinds) < 2 and None not in kinds


def _kind(value: Any) -> str | None:
    """The kind of a value that Arrow gives back as it was, whatever it travels with; `None` of any other."""
    if isinstance(value, list):
        items = [_kind(item) for item in cast("list[Any]", value)]
        return f"list of {items[0]}" if items and None not in items and len(set(items)) == 1 else None
    return type(value).__name__ if type(value) in _PLAIN else None


_PLAIN = frozenset({str, int, float, bool, bytes})


def as_is(values: Iterable[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(AS_IS, pa.array([_pickled(value) for value in values], pa.binary()))


def _pickled(value: Any) -> bytes | None:
    if value is None:
        return None
    return pickle.dumps(value if _is_known(value) else text_of(value), pickle.HIGHEST_PROTOCOL)


_KNOWN_ELSEWHERE = frozenset({"builtins", "datetime", "decimal", "numpy", "uuid"})
"""Modules whose values every worker can read."""


def _is_known(value: Any) -> bool:
    if type(value) is dict:
        return all(_is_known(key) and _is_known(item) for key, item in cast("dict[Any, Any]", value).items())
    if type(value) in (list, tuple, set):
        return all(_is_known(item) for item in value)
    return type(value).__module__ in _KNOWN_ELSEWHERE

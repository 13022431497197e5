"""Turns what user code hands over into plain values. Knows nothing of rows, and imports no library to do so.

Plain are `None`, truth values, integers, floats, texts, bytes, dates, times, `timedelta`, `Decimal`, `UUID`, and lists,
tuples, sets and mappings of them. An array or a Series becomes a list, a pydantic object or a dataclass a mapping, an
enum its value, a path a text. What means none of these (an open file, a function, a generator) is refused, not printed.

User code may run here (`tolist`, `model_dump`, `__iter__`), so whoever calls this must hold whatever it raises.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections import UserList, deque
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from operator import methodcaller
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

MOST_DEPTH = 100
"""Lists and mappings in one another: readers of Arrow and JSON give up not far beyond."""
MOST_ITEMS = 5_000_000
"""Values in one value."""
MOST_CHARACTERS = 2**29 - 2**20
"""Of a text: so many fit an Arrow array, whatever they are."""
_MOST_BYTES = 2**31 - 2**20
_MOST_BITS = 14_000
"""Of an integer: beyond 4,300 digits Python writes none."""

_ATOMS = frozenset({type(None), bool, float, datetime, date, time, timedelta, Decimal, UUID})


class NotPlainError(Exception):
    """A value that stands for no plain value; the message begins with what it is."""


def to_plain(value: Any) -> Any:
    """The plain value that `value` stands for.

    Raises NotPlainError, and whatever code of the value's own raises.
    """
    kind = type(value)
    if kind in _ATOMS or (kind is str and len(value) <= MOST_CHARACTERS):
        return value
    return value if _is_small_and_plain(value, 0) else _Reading().of(value, 0)


def _is_small_and_plain(value: Any, depth: int) -> bool:
    """Whether a value is plain as it is, seen at a glance: most are."""
    kind = type(value)
    if kind is dict:
        if not set(map(type, value)) <= {str}:
            return False
        items: Any = value.values()
    elif kind is list:
        items = value
    else:
        return False
    if len(items) > _FEW or depth > _FLAT:
        return False
    return all(
        type(item) in _ATOMS
        or (type(item) in _SIZED and (item.bit_length() < 64 if type(item) is int else len(item) < 2**20))
        or _is_small_and_plain(item, depth + 1)
        for item in items
    )


_FEW, _FLAT = 256, 3


@dataclasses.dataclass
class _Reading:
    """One value that is read; it holds at most so many others and not itself."""

    _left: int = MOST_ITEMS
    _inside: set[int] = dataclasses.field(default_factory=set[int])

    def of(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind in _SIZED:
            return _sized(value)
        if kind is list:
            return self._within(value, depth, self._items)
        if kind is dict:
            return self._within(value, depth, self._pairs)
        return self._within(value, depth, self._rare)

    def _within(self, value: Any, depth: int, read: Callable[[Any, int], Any]) -> Any:
        if depth >= MOST_DEPTH:
            raise NotPlainError(f"a value nested more than {MOST_DEPTH} deep")
        if id(value) in self._inside:
            raise NotPlainError(f"a {type(value).__name__} that holds itself")
        self._inside.add(id(value))
        try:
            return read(value, depth + 1)
        finally:
            self._inside.discard(id(value))

    def _items(self, values: Iterable[Any], depth: int) -> list[Any]:
        """One after the other: the length that a value claims is not trusted, but for a list's."""
        if type(values) is list and set(map(type, values)) <= _ATOMS:
            self._count(len(values))
            return values.copy()
        found: list[Any] = []
        for item in values:
            self._count()
            found.append(self.of(item, depth))
        return found

    def _count(self, items: int = 1) -> None:
        self._left -= items
        if self._left < 0:
            raise NotPlainError(f"a value with more than {MOST_ITEMS:,} others in it")

    def _pairs(self, pairs: dict[Any, Any] | Iterable[tuple[Any, Any]], depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, item in dict.items(pairs) if type(pairs) is dict else pairs:
            self._count()
            name = key if type(key) is str else self.of(key, depth)
            if name in found:
                raise NotPlainError(f"a mapping with two keys that are {name!r}")
            found[name] = self.of(item, depth)
        return found

    def _rare(self, value: Any, depth: int) -> Any:
        kind = type(value)
        of_library = _of_library(value, kind)
        if of_library is not None:
            return self.of(of_library(value), depth)
        for base, read in _BASES:
            if issubclass(kind, base):
                return read(value)
        return self._of_many(value, kind, depth)

    def _of_many(self, value: Any, kind: type, depth: int) -> Any:
        if issubclass(kind, Mapping):
            pairs = dict.items(value) if issubclass(kind, dict) else ((key, value[key]) for key in value)
            return self._pairs(cast("Iterable[tuple[Any, Any]]", pairs), depth)
        if issubclass(kind, tuple):
            names, items = getattr(kind, "_fields", None), self._items(tuple.__iter__(value), depth)
            return tuple(items) if names is None else dict(zip(names, items, strict=True))
        if issubclass(kind, set | frozenset):
            items = self._items(iter(cast("Set[Any]", value)), depth)
            return frozenset(items) if issubclass(kind, frozenset) else set(items)
        if issubclass(kind, list):
            return self._items(list.__iter__(value), depth)
        if issubclass(kind, _LISTS) or (issubclass(kind, Sequence) and not issubclass(kind, memoryview)):
            return self._items(cast("Iterable[Any]", value), depth)
        raise NotPlainError(f"a {kind.__name__}")


_LISTS = (deque, range, array, UserList, KeysView, ValuesView, ItemsView)


def _sized(value: Any) -> Any:
    if type(value) is int and value.bit_length() > _MOST_BITS:
        raise NotPlainError(f"an integer of {value.bit_length():,} bits")
    if type(value) is str and len(value) > MOST_CHARACTERS:
        raise NotPlainError(f"a text of {len(value):,} characters")
    if type(value) is bytes and len(value) > _MOST_BYTES:
        raise NotPlainError(f"{len(value):,} bytes")
    return value


_SIZED = frozenset({int, str, bytes})


# Subclasses of plain types: what they are, whatever methods they have of their own.


def _moment(value: datetime) -> datetime:
    parts = value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond
    return datetime(*parts, tzinfo=value.tzinfo, fold=value.fold)


_BASES: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (str, lambda value: _sized(str.__str__(value))),
    (int, lambda value: _sized(int.__int__(value))),
    (float, float.__float__),
    ((bytes, bytearray, memoryview), lambda value: _sized(bytes(memoryview(value)))),
    (datetime, _moment),
    (date, lambda value: date(value.year, value.month, value.day)),
    (
        time,
        lambda value: time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold),
    ),
    (timedelta, lambda value: timedelta(value.days, value.seconds, value.microseconds)),
    (Decimal, lambda value: Decimal(value)),
    (UUID, lambda value: UUID(int=value.int)),
    (PurePath, lambda value: PurePath.__str__(value)),
)


# Values of libraries, recognised by where their classes come from.


def _of_library(value: Any, kind: type) -> Callable[[Any], Any] | None:
    """What turns a value into one of plainer types."""
    if issubclass(kind, Enum):
        return lambda value: value.value
    for base in kind.__mro__:
        library = str(base.__module__).partition(".")[0]
        reader = _LIBRARIES.get(library)
        found = None if reader is None else reader(base.__name__, value)
        if found is not None:
            return found
    if "__dataclass_fields__" in dir(kind) and dataclasses.is_dataclass(kind):
        return lambda value: {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(kind, "__attrs_attrs__"):
        return lambda value: {field.name: getattr(value, field.name) for field in kind.__attrs_attrs__}  # pyright: ignore[reportAttributeAccessIssue]
    return None


def _numpy(name: str, value: Any) -> Callable[[Any], Any] | None:
    if name not in ("ndarray", "generic"):
        return None
    if value.size > MOST_ITEMS:
        raise NotPlainError(f"an array of {value.size:,} values")
    code = value.dtype.kind
    if code in "mM":
        return _moments
    if value.dtype.names:
        names = value.dtype.names
        return lambda value: _structs(names, value.tolist())
    if code == "f" and value.dtype.itemsize > 8:
        return lambda value: value.astype("f8").tolist()
    return (lambda value: value.tolist()) if code in "biufSUOV" else None


def _moments(value: Any) -> Any:
    """Dates, moments or durations; moments of Python have microseconds, so what is finer is text."""
    if str(value.dtype)[-4:] not in ("[ns]", "[ps]", "[fs]", "[as]"):
        return value.tolist()
    coarse = value.astype(f"{value.dtype.kind}8[us]")
    is_fine = coarse != value
    # A moment that is none equals nothing.
    return coarse.tolist() if not is_fine[value == value].any() else value.astype(str).tolist()  # noqa: PLR0124


def _structs(names: Sequence[str], value: Any) -> Any:
    return (
        [_structs(names, item) for item in value] if isinstance(value, list) else dict(zip(names, value, strict=True))
    )  # pyright: ignore[reportUnknownVariableType]


def _pandas(name: str, value: Any) -> Callable[[Any], Any] | None:
    if name in ("NaTType", "NAType"):
        return lambda value: None
    if name in ("_Timestamp", "Timestamp"):
        return lambda value: value.isoformat() if value.nanosecond else _moment(value)
    if name in ("_Timedelta", "Timedelta"):
        return lambda value: (
            value.isoformat() if value.nanoseconds else timedelta(value.days, value.seconds, value.microseconds)
        )
    if name == "DataFrame":
        return lambda value: value.to_dict("records")
    if name in ("Series", "Index", "ExtensionArray"):
        return lambda value: value.tolist()
    if name in ("_Period", "Period"):
        return str
    if name == "Interval":
        return lambda value: {"left": value.left, "right": value.right, "closed": value.closed}
    return None


def _torch(name: str, value: Any) -> Callable[[Any], Any] | None:
    if name == "Size":
        return list
    if name not in ("Tensor", "_TensorBase", "TensorBase"):
        return None
    if value.numel() > MOST_ITEMS:
        raise NotPlainError(f"a tensor of {value.numel():,} values")
    return None if value.is_complex() else lambda value: value.detach().cpu().tolist()


def _by_method(*methods: tuple[str, str]) -> Callable[[str, Any], Callable[[Any], Any] | None]:
    """Reads by the first method that a value has, each for one class or, where it is empty, for all of a library."""

    def find(name: str, value: Any) -> Callable[[Any], Any] | None:
        found = (method for kind, method in methods if kind in ("", name) and hasattr(value, method))
        method = next(found, None)
        return None if method is None else methodcaller(method)

    return find


_LIBRARIES: dict[str, Callable[[str, Any], Callable[[Any], Any] | None]] = {
    "numpy": _numpy,
    "pandas": _pandas,
    "torch": _torch,
    "pyarrow": _by_method(("Scalar", "as_py"), ("", "to_pylist")),
    "polars": _by_method(("DataFrame", "to_dicts"), ("Series", "to_list")),
    "pydantic": _by_method(("BaseModel", "model_dump"), ("BaseModel", "dict")),
    "jax": _by_method(("", "tolist")),
    "jaxlib": _by_method(("", "tolist")),
    "cupy": _by_method(("", "tolist")),
}

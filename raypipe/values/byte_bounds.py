"""Bounds how many bytes of rows are held, sent, written and read at once. Knows nothing of tables.

Numbers of rows bound nothing where rows differ: a row may be a word or a book. Everything follows from what travels
together: a batch. A single row is always let through, however large it is, so that nothing waits for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

from raypipe.errors import SpecError

VARIABLE = "RAYPIPE_BATCH_MIB"
"""Environment variable: MiB of rows that travel together; all other bounds are multiples of it."""
_MIB = 1 << 20
_BATCH_MIB = 16
_MOST_MIB = 512

READ_BYTES = _BATCH_MIB * _MIB
"""Of rows in one table of a file that is read."""
MOST_COLUMNS = 10_000
"""Of an input: each costs something for every table that is cut, joined or written."""
MOST_VALUE_BYTES = (1 << 31) - 2
"""Arrow counts the bytes of one text, and of all texts in one list, with 31 bits."""


@dataclass(frozen=True)
class Bounds:
    """Bytes of rows, by place."""

    batch_bytes: int = _BATCH_MIB * _MIB
    """In a batch of source rows, in a chunk that a worker is sent, in what it answers at once."""
    row_group_bytes: int = 4 * _BATCH_MIB * _MIB
    """In a row group of an output file, before it is packed."""
    file_bytes: int = 1 << 30
    """In an output file, before it is packed."""
    queue_bytes: int = field(init=False)
    """A step does not work ahead while so much waits behind it."""
    window_bytes: int = field(init=False)
    """With one worker."""
    flight_bytes: int = field(init=False)
    """Of source rows whose batches are not complete."""
    part_bytes: int = field(init=False)
    """Of finished rows of one batch and leaf, before they go to a part file."""
    finished_bytes: int = field(init=False)
    """Of all finished rows that are not in part files yet."""

    def __post_init__(self) -> None:
        for name, batches in (("queue", 2), ("window", 4), ("flight", 8), ("part", 2), ("finished", 6)):
            object.__setattr__(self, f"{name}_bytes", batches * self.batch_bytes)


def read_bounds() -> Bounds:
    """The bounds that the environment sets. Raises SpecError for what is not a number of MiB."""
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return Bounds()
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= _MOST_MIB:
        problem = (
            f"got {given[:40]!r}; it is a whole number of MiB from 1 to {_MOST_MIB}, {_BATCH_MIB} where it is unset"
        )
        raise SpecError.of(f"environment variable {VARIABLE!r}", problem)
    size = int(given) * _MIB
    return Bounds(size, 4 * size)


_SAMPLE = 16
_SURE = 256
_FIXED_BYTES = 8
_LONG = 1 << 20
_PLAIN = frozenset({int, float, bool, type(None)})


def size_of(value: Any) -> int:
    """About how many bytes a value of a row takes in a table; a long list is judged by some of its items.

    A text beyond ASCII counts two for each character, a long one what it takes in UTF-8.
    """
    kind = type(value)  # a check of the type itself takes a tenth of `isinstance` with one that is abstract
    if kind is str or isinstance(value, str):
        if value.isascii():
            return len(value)
        return 2 * len(value) if len(value) < _LONG else len(value.encode(errors="surrogatepass"))
    if kind in _PLAIN:
        return _FIXED_BYTES
    if isinstance(value, bytes | bytearray):
        return len(value)
    if kind is dict or isinstance(value, Mapping):
        return _size_of_all(cast("Mapping[Any, Any]", value).values(), len(cast("Mapping[Any, Any]", value)))
    if isinstance(value, list | tuple):
        return _size_of_all(cast("list[Any]", value), len(cast("list[Any]", value)))
    return _FIXED_BYTES


def _size_of_all(values: Iterable[Any], count: int) -> int:
    if count <= _SURE:
        return sum([len(value) if type(value) is str and value.isascii() else size_of(value) for value in values])
    return sum(map(size_of, islice(values, _SAMPLE))) * count // _SAMPLE

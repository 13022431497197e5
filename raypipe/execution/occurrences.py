"""Counts equal rows of a source, in memory that does not grow with the rows.

Digests stand in hash tables in unnamed files that are mapped into memory: the system writes their pages to the disk
where it needs the room. Where there is no room on the disk they stand in memory. Knows nothing of what a digest stands
for.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_FIRST_SLOTS = 1 << 14
_GROWTH = 4
_KEY_BYTES, _COUNT_BYTES = 8, 4
_AT_ONCE = 4096
_Array = np.ndarray[Any, Any]


class _Level:
    """An open hash table of fixed size: keys of 64 bits, not 0, and how often each was counted."""

    def __init__(self, slots: int, folder: str | None) -> None:
        size = slots * (_KEY_BYTES + _COUNT_BYTES)
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a page that finds no room on the disk ends the process
                memory = mmap.mmap(file.fileno(), size)
        except OSError:
            memory = mmap.mmap(-1, size)
        self.keys: _Array = np.frombuffer(memory, np.uint64, slots)
        self.counts: _Array = np.frombuffer(memory, np.uint32, slots, slots * _KEY_BYTES)
        self.mask = np.uint64(slots - 1)
        self.free = slots // 2

    def find(self, keys: _Array) -> _Array:
        """The slot of each key, and the number of slots for one that is not there."""
        slots, left = keys & self.mask, np.arange(len(keys))
        while len(left):
            there = self.keys[slots[left]]
            slots[left[there == 0]] = len(self.keys)
            left = left[(there != 0) & (there != keys[left])]
            slots[left] = (slots[left] + np.uint64(1)) & self.mask
        return slots

    def add(self, keys: _Array) -> None:
        """Put in keys, each of them once, that are not there."""
        slots, left = keys & self.mask, np.arange(len(keys))
        while len(left):
            free = left[self.keys[slots[left]] == 0]
            self.keys[slots[free]] = keys[free]  # of several for one slot the last has it
            left = left[self.keys[slots[left]] != keys[left]]
            slots[left] = (slots[left] + np.uint64(1)) & self.mask
        self.counts[slots] = 1
        self.free -= len(keys)


class OccurrenceTable:
    """Counts digests. Tables of growing size hold 12 bytes and a little room for each digest.

    `folder`: where the files stand; by default the system's place for temporary files.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._levels = [_Level(_FIRST_SLOTS, folder)]

    def count(self, digests: Sequence[bytes]) -> dict[int, int]:
        """How often each digest was counted before, by its index, but for those that were not.

        Digests that begin with the same 8 bytes count as one.
        """
        found: dict[int, int] = {}
        for start in range(0, len(digests), _AT_ONCE):
            some = np.frombuffer(b"".join(digests[start : start + _AT_ONCE]), np.uint64).reshape(-1, 2)[:, 0].copy()
            some[some == 0] = 1
            found |= {start + index: number for index, number in self._count(some)}
        return found

    def _count(self, keys: _Array) -> Iterator[tuple[int, int]]:
        if self._levels[-1].free <= 0:
            self._levels.append(_Level(_GROWTH * len(self._levels[-1].keys), self._folder))
        _, first = np.unique(keys, return_index=True)
        is_new = np.zeros(len(keys), bool)
        is_new[first] = True
        for level in self._levels:
            new = np.flatnonzero(is_new)
            is_new[new[level.find(keys[new]) < len(level.keys)]] = False
        self._levels[-1].add(keys[is_new])
        for index in np.flatnonzero(~is_new).tolist():
            yield index, self._count_known(keys[index : index + 1])

    def _count_known(self, key: _Array) -> int:
        for level in self._levels:
            [slot] = level.find(key).tolist()
            if slot < len(level.keys):
                level.counts[slot] += 1
                return int(level.counts[slot]) - 1
        raise KeyError(key)


class _Claims:
    """What the rows of one unit were given: as far as it was read, and those that were not the first of their kind."""

    def __init__(self) -> None:
        self.rows = 0
        self.places: list[int] = []
        self.numbers: list[int] = []


class Occurrences:
    """Numbers equal rows over all units of a source; rows that are read again get the numbers that they had.

    Which of several equal rows gets which number depends on who asks first, and makes no difference: together they have
    all numbers from 0 on.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._table = OccurrenceTable(folder)
        self._units: dict[int, _Claims] = {}

    def number(self, unit: int, start: int, digests: Sequence[bytes]) -> dict[int, int]:
        """The numbers of the rows of a unit from its row `start` on, by their index, but for those that are 0."""
        claims = self._units.setdefault(unit, _Claims())
        known = max(0, min(len(digests), claims.rows - start))
        first, last = bisect_left(claims.places, start), bisect_left(claims.places, start + known)
        found = {claims.places[at] - start: claims.numbers[at] for at in range(first, last)}
        for index, number in sorted(self._table.count(digests[known:]).items()):
            found[known + index] = number
            claims.places.append(start + known + index)
            claims.numbers.append(number)
        claims.rows = max(claims.rows, start + len(digests))
        return found

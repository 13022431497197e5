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
from collections.abc import Sequence
from typing import Any

_FIRST_SLOTS = 1 << 14
_GROWTH = 4
_KEY_BYTES, _COUNT_BYTES = 8, 4


class _Level:
    """An open hash table of fixed size: keys of 64 bits, not 0, and how often each was counted."""

    def __init__(self, slots: int, folder: str | None) -> None:
        size = slots * (_KEY_BYTES + _COUNT_BYTES)
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a page that finds no room on the disk ends the process
                view = memoryview(mmap.mmap(file.fileno(), size))
        except OSError:
            view = memoryview(mmap.mmap(-1, size))
        self.keys: Any = view[: slots * _KEY_BYTES].cast("Q")
        self.counts: Any = view[slots * _KEY_BYTES :].cast("I")
        self.mask = slots - 1
        self.free = slots // 2


class OccurrenceTable:
    """Counts digests. Tables of growing size hold 12 bytes and a little room for each digest.

    `folder`: where the files stand; by default the system's place for temporary files.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._levels = [_Level(_FIRST_SLOTS, folder)]

    def count(self, digest: bytes) -> int:
        """How often the digest was counted before. Digests that begin with the same 8 bytes count as one."""
        key = int.from_bytes(digest[:_KEY_BYTES], "little") or 1
        slot = 0
        for level in self._levels:
            keys, mask = level.keys, level.mask
            slot = key & mask
            while found := keys[slot]:
                if found == key:
                    level.counts[slot] += 1
                    return level.counts[slot] - 1
                slot = (slot + 1) & mask
        level = self._levels[-1]
        level.keys[slot], level.counts[slot] = key, 1
        level.free -= 1
        if not level.free:
            self._levels.append(_Level(_GROWTH * (level.mask + 1), self._folder))
        return 0


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
        for index in range(known, len(digests)):
            number = self._table.count(digests[index])
            if number:
                found[index] = number
                claims.places.append(start + index)
                claims.numbers.append(number)
        claims.rows = max(claims.rows, start + len(digests))
        return found

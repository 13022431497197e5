"""I keep the rows that two workers were lost with, and say in which groups they are tried again.

One of them may take every worker down that works on it, the others were only there. So they are tried apart from all
other rows and in ever smaller groups: a row that is alone when a third or fourth worker is lost is the one.
"""

from __future__ import annotations

import math
from collections import deque

import pyarrow as pa

from raypipe.row import ATTEMPT
from raypipe.values.selection import filter_rows

_FEW = 8
_SUSPICIOUS = 2
"""So many workers were lost with a row: it may be the reason."""


class Suspects:
    """Of one pool."""

    def __init__(self) -> None:
        self._groups: deque[tuple[str, pa.Table]] = deque()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, step: str, rows: pa.Table) -> None:
        """More rows; each group of them has about as many rows as there are groups, few rows are tried one by one."""
        size = 1 if rows.num_rows <= _FEW else math.isqrt(rows.num_rows)
        for start in range(0, rows.num_rows, size):
            self._groups.append((step, rows.slice(start, size)))

    def take(self) -> tuple[str, pa.Table]:
        """The next group, for a worker that has no other rows."""
        return self._groups.popleft()


def tried_again(rows: pa.Table) -> pa.Table:
    """The rows, with one more worker lost."""
    attempts = pa.array([attempt + 1 for attempt in rows.column(ATTEMPT).to_pylist()], pa.int8())
    return rows.set_column(rows.column_names.index(ATTEMPT), ATTEMPT, attempts)


def parted(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Those that wait with the others, and those that are tried apart."""
    is_suspicious = rows.column(ATTEMPT).to_numpy() >= _SUSPICIOUS
    return filter_rows(rows, ~is_suspicious), filter_rows(rows, is_suspicious)

"""I put a batch away while the steps that it waits for are not loaded, and give it back as it was.

What is put away is all of it: rows that ended, rows that wait, families that are not complete. So nothing of a
batch stays in memory between two groups of steps, and no step sees a row twice.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pyarrow as pa

from raypipe.errors import OutputError
from raypipe.execution.batches import Batch, BatchResult, Counts, Part, unwritable
from raypipe.execution.families import OpenFamilies
from raypipe.places import Place, place_of, reason
from raypipe.tables import packed, unpacked

PARKED = "~parked~"
"""Name of the sink for batches that are put away; no step can have this name."""


@dataclass
class Parked:
    """A batch of which nothing is on its way but rows for steps that are not loaded."""

    batch: Batch
    held: dict[str, pa.Table]
    """Rows by the step that they wait for."""
    families: dict[str, OpenFamilies]
    """By aggregate or meeting."""

    @property
    def number(self) -> int:
        return self.batch.number

    def write(self, folder: Place, leaves: Iterable[str]) -> BatchResult:
        """Put it away; what it counted so far is in the result. Raises OSError."""
        counts, self.batch.counts = dict(self.batch.counts), defaultdict(Counts)
        path = folder / PARKED / f"{uuid4().hex}.batch"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            _Pickler(file, protocol=5).dump(self)
        return BatchResult((Part(PARKED, str(path), sum(rows.num_rows for rows in self.held.values()), 0),), counts)


def unparked(path: str) -> Parked:
    """What was put away. Raises OutputError when it cannot be read."""
    try:
        return pickle.loads(place_of(path).read_bytes())
    except OSError as error:
        problem = f"cannot be read ({reason(error)}); mend that and run again"
        raise OutputError(f"what was put away in {path} {problem}") from None


def parked_in(results: Sequence[BatchResult]) -> list[str]:
    """The files of batches that were put away."""
    return [part.path for result in results for part in result.parts if part.sink == PARKED]


def ended(path: str, folder: Place, leaves: Iterable[str], reason: str) -> BatchResult:
    """A batch that was put away and is not gone on with: what it waits for is left as it is. Raises OutputError."""
    parked = unparked(path)
    for step, rows in parked.held.items():
        parked.batch.counts[step].add(Counts(rows_in=rows.num_rows, rows_unfinished=rows.num_rows))
    try:
        return replace(parked.batch.write(folder, leaves), halted_for=reason)
    except OSError as error:
        raise unwritable(folder, error) from None


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return (unpacked, (packed(value),)) if isinstance(value, pa.Table) else NotImplemented

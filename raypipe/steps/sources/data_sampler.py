"""Draws examples at random, for prompts that show a few.

Knows nothing of the prompts. The same seed draws the same examples, and more samples begin with the same ones as fewer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from raypipe.contracts.step import Unit
from raypipe.steps.sources.loaders import BATCH_ROWS, LoadDataFromDicts

if TYPE_CHECKING:
    import pyarrow as pa


class DataSampler(LoadDataFromDicts):
    """Makes rows of lists: for every column of `data` the values of `size` rows drawn from it at random.

    Rows are drawn with replacement: a row may be drawn twice, and `size` may exceed the number of rows.
    """

    size: int = Field(default=2, ge=1)
    """Items of each list."""
    samples: int = Field(default=100, ge=1)
    """Number of rows made."""
    seed: int = 0

    def problems(self) -> list[str]:
        found = super().problems()
        return found if self.columns() else [*found, "has nothing to draw from; give it rows: data=[{…}, …]"]

    def row_count(self) -> int | None:
        return self.samples

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        import pyarrow as pa

        from raypipe.values.tabulate import to_table

        generator = random.Random(self.seed)
        table = to_table(self.data, self.columns() or (), lambda index: f"row {index + 1}")
        for start in range(0, self.samples, BATCH_ROWS):
            count = min(BATCH_ROWS, self.samples - start)
            picked = table.take(generator.choices(range(table.num_rows), k=count * self.size))
            offsets = pa.array(range(0, (count + 1) * self.size, self.size), pa.int32())
            lists = [pa.ListArray.from_arrays(offsets, column.combine_chunks()) for column in picked.columns]
            yield pa.Table.from_arrays(lists, names=picked.column_names)

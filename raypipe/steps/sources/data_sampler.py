"""I draw examples, for prompts that show a few.

I do not know what they are shown for. The same seed draws the same examples, and more samples begin with the fewer.
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
    """Rows that each hold, for every column of `data`, a list with the values of `size` rows drawn from it.

    Every draw is from all of `data`, so a row may be drawn twice, and `size` may be more than there is.
    """

    size: int = Field(default=2, ge=1)
    """Items of each list."""
    samples: int = Field(default=100, ge=1)
    """Rows made."""
    seed: int = 0

    def problems(self) -> list[str]:
        found = super().problems()
        return found if self.columns() else [*found, "has nothing to draw from; give it rows: data=[{…}, …]"]

    def row_count(self) -> int | None:
        return self.samples

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        import pyarrow as pa

        from raypipe.values.tabulate import to_table

        drawn = random.Random(self.seed)
        table = to_table(self.data, self.columns() or (), lambda index: f"row {index + 1}")
        for start in range(0, self.samples, BATCH_ROWS):
            count = min(BATCH_ROWS, self.samples - start)
            picked = table.take(drawn.choices(range(table.num_rows), k=count * self.size))
            offsets = pa.array(range(0, (count + 1) * self.size, self.size), pa.int32())
            lists = [pa.ListArray.from_arrays(offsets, column.combine_chunks()) for column in picked.columns]
            yield pa.Table.from_arrays(lists, names=picked.column_names)

"""Lets Ray Data bring the rows of each group together between two stages.

Knows nothing of what makes rows equal: each carries the key of its group, a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raypipe.contracts.step import Aggregate
from raypipe.execution.ray import blocks
from raypipe.execution.source import gathered, gathered_schema, group_of
from raypipe.row import GROUP, PATH, POSITION


class Gathered(Datasource):
    """Part files under one schema: Ray Data's own reader takes the first file's for all."""

    def __init__(self, paths: Sequence[str], schema: pa.Schema, readers: int) -> None:
        super().__init__()
        self._paths, self._schema = list(paths), schema
        self._readers = readers

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        nothing = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        borders = [len(self._paths) * reader // self._readers for reader in range(self._readers + 1)]
        shares = [self._paths[start:end] for start, end in pairwise(borders)]
        return [ReadTask(_Read(share, self._schema), nothing) for share in shares]


class _Read:
    def __init__(self, paths: Sequence[str], schema: pa.Schema) -> None:
        self._paths, self._schema = paths, schema

    def __call__(self) -> Iterable[pa.Table]:
        return gathered(self._paths, self._schema)


def groups_of(paths: Sequence[str], name: str, step: Aggregate, readers: int) -> ray.data.Dataset:
    """One row for each group of the rows in `paths`, in the order of their first rows. Raises SpecError."""
    readers = min(len(paths), readers)
    rows = ray.data.read_datasource(
        Gathered(paths, gathered_schema(paths, name, step), readers), override_num_blocks=readers
    )
    has_keys = isinstance(step.by, list)
    groups = rows.groupby(GROUP if has_keys else None).map_groups(
        lambda rows: _placed(group_of(rows, name, step)), batch_format="pyarrow"
    )
    return (groups.sort([POSITION, GROUP]) if has_keys else groups).drop_columns([GROUP])


def _placed(group: pa.Table) -> pa.Table:
    """A block of the group, and its path as a text that sorts as the path does: Ray Data sorts by no list."""
    path = "".join(f"{number:08x}" for number in group.column(PATH)[0].as_py())
    return blocks.of_rows(group).append_column(GROUP, pa.array([path]))

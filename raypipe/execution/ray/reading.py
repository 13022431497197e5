"""Reads the rows of a stage with Ray Data: units of a source, groups of rows of the stage before, spilled batches.

Knows nothing of what is done with the rows, nor of what makes rows equal: each carries the key of its group, a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.contracts.step import Aggregate, Source, Unit
from raypipe.errors import RaypipeError
from raypipe.execution.occurrences import Occurrences
from raypipe.execution.ray import blocks
from raypipe.execution.row_identity import identifier_of
from raypipe.execution.setup import RunSetup
from raypipe.execution.source import fold_group, identify_rows, read_parts, unify_part_schemas
from raypipe.row import GROUP, PATH, POSITION
from raypipe.storage.paths import AnyPath

_SPILLED_A_BLOCK = 8
_READERS_PER_CPU = 4
"""A reader has one item after the other: more readers even out items of different sizes, but each is a task."""


class _Reading(NamedTuple):
    """What a task that reads is told of the run."""

    only: frozenset[bytes] | None
    artifacts: AnyPath
    version: int


class _Shares(Datasource):
    """Items for Ray Data to read in as many tasks as it is told, each task some neighbouring items in their order."""

    def __init__(self, items: Sequence[Any], readers: int, read: Callable[[Sequence[Any]], Iterable[pa.Table]]) -> None:
        super().__init__()
        self._items, self._readers, self._read = list(items), readers, read

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        nothing = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        borders = [len(self._items) * reader // self._readers for reader in range(self._readers + 1)]
        return [ReadTask(partial(self._read, self._items[start:end]), nothing) for start, end in pairwise(borders)]


def _read_shares(items: Sequence[Any], read: Callable[[Sequence[Any]], Iterable[pa.Table]]) -> ray.data.Dataset:
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    readers = min(len(items), _READERS_PER_CPU * cpus)
    return ray.data.read_datasource(_Shares(items, readers, read), override_num_blocks=readers)


def read_source(source: Source, units: Sequence[Unit], setup: RunSetup) -> ray.data.Dataset:
    """The rows of a source, with identity; a read that fails ends in a block that says why."""
    # Not in each task: rows that a program holds itself would travel with every one of them.
    reading = _Reading(setup.only, setup.run.artifacts, setup.run.identity)
    read = partial(_read_units, ray.put(source), reading, _counter() if len(units) > 1 else None)
    return _read_shares(list(enumerate(units)), read)


def _counter() -> Any:
    """Counts equal rows over all units, which are read beside each other; on this node, whose end is the run's."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Occurrences).options(num_cpus=0, scheduling_strategy=here).remote()


def _read_units(
    reference: ray.ObjectRef, setup: _Reading, counter: Any, units: Sequence[tuple[int, Unit]]
) -> Iterable[pa.Table]:
    """An error of the input is a row of its own, since Ray Data adds its words to what is raised."""
    source: Source = ray.get(reference)

    def number(place: int, start: int, digests: Sequence[bytes]) -> dict[int, int]:
        return ray.get(counter.number.remote(place, start, digests))

    try:
        for place, unit in units:
            source.keep_artifacts_in(setup.artifacts)
            ids = identifier_of(unit, place, setup.version, number if counter else Occurrences().number)
            yield from map(blocks.pack_rows, identify_rows(source, unit, place, ids, setup.only))
    except RaypipeError as error:
        yield blocks.pack_error(error)


def read_spilled(paths: Sequence[str]) -> ray.data.Dataset | None:
    """The files of spilled batches, for a conductor to read."""
    if not paths:
        return None
    starts = range(0, len(paths), _SPILLED_A_BLOCK)
    return ray.data.from_arrow([blocks.pack_spilled(paths[start : start + _SPILLED_A_BLOCK]) for start in starts])


def read_groups(paths: Sequence[str], name: str, step: Aggregate) -> ray.data.Dataset:
    """One row for each group of the rows in the part files `paths`, in the order of their first rows.

    The files are read under one schema: Ray Data's own reader takes the first file's for all. Raises SpecError.
    """

    def pack(rows: pa.Table) -> pa.Table:
        group = fold_group(rows, name, step)
        # Ray Data sorts by no list: the path is a text that sorts as the path does.
        path = "".join(f"{number:08x}" for number in group.column(PATH)[0].as_py())
        return blocks.pack_rows(group).append_column(GROUP, pa.array([path]))

    rows = _read_shares(paths, partial(read_parts, schema=unify_part_schemas(paths, name, step)))
    has_keys = isinstance(step.by, list)
    groups = rows.groupby(GROUP if has_keys else None).map_groups(pack, batch_format="pyarrow")
    return (groups.sort([POSITION, GROUP]) if has_keys else groups).drop_columns([GROUP])

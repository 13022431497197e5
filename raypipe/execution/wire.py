"""Defines what travels between a conductor and a worker. Knows nothing of either.

Out go chunks of rows of one step; back come, for each step, one table of rows that ended and one of rows that were
made. A row is named by its chunk and its index in that chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import pyarrow as pa

from raypipe.contracts.model import EngineFigures
from raypipe.execution.counts import CallCounts, add_by_model
from raypipe.row import Failure, Values
from raypipe.storage.tables import from_ipc, to_ipc
from raypipe.values.arrays import to_lossless_array, to_text
from raypipe.values.byte_bounds import MOST_VALUE_BYTES, size_of

DONE, FAILED, FILTERED, UNFINISHED = 0, 1, 2, 3

ENDED = pa.schema(
    [
        ("chunk", pa.int32()),
        ("index", pa.int32()),
        ("status", pa.int8()),
        ("kind", pa.string()),
        ("message", pa.string()),
        ("calls_sent", pa.int32()),
        ("calls_cached", pa.int32()),
        ("calls_unanswered", pa.int32()),
        ("calls_estimated", pa.int32()),
        ("calls_refused", pa.int32()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
        ("estimated_usd", pa.float64()),
    ]
)
"""One row for each row that ended; `kind` and `message` only where it failed, or was done with nulls since it did."""

PLACES = pa.schema([("chunk", pa.int32()), ("index", pa.int32()), ("child", pa.int32())])

FIRST_ROWS = 20
"""Rows of a step that end first: when all of them fail alike, the others will."""

FLUSH_S = 0.05
"""How long a worker gathers answers before it sends them, at least."""

FED_FLUSH_S = 0.2
"""The same while no step waits for them: an exchange costs nearly as much for few rows as for many."""


class _Shipped:
    """Travels with its tables in Arrow's own format: pickling one array by array costs twenty times as much."""

    def __reduce__(self) -> tuple[Any, ...]:
        values = [getattr(self, field.name) for field in fields(self)]  # pyright: ignore[reportArgumentType]
        return _unpacked, (type(self), [to_ipc(value) if isinstance(value, pa.Table) else value for value in values])


def _unpacked(kind: type[Any], values: list[Any]) -> Any:
    return kind(*(from_ipc(one) if isinstance(one, pa.Buffer) else one for one in values))


@dataclass(frozen=True)
class Sender:
    """A conductor, as its workers know it."""

    stage: int
    """A second conductor of a stage comes in place of the first, which is gone."""
    name: str


@dataclass(frozen=True)
class Chunk(_Shipped):
    """Rows of one step, sent to one worker. `number` is the sender's."""

    number: int
    step: str
    table: pa.Table
    epoch: int = 0
    """How many workers had been lost when these rows were sent again; 0 for rows sent the first time."""


@dataclass(frozen=True)
class Answer(_Shipped):
    """What one step's rows came to since the last exchange."""

    step: str
    ended: pa.Table
    places: pa.Table
    """For each row that was made, the row it comes from and its number among that row's (`PLACES`)."""
    made: pa.Table
    """The new columns of each row that was made."""
    by_model: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """What each member of a pool of models did for these rows."""


@dataclass(frozen=True)
class WorkerStatus:
    """The state of a worker, for progress."""

    in_flight: int = 0
    calls_sent: int = 0
    calls_cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    held: int = 0
    """Rows that it has and that have not ended."""
    waits_for: str = ""
    """What keeps it from sending calls; empty when nothing does."""
    oldest_s: float = 0.0
    """How long the oldest row has been worked on."""
    halted_for: str = ""
    """Why it sends no calls any more."""
    engines: tuple[EngineFigures, ...] = ()
    """Figures of the engines that it holds."""
    oldest_step: str = ""
    """The step that works on the oldest row."""
    pool: str = ""
    """The pool that it is of; conductors fill it in."""


@dataclass(frozen=True)
class Reply:
    """What a worker answers to an exchange."""

    answers: list[Answer]
    status: WorkerStatus
    kept: int = 0
    """Rows of the sender that the worker has, including those that have ended and that later replies bring."""


class Worker(Protocol):
    """A replica, wherever it lives."""

    name: str
    concurrency: int
    """Rows that it works on at once."""

    async def exchange(self, sender: Sender, chunks: list[Chunk], flush_s: float) -> Reply:
        """Take new rows; return when some have ended, at most `flush_s` seconds after the first of them.

        Raises `ReplicaLostError` when the worker is gone, `RaypipeError` when the run cannot go on.
        """
        ...

    async def halt(self, reason: str) -> None:
        """Send no call any more; those in flight are finished."""
        ...

    async def pulse(self) -> str:
        """Answered at once, also by a worker whose event loop is held up: what holds it, empty where nothing does.

        Raises `ReplicaLostError` when the worker is gone.
        """
        ...

    async def examine(self) -> str:
        """What a worker that answers no pulse does or waits for, as others see it; empty where it does nothing."""
        ...


class Results:
    """Rows of one step that ended, column by column, until they are taken away."""

    def __init__(self, types: dict[str, str]) -> None:
        self._types = types
        self._ended: list[tuple[Any, ...]] = []
        self._places: list[tuple[int, int, int]] = []
        self._made: list[Values] = []
        self._sizes: list[tuple[int, int]] = []
        """Of each row that ended: how many rows it became, and their bytes."""
        self.size_bytes = 0
        self._by_model: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        """Rows that ended."""
        return len(self._ended)

    def complete(
        self, place: tuple[int, int], rows: Sequence[Values], counts: CallCounts, instead_of: Failure | None = None
    ) -> None:
        """A row became `rows`; one that is larger than a value may be makes it fail. `instead_of`: it failed before."""
        count = len(rows)
        if count == 1:
            size = 0
            for value in rows[0].values():
                size += len(value) if type(value) is str and value.isascii() else size_of(value)
            largest = size
        else:
            sizes = [size_of(row) for row in rows]
            largest, size = max(sizes, default=0), sum(sizes)
        if largest > MOST_VALUE_BYTES:
            size_gib = f"{largest / 2**30:.1f} GiB"
            problem = f"the step returned a row of {size_gib}; a row has at most 2 GiB: return less or more rows"
            self.fail(place, Failure("output", problem), counts)
            return
        why = (None, None) if instead_of is None else (instead_of.kind, to_text(instead_of.message))
        self.end(place, DONE, counts, *why, became=(count, size))
        if count == 1:
            self._places.append((*place, 0))
        else:
            self._places += [(*place, child) for child in range(count)]
        self._made += rows
        self.size_bytes += size

    def fail(self, place: tuple[int, int], failure: Failure, counts: CallCounts) -> None:
        """A row failed."""
        self.end(place, FAILED, counts, failure.kind, to_text(failure.message))

    def end(
        self,
        place: tuple[int, int],
        status: int,
        counts: CallCounts,
        kind: str | None = None,
        message: str | None = None,
        became: tuple[int, int] = (0, 0),
    ) -> None:
        """A row ended with one of the four statuses; it `became` so many rows, of so many bytes."""
        calls = (counts.calls_sent, counts.calls_cached, counts.calls_unanswered, counts.calls_estimated)
        spent = (counts.input_tokens, counts.output_tokens, counts.cost_usd, counts.estimated_usd)
        self._ended.append((*place, status, kind, message, *calls, counts.calls_refused, *spent))
        self._sizes.append(became)
        if counts.by_model:
            add_by_model(self._by_model, counts.by_model)

    def take(self, step: str, most_bytes: int) -> Answer:
        """The rows that ended first, of at most `most_bytes`; at least one, with all that it became."""
        ends, rows = len(self._ended), len(self._made)
        if self.size_bytes > most_bytes:
            rows = left = 0
            for index, (count, size) in enumerate(self._sizes):
                left += size
                if index and left > most_bytes:
                    ends = index
                    break
                rows += count
        ended, self._ended = self._ended[:ends], self._ended[ends:]
        places, self._places = self._places[:rows], self._places[rows:]
        made, self._made = self._made[:rows], self._made[rows:]
        self.size_bytes -= sum(size for _, size in self._sizes[:ends])
        self._sizes = self._sizes[ends:]
        by_model, self._by_model = self._by_model, {}
        return Answer(step, _table(ended, ENDED), _table(places, PLACES), self._columns(made), by_model)

    def _columns(self, made: list[Values]) -> pa.Table:
        names = dict.fromkeys(self._types)
        first = made[0].keys() if made else names.keys()
        names.update(dict.fromkeys(first))
        if any(row.keys() != first for row in made):
            for row in made:
                names.update(dict.fromkeys(row))
        arrays = [to_lossless_array([row.get(name) for row in made], self._types.get(name, "")) for name in names]
        return pa.Table.from_arrays(arrays, names=list(names))


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns: Iterable[tuple[Any, ...]] = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays: list[pa.Array] = []
    for values, kind in zip(columns, schema.types, strict=True):
        # Most columns have one value in every row, which costs a tenth this way.
        if values and values.count(values[0]) == len(values):
            arrays.append(pa.repeat(pa.scalar(values[0], kind), len(values)))
        else:
            arrays.append(pa.array(values, kind))
    return pa.Table.from_arrays(arrays, schema=schema)

"""I keep the books of one batch of source rows: what is on its way, what came out, what failed.

A batch is complete when nothing of it is on its way; then its rows go to part files and its
counts become a `BatchResult`, small enough to travel to the driver.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from uuid import uuid4

import orjson
import pyarrow as pa

from raypipe.arrays import text_of
from raypipe.errors import OutputError
from raypipe.execution.desk import add_counts
from raypipe.places import Place, reason
from raypipe.row import ANCESTORS, ATTEMPT, BATCH, LINEAGE, PATH, POSITION, ROW_ID, Failure
from raypipe.tables import concat, output_columns, settled, sorted_by_source, write_part

FAILURES = "~failures~"
"""Name of the sink for failed rows; no step can have this name."""


@dataclass
class Counts:
    """What one step did. rows_in = rows_done + rows_failed + rows_filtered + rows_unfinished; rows_out leave it."""

    rows_in: int = 0
    rows_done: int = 0
    rows_failed: int = 0
    rows_filtered: int = 0
    rows_unfinished: int = 0
    """Left as they were, since the run was stopped."""
    rows_out: int = 0
    calls_sent: int = 0
    calls_cached: int = 0
    calls_unanswered: int = 0
    """Of those sent, the ones that got no answer."""
    input_tokens: int = 0
    output_tokens: int = 0
    by_model: dict[str, dict[str, int]] = field(default_factory=lambda: {})
    """Calls, tokens and failovers of each member of a pool of models; empty for one model."""

    def add(self, other: Counts) -> None:
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        add_counts(self.by_model, other.by_model)


_NUMBERS = tuple(item.name for item in fields(Counts) if item.type == "int")


@dataclass(frozen=True)
class Part:
    """A file of rows of one sink."""

    sink: str
    path: str
    rows: int
    position: int
    """Source position of its first row."""


@dataclass(frozen=True)
class BatchResult:
    """All that the driver needs to know of a batch."""

    parts: tuple[Part, ...]
    counts: Mapping[str, Counts]
    halted_for: str = ""
    """Why not all of its rows were carried to their ends; empty when they were."""

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))

    @staticmethod
    def from_json(text: bytes) -> BatchResult:
        plain = orjson.loads(text)
        counts = {step: Counts(**values) for step, values in plain["counts"].items()}
        return BatchResult(tuple(Part(**part) for part in plain["parts"]), counts, plain["halted_for"])


@dataclass
class Batch:
    """One batch while it is worked on."""

    number: int
    on_the_way: int = 0
    counts: defaultdict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    held: defaultdict[str, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))
    """Rows, on the way too, that wait for a step that is not loaded yet."""
    held_rows: int = 0
    _rows: defaultdict[str, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))
    _failed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def collect(self, sink: str, rows: pa.Table) -> None:
        self._rows[sink].append(rows)

    def hold(self, step: str, rows: pa.Table) -> None:
        self.held[step].append(rows)
        self.held_rows += rows.num_rows

    def fail(self, step: str, row: pa.Table, failure: Failure) -> None:
        """`row` is a table of one row."""
        values = row.drop_columns([name for name in LINEAGE if name in row.column_names]).to_pylist()[0]
        self._failed.append(
            {name: row.column(name)[0].as_py() for name in (ROW_ID, ANCESTORS, POSITION, PATH)}
            | {
                "step": step,
                "kind": failure.kind,
                "message": failure.message,
                "tries": failure.tries,
                "row": text_of(values),
            }
        )

    def write(self, folder: Place, leaves: Iterable[str]) -> BatchResult:
        """Write the part files. Raises OSError."""
        parts: list[Part] = []
        written = set(leaves)
        for sink, tables in self._rows.items():
            rows = sorted_by_source(settled(concat([table.drop_columns([BATCH, ATTEMPT]) for table in tables])))
            parts.append(_written(folder, sink, output_columns(rows) if sink in written else rows))
        if self._failed:
            parts.append(_written(folder, FAILURES, output_columns(failure_table(self._failed))))
        return BatchResult(tuple(parts), dict(self.counts))


def unwritable(folder: Place, error: OSError) -> OutputError:
    """The error of a run whose parts the disk does not take."""
    return OutputError(f"the folder {folder} cannot be written ({reason(error)}); mend that and run again")


FAILURE_SCHEMA = pa.schema(
    [
        ("step", pa.string()),
        ("kind", pa.string()),
        ("message", pa.string()),
        ("tries", pa.int64()),
        ("row", pa.string()),
        (ROW_ID, pa.binary(16)),
        (ANCESTORS, pa.list_(pa.binary(16))),
        (POSITION, pa.int64()),
        (PATH, pa.list_(pa.int32())),
    ]
)
"""Failed rows: the step, why, how often its calls were tried, the row's columns as JSON, lineage."""


def failure_table(rows: list[dict[str, Any]]) -> pa.Table:
    return sorted_by_source(pa.Table.from_pylist(rows, schema=FAILURE_SCHEMA))


def _written(folder: Place, sink: str, rows: pa.Table) -> Part:
    path = folder / sink / f"{uuid4().hex}.parquet"
    write_part(path, rows)
    return Part(sink, str(path), rows.num_rows, rows.column(POSITION)[0].as_py())

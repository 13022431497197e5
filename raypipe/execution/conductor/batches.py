"""Holds one batch of source rows: what is on its way, what came out, what failed. Knows nothing of other batches.

A batch is complete when nothing of it is on its way; then its rows are in part files and its counts become a
`BatchResult`, small enough to travel to the driver. Rows that are many bytes go to part files before that; these are
reported only when the batch is complete, so a batch that is done again leaves nothing behind but files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from raypipe.errors import OutputError, RaypipeError
from raypipe.execution.counts import StepCounts
from raypipe.plan.plan import FAILURES, Sink
from raypipe.row import ANCESTORS, ATTEMPT, BATCH, LINEAGE, PATH, POSITION, ROW_ID, Failure
from raypipe.storage.digests import is_unchanged
from raypipe.storage.paths import AnyPath, explain_os_error, parse_path
from raypipe.storage.tables import concat, settle_types, sort_by_source, to_output_columns, write_part
from raypipe.values.arrays import to_rows, to_text
from raypipe.values.byte_bounds import MOST_VALUE_BYTES
from raypipe.values.selection import size_bytes


@dataclass(frozen=True)
class Part:
    """A file of rows of one sink."""

    sink: Sink
    path: str
    rows: int
    position: int
    """Source position of its first row."""
    last: int
    """The same of its last row."""
    digest: str = ""
    """Of the file; empty for one that checks itself."""


@dataclass(frozen=True)
class BatchResult:
    """What the driver is told of a batch."""

    parts: tuple[Part, ...]
    counts: Mapping[str, StepCounts]
    halted_for: str = ""
    """Why not all of its rows were carried to their ends; empty when they were."""


def paths_for(sink: Sink, results: Iterable[BatchResult]) -> list[str]:
    """The part files written for `sink`, in the order in which their batches were done; for `SPILLED`, the batches.

    Raises OutputError for one on this machine that was damaged since.
    """
    parts = [part for result in results for part in result.parts if part.sink == sink]
    check_parts(part for part in parts if isinstance(parse_path(part.path), Path))
    return [part.path for part in parts]


def check_parts(parts: Iterable[Part]) -> None:
    """Raises OutputError where a part is not what was written to it, OSError where it cannot be read."""
    for part in parts:
        if part.digest and not is_unchanged(parse_path(part.path), part.digest):
            problem = (
                "is damaged: what is in it is not what was written to it; run the same again, which makes its rows"
            )
            raise OutputError(f"the part {part.path} {problem} anew from the call log, and see that the disk is sound")


@dataclass
class Batch:
    """One batch while it is worked on."""

    number: int
    on_the_way: int = 0
    counts: defaultdict[str, StepCounts] = field(default_factory=lambda: defaultdict(StepCounts))
    held: defaultdict[str, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))
    """Rows, on the way too, that wait for a step that is not loaded yet."""
    held_rows: int = 0
    ended: defaultdict[Sink, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))
    """Rows that are through, by sink."""
    failed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Rows of `FAILURE_SCHEMA`."""

    parts: list[Part] = field(default_factory=list[Part])
    """What is written already."""
    writing: int = 0
    """Part files that are being written."""
    finished_bytes: defaultdict[Sink, int] = field(default_factory=lambda: defaultdict(int))
    """Of the rows that are through and not written, by sink."""

    def collect(self, sink: Sink, rows: pa.Table) -> None:
        """Rows have come to a sink."""
        self.ended[sink].append(rows)
        self.finished_bytes[sink] += size_bytes(rows)

    def fail(self, step: str, rows: pa.Table, failure: Failure) -> None:
        """All of the rows failed, for one reason."""
        why = {"step": step, "kind": failure.kind, "message": failure.message, "tries": failure.tries}
        own = rows.drop_columns([name for name in LINEAGE if name in rows.column_names])
        values = to_rows(own) if own.num_columns else [{}] * rows.num_rows
        lineage = rows.select([ROW_ID, ANCESTORS, POSITION, PATH]).to_pylist()
        for one, value in zip(lineage, values, strict=True):
            shown = to_text(value) or ""
            self.put_failure(one | why | {"row": shown if len(shown) <= MOST_VALUE_BYTES // 4 else None})

    def put_failure(self, row: dict[str, Any]) -> None:
        """A row of `FAILURE_SCHEMA`."""
        self.finished_bytes[FAILURES] += len(row["row"] or "") + len(row["message"] or "")
        self.failed.append(row)

    def take_finished(self, sink: Sink) -> FinishedRows:
        """Rows that are to be written now; `note_part` is called once they are."""
        size = self.finished_bytes.pop(sink, 0)
        self.writing += 1
        if sink == FAILURES:
            failed, self.failed = self.failed, []
            rows = sort_by_source(pa.Table.from_pylist(failed, schema=FAILURE_SCHEMA))
            return FinishedRows(self, sink, [rows] if failed else [], size)
        return FinishedRows(self, sink, self.ended.pop(sink, []), size)

    def note_part(self, part: Part) -> None:
        """Rows that were taken are in a file."""
        self.writing -= 1
        self.parts.append(part)

    def write(self, folder: AnyPath) -> BatchResult:
        """Write the part files that are left. Raises OSError."""
        for sink in [*self.ended, *([FAILURES] if self.failed else [])]:
            self.note_part(self.take_finished(sink).write(folder))
        return BatchResult(tuple(self.parts), dict(self.counts))


@dataclass(frozen=True)
class FinishedRows:
    """Rows of one sink that are done."""

    batch: Batch
    sink: Sink
    tables: list[pa.Table]
    size_bytes: int

    def write(self, folder: AnyPath) -> Part:
        """Write them as a part. Raises OSError."""
        passing = [name for name in (BATCH, ATTEMPT) if name in self.tables[0].column_names]
        rows = sort_by_source(settle_types(concat([table.drop_columns(passing) for table in self.tables])))
        if self.sink.kind in ("leaf", "failures"):
            rows = to_output_columns(rows)
        path = folder / self.sink.folder / f"{uuid4().hex}.parquet"
        digest = write_part(path, rows)
        first, last = (rows.column(POSITION)[at].as_py() for at in (0, -1))
        return Part(self.sink, str(path), rows.num_rows, first, last, digest)


def explain_unwritable(folder: AnyPath, error: BaseException) -> RaypipeError:
    """The error of a run whose parts cannot be written: the disk does not take them, or Arrow does not."""
    if isinstance(error, RaypipeError):
        return error
    if isinstance(error, OSError):
        return OutputError(f"the folder {folder} cannot be written ({explain_os_error(error)}); fix that and run again")
    problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return OutputError(f"rows cannot be written to {folder} ({problem})")


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

"""Puts a batch away while the steps that it waits for are not loaded, and gives it back as it was.

What is put away is all of it: rows that ended, rows that wait, families that are not complete. So nothing of a
batch stays in memory between two groups of steps, and no step sees a row twice. The file is a line of JSON and tables
in Arrow's format; reading it makes nothing else.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

import pyarrow as pa

from raypipe.errors import OutputError
from raypipe.execution.conductor.batches import FAILURE_SCHEMA, Batch, BatchResult, Part, unwritable
from raypipe.execution.conductor.compound_rows import weight
from raypipe.execution.conductor.families import OpenFamilies
from raypipe.execution.counts import StepCounts
from raypipe.plan.plan import SPILLED, Sink
from raypipe.storage.paths import AnyPath, explain_os_error, parse_path
from raypipe.storage.tables import from_ipc, to_ipc


@dataclass
class SpilledBatch:
    """A batch of which nothing is on its way but rows for steps that are not loaded."""

    batch: Batch
    held: dict[str, pa.Table]
    """Rows by the step that they wait for."""
    families: dict[str, OpenFamilies]
    """By aggregate or meeting."""

    @property
    def number(self) -> int:
        return self.batch.number

    def write(self, folder: AnyPath) -> BatchResult:
        """Put it away; what it counted so far is in the result. Raises OSError."""
        counts, self.batch.counts = dict(self.batch.counts), defaultdict(StepCounts)
        path = folder / SPILLED.folder / f"{uuid4().hex}.batch"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for part in self._parts():
                file.write(part)
        return BatchResult((Part(SPILLED, str(path), sum(rows.num_rows for rows in self.held.values()), 0, 0),), counts)

    def _parts(self) -> list[Any]:
        """What the file holds, piece by piece."""
        tables = _Tables()
        said = {
            "number": self.batch.number,
            "ended": [[asdict(sink), [tables.add(one) for one in rows]] for sink, rows in self.batch.ended.items()],
            "failed": tables.add(pa.Table.from_pylist(self.batch.failed, schema=FAILURE_SCHEMA)),
            "parts": [asdict(part) | {"path": parse_path(part.path).name} for part in self.batch.parts],
            "held": {step: tables.add(rows) for step, rows in self.held.items()},
            "families": {name: _families(left, tables) for name, left in self.families.items()},
        }
        head = json.dumps(said | {"sizes": [buffer.size for buffer in tables.buffers]}).encode()
        return [len(head).to_bytes(8, "little"), head, *tables.buffers]


class _Tables:
    """Tables of a file, each by its number."""

    def __init__(self) -> None:
        self.buffers: list[pa.Buffer] = []

    def add(self, table: pa.Table | None) -> int | None:
        if table is None:
            return None
        self.buffers.append(to_ipc(table))
        return len(self.buffers) - 1


def _families(left: OpenFamilies, tables: _Tables) -> dict[str, Any]:
    own = {name: tables.add(getattr(left, name)) for name in ("parents", "members", "branches")}
    plain = {name: getattr(left, name) for name in ("states", "member_of", "branch_of")}
    return own | plain | {"keys": [key.hex() for key in left.keys]}


def read_spilled(path: str, folder: AnyPath) -> SpilledBatch:
    """What was put away below `folder`. Raises OutputError when it cannot be read."""
    place = parse_path(path)
    if place.parent != folder / SPILLED.folder:
        raise OutputError(f"{path} is no batch of this run, whose are in {folder / SPILLED.folder}; it is not opened")
    try:
        return _parked(place.read_bytes(), folder)
    except OSError as error:
        problem = f"cannot be read ({explain_os_error(error)}); mend that and run again"
    except (ValueError, KeyError, TypeError, IndexError, pa.ArrowException) as error:
        problem = f"is damaged ({error}); run again, which answers from the call log what was answered"
    raise OutputError(f"what was put away in {path} {problem}")


def _parked(content: bytes, folder: AnyPath) -> SpilledBatch:
    size, whole = int.from_bytes(content[:8], "little"), pa.py_buffer(content)
    said, start = json.loads(content[8 : 8 + size]), 8 + size
    tables: list[pa.Table] = []
    for length in said["sizes"]:
        tables.append(from_ipc(whole.slice(start, length)))
        start += length
    batch = Batch(said["number"])
    for row in tables[said["failed"]].to_pylist():
        batch.put_failure(row)
    batch.parts += [_part(one, folder) for one in said["parts"]]
    for sink, rows in said["ended"]:
        for number in rows:
            batch.collect(Sink(**sink), tables[number])
    held = {step: tables[number] for step, number in said["held"].items()}
    return SpilledBatch(batch, held, {name: _open_families(one, tables) for name, one in said["families"].items()})


def _part(said: dict[str, Any], folder: AnyPath) -> Part:
    """A part that was written before; it is one of this run's, by its name."""
    name, sink = str(said["path"]), Sink(**said["sink"])
    if "/" in name or "/" in sink.folder:
        raise ValueError(f"the part {name!r} is no file of this run")
    made: dict[str, Any] = said | {"sink": sink, "path": str(folder / sink.folder / name)}
    return Part(**made)


def _open_families(said: dict[str, Any], tables: Sequence[pa.Table]) -> OpenFamilies:
    members, branches = (None if said[name] is None else tables[said[name]] for name in ("members", "branches"))
    return OpenFamilies(
        [bytes.fromhex(key) for key in said["keys"]],
        tables[said["parents"]],
        [(on_the_way, is_spoiled, accepted, made) for on_the_way, is_spoiled, accepted, made in said["states"]],
        members,
        said["member_of"],
        branches,
        [(name, index) for name, index in said["branch_of"]],
    )


def spilled_in(results: Sequence[BatchResult]) -> list[str]:
    """The files of batches that were put away."""
    return [part.path for result in results for part in result.parts if part.sink == SPILLED]


def ended(path: str, folder: AnyPath, reason: str) -> BatchResult:
    """A batch that was put away and is not gone on with: what it waits for is left as it is. Raises OutputError."""
    spilled = read_spilled(path, folder)
    for step, rows in spilled.held.items():
        left = weight(rows)
        spilled.batch.counts[step].add(StepCounts(rows_in=left, rows_unfinished=left))
    try:
        return replace(spilled.batch.write(folder), halted_for=reason)
    except OSError as error:
        raise unwritable(folder, error) from None

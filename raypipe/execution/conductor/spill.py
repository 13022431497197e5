"""Spills a batch to a file while the steps that it waits for are not loaded, and brings it back as it was.

A spilled batch is all of it: rows that ended, rows that wait, families that are not complete. So nothing of a batch
stays in memory between two groups of steps, and no step sees a row twice. The file is a line of JSON and tables in
Arrow's format; reading it runs no code of theirs.
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
from raypipe.execution.conductor.batches import FAILURE_SCHEMA, Batch, BatchResult, Part, explain_unwritable
from raypipe.execution.conductor.compound_rows import weights
from raypipe.execution.conductor.families import OpenFamilies
from raypipe.execution.counts import StepCounts
from raypipe.plan.plan import SPILLED, Sink
from raypipe.storage.digests import DIGEST_BYTES, HashedFile, digest_of
from raypipe.storage.paths import AnyPath, explain_os_error, parse_path
from raypipe.storage.tables import from_ipc, to_ipc


@dataclass
class SpilledBatch:
    """A batch of which nothing is on its way but rows for steps that are not loaded."""

    batch: Batch
    held: dict[str, pa.Table]
    """Rows by the step that they wait for."""
    families: dict[str, OpenFamilies]
    """By aggregate, or step where branches meet."""

    @property
    def number(self) -> int:
        return self.batch.number

    def write(self, folder: AnyPath) -> BatchResult:
        """Write its file below `folder`; the result holds what it counted so far. Raises OSError."""
        buffers: list[pa.Buffer] = []

        def add(table: pa.Table | None) -> int | None:
            if table is not None:
                buffers.append(to_ipc(table))
            return None if table is None else len(buffers) - 1

        batch = self.batch
        content = {
            "number": batch.number,
            "ended": [[asdict(sink), [add(table) for table in tables]] for sink, tables in batch.ended.items()],
            "failed": add(pa.Table.from_pylist(batch.failed, schema=FAILURE_SCHEMA)),
            "parts": [asdict(part) | {"path": parse_path(part.path).name} for part in batch.parts],
            "held": {step: add(rows) for step, rows in self.held.items()},
            "families": {
                name: {key: add(getattr(left, key)) for key in ("parents", "members", "branches")}
                | {key: getattr(left, key) for key in ("states", "member_of", "branch_of")}
                | {"keys": [key.hex() for key in left.keys]}
                for name, left in self.families.items()
            },
        }
        head = json.dumps(content | {"sizes": [buffer.size for buffer in buffers]}).encode()
        path = folder / SPILLED.folder / f"{uuid4().hex}.batch"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            hashed = HashedFile(file)
            for piece in (len(head).to_bytes(8, "little"), head, *buffers):
                hashed.write(piece)
            file.write(bytes.fromhex(hashed.digest))
        counts, batch.counts = dict(batch.counts), defaultdict(StepCounts)
        return BatchResult((Part(SPILLED, str(path), sum(rows.num_rows for rows in self.held.values()), 0, 0),), counts)


def read_spilled(path: str, folder: AnyPath) -> SpilledBatch:
    """The batch that was spilled to `path` below `folder`. Raises OutputError when it cannot be read."""
    place = parse_path(path)
    if place.parent != folder / SPILLED.folder:
        expected = f"expected one in {folder / SPILLED.folder}"
        raise OutputError(f"{path} is not a spilled batch of this run ({expected}); it is not opened")
    try:
        content = place.read_bytes()
        if digest_of(content[:-DIGEST_BYTES]) != content[-DIGEST_BYTES:]:
            raise ValueError("what is in it is not what was written to it")
        return _parse(content[:-DIGEST_BYTES], folder)
    except OSError as error:
        problem = f"cannot be read ({explain_os_error(error)}); fix that and run again"
    except (ValueError, KeyError, TypeError, IndexError, pa.ArrowException) as error:
        problem = f"is damaged ({error}); run again: calls that were answered are taken from the call log"
    raise OutputError(f"the spilled batch {path} {problem}")


def _parse(content: bytes, folder: AnyPath) -> SpilledBatch:
    size, whole = int.from_bytes(content[:8], "little"), pa.py_buffer(content)
    head, start = json.loads(content[8 : 8 + size]), 8 + size
    tables: list[pa.Table] = []
    for length in head["sizes"]:
        tables.append(from_ipc(whole.slice(start, length)))
        start += length
    batch = Batch(head["number"])
    for row in tables[head["failed"]].to_pylist():
        batch.put_failure(row)
    for part in head["parts"]:
        name, sink = str(part["path"]), Sink(**part["sink"])
        if "/" in name or "/" in sink.folder:
            raise ValueError(f"the part {name!r} is not a file of this run")
        batch.parts.append(Part(**part | {"sink": sink, "path": str(folder / sink.folder / name)}))
    for sink, numbers in head["ended"]:
        for number in numbers:
            batch.collect(Sink(**sink), tables[number])
    held = {step: tables[number] for step, number in head["held"].items()}
    return SpilledBatch(batch, held, {name: _parse_families(one, tables) for name, one in head["families"].items()})


def _parse_families(plain: dict[str, Any], tables: Sequence[pa.Table]) -> OpenFamilies:
    members, branches = (None if plain[name] is None else tables[plain[name]] for name in ("members", "branches"))
    return OpenFamilies(
        [bytes.fromhex(key) for key in plain["keys"]],
        tables[plain["parents"]],
        [(tokens, is_spoiled, accepted, candidates) for tokens, is_spoiled, accepted, candidates in plain["states"]],
        members,
        plain["member_of"],
        branches,
        [(name, index) for name, index in plain["branch_of"]],
    )


def end_spilled(path: str, folder: AnyPath, reason: str) -> BatchResult:
    """End a spilled batch that is not resumed: what it waits for stays unfinished. Raises OutputError."""
    spilled = read_spilled(path, folder)
    for step, rows in spilled.held.items():
        left = int(weights(rows).sum())
        spilled.batch.counts[step].add(StepCounts(rows_in=left, rows_unfinished=left))
    try:
        return replace(spilled.batch.write(folder), halted_for=reason)
    except OSError as error:
        raise explain_unwritable(folder, error) from None

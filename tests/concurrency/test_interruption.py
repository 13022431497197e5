"""Long work ends at its checkpoints, and leaves what was there before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.calls.compacted import ROW_GROUP
from raypipe.calls.compaction import compact
from raypipe.calls.index import index_with_segments, load_index
from raypipe.calls.segment_files import SegmentWriter
from raypipe.calls.segments import CallOrigin, make_frame
from raypipe.concurrency.interruption import Interruption, Progress, checkpoint, interruptible, pause
from raypipe.contracts.llm import Completion, Usage
from raypipe.errors import StoppedError
from raypipe.storage.tables import write_dataset

OWNER = "0" * 12


@contextmanager
def ended_after(checkpoints: int) -> Iterator[None]:
    """What is done inside is to end at the checkpoint after so many."""
    left = iter(range(checkpoints))

    def check() -> None:
        if next(left, None) is None:
            raise StoppedError("to end")

    with interruptible(Interruption(check, nullcontext)), pytest.raises(StoppedError):
        yield


def log_of(folder: Path, calls: int) -> None:
    writer = SegmentWriter(folder, OWNER)
    completion = Completion("text", "stop", Usage(1, 1), "model")
    for number in range(calls):
        writer.write(make_frame(number.to_bytes(16, "big"), CallOrigin("step", b"row", 0, 0), completion, 0.1))
    writer.close()


def test_nobody_interrupts_unless_it_is_said() -> None:
    checkpoint()
    pause(0.01)


def test_a_pause_ends_early() -> None:
    began = time.monotonic()
    with ended_after(3):
        pause(60)
    assert time.monotonic() - began < 30


def test_how_far_long_work_has_come_is_said_now_and_then() -> None:
    said: list[str] = []
    with interruptible(Interruption(lambda: None, nullcontext, said.append)):
        for progress in (Progress(0.0), Progress(600.0)):
            for number in range(3):
                progress.show(partial("part {}".format, number))
    assert said == ["part 0", "part 1", "part 2"]


def test_a_log_that_is_compacted_in_part_is_as_it_was(tmp_path: Path) -> None:
    log_of(tmp_path, 4 * ROW_GROUP)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with ended_after(2):
        compact(tmp_path, OWNER)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    compact(tmp_path, OWNER)
    assert len(load_index(tmp_path)) == 4 * ROW_GROUP


def test_an_index_is_left_within_a_large_segment(tmp_path: Path) -> None:
    log_of(tmp_path, 4 * ROW_GROUP)
    with ended_after(2):
        index_with_segments(load_index(tmp_path, known=False), tmp_path, OWNER)


def test_a_dataset_is_left_between_two_tables(tmp_path: Path) -> None:
    tables = [pa.table({"n": [number]}) for number in range(5)]
    with ended_after(3):
        write_dataset(tables, tmp_path / "data", tables[0].schema)

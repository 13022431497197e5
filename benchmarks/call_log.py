"""How fast is a call log compacted, and how long does a run wait for the index over it?

    python -m benchmarks.call_log --compact 1000000 --start 2000000 20000000

Compaction: segments as `--writers` workers leave them, made one file or several; calls a second by the clock, and
processor time a call. Start: files of two million calls each, the index made for the first time and found again, each
in a process of its own; beside it the same with a log of few calls. Memory is what the process holds at its peak, and
what of it no other process can share.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from raypipe.calls.compacted import ROW_GROUP, SCHEMA, CompactedWriter
from raypipe.calls.compaction import compact
from raypipe.calls.index import CallReader, load_index
from raypipe.calls.segment_files import SegmentWriter
from raypipe.calls.segments import CallOrigin, make_frame
from raypipe.contracts.llm import Completion, Usage

_OWNER = "0" * 12
_TEXT = "A plausible answer. " * 10
_FILE = 2_000_000
_FEW = 1024


def _write_segments(folder: Path, calls: int, writers: int) -> None:
    for number in range(writers):
        writer = SegmentWriter(folder, _OWNER)
        for start in range(0, calls // writers, _FEW):
            frames = [
                make_frame(
                    os.urandom(16),
                    CallOrigin("answers", os.urandom(16), 0, 0),
                    Completion(f"{_TEXT}{number}/{start + at}", "stop", Usage(100, 50), "bench"),
                    0.5,
                )
                for at in range(min(_FEW, calls // writers - start))
            ]
            writer.write(b"".join(frames))
            if start // _FEW % 64 == 63:
                writer.sync()
        writer.close()


def _compaction(calls: int, writers: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_segments(folder, calls, writers)
        began, spent = time.perf_counter(), sum(os.times()[:4])
        compact(folder, _OWNER)
        wall_s, cpu_s = time.perf_counter() - began, sum(os.times()[:4]) - spent
        peak = psutil.Process().memory_info().rss >> 20
        print(
            f"compaction of {calls:,} calls: {calls / wall_s:,.0f} calls/s, {cpu_s / calls * 1e6:.2f} µs of CPU a call"
        )
        print(f"  the process holds {peak} MiB afterwards")


def _write_files(folder: Path, calls: int) -> None:
    """Compacted files, with random keys."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number, first in enumerate(range(0, calls, _FILE)):
        writer = CompactedWriter(folder)
        count = min(_FILE, calls - first)
        for start in range(0, count, 64 * ROW_GROUP):
            size = min(64 * ROW_GROUP, count - start)
            keys = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), size, [None, pa.py_buffer(rng.bytes(16 * size))])
            values = {"key": keys, "ended_at": np.zeros(size), "latency_s": np.zeros(size)}
            for field in SCHEMA:
                if pa.types.is_string(field.type):
                    values[field.name] = pa.nulls(size, field.type) if field.name == "more" else pa.array(["x"] * size)
                elif field.name not in values:
                    values[field.name] = pa.array(np.zeros(size), field.type, safe=False)
            writer.write(pa.table(values, schema=SCHEMA))
        writer.finish(number + 1, {})
        writer.close()


def _start(folder: Path) -> None:
    """Load the index, in this process, and look for keys that are not there and some that are."""
    began, spent = time.perf_counter(), time.process_time()
    index = load_index(folder, is_kept=True)
    reader = CallReader(index)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - spent
    for _ in range(1000):
        reader.find(os.urandom(16))
    memory = psutil.Process().memory_full_info()
    held = f"{memory.rss >> 20} MiB, of its own {memory.uss >> 20} MiB"
    print(f"{wall_s:.2f} s, {cpu_s:.2f} s of CPU, {held}, {len(index.parts)} parts", flush=True)


def _starts(calls: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "calls"
        began = time.perf_counter()
        _write_files(folder, calls)
        print(f"start over {calls:,} calls (written in {time.perf_counter() - began:.0f} s)")
        for what in ("first time", "again", "a third time"):
            print(f"  {what}: ", end="", flush=True)
            subprocess.run([sys.executable, "-m", "benchmarks.call_log", "--folder", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compact", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--start", type=int, nargs="*", default=[_FEW, 2_000_000])
    parser.add_argument("--folder", type=Path, help="only load the index of this log")
    chosen = parser.parse_args()
    if chosen.folder:
        _start(chosen.folder)
        return
    for calls in chosen.compact:
        _compaction(calls, chosen.writers)
    for calls in chosen.start:
        _starts(calls)


if __name__ == "__main__":
    main()

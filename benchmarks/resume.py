"""How fast is a run answered by its call log, and what does each worker pay for knowing all of it?

    python -m benchmarks.resume --calls 1000000

The log is written as a run would have left it: the first run, of `--rows` rows with one call each, is real, and
calls of other rows fill the log up. Then the same run is done again: every row is answered from the log. Rows a
second and core: rows over the processor time of the whole process tree, start-up taken out by a run of few rows.
Memory: unshared memory of each worker of a Ray run, with the large log and with a small one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.server import serve
from benchmarks.tree import Tree
from raypipe.calls.compacted import SCHEMA
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromFiles
from raypipe.steps.tasks import TextGeneration

_FEW = 1024
_WORKERS = 4
_TEXT = "A plausible answer. " * 10


def _pipeline(base_url: str, path: Path, replicas: int) -> Pipeline:
    with Pipeline("resume") as pipeline:
        model = LLM("vllm-server/bench", base_url=base_url, concurrency=256, replicas=replicas)
        LoadDataFromFiles(path=str(path)) >> TextGeneration(llm=model)
    return pipeline


def _input(folder: Path, rows: int) -> Path:
    path = folder / f"{rows}.parquet"
    prompts = [f"Explain subject {number} to a beginner, with one example." for number in range(rows)]
    pq.write_table(pa.table({"instruction": prompts}), path, row_group_size=10_000)
    return path


def _fill(calls: Path, count: int) -> None:
    """Calls that no row of the run asks for."""
    calls.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(calls / "calls-00000000000000000000-0.parquet", SCHEMA, compression="zstd") as writer:
        for start in range(0, count, 1024):
            size = min(1024, count - start)
            values = {
                "key": [os.urandom(16) for _ in range(size)],
                "step": ["other"] * size,
                "row_id": [os.urandom(16).hex() for _ in range(size)],
                "ordinal": [0] * size,
                "sample": [0] * size,
                "text": [_TEXT] * size,
                "finish_reason": ["stop"] * size,
                "input_tokens": [100] * size,
                "output_tokens": [50] * size,
                "model": ["bench"] * size,
                "ended_at": [time.time()] * size,
                "latency_s": [0.0] * size,
                "more": [None] * size,
            }
            writer.write_table(pa.table(values, schema=SCHEMA), row_group_size=1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--engine", choices=["local", "ray"], nargs="+", default=["local", "ray"])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serve() as server:
        folder = Path(name)
        many, few = _input(folder, chosen.rows), _input(folder, _FEW)
        calls = folder / "calls"
        for path in (many, few):
            _pipeline(server.base_url, path, 1).run(folder / f"out-{path.stem}", calls=calls, engine="local")
        _fill(calls, chosen.calls - chosen.rows - _FEW)
        print("engine  rows     calls in log  rows/s a core  wall rows/s  peak MiB")
        for engine in chosen.engine:
            small, large = (_rerun(server.base_url, path, folder, calls, engine) for path in (few, many))
            rows = chosen.rows - _FEW
            cpu_s, wall_s = large.cpu_s - small.cpu_s, large.wall_s - small.wall_s
            figures = f"{rows / cpu_s:13,.0f}  {rows / wall_s:11,.0f}  {large.peak_bytes >> 20:8d}"
            print(f"{engine:6s}  {chosen.rows:7d}  {chosen.calls:12,d}  {figures}", flush=True)
        if "ray" in chosen.engine:
            peaks = [
                _rerun(server.base_url, many, folder, log, "ray", replicas).peak_bytes >> 20
                for log in (calls, folder / "none")
                for replicas in (1, _WORKERS)
            ]
            extra = [(peaks[at + 1] - peaks[at]) / (_WORKERS - 1) for at in (0, 2)]
            print(f"each further worker: {extra[0]:.0f} MiB with {chosen.calls:,} calls, {extra[1]:.0f} MiB with few")


def _rerun(base_url: str, path: Path, folder: Path, calls: Path, engine: str, replicas: int = 1) -> Tree:
    with Tree() as tree:
        pipeline = _pipeline(base_url, path, replicas)
        result = pipeline.run(folder / f"out-{path.stem}", calls=calls, engine=engine)  # type: ignore[arg-type]
    assert not result.manifest["legs"][-1]["calls_sent"] or calls.name == "none"
    return tree


if __name__ == "__main__":
    main()

"""What do steps without a model cost: batches of a second each on four workers, and many steps that do nothing?

    python -m benchmarks.steps --engine local ray

Batches: 400 rows in batches of 50, one second a batch, four replicas; two seconds is the ideal. Seconds are taken
from the first batch that begins to the last that ends, as the steps themselves note them. Nothing: `--rows` rows
through 20 steps of batches that give back what they get; rows a second, start-up taken out by a run of few rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, LoadDataFromFiles, Step, StepInput, StepResources

_FEW = 1000
_STEPS = 20


class Slow(Step):
    """A second for each batch."""

    @property
    def outputs(self) -> list[str]:
        return ["began", "ended"]

    def process(self, inputs: StepInput) -> Any:
        began = time.time()
        time.sleep(1)
        yield [{**row, "began": began, "ended": time.time()} for row in inputs]


class Nothing(Step):
    """Gives back what it gets."""

    def process(self, inputs: StepInput) -> Any:
        yield inputs


def _batches(folder: Path, engine: Any) -> float:
    with Pipeline("batches") as pipeline:
        rows = LoadDataFromDicts([{"n": number} for number in range(400)])
        rows >> Slow("slow", input_batch_size=50, resources=StepResources(replicas=4))
    table = pipeline.run(folder / f"batches-{engine}", engine=engine)["slow"].to_arrow()
    return max(table.column("ended").to_pylist()) - min(table.column("began").to_pylist())


def _nothing(folder: Path, engine: Any, rows: int) -> float:
    path = folder / f"{rows}.parquet"
    pq.write_table(pa.table({"instruction": [f"Explain subject {number}." for number in range(rows)]}), path)
    with Pipeline("nothing") as pipeline:
        before: Any = LoadDataFromFiles(path=str(path))
        for number in range(_STEPS):
            before = before >> Nothing(f"step{number}")
    return pipeline.run(folder / f"nothing-{engine}-{rows}", engine=engine).manifest["wall_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["local", "ray"], nargs="+", default=["local", "ray"])
    parser.add_argument("--rows", type=int, default=100_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("engine  400 rows in batches, s  rows/s through 20 steps")
        for engine in chosen.engine:
            batches_s = _batches(folder, engine)
            wall_s = _nothing(folder, engine, chosen.rows) - _nothing(folder, engine, _FEW)
            print(f"{engine:6s}  {batches_s:22.2f}  {(chosen.rows - _FEW) / wall_s:23,.0f}", flush=True)


if __name__ == "__main__":
    main()

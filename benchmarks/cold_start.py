"""How long does a run of ten rows take from the command to its end?

    python -m benchmarks.cold_start

`local` is compared with Python's own start (`python -c pass`), `ray` with the least that anything on Ray Data takes: a
process that imports Ray, starts it, maps ten rows through a trivial function and shuts down. Pairs are run in turn.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_BARE_RAY = """
import os
os.environ.update(RAY_BACKEND_LOG_LEVEL="fatal", RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
import ray, ray.data
ray.init("local", include_dashboard=False, logging_level="error", log_to_driver=False, object_store_memory=512 << 20)
assert len(ray.data.range(10).map(lambda row: row).take_all()) == 10
ray.shutdown()
"""

_SPEC = """
name: ten
models: {writer: offline/stand-in}
steps:
  - {name: seed, type: LoadDataFromFiles, path: %s}
  - {name: answers, type: TextGeneration, llm: writer, template: "Explain {{ topic }}", output: answer}
"""


def _seconds(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, spec = Path(folder) / "rows.jsonl", Path(folder) / "ten.yaml"
        rows.write_text("".join(f'{{"topic": "subject {number}"}}\n' for number in range(10)))
        spec.write_text(_SPEC % rows)
        run = [str(Path(sys.executable).with_name("raypipe")), "run", str(spec), "--fresh", "--out"]
        commands = {
            "local": ([*run, f"{folder}/local", "--engine", "local"], [sys.executable, "-c", "pass"]),
            "ray": ([*run, f"{folder}/ray"], [sys.executable, "-c", _BARE_RAY]),
        }
        print("engine  raypipe s  baseline s  difference s  ratio   (medians; baseline: python -c pass, bare Ray Data)")
        for engine, (own, baseline) in commands.items():
            pairs = [(_seconds(own), _seconds(baseline)) for _ in range(chosen.runs + 1)][1:]
            took, base = (statistics.median(values) for values in zip(*pairs, strict=True))
            print(f"{engine:6s}  {took:9.2f}  {base:10.2f}  {took - base:12.2f}  {took / base:5.2f}", flush=True)


if __name__ == "__main__":
    main()

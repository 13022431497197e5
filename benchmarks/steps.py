"""What do steps without a model cost: batches of a second each on four workers, and many steps that do nothing?

    python -m benchmarks.steps [--rows 100000] [--steps 20] [--engine local ray] [--distilabel PYTHON]

Batches: 400 rows in batches of 50, one second a batch, four replicas; two seconds is the ideal. Seconds are taken
from the first batch that begins to the last that ends, as the steps themselves note them. Nothing: `--rows` rows
through 2 and through `--steps` steps of batches that give back what they get. Seconds are those of the call of `run`,
start-up is taken out by a run of few rows. `--distilabel` names an interpreter with distilabel 1.5.3; the same
program runs there, on fewer rows since it is slow. These go together:

    pip install distilabel==1.5.3 'datasets<4' setuptools
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

_FEW = 100
_LEAST_STEPS = 2
_ROWS_OF_DISTILABEL = {_LEAST_STEPS: 5000}
_ROWS_OF_DISTILABEL_ELSE = 500

_PROGRAM = """
import json, time
from {package}.pipeline import Pipeline
from {package}.steps import LoadDataFromDicts, StepInput, StepResources, step

@step()
def nothing(inputs: StepInput):
    yield inputs

@step(outputs=["began", "ended"])
def slow(inputs: StepInput):
    began = time.time()
    time.sleep(1)
    for row in inputs:
        row["began"], row["ended"] = began, time.time()
    yield inputs

if __name__ == "__main__":
    with Pipeline(name="steps") as pipeline:
        before = LoadDataFromDicts(data=[{{"instruction": f"Explain subject {{n}}."}} for n in range({rows})])
        for number in range({steps}):
            after = nothing(name=f"step_{{number}}")
            before.connect(after)
            before = after
        if not {steps}:
            before.connect(slow(name="slow", input_batch_size=50, resources=StepResources(replicas=4)))
    began = time.monotonic()
    result = pipeline.run({arguments})
    took_s = time.monotonic() - began
    rows = {table}
    assert rows.num_rows == {rows}
    if not {steps}:
        took_s = max(rows["ended"].to_pylist()) - min(rows["began"].to_pylist())
    print(json.dumps(took_s))
"""


@dataclass(frozen=True)
class Contender:
    """Who runs the program, and the words in which it differs."""

    name: str
    python: str
    package: str
    arguments: str
    table: str

    def seconds(self, folder: Path, rows: int, steps: int) -> float:
        """How long a run takes; with no steps, how long the batches of a second take."""
        with tempfile.TemporaryDirectory(dir=folder) as home:
            words = {"package": self.package, "arguments": self.arguments, "table": self.table}
            program = Path(home) / "program.py"
            program.write_text(_PROGRAM.format(rows=rows, steps=steps, **words))
            environment = os.environ | {"HOME": home, "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(
                [self.python, str(program)], cwd=home, env=environment, check=True, capture_output=True
            )
        return json.loads(done.stdout.splitlines()[-1])


_RAYPIPE = Contender("", sys.executable, "raypipe", "", "result[[*result][-1]].to_arrow()")
_DISTILABEL = Contender(
    "distilabel",
    "",
    "distilabel",
    "use_cache=False",
    'result["default"]["train"].with_format("arrow")[:]',
)


def _own(engine: str) -> Contender:
    return replace(_RAYPIPE, name=engine, arguments=f'"out", engine="{engine}"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["local", "ray"], nargs="*", default=["local", "ray"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--distilabel", metavar="PYTHON")
    chosen = parser.parse_args()
    contenders = [_own(engine) for engine in chosen.engine]
    if chosen.distilabel:
        contenders.insert(0, replace(_DISTILABEL, python=str(Path(chosen.distilabel).absolute())))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("400 rows in batches of a second, four replicas: seconds", flush=True)
        for one in contenders:
            print(f"{one.name:10s}  {one.seconds(folder, 400, 0):6.2f}", flush=True)
        print("steps  engine         rows   run s    rows/s  without start-up  times distilabel, with and without")
        for steps in (_LEAST_STEPS, chosen.steps):
            base: tuple[float, float] | None = None
            for one in contenders:
                rows = chosen.rows
                if one.package == "distilabel":
                    rows = min(rows, _ROWS_OF_DISTILABEL.get(steps, _ROWS_OF_DISTILABEL_ELSE))
                few_s, took_s = one.seconds(folder, _FEW, steps), one.seconds(folder, rows, steps)
                rates = rows / took_s, (rows - _FEW) / (took_s - few_s)
                base = base or (rates if one.package == "distilabel" else None)
                ratio = "" if base is None else f"{rates[0] / base[0]:10.1f}  {rates[1] / base[1]:6.1f}"
                figures = f"{rows:8d}  {took_s:6.1f}  {rates[0]:8,.0f}  {rates[1]:16,.0f}  {ratio}"
                print(f"{steps:5d}  {one.name:10s} {figures}", flush=True)


if __name__ == "__main__":
    main()

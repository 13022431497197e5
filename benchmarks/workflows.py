"""How close do rows that make three calls each, one after the other, come to keeping every slot in use?

    python -m benchmarks.workflows --engine ray

Each row goes through a workflow of three generative steps against a server that answers after 0.2 s. The ideal is all
slots in use from the first arrival to the last answer: calls × latency ÷ slots. The share is it over the measured time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.server import serve
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.workflows import Edge, WorkflowBuilder, WorkflowStep, Write

CALLS = 3


def _workflow() -> WorkflowBuilder:
    builder = WorkflowBuilder(number=None)
    builder.generative_step(id="draft", prompt="Draft {{number}}.", outputs=[Write.new("draft")])
    builder.generative_step(id="review", prompt="Review {{draft}} of {{number}}.", outputs=[Write.new("review")])
    builder.generative_step(id="final", prompt="Improve {{draft}} by {{review}}.", outputs=[Write.new("final")])
    builder.flow([Edge(source="draft", target="review"), Edge(source="review", target="final")])
    builder.set_return_value("final")
    return builder


def _measure(engine: str, rows: int, slots: int, latency_s: float, replicas: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with serve(latency_s, 0.0, str(log)) as server:
            llm = LLM("vllm-server/m", base_url=server.base_url, concurrency=slots, replicas=replicas)
            with Pipeline("workflows") as pipeline:
                seed = LoadDataFromDicts([{"number": str(number)} for number in range(rows)])
                seed >> WorkflowStep("work", workflow=_workflow(), llm=llm)
            result = pipeline.run(Path(folder) / "out", engine=engine)
            assert result.manifest["leaves"]["work"]["rows"] == rows
            server.flush()
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    assert len(lines) == CALLS * rows
    span_s = max(float(line[1]) for line in lines) - min(float(line[0]) for line in lines)
    return sum(float(line[2]) for line in lines) / slots / span_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--latency-s", type=float, default=0.2)
    options = parser.parse_args()
    share = _measure(options.engine, options.rows, options.slots, options.latency_s, options.replicas)
    print(f"{options.engine}, {options.rows} rows × {CALLS} calls, {options.slots} slots: {share:.3f} of ideal")


if __name__ == "__main__":
    main()

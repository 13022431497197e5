"""Runs the shipped pipeline on engines of this machine, as a program of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from raypipe.files.schema import StepSpec, permissions_for, read_spec
from raypipe.pipeline import Pipeline

CONFIG = Path(__file__).parents[2] / "configs" / "nemotron_qa.yaml"
ENGINE: dict[str, Any] = {
    "max_model_len": 16384,
    "enforce_eager": True,
    "max_num_seqs": 32,
    "dtype": "float32",
    "kv_cache_memory_bytes": 1 << 28,
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}


TOPICS = [{"topic": f"topic {number}", "n_subtopics": 2, "n_questions": 2} for number in range(4)]


def pipeline(writer: Path, judge: Path, cpus: float = 0.0) -> Pipeline:
    """The shipped pipeline; each engine keeps so many processors to itself."""
    spec = read_spec(CONFIG)
    named = {"writer": writer, "judge": judge}
    models = {name: options | {"uri": f"vllm/{named[name]}", "engine": ENGINE} for name, options in spec.models.items()}
    first, *others = spec.steps
    steps = [StepSpec(type=first.type, name=first.name, **{"data": TOPICS})]
    for step in others:
        kept = {"resources": {"cpus": cpus}} if "llm" in step.options else {}
        steps.append(StepSpec(**step.model_dump(), **kept))
    permissions = permissions_for(CONFIG, allow_files=[str(writer), str(judge)])
    return Pipeline.from_spec(spec.model_copy(update={"models": models, "steps": steps}), CONFIG.parent, permissions)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--writer", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--cpus", type=float, default=0.0, help="Keep so many processors for each engine.")
    chosen = parser.parse_args()
    made = pipeline(chosen.writer, chosen.judge, chosen.cpus)
    made.run(chosen.out, engine=chosen.engine, max_failed_rows=1000)


if __name__ == "__main__":
    main()

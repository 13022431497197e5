"""I run the shipped pipeline on engines of this machine, as a program of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from raypipe.config import StepSpec, read_spec
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


def pipeline(writer: Path, judge: Path, **fields: Any) -> Pipeline:
    """The shipped pipeline; `fields` are those of all its models, `resources` those of the judge's step too."""
    spec = read_spec(CONFIG)
    resources = fields.pop("resources", None)
    named = {"writer": writer, "judge": judge}
    models = {
        name: options | {"uri": f"vllm/{named[name]}", "engine": ENGINE} | fields
        for name, options in spec.models.items()
    }
    spec = spec.model_copy(update={"models": models})
    if resources is not None:
        steps = [
            StepSpec(**step.model_dump(), **({"resources": resources} if "llm" in step.options else {}))
            for step in spec.steps
        ]
        spec = spec.model_copy(update={"steps": steps})
    return Pipeline.from_spec(spec, CONFIG.parent)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--writer", type=Path, required=True)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--cpus", type=float, default=0.0, help="Keep so many processors for each engine.")
    chosen = parser.parse_args()
    resources = {"cpus": chosen.cpus} if chosen.cpus else None
    made = pipeline(chosen.writer, chosen.judge, resources=resources)
    made.run(chosen.out, engine=chosen.engine, max_failed_rows=1000)


if __name__ == "__main__":
    main()

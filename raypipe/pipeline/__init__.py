"""What a user holds: steps and edges collected, then run, dry-run, estimated, drawn, saved. Decides nothing of how."""

from __future__ import annotations

from typing import Any

from raypipe.contracts.distilabel_names import missing
from raypipe.graph.branching import routing_batch_function, routing_function, sample_n_steps
from raypipe.pipeline.pipeline import Pipeline, RetryArguments, RunArguments
from raypipe.results import DryRun

__all__ = [
    "DryRun", "Pipeline", "RetryArguments", "RunArguments",
    "routing_batch_function", "routing_function", "sample_n_steps",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, __all__)

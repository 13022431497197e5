"""Speaks Dria's words and builds ordinary pipelines: its programs run here once their imports say `raypipe.dria`.

Knows nothing of how a pipeline is run. The classes of workflows are those of `raypipe.workflows`.
"""

from __future__ import annotations

from raypipe.dria.client import Dria
from raypipe.dria.models import CallbackType, Model, Step, TaskInput, TaskResult
from raypipe.dria.parsing import parse_json
from raypipe.dria.pipelines import Pipeline, PipelineBuilder, PipelineConfig, StepConfig, StepTemplate
from raypipe.workflows import get_abs_path

__all__ = [
    "CallbackType",
    "Dria",
    "Model",
    "Pipeline",
    "PipelineBuilder",
    "PipelineConfig",
    "Step",
    "StepConfig",
    "StepTemplate",
    "TaskInput",
    "TaskResult",
    "get_abs_path",
    "parse_json",
]
